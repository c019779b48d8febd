//! Pictures of the dashboards: a real API server and real clients, the monitor, a real Prometheus with the rules and
//! alerts, and a page that draws what it answers to the panels' queries. The page stands in for Grafana, and says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::e2e::binaries;
use crate::e2e::control_plane::{ControlPlane, POD_NETWORK, Server, TRUSTED_NETWORK};
use crate::e2e::monitor::Monitor;
use crate::lab::network::NODES;
use crate::lab::{Host, Lab};
use crate::setup::{self, Group};
use crate::terminal::Steps;
use crate::{build, workspace};

use super::{generated, grafana, in_time, targets};

mod traffic;

/// Where Prometheus serves, in the control plane's own network.
const PROMETHEUS: &str = "127.0.0.1:9090";
/// Seconds between two points of a line.
const STEP: u64 = 2;
/// What counts as `$__rate_interval`: some scrapes, which are a second apart.
const RATE_INTERVAL: &str = "10s";
/// The chart library that the page draws with.
const ECHARTS: &str = "echarts@6.1.0";
/// Width of a picture; its height is the dashboard's.
const WIDTH: u64 = 1600;
/// Height of what stands above the panels, with the margins.
const ABOVE: u64 = 88;
/// Height of a unit of Grafana's grid.
const UNIT: u64 = 30;
/// Where the monitor serves, in the control plane's own network.
const MONITOR: &str = "127.0.0.1:9464";
/// Alerts that the traffic has to raise; no other may be.
const ALERTS: [&str; 5] = [
    "ApiExposureAnonymousAllowed",
    "ApiExposureAnonymousProbing",
    "ApiExposurePlaintextOpen",
    "ApiExposurePlaintextRequests",
    "ApiExposurePublicSource",
];

/// Draws `dashboards/pictures` with this monitor, or with a release build of what is here; says which panels have data.
pub fn draw(binary: Option<&Path>) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "pictures need live traffic, and that needs root");
    setup::ensure(&[Group::Build, Group::Lab, Group::Kubernetes, Group::Dashboards])?;
    let binary = match binary {
        Some(binary) => std::path::absolute(binary).context("no current folder")?,
        None => {
            build::binary()?;
            workspace::binary()
        }
    };
    let library = library()?;
    let mut steps = Steps::new("dashboards", 6)?;
    let mut control = steps.within("hosts, etcd and a real API server", || {
        let mut control = ControlPlane::new()?;
        control.start(&Server { version: binaries::CURRENT, flags: &[] })?;
        control.credentials()?;
        traffic::prepare(&control)?;
        Ok(control)
    })?;
    let _monitor = steps.within("the monitor, with the audit log and the probe", || {
        let audit_log = control.audit_log().display().to_string();
        let flags =
            ["--audit-log", &audit_log, "--probe", "on", "--cluster-node-cidr", NODES, "--pod-cidr", POD_NETWORK];
        let flags = flags.into_iter().chain(["--trusted-cidr", TRUSTED_NETWORK]).map(str::to_owned).collect::<Vec<_>>();
        Monitor::start(&mut control.lab, &binary, &flags)
    })?;
    steps.within("Prometheus, with the rules and the alerts", || start_prometheus(&mut control.lab))?;
    let what = format!("the traffic of a cluster, and of somebody who tries it, for {} s", traffic::LASTS.as_secs());
    steps.within(&what, || traffic::run(&mut control))?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("the clock is wrong")?.as_secs();
    let answers = steps.within("what Prometheus answers to the panels", || {
        raised(&control.lab)?;
        grafana::all().iter().map(|dashboard| answers(&control.lab, dashboard, now)).collect::<Result<Vec<_>>>()
    })?;
    steps.within("pictures", || {
        answers.iter().try_for_each(|(name, data)| picture(&control.lab, &library, name, data))
    })?;
    answers.iter().for_each(|(name, data)| report(name, data));
    Ok(())
}

