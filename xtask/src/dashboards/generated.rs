//! What is written by the program: the PrometheusRule, the dashboards, the chart's copies.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::workspace;

use super::grafana;

/// The chart's folder for files that its templates read; a chart cannot read what is outside of it.
const CHART: &str = "deploy/chart/api-exposure-monitor";

/// A file and what has to stand in it.
struct Generated {
    path: PathBuf,
    text: String,
}

/// Writes what differs; says what was written.
pub fn write() -> Result<()> {
    for file in all()? {
        if fs::read_to_string(&file.path).is_ok_and(|text| text == file.text) {
            continue;
        }
        if let Some(folder) = file.path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        fs::write(&file.path, &file.text).with_context(|| format!("cannot write {}", file.path.display()))?;
        println!("wrote {}", relative(&file.path));
    }
    Ok(())
}

/// Fails with the names of the files that are not what they have to be.
pub fn check() -> Result<()> {
    let files = all()?;
    let differ: Vec<&str> = files
        .iter()
        .filter(|file| !fs::read_to_string(&file.path).is_ok_and(|text| text == file.text))
        .map(|file| relative(&file.path))
        .collect();
    if !differ.is_empty() {
        bail!("not as they are generated: {}: run `cargo xtask dashboards --write`", differ.join(", "));
    }
    println!("dashboards: {} generated files", files.len());
    Ok(())
}

/// The plain Prometheus files of `dashboards/NAME`, in order of their names.
pub fn plain(name: &str) -> Result<Vec<PathBuf>> {
    let folder = workspace::root().join("dashboards").join(name);
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    Ok(files)
}

fn all() -> Result<Vec<Generated>> {
    let root = workspace::root();
    let chart = root.join(CHART);
    let mut files = Vec::new();
    let mut copied = Vec::new();
    let mut bodies = String::new();
    for name in ["rules", "alerts"] {
        for path in plain(name)? {
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            bodies.push_str(&groups(&text).with_context(|| format!("in {}", path.display()))?);
            copied.push((format!("{name}/{}", file_name(&path)), text));
        }
    }
    files.push(Generated {
        path: root.join("dashboards/prometheus-operator/api-exposure-monitor.yaml"),
        text: prometheus_rule(&bodies),
    });
    for dashboard in grafana::all() {
        let text = format!("{:#}\n", dashboard.json());
        copied.push((format!("grafana/{}", dashboard.file()), text.clone()));
        files.push(Generated { path: root.join("dashboards/grafana").join(dashboard.file()), text });
    }
    if chart.is_dir() {
        files.extend(copied.into_iter().map(|(name, text)| Generated { path: chart.join("files").join(name), text }));
    }
    Ok(files)
}

/// What stands below `groups:`, as it is.
fn groups(text: &str) -> Result<String> {
    let (_, body) = text.split_once("\ngroups:\n").context("no line `groups:`")?;
    Ok(body.to_owned())
}

/// The object of prometheus-operator with the same groups.
fn prometheus_rule(bodies: &str) -> String {
    let mut text = String::from(
        "# Generated from ../rules and ../alerts by `cargo xtask dashboards --write`.\n\
         apiVersion: monitoring.coreos.com/v1\n\
         kind: PrometheusRule\n\
         metadata:\n\
         \x20 name: api-exposure-monitor\n\
         \x20 labels:\n\
         \x20   app.kubernetes.io/name: api-exposure-monitor\n\
         spec:\n\
         \x20 groups:\n",
    );
    for line in bodies.lines() {
        if !line.is_empty() {
            text.push_str("  ");
            text.push_str(line);
        }
        text.push('\n');
    }
    text
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn relative(path: &Path) -> &str {
    path.strip_prefix(workspace::root()).unwrap_or(path).to_str().unwrap_or("a file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_object_has_the_same_lines_below_its_spec() {
        let plain = "# Some words.\ngroups:\n  - name: a\n    rules:\n      - alert: A\n\n        expr: |\n          up\n          > 0\n";
        let rule = prometheus_rule(&groups(plain).unwrap());
        let (head, body) = rule.split_once("  groups:\n").unwrap();
        assert!(head.contains("kind: PrometheusRule\n"), "{head}");
        assert_eq!(
            body,
            "    - name: a\n      rules:\n        - alert: A\n\n          expr: |\n            up\n            > 0\n"
        );
        assert!(groups("rules: []\n").is_err());
    }
}
