//! The monitor at work on the control plane: started, followed, asked.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::interrupt;
use crate::lab::{Host, Lab};

/// Where it serves, in the control plane's own network.
const LISTEN: &str = "127.0.0.1:9464";
/// How long the last event may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A monitor that runs; ended with [`Monitor::stop`], or with the lab.
pub struct Monitor {
    /// Its process.
    pub process: u32,
    events: PathBuf,
}

/// A connection as a line of `/events` tells it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The client.
    pub source: IpAddr,
    /// The whole line.
    pub line: Value,
}

impl Seen {
    /// The word at a JSON pointer; `none` for null and what is not there.
    pub fn word(&self, pointer: &str) -> String {
        match self.line.pointer(pointer) {
            Some(Value::String(word)) => word.clone(),
            Some(Value::Null) | None => "none".to_owned(),
            Some(other) => other.to_string(),
        }
    }
}

impl Monitor {
    /// Starts the binary with these flags and waits until it is attached.
    pub fn start(lab: &mut Lab, binary: &Path, flags: &[String]) -> Result<Self> {
        let mut monitor = lab.command(Host::ControlPlane, binary);
        monitor.args(["run", "--listen", LISTEN]).args(flags);
        let process = lab.start("monitor", &mut monitor)?;
        lab.wait_for("monitor", "the monitor being ready", |lab| Ok(get(lab, "readyz").ok()))?;
        let (events, headers) = (lab.directory().join("events"), lab.directory().join("events.headers"));
        let mut follow = lab.command(Host::ControlPlane, "curl");
        follow.args(["--silent", "--no-buffer", "--dump-header"]).arg(&headers).arg(format!("http://{LISTEN}/events"));
        follow.stdout(File::create(&events).context("cannot write the events")?).stderr(Stdio::null());
        fs::write(&headers, "").context("cannot write headers")?;
        lab.start_with_output("events", &mut follow)?;
        lab.wait_for("events", "the stream of events", |_| {
            let headers = fs::read_to_string(&headers).unwrap_or_default();
            Ok(headers.contains("\r\n\r\n").then_some(()))
        })?;
        Ok(Self { process, events })
    }

    /// Ends it; it must let go of its interfaces by itself.
    pub fn stop(self, lab: &mut Lab) -> Result<()> {
        lab.stop("monitor")?;
        lab.stop("events")
    }

    /// The events so far whose `type` is this word.
    pub fn events(&self, kind: &str) -> Result<Vec<Seen>> {
        let text = fs::read_to_string(&self.events).context("cannot read the events")?;
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let mut seen = Vec::new();
        for line in whole.lines() {
            let line: Value = serde_json::from_str(line).with_context(|| format!("not a line of JSON: {line}"))?;
            let word = line.get("type").and_then(Value::as_str);
            if word == Some("lost") {
                bail!("the monitor lost events: {line}");
            }
            let source = line.pointer("/source/ip").and_then(Value::as_str).and_then(|ip| ip.parse().ok());
            if word == Some(kind)
                && let Some(source) = source
            {
                seen.push(Seen { source, line });
            }
        }
        Ok(seen)
    }

    /// The connections, once `enough` of them are there.
    pub fn connections(&self, what: &str, enough: impl Fn(&[Seen]) -> bool) -> Result<Vec<Seen>> {
        let waited = interrupt::wait_for(what, PATIENCE, || {
            let seen = self.events("connection")?;
            Ok(enough(&seen).then_some(seen))
        });
        interrupt::check()?;
        // Too few are no error here: who compares says which ones.
        waited.or_else(|_| self.events("connection"))
    }
}

/// What a page of the monitor says.
pub fn get(lab: &Lab, page: &str) -> Result<String> {
    let mut curl = lab.command(Host::ControlPlane, "curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "10"]).arg(format!("http://{LISTEN}/{page}"));
    let output = curl.output().context("cannot start curl")?;
    if !output.status.success() {
        bail!("/{page}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("/{page} is no text"))
}

/// A scrape.
pub struct Scrape(String);

/// Counts by the values of some labels.
pub type Counts = BTreeMap<Vec<String>, u64>;

impl Scrape {
    /// Asks for one.
    pub fn new(lab: &Lab) -> Result<Self> {
        Ok(Self(get(lab, "metrics")?))
    }

    /// One that somebody else asked for.
    pub fn of(text: String) -> Self {
        Self(text)
    }

    /// The samples of a metric that are not zero and have these labels, summed by the values of `by`.
    pub fn sums(&self, metric: &str, with: &[(&str, &str)], by: &[&str]) -> Counts {
        let mut counts = Counts::new();
        for line in self.0.lines() {
            let Some(rest) = line.strip_prefix(metric).filter(|rest| rest.starts_with(['{', ' '])) else { continue };
            let value = rest.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).unwrap_or(0.0);
            if value > 0.0 && with.iter().all(|(name, value)| label(rest, name) == Some(value)) {
                let key = by.iter().map(|name| label(rest, name).unwrap_or_default().to_owned()).collect();
                // A counter of the lab is a whole number far below 2^53.
                *counts.entry(key).or_default() += value as u64;
            }
        }
        counts
    }

    /// Whether the monitor has such a metric.
    pub fn has(&self, metric: &str) -> bool {
        let line = format!("# TYPE {metric} ");
        self.0.lines().any(|other| other.starts_with(&line))
    }

    /// The sum over all of them.
    pub fn sum(&self, metric: &str, with: &[(&str, &str)]) -> u64 {
        self.sums(metric, with, &[]).values().sum()
    }
}

/// The value of a label in `{name="value",...} number`.
fn label<'a>(sample: &'a str, name: &str) -> Option<&'a str> {
    let start = format!("{name}=\"");
    let at = sample.match_indices(&start).find(|(at, _)| sample.get(..*at).is_some_and(|b| b.ends_with(['{', ','])))?.0;
    sample.get(at + start.len()..)?.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_is_summed_by_labels() {
        let scrape = Scrape(
            "# HELP a_total A.\na_total{source=\"pod\",verb=\"get\"} 2\na_total{source=\"pod\",verb=\"list\"} 3\n\
             a_total{source=\"node\",verb=\"get\"} 0\na_total_other{source=\"pod\"} 9\nb 4\n"
                .to_owned(),
        );
        assert_eq!(scrape.sums("a_total", &[], &["source"]), Counts::from([(vec!["pod".to_owned()], 5)]));
        assert_eq!(scrape.sum("a_total", &[("verb", "get")]), 2);
        assert_eq!(scrape.sum("b", &[]), 4);
        let typed = Scrape("# TYPE a_total counter\n".to_owned());
        assert!(typed.has("a_total") && !typed.has("a"));
        assert_eq!(label("{resource=\"x\",source=\"pod\"} 1", "source"), Some("pod"));
        assert_eq!(label("{resource=\"x\"} 1", "source"), None);
    }
}
