//! Dashboards as data, and the JSON that Grafana imports: schema version 41, of Grafana 11.6 and 12.

use serde_json::{Value, json};

use super::super::REPOSITORY;

/// What every query selects by; stands for `$here` in expressions.
const HERE: &str = r#"cluster=~"$cluster",node=~"$node""#;
/// Grafana's grid.
const COLUMNS: u32 = 24;
/// The only data source of a panel: the one that is chosen above the dashboard.
const DATA_SOURCE: &str = "${datasource}";

/// A dashboard.
pub struct Dashboard {
    /// Part of its address and the name of its file.
    pub name: &'static str,
    /// Its title.
    pub title: &'static str,
    /// What it is for.
    pub description: &'static str,
    /// From above to below.
    pub rows: Vec<Row>,
}

/// Panels beside each other, under a heading.
pub struct Row {
    /// The heading.
    pub title: &'static str,
    /// Height of each panel, in units of Grafana's grid (30 pixels).
    pub height: u32,
    /// From left to right; what is wider than the dashboard goes on below.
    pub panels: Vec<Panel>,
}

/// One panel.
pub struct Panel {
    kind: Kind,
    title: &'static str,
    description: &'static str,
    unit: &'static str,
    width: u32,
    queries: Vec<(String, &'static str)>,
    runbook: &'static str,
    colours: Vec<(Option<f64>, &'static str)>,
    words: Vec<(&'static str, &'static str, &'static str)>,
    none: &'static str,
    stacked: bool,
    columns: Vec<(&'static str, &'static str)>,
}

/// How a panel shows what it asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One number, or one for each series.
    Stat,
    /// Lines or areas over time.
    TimeSeries,
    /// A line for each series.
    Table,
}

impl Panel {
    fn new(kind: Kind, title: &'static str, description: &'static str, unit: &'static str) -> Self {
        Self {
            kind,
            title,
            description,
            unit,
            width: 8,
            queries: Vec::new(),
            runbook: "",
            colours: Vec::new(),
            words: Vec::new(),
            none: "no data",
            stacked: false,
            columns: Vec::new(),
        }
    }

    /// One number, now.
    pub fn stat(title: &'static str, description: &'static str, unit: &'static str) -> Self {
        Self::new(Kind::Stat, title, description, unit)
    }

    /// Lines over time.
    pub fn lines(title: &'static str, description: &'static str, unit: &'static str) -> Self {
        Self::new(Kind::TimeSeries, title, description, unit)
    }

    /// Areas on top of each other over time.
    pub fn areas(title: &'static str, description: &'static str, unit: &'static str) -> Self {
        Self { stacked: true, ..Self::new(Kind::TimeSeries, title, description, unit) }
    }

    /// A line for each series, now; `columns` are labels with their headings, the value last as `Value`.
    pub fn table(
        title: &'static str,
        description: &'static str,
        unit: &'static str,
        columns: &[(&'static str, &'static str)],
    ) -> Self {
        Self { columns: columns.to_vec(), ..Self::new(Kind::Table, title, description, unit) }
    }

    /// What it shows; `legend` names a series by its labels.
    pub fn query(mut self, expression: impl Into<String>, legend: &'static str) -> Self {
        self.queries.push((expression.into(), legend));
        self
    }

    /// Columns of the grid's 24.
    pub fn width(mut self, columns: u32) -> Self {
        self.width = columns;
        self
    }

    /// The alert whose page explains what is seen here.
    pub fn runbook(mut self, alert: &'static str) -> Self {
        self.runbook = alert;
        self
    }

    /// Green, and red from this value on.
    pub fn red_from(mut self, value: f64) -> Self {
        self.colours = vec![(None, "green"), (Some(value), "red")];
        self
    }

    /// Green, and yellow from this value on: to look at, not to run for.
    pub fn yellow_from(mut self, value: f64) -> Self {
        self.colours = vec![(None, "green"), (Some(value), "yellow")];
        self
    }

    /// Red, and green from this value on.
    pub fn green_from(mut self, value: f64) -> Self {
        self.colours = vec![(None, "red"), (Some(value), "green")];
        self
    }

    /// No judgement in the colour.
    pub fn plain(mut self) -> Self {
        self.colours = vec![(None, "blue")];
        self
    }

    /// A value that is shown as a word in a colour.
    pub fn word(mut self, value: &'static str, word: &'static str, colour: &'static str) -> Self {
        self.words.push((value, word, colour));
        self
    }

    /// What stands where there is no data: silence must not look like peace.
    pub fn none(mut self, word: &'static str) -> Self {
        self.none = word;
        self
    }

    fn json(&self, id: u32, x: u32, y: u32, height: u32) -> Value {
        let source = json!({"type": "prometheus", "uid": DATA_SOURCE});
        let now = self.kind != Kind::TimeSeries;
        let targets: Vec<Value> = (b'A'..=b'Z')
            .zip(&self.queries)
            .map(|(name, (expression, legend))| {
                json!({
                    "refId": char::from(name).to_string(),
                    "datasource": source,
                    "editorMode": "code",
                    "expr": expression.replace("$here", HERE),
                    "legendFormat": legend,
                    "instant": now,
                    "range": !now,
                    "format": if self.kind == Kind::Table { "table" } else { "time_series" },
                })
            })
            .collect();
        let links: Vec<Value> = [self.runbook]
            .iter()
            .filter(|alert| !alert.is_empty())
            .map(|alert| json!({"title": format!("Runbook: {alert}"), "url": runbook(alert), "targetBlank": true}))
            .chain([
                json!({"title": "What the metrics mean", "url": format!("{REPOSITORY}#metrics"), "targetBlank": true}),
            ])
            .collect();
        let mut panel = json!({
            "id": id,
            "type": self.type_name(),
            "title": self.title,
            "description": self.description,
            "datasource": source,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": height},
            "targets": targets,
            "links": links,
            "fieldConfig": {"defaults": self.defaults(), "overrides": []},
            "options": self.options(),
        });
        if self.kind == Kind::Table {
            panel["transformations"] = self.transformations();
        }
        panel
    }

    fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::Stat => "stat",
            Kind::TimeSeries => "timeseries",
            Kind::Table => "table",
        }
    }

