//! One walk: what is done on the hosts, what the monitor shows of it, and the page that tells both.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::e2e::apiservers;
use crate::e2e::control_plane::{ControlPlane, POD_NETWORK, Server};
use crate::e2e::monitor::{Counts, Monitor, Scrape};
use crate::interrupt;
use crate::lab::Host;

/// How long a line may take to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// 1 for each finding of the API server's configuration.
const FINDING: &str = "api_exposure_configuration_finding";

/// How long a finding may take: the monitor looks at the configuration again once a minute.
const LOOKED_AGAIN: Duration = Duration::from_secs(75);

/// Counters whose increase is told, with the labels that are told.
const COUNTERS: [(&str, &[&str]); 5] = [
    ("api_exposure_anonymous_requests_total", &["source", "verb", "path_class", "decision", "evidence"]),
    ("api_exposure_plaintext_requests_total", &["source", "verb", "path_class", "credential", "status"]),
    ("api_exposure_unauthenticated_responses_total", &["source", "reason"]),
    ("api_exposure_node_restriction_refused_total", &["resource", "reason"]),
    ("api_exposure_exposures_total", &["kind", "source"]),
];

/// A walk that is under way.
pub struct Walk {
    /// Hosts and the server.
    pub control: ControlPlane,
    binary: PathBuf,
    monitor: Option<Monitor>,
    page: String,
    failures: Vec<String>,
    /// Lines of `observe` that were told already.
    told: usize,
    /// Counters at that time.
    counted: Vec<Counts>,
    /// Ports of the clients on the control plane itself, whose lines are told; the API server's own are not.
    ports: BTreeSet<String>,
}

/// One start of a client.
pub struct Act<'a> {
    /// Where.
    pub host: Host,
    /// The command as one would type it.
    pub shown: &'a str,
    /// The program and its arguments.
    pub words: Vec<String>,
    /// What it has to say.
    pub says: &'a str,
}

impl Walk {
    /// Begins on a lab without a server.
    pub fn new(binary: &Path) -> Result<Self> {
        Ok(Self {
            control: ControlPlane::new()?,
            binary: binary.to_owned(),
            monitor: None,
            page: String::new(),
            failures: Vec::new(),
            told: 0,
            counted: Vec::new(),
            ports: BTreeSet::new(),
        })
    }

    /// Adds words to the page.
    pub fn say(&mut self, text: &str) {
        self.page.push_str(text.trim());
        self.page.push_str("\n\n");
    }

    /// A server and a monitor in the place of those before; `flags` are shown.
    pub fn server(&mut self, version: &'static str, flags: &[&str]) -> Result<()> {
        let anonymous = !flags.contains(&"--anonymous-auth=false");
        self.end_server()?;
        let words: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        self.control.start(&Server { version, flags: &words })?;
        self.control.credentials()?;
        let audit = self.control.audit_log().display().to_string();
        let mut flags = vec!["--cluster-node-cidr", "192.168.56.0/24", "--pod-cidr", POD_NETWORK];
        flags.extend(["--node-port", "31443", "--discovery", "none", "--probe", "on", "--audit-log", &audit]);
        let flags: Vec<String> = flags.into_iter().map(str::to_owned).collect();
        self.monitor = Some(Monitor::start(&mut self.control.lab, &self.binary, &flags)?);
        if anonymous {
            apiservers::wait_until_at_work(&self.control.lab)?;
        }
        let mut observe = self.control.lab.command(Host::ControlPlane, &self.binary);
        observe.args(["observe", "--from", "http://127.0.0.1:9464"]);
        self.control.lab.start("observe", &mut observe)?;
        self.told = 0;
        self.counted = self.counters()?;
        Ok(())
    }

    fn end_server(&mut self) -> Result<()> {
        if let Some(monitor) = self.monitor.take() {
            self.control.lab.stop("observe")?;
            monitor.stop(&mut self.control.lab)?;
            self.control.stop()?;
        }
        Ok(())
    }

