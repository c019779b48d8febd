//! `cargo xtask dashboards`: rules, alerts and dashboards hold together, and hold what the code has.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use serde_json::Value;

use crate::setup::{self, Group};
use crate::workspace;

mod generated;
mod grafana;
mod pictures;
mod schema;

/// Where the project lives: links in alerts and dashboards lead there.
const REPOSITORY: &str = env!("CARGO_PKG_REPOSITORY");

/// Checks rules, alerts and dashboards: their tests, what is generated of them, the metrics that they name.
#[derive(clap::Args)]
pub struct Arguments {
    /// Write what is generated: the PrometheusRule, the dashboards, the chart's copies.
    #[arg(long)]
    write: bool,
    /// Draw the pictures anew, from a real Prometheus that scrapes the monitor beside a real API server. Needs root.
    #[arg(long)]
    pictures: bool,
    /// Draw with this monitor, instead of a release build of what is here.
    #[arg(long, value_name = "FILE", requires = "pictures")]
    binary: Option<PathBuf>,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    if arguments.write {
        generated::write()?;
    }
    setup::ensure(&[Group::Test])?;
    check()?;
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--quiet", "--locked", "--package", "monitor-tests", "--test", "dashboards"]);
    ensure!(cargo.status().context("cannot start cargo")?.success(), "rules or dashboards name what the code has not");
    schema::check()?;
    if arguments.pictures {
        pictures::draw(arguments.binary.as_deref())?;
    }
    Ok(())
}

/// What needs nothing but promtool: `cargo xtask test` does this, and runs the test of names with all others.
pub fn check() -> Result<()> {
    generated::check()?;
    let rules = [generated::plain("rules")?, generated::plain("alerts")?].concat();
    promtool(&["check", "rules"], &rules)?;
    let queries = queries()?;
    promtool(&["check", "rules"], &[queries])?;
    let tests = generated::plain("tests")?;
    promtool(&["test", "rules"], &tests)?;
    println!("dashboards: {} files of rules, {} of their tests", rules.len(), tests.len());
    Ok(())
}

/// A file of rules that records each panel's query, so that promtool reads them as Prometheus would.
fn queries() -> Result<PathBuf> {
    let mut text = String::from("groups:\n  - name: panels\n    rules:\n");
    let dashboards: Vec<Value> = grafana::all().iter().map(grafana::Dashboard::json).collect();
    for (at, (_, target)) in dashboards.iter().flat_map(targets).enumerate() {
        let expression = in_time(target, "1h", "5m");
        text.push_str(&format!("      - record: panel:{at}:query\n        expr: {}\n", serde_json::json!(expression)));
    }
    let path = workspace::target().join("xtask/panels.yaml");
    fs::create_dir_all(workspace::target().join("xtask")).context("cannot create the folder for panels.yaml")?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Panels of a dashboard with what they ask for.
fn targets(dashboard: &Value) -> impl Iterator<Item = (&Value, &Value)> {
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten().map(move |target| (panel, target)))
}

/// A panel's query over all clusters and nodes, with Grafana's variables for times set.
fn in_time(target: &Value, range: &str, interval: &str) -> String {
    let everywhere = target["expr"].as_str().unwrap_or_default().replace("$cluster", ".*").replace("$node", ".*");
    everywhere.replace("$__range", range).replace("$__rate_interval", interval)
}

fn promtool(words: &[&str], files: &[PathBuf]) -> Result<()> {
    let output = Command::new("promtool").args(words).args(files).output().context("cannot start promtool")?;
    if !output.status.success() {
        let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        bail!("promtool {}: {}\n{out}{err}", words.join(" "), output.status);
    }
    Ok(())
}
