//! Rules, alerts and dashboards name metrics, labels and words that the code has, and whoever reads an alert finds the
//! page that says what to do.
#![expect(clippy::unwrap_used, reason = "what a test cannot do without fails it")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use monitor::export::definitions::{self, Definition};
use monitor_tests::rules::{self, Rule};
use serde_json::Value;

#[path = "dashboards/promql.rs"]
mod promql;

use promql::names;

/// Metrics of others, with the labels that we use.
const FOREIGN: [(&str, &[&str]); 2] = [("up", &["job"]), ("kube_node_role", &["role"])];
/// Labels that every series has from the scrape.
const SCRAPED: [&str; 4] = ["cluster", "node", "instance", "job"];
/// Inferred knowledge: an alert that uses it says so.
const INFERRED: &str = "api_exposure_first_requests_inferred_total";

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

fn definition(name: &str) -> Option<&'static Definition> {
    definitions::ALL.iter().copied().find(|definition| definition.name == name)
}

/// What is wrong with an expression; empty when nothing is.
fn wrong(expression: &str, recorded: &[Rule]) -> Vec<String> {
    let names = names(expression);
    let mut wrong = Vec::new();
    let mut labels: BTreeSet<String> = SCRAPED.iter().map(|&label| label.to_owned()).collect();
    labels.extend(names.made);
    assert!(!names.selectors.is_empty(), "no metric in {expression}");
    for selector in &names.selectors {
        let of_this: Vec<(&str, &[&str])> = if let Some(definition) = definition(&selector.name) {
            definition.labels.iter().map(|label| (label.name, label.words)).collect()
        } else if let Some((_, labels)) = FOREIGN.iter().find(|(name, _)| *name == selector.name) {
            labels.iter().map(|label| (*label, [].as_slice())).collect()
        } else if let Some(rule) = recorded.iter().find(|rule| rule.name() == selector.name) {
            // What it was grouped by is what it has.
            labels.extend(promql::names(&rule.expr).grouping);
            Vec::new()
        } else {
            wrong.push(format!("no metric {}", selector.name));
            continue;
        };
        labels.extend(of_this.iter().map(|(name, _)| (*name).to_owned()));
        for (label, operator, value) in &selector.matchers {
            let Some((_, words)) = of_this.iter().find(|(name, _)| name == label) else {
                if !SCRAPED.contains(&label.as_str()) {
                    wrong.push(format!("{} has no label {label}", selector.name));
                }
                continue;
            };
            let values = if operator.contains('~') { value.split('|').collect() } else { vec![value.as_str()] };
            for value in values.iter().filter(|value| !words.is_empty() && !words.contains(value)) {
                wrong.push(format!("{}: {label} is never {value}", selector.name));
            }
        }
    }
    wrong.extend(
        names.grouping.iter().filter(|label| !labels.contains(*label)).map(|label| format!("no label {label}")),
    );
    wrong
}