    fn defaults(&self) -> Value {
        let steps: Vec<Value> =
            self.colours.iter().map(|(value, colour)| json!({"value": value, "color": colour})).collect();
        let by_value = self.kind == Kind::Stat || !self.colours.is_empty();
        let mappings: Vec<Value> = self
            .words
            .iter()
            .enumerate()
            .map(|(index, (value, word, colour))| {
                json!({"type": "value", "options": {*value: {"text": word, "color": colour, "index": index}}})
            })
            .collect();
        let mut defaults = json!({
            "unit": self.unit,
            "noValue": self.none,
            "mappings": mappings,
            "color": {"mode": if by_value { "thresholds" } else { "palette-classic" }},
            "thresholds": {"mode": "absolute", "steps": steps},
        });
        if self.kind == Kind::TimeSeries {
            defaults["color"] = json!({"mode": "palette-classic"});
            defaults["min"] = json!(0);
            defaults["custom"] = json!({
                "drawStyle": "line",
                "lineWidth": 1,
                "lineInterpolation": "linear",
                "fillOpacity": if self.stacked { 40 } else { 10 },
                "showPoints": "auto",
                "spanNulls": false,
                "stacking": {"mode": if self.stacked { "normal" } else { "none" }, "group": "A"},
            });
        }
        if self.kind == Kind::Table && by_value {
            defaults["custom"] = json!({"align": "left", "cellOptions": {"type": "color-text"}});
        } else if self.kind == Kind::Table {
            defaults["custom"] = json!({"align": "left", "cellOptions": {"type": "auto"}});
        }
        defaults
    }