    /// Runs a client, and tells the command and what it said.
    pub fn act(&mut self, act: &Act<'_>) -> Result<()> {
        interrupt::check()?;
        let (program, arguments) = act.words.split_first().context("a client without a name")?;
        let mut command = self.control.lab.command(act.host, "timeout");
        command.args(["--foreground", "30", program]).args(arguments);
        let folder = self.control.lab.directory().to_owned();
        command.env("HOME", &folder).current_dir(&folder);
        let output = command.output().with_context(|| format!("cannot start {program}"))?;
        let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
        if program == "curl"
            && let Some((body, numbers)) = said.rsplit_once("\n::")
        {
            let (status, port) = numbers.split_once(' ').unwrap_or((numbers, ""));
            self.ports.insert(port.to_owned());
            let body = body.trim().to_owned();
            said = match status {
                "000" => String::new(),
                status => format!("{status} {}", message(&body)),
            };
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        let said = format!("{}\n{}", said.trim(), complaint.trim());
        let said = without_times(said.trim());
        if !said.contains(act.says) {
            self.failures.push(format!("`{}` said `{said}` instead of `{}`", act.shown, act.says));
        }
        let host = act.host.name();
        self.page.push_str(&format!("On {host}:\n```console\n$ {}\n{said}\n```\n", act.shown));
        Ok(())
    }

    /// Tells what the monitor showed since the last time: each of these has to be in a line of `observe` or in a counter
    /// that has grown.
    pub fn shows(&mut self, wanted: &[&str]) -> Result<()> {
        let waited = interrupt::wait_for("the monitor's lines", PATIENCE, || {
            let (lines, counters) = (self.lines(), self.grown()?);
            let all = wanted.iter().all(|words| lines.iter().chain(&counters).any(|line| has(line, words)));
            Ok(all.then_some(()))
        });
        interrupt::check()?;
        let (lines, counters) = (self.lines(), self.grown()?);
        if waited.is_err() {
            let missing = wanted.iter().filter(|words| !lines.iter().chain(&counters).any(|line| has(line, words)));
            for words in missing {
                self.failures.push(format!("nothing has `{words}` in {lines:#?} and {counters:#?}"));
            }
        }
        self.page.push_str("\nThe monitor (`observe`, and what has grown in `/metrics`):\n```\n");
        for line in lines.iter().chain(&counters) {
            self.page.push_str(line);
            self.page.push('\n');
        }
        self.page.push_str("```\n\n");
        self.told = self.raw_lines().len();
        self.counted = self.counters()?;
        self.ports.clear();
        Ok(())
    }

    /// Tells the configuration findings: those wanted have to be there, the others must not. A monitor that looks at no
    /// configuration has none to tell.
    pub fn finds(&mut self, wanted: &[&str], not: &[&str]) -> Result<()> {
        if !Scrape::new(&self.control.lab)?.has(FINDING) {
            println!("      this monitor has no {FINDING}: findings are left out");
            return Ok(());
        }
        let waited = interrupt::wait_for("the findings", LOOKED_AGAIN, || {
            let found = self.found()?;
            let right =
                wanted.iter().all(|name| found.contains(*name)) && !not.iter().any(|name| found.contains(*name));
            Ok(right.then_some(()))
        });
        interrupt::check()?;
        let found = self.found()?;
        if waited.is_err() {
            self.failures.push(format!("findings {found:?}: {wanted:?} have to be there, {not:?} must not"));
        }
        let list: Vec<String> = found.iter().map(|name| format!("`{name}`")).collect();
        let list = if list.is_empty() { "none".to_owned() } else { list.join(", ") };
        self.page.push_str(&format!("Configuration findings: {list}.\n\n"));
        Ok(())
    }

    fn found(&self) -> Result<BTreeSet<String>> {
        let scrape = Scrape::new(&self.control.lab)?;
        let found = scrape.sums(FINDING, &[], &["finding"]);
        Ok(found.into_keys().flatten().collect())
    }

    fn raw_lines(&self) -> Vec<String> {
        let path = self.control.lab.directory().join("observe.log");
        let text = fs::read_to_string(path).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(str::to_owned).collect()
    }

    /// The lines since the last time, without what changes from run to run.
    fn lines(&self) -> Vec<String> {
        let lines = self.raw_lines();
        lines.iter().skip(self.told).filter_map(|line| steady(line, &self.ports)).collect()
    }

    fn counters(&self) -> Result<Vec<Counts>> {
        let scrape = Scrape::new(&self.control.lab)?;
        Ok(COUNTERS.iter().map(|(name, labels)| scrape.sums(name, &[], labels)).collect())
    }

    /// The counters that have grown since the last time.
    fn grown(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for (((name, labels), now), before) in COUNTERS.iter().zip(self.counters()?).zip(&self.counted) {
            for (values, count) in now {
                let more = count.saturating_sub(before.get(&values).copied().unwrap_or(0));
                if more > 0 {
                    let pairs: Vec<String> =
                        labels.iter().zip(&values).map(|(label, value)| format!("{label}=\"{value}\"")).collect();
                    lines.push(format!("{name}{{{}}} +{more}", pairs.join(",")));
                }
            }
        }
        Ok(lines)
    }

    /// Ends the walk: the page, or what was not as it has to be.
    pub fn end(mut self) -> Result<String> {
        self.end_server()?;
        self.failures.iter().for_each(|failure| println!("differs: {failure}"));
        anyhow::ensure!(self.failures.is_empty(), "{} differences in the walk", self.failures.len());
        Ok(self.page)
    }
}

/// Whether a line has all of these words.
fn has(line: &str, words: &str) -> bool {
    words.split(' ').all(|word| line.contains(word))
}

/// A line of `observe` without its time and the client's port; `None` for the API server's own connections.
fn steady(line: &str, ports: &BTreeSet<String>) -> Option<String> {
    let (_, rest) = line.split_once("  ")?;
    let (source, behind) = rest.split_once(' ')?;
    let (address, port) = source.rsplit_once(':')?;
    let own = (address.starts_with("127.") || address == "[::1]") && !ports.contains(port);
    (!own && !line.contains("(from the middle)")).then(|| format!("{address} {behind}"))
}

/// curl's complaint without how long it took: ` after 12 ms`.
fn without_times(text: &str) -> String {
    let Some((before, behind)) = text.split_once(" after ") else { return text.to_owned() };
    match behind.split_once(" ms") {
        Some((number, rest)) if number.bytes().all(|byte| byte.is_ascii_digit()) => format!("{before}{rest}"),
        _ => text.to_owned(),
    }
}

/// The message of a Status, else the text itself, on one line and not too long.
fn message(body: &str) -> String {
    let status: Option<Value> = serde_json::from_str(body).ok();
    let message = status.as_ref().and_then(|status| status.get("message")?.as_str());
    let kind = status.as_ref().and_then(|status| status.get("kind")?.as_str());
    let text = message.or(kind).unwrap_or(body);
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_steady_and_the_servers_own_are_left_out() {
        let ports = BTreeSet::from(["40002".to_owned()]);
        let line = "17:00:00.123  203.0.113.7:40001 (public) -> 192.168.56.10:6443 (secure)  eth0  tls  1.3";
        assert_eq!(
            steady(line, &ports).unwrap(),
            "203.0.113.7 (public) -> 192.168.56.10:6443 (secure)  eth0  tls  1.3"
        );
        let local = line.replace("203.0.113.7", "[::1]");
        assert_eq!(steady(&local, &ports), None);
        assert!(steady(&local.replace("40001", "40002"), &ports).unwrap().starts_with("[::1] (public)"));
        assert!(has(line, "tls secure") && !has(line, "tls insecurely"));
    }

    #[test]
    fn of_an_answer_its_message_is_told() {
        assert_eq!(message(r#"{"kind":"Status","message":"pods is forbidden"}"#), "pods is forbidden");
        assert_eq!(message(r#"{"kind":"SecretList","items":[]}"#), "SecretList");
        assert_eq!(message("ok"), "ok");
        assert_eq!(without_times("port 8080 after 12 ms: no"), "port 8080: no");
        assert_eq!(without_times("after all after dark"), "after all after dark");
    }
}