#[test]
fn the_check_names_what_is_wrong() {
    let wrong = |expression: &str| wrong(expression, &[]);
    assert_eq!(wrong("sum(api_exposure_exposure_total)"), ["no metric api_exposure_exposure_total"]);
    assert_eq!(
        wrong(r#"sum by (role) (api_exposure_exposures_total{kind="plaintext",role="secure",node="a"})"#),
        [
            "api_exposure_exposures_total: kind is never plaintext",
            "api_exposure_exposures_total has no label role",
            "no label role"
        ]
    );
    assert_eq!(
        wrong(r#"sum by (kind) (rate(api_exposure_exposures_total{source=~"pod|moon"}[5m]))"#),
        ["api_exposure_exposures_total: source is never moon"]
    );
    assert_eq!(wrong(r#"sum by (kind) (rate(api_exposure_exposures_total{source=~"pod|node"}[5m]))"#), [""; 0]);
}

#[test]
fn rules_name_what_the_code_has() {
    let recorded = rules::read("rules");
    for rule in recorded.iter().chain(&rules::read("alerts")) {
        assert_eq!(wrong(&rule.expr, &recorded), [""; 0], "{}", rule.name());
    }
}

#[test]
fn recording_rules_are_named_level_metric_operation() {
    for rule in rules::read("rules") {
        let name = rule.name();
        let parts: Vec<&str> = name.split(':').collect();
        assert_eq!(parts.len(), 3, "{name}");
        for label in parts[0].split('_') {
            assert!(names(&rule.expr).grouping.iter().any(|grouping| grouping == label), "{name}: not by {label}");
        }
    }
}

#[test]
fn alerts_say_what_whom_and_where_to_read_on() {
    let alerts = rules::read("alerts");
    assert!(alerts.len() >= 10);
    for alert in &alerts {
        let (name, note) = (alert.name(), |note: &str| alert.annotations.get(note).cloned().unwrap_or_default());
        let severity = alert.labels.get("severity").map_or("", String::as_str);
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: severity {severity}");
        assert!(!note("summary").is_empty() && !note("summary").contains("{{"), "{name}: a summary is one for all");
        assert!(note("description").contains("{{"), "{name}: the description has the numbers");
        assert_eq!(note("runbook_url"), format!("{}/blob/main/docs/runbooks/{name}.md", rules::REPOSITORY));
        assert!(folder("dashboards/tests").join(format!("{name}.yaml")).is_file(), "{name} has no unit test");
        assert!(alert.threshold().is_some(), "{name}: the last line of its expression is not its threshold alone");

        let inferred = names(&alert.expr).selectors.iter().any(|selector| selector.name == INFERRED);
        let says = note("summary").starts_with("Inferred") && note("description").starts_with("Inferred");
        assert_eq!(inferred, says, "{name}: what is inferred says so, and nothing else does");
        assert_eq!(inferred, alert.labels.get("evidence").is_some_and(|evidence| evidence == "inferred"), "{name}");
    }
}

#[test]
fn each_alert_has_its_runbook_and_each_runbook_its_alert() {
    let alerts: BTreeSet<String> = rules::read("alerts").iter().map(|alert| alert.name().to_owned()).collect();
    let mut pages = BTreeSet::new();
    for entry in fs::read_dir(folder("docs/runbooks")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(&format!("# {name}\n")), "{name}: its first line is its name");
        for heading in ["## What it means", "## How to confirm it", "## How to close it", "## When it is fine"] {
            assert!(text.contains(&format!("\n{heading}\n")), "{name} lacks `{heading}`");
        }
        pages.insert(name);
    }
    assert_eq!(alerts, pages);
}

/// Dashboards by the names of their files.
fn dashboards() -> Vec<(String, Value)> {
    let files = fs::read_dir(folder("dashboards/grafana")).unwrap().map(|entry| entry.unwrap().path());
    files
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap())
        })
        .collect()
}

#[test]
fn panels_name_what_the_code_has() {
    let recorded = rules::read("rules");
    let mut queries = 0;
    for (file, dashboard) in dashboards() {
        for panel in dashboard["panels"].as_array().unwrap() {
            let title = panel["title"].as_str().unwrap();
            for target in panel["targets"].as_array().into_iter().flatten() {
                let expression = target["expr"].as_str().unwrap();
                // The variables match anything; as matchers they are the scrape's labels.
                assert_eq!(wrong(expression, &recorded), [""; 0], "{file}: {title}: {expression}");
                assert!(
                    expression.contains(r#"{cluster=~"$cluster",node=~"$node""#),
                    "{file}: {title}: of all clusters"
                );
                let names = names(expression);
                let legend = target["legendFormat"].as_str().unwrap();
                for label in legend.split("{{").skip(1).filter_map(|part| part.split("}}").next()) {
                    assert!(names.grouping.iter().any(|grouping| grouping == label), "{file}: {title}: {legend}");
                }
                queries += 1;
            }
        }
    }
    assert!(queries > 50, "{queries}");
}

#[test]
fn panels_explain_themselves() {
    let alerts: Vec<String> = rules::read("alerts").iter().map(|alert| alert.name().to_owned()).collect();
    for (file, dashboard) in dashboards() {
        let mut titles = BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row") {
            let title = panel["title"].as_str().unwrap();
            assert!(titles.insert(title), "{file}: {title} twice");
            assert!(panel["description"].as_str().is_some_and(|text| text.ends_with('.')), "{file}: {title}");
            assert!(panel["fieldConfig"]["defaults"]["unit"].as_str().is_some_and(|unit| !unit.is_empty()), "{title}");
            let links = panel["links"].as_array().unwrap();
            let leads = |alert: &String| {
                let url = format!("{}/blob/main/docs/runbooks/{alert}.md", rules::REPOSITORY);
                links.iter().any(|link| link["url"] == url)
            };
            assert!(alerts.iter().any(leads), "{file}: {title} leads to no alert's page");
        }
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        let variables: Vec<&str> = variables.iter().filter_map(|variable| variable["name"].as_str()).collect();
        assert_eq!(variables, ["datasource", "cluster", "node"], "{file}");
    }
}