/// The chart library's one file, by npm, below the target directory.
fn library() -> Result<PathBuf> {
    let folder = workspace::target().join("xtask").join(ECHARTS);
    let file = folder.join("node_modules/echarts/dist/echarts.min.js");
    if !file.is_file() {
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"])
            .arg(&folder)
            .arg(ECHARTS);
        let output = npm.stdin(Stdio::null()).output().context("cannot start npm")?;
        ensure!(output.status.success(), "npm: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(file)
}

fn start_prometheus(lab: &mut Lab) -> Result<()> {
    let rules = [generated::plain("rules")?, generated::plain("alerts")?].concat();
    let configuration = json!({
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": rules,
        "scrape_configs": [{
            "job_name": "api-exposure-monitor",
            "static_configs": [{"targets": [MONITOR], "labels": {"cluster": "lab", "node": Host::ControlPlane.name()}}],
        }],
    });
    // JSON is YAML.
    let file = lab.directory().join("prometheus.yml");
    fs::write(&file, configuration.to_string()).context("cannot write Prometheus' configuration")?;
    let mut prometheus = lab.command(Host::ControlPlane, "prometheus");
    prometheus.arg(format!("--config.file={}", file.display()));
    prometheus.arg(format!("--storage.tsdb.path={}", lab.directory().join("prometheus").display()));
    prometheus.arg(format!("--web.listen-address={PROMETHEUS}"));
    lab.start("prometheus", &mut prometheus)?;
    lab.wait_for("prometheus", "the first scrape", |lab| {
        let up = ask(lab, "query", &[("query", "api_exposure_build_info")]).ok();
        Ok(up.filter(|result| !result.is_empty()).map(drop))
    })
}

/// A dashboard with what Prometheus answers to each of its panels, for the page.
fn answers(lab: &Lab, dashboard: &grafana::Dashboard, now: u64) -> Result<(&'static str, Value)> {
    let json = dashboard.json();
    let mut results = serde_json::Map::new();
    let begin = now - traffic::LASTS.as_secs();
    let times = [("start", begin.to_string()), ("end", now.to_string()), ("step", STEP.to_string())];
    for (panel, target) in targets(&json) {
        let query = in_time(target, &format!("{}s", traffic::LASTS.as_secs()), RATE_INTERVAL);
        let mut parameters = vec![("query", query.as_str())];
        let kind = if target["instant"] == true {
            parameters.push(("time", times[1].1.as_str()));
            "query"
        } else {
            parameters.extend(times.iter().map(|(name, value)| (*name, value.as_str())));
            "query_range"
        };
        let result = ask(lab, kind, &parameters).with_context(|| format!("{}: {}", dashboard.title, panel["title"]))?;
        let of_panel = results.entry(panel["id"].to_string()).or_insert_with(|| json!([]));
        if let Some(of_panel) = of_panel.as_array_mut() {
            of_panel.push(json!({"legend": target["legendFormat"], "result": result}));
        }
    }
    let times: Vec<u64> = (begin..=now).step_by(STEP as usize).collect();
    let note = "Drawn by a page of this project from what a real Prometheus answered to the dashboard's queries, while \
                clients were at work on a real API server; not by Grafana.";
    Ok((dashboard.name, json!({"dashboard": json, "results": results, "times": times, "note": note})))
}

/// GET from Prometheus' API.
fn ask(lab: &Lab, kind: &str, parameters: &[(&str, &str)]) -> Result<Vec<Value>> {
    let mut curl = lab.command(Host::ControlPlane, "curl");
    curl.args(["--silent", "--show-error", "--max-time", "10", "--get"]);
    for (name, value) in parameters {
        curl.args(["--data-urlencode", &format!("{name}={value}")]);
    }
    let output = curl.arg(format!("http://{PROMETHEUS}/api/v1/{kind}")).output().context("cannot start curl")?;
    let answer: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("no answer: {}", String::from_utf8_lossy(&output.stderr).trim()))?;
    if answer["status"] != "success" {
        bail!("{parameters:?}: {}", answer["error"]);
    }
    Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
}

/// The traffic raises the alerts that it has to, and no other.
fn raised(lab: &Lab) -> Result<()> {
    let query = r#"group by (alertname) (ALERTS{alertstate="firing"})"#;
    let firing = ask(lab, "query", &[("query", query)])?;
    let mut names: Vec<&str> = firing.iter().filter_map(|alert| alert["metric"]["alertname"].as_str()).collect();
    names.sort_unstable();
    ensure!(names == ALERTS, "alerts that fire are {names:?}, and should be {ALERTS:?}");
    Ok(())
}

fn picture(lab: &Lab, library: &Path, name: &str, data: &Value) -> Result<()> {
    let folder = lab.directory().join(name);
    fs::create_dir(&folder).context("cannot create the folder of the page")?;
    fs::write(folder.join("page.html"), include_str!("page.html")).context("cannot write the page")?;
    fs::write(folder.join("data.js"), format!("const data = {data};\n")).context("cannot write the page's data")?;
    fs::copy(library, folder.join("echarts.min.js")).context("cannot copy the chart library")?;
    let panels = data["dashboard"]["panels"].as_array().into_iter().flatten();
    let ends = panels.filter_map(|panel| Some(panel["gridPos"]["y"].as_u64()? + panel["gridPos"]["h"].as_u64()?));
    let height = ABOVE + UNIT * ends.max().unwrap_or(0);

    let pictures = workspace::root().join("dashboards/pictures");
    fs::create_dir_all(&pictures).context("cannot create dashboards/pictures")?;
    let file = pictures.join(format!("{name}.png"));
    // What was there is no proof that something was drawn.
    if file.exists() {
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
    }
    let mut chromium = Command::new("chromium");
    // Its sandbox refuses root; it sees files of ours alone. On a host of the lab there is nobody it could call.
    chromium.args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-color-profile=srgb"]);
    chromium.arg(format!("--user-data-dir={}", folder.join("profile").display()));
    chromium.arg(format!("--window-size={WIDTH},{height}")).arg(format!("--screenshot={}", file.display()));
    chromium.arg(format!("file://{}", folder.join("page.html").display()));
    let output = chromium.stdin(Stdio::null()).output().context("cannot start chromium")?;
    ensure!(file.exists(), "chromium drew nothing: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Which panels have data, and which have none from this traffic.
fn report(name: &str, data: &Value) {
    let has = |id: &Value| {
        let answers = data["results"][id.to_string()].as_array().into_iter().flatten();
        answers.flat_map(|answer| answer["result"].as_array()).map(Vec::len).sum::<usize>()
    };
    let panels: Vec<&Value> = data["dashboard"]["panels"].as_array().into_iter().flatten().collect();
    let panels: Vec<&&Value> = panels.iter().filter(|panel| panel["type"] != "row").collect();
    let empty: Vec<&str> =
        panels.iter().filter(|panel| has(&panel["id"]) == 0).filter_map(|panel| panel["title"].as_str()).collect();
    println!("{name}: {} of {} panels have data", panels.len() - empty.len(), panels.len());
    if !empty.is_empty() {
        println!("  none, as it has to be without its source: {}", empty.join("; "));
    }
}