    fn options(&self) -> Value {
        match self.kind {
            Kind::Stat => json!({
                "colorMode": if self.colours.len() > 1 || !self.words.is_empty() { "background" } else { "value" },
                "graphMode": "none",
                "justifyMode": "center",
                "orientation": "auto",
                "textMode": if self.queries.iter().any(|(_, legend)| legend.contains("{{")) { "value_and_name" } else { "value" },
                "wideLayout": true,
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": false},
            }),
            Kind::TimeSeries => json!({
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": []},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }),
            Kind::Table => {
                json!({"showHeader": true, "cellHeight": "sm", "footer": {"show": false, "reducer": ["sum"], "countRows": false, "fields": ""}})
            }
        }
    }

    fn transformations(&self) -> Value {
        let names: serde_json::Map<String, Value> =
            self.columns.iter().map(|(label, heading)| ((*label).to_owned(), json!(heading))).collect();
        let order: serde_json::Map<String, Value> =
            self.columns.iter().enumerate().map(|(at, (label, _))| ((*label).to_owned(), json!(at))).collect();
        json!([{"id": "organize", "options": {"excludeByName": {"Time": true}, "indexByName": order, "renameByName": names}}])
    }
}

/// The page of an alert.
pub fn runbook(alert: &str) -> String {
    format!("{REPOSITORY}/blob/main/docs/runbooks/{alert}.md")
}

impl Dashboard {
    /// The file's name in `dashboards/grafana`.
    pub fn file(&self) -> String {
        format!("{}.json", self.name)
    }

    /// What Grafana imports.
    pub fn json(&self) -> Value {
        let mut panels = Vec::new();
        let (mut id, mut y) = (0, 0);
        for row in &self.rows {
            id += 1;
            panels.push(json!({
                "id": id, "type": "row", "title": row.title, "collapsed": false, "panels": [],
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
            }));
            y += 1;
            let mut x = 0;
            for panel in &row.panels {
                if x + panel.width > COLUMNS {
                    x = 0;
                    y += row.height;
                }
                id += 1;
                panels.push(panel.json(id, x, y, row.height));
                x += panel.width;
            }
            y += row.height;
        }
        json!({
            "uid": format!("api-exposure-{}", self.name),
            "title": self.title,
            "description": self.description,
            "tags": ["api-exposure-monitor", "kubernetes", "security"],
            "schemaVersion": 41,
            "version": 1,
            "editable": true,
            "graphTooltip": 1,
            "timezone": "browser",
            "refresh": "30s",
            "time": {"from": "now-6h", "to": "now"},
            "timepicker": {},
            "fiscalYearStartMonth": 0,
            "annotations": {"list": []},
            "links": [
                {
                    "type": "dashboards", "title": "API exposure", "tags": ["api-exposure-monitor"], "asDropdown": true,
                    "includeVars": true, "keepTime": true, "targetBlank": false, "icon": "external link", "tooltip": "", "url": "",
                },
                {
                    "type": "link", "title": "Alerts and their runbooks", "tags": [], "asDropdown": false, "includeVars": false,
                    "keepTime": false, "targetBlank": true, "icon": "doc", "tooltip": "What each alert means and how to close it",
                    "url": format!("{REPOSITORY}/blob/main/docs/alerts.md"),
                },
            ],
            "templating": {"list": variables()},
            "panels": panels,
        })
    }
}

fn variables() -> Value {
    let labels = |name: &str, label: &str, of: &str| {
        json!({
            "type": "query", "name": name, "label": label, "description": "",
            "datasource": {"type": "prometheus", "uid": DATA_SOURCE},
            "query": {"query": of, "refId": name},
            "includeAll": true, "multi": true, "allValue": ".*", "allowCustomValue": true,
            "current": {"text": ["All"], "value": ["$__all"]}, "options": [],
            "refresh": 2, "sort": 1, "regex": "", "hide": 0, "skipUrlSync": false,
        })
    };
    json!([
        {
            "type": "datasource", "name": "datasource", "label": "Data source", "description": "A Prometheus that scrapes the monitor",
            "query": "prometheus", "current": {}, "options": [], "includeAll": false, "multi": false, "allowCustomValue": false,
            "refresh": 1, "regex": "", "hide": 0, "skipUrlSync": false,
        },
        labels("cluster", "Cluster", "label_values(api_exposure_build_info, cluster)"),
        labels("node", "Node", r#"label_values(api_exposure_build_info{cluster=~"$cluster"}, node)"#),
    ])
}

/// What was counted within `window`, of a counter whose series begin with their first event: no increase shows that one,
/// so a series that was not there before counts whole.
pub fn within(counter: &str, window: &str) -> String {
    format!("(({counter} unless {counter} offset {window}) or increase({counter}[{window}]))")
}
