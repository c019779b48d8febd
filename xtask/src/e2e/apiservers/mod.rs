//! Real API servers and real clients; the audit log is the truth.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::lab::{Host, Lab};
use crate::terminal::Steps;
use crate::{interrupt, workspace};

use super::audit::{self, Actor, Request};
use super::binaries::{CLOSURE, CURRENT, OLD};
use super::control_plane::{ControlPlane, INSECURE, POD_NETWORK, Server, TRUSTED_NETWORK};
use super::monitor::{Monitor, Scrape, Seen};

mod cases;
mod compare;
mod load;
mod play;

use cases::{Case, Programs};
use compare::{Matrix, Outcome};

/// How long the audit log may be behind the client.
const AUDIT_BEHIND: Duration = Duration::from_secs(10);

/// Whom a server lets in without a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Anonymous {
    /// Everybody: the default.
    On,
    /// Nobody.
    Off,
    /// Everybody, for the paths of health only.
    Conditions,
}

impl Anonymous {
    fn flags(self) -> Vec<String> {
        match self {
            Self::On => Vec::new(),
            Self::Off => vec!["--anonymous-auth=false".to_owned()],
            Self::Conditions => vec!["--authentication-config=conditions.yaml".to_owned()],
        }
    }

    /// As whom the case has to be taken.
    fn actor(self, case: &Case) -> Actor {
        match (self, case.credential.actor()) {
            (Self::Off, Actor::Anonymous) => Actor::Refused,
            (Self::Conditions, Actor::Anonymous) if case.path != "/livez" => Actor::Refused,
            (_, actor) => actor,
        }
    }
}

/// A server and the clients that come to it.
struct Session {
    title: &'static str,
    version: &'static str,
    anonymous: Anonymous,
    flags: &'static [&'static str],
    cases: fn(&str, &Programs) -> Vec<Case>,
}

/// Each server that is tried; the last one with `--all` only.
const SESSIONS: [Session; 5] = [
    Session {
        title: "1.37.2, anonymous on",
        version: CURRENT,
        anonymous: Anonymous::On,
        flags: &[],
        cases: cases::all,
    },
    Session {
        title: "1.37.2, anonymous off",
        version: CURRENT,
        anonymous: Anonymous::Off,
        flags: &[],
        cases: cases::few,
    },
    Session {
        title: "1.37.2, anonymous for the health paths",
        version: CURRENT,
        anonymous: Anonymous::Conditions,
        flags: &[],
        cases: cases::few,
    },
    Session {
        title: "1.19.16, with its insecure port",
        version: OLD,
        anonymous: Anonymous::On,
        flags: &["--insecure-port=8080", "--insecure-bind-address=0.0.0.0"],
        cases: cases::few,
    },
    Session {
        title: "1.30.14, the closure",
        version: CLOSURE,
        anonymous: Anonymous::On,
        flags: &[],
        cases: cases::few,
    },
];

/// Runs the suite with this monitor.
pub fn run(binary: &Path, all: bool, captures: Option<&Path>) -> Result<()> {
    if std::env::var_os("E2E_DEV").is_some() {
        return dev(binary, captures);
    }
    let sessions = SESSIONS.get(..if all { SESSIONS.len() } else { SESSIONS.len() - 1 }).unwrap_or_default();
    let mut steps = Steps::new("apiservers", 3 + sessions.len())?;
    let kube_rs = kube_client(&mut steps)?;
    let mut control = steps.within("network namespaces, credentials, etcd", ControlPlane::new)?;
    let programs = Programs { kubectl: control.kubectl_path().display().to_string(), kube_rs };
    let mut javac = Command::new("javac");
    steps.run("the client in Java", javac.arg("Client.java").current_dir(control.lab.directory()))?;

    let (mut certificates, mut first_requests) = (Matrix::default(), Matrix::default());
    let mut failures = Vec::new();
    for session in sessions {
        let outcome = steps.within(session.title, || session.run(&mut control, binary, &programs, captures))?;
        failures.extend(outcome.failures.iter().map(|failure| format!("{}: {failure}", session.title)));
        certificates.extend(&outcome.certificates);
        first_requests.extend(&outcome.first_requests);
    }
    println!("\nwhat was said of clients' certificates:\n{certificates}");
    println!("\nwhat was said of first requests:\n{first_requests}");
    failures.iter().for_each(|failure| println!("differs: {failure}"));
    if !failures.is_empty() {
        bail!("{} differences between what was seen and what the audit log says", failures.len());
    }
    println!("\nthe audit log and the monitor agree");
    Ok(())
}

/// The client with the kube crate.
fn kube_client(steps: &mut Steps) -> Result<String> {
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--locked", "--package", "monitor-tests", "--bin", "kube_client", "--color", "never"]);
    steps.run("build the client in Rust", &mut cargo)?;
    Ok(workspace::target().join("debug/kube_client").display().to_string())
}

impl Session {
    fn run(
        &self,
        control: &mut ControlPlane,
        binary: &Path,
        programs: &Programs,
        captures: Option<&Path>,
    ) -> Result<Outcome> {
        let mut flags = self.anonymous.flags();
        flags.extend(self.flags.iter().map(|flag| (*flag).to_owned()));
        control.start(&Server { version: self.version, flags: &flags })?;
        control.credentials()?;
        let token = std::fs::read_to_string(control.lab.directory().join("service-account.token"))
            .context("cannot read the service account's token")?;
        let before = audit::read(control.audit_log())?.len();
        let flags = monitor_flags(control);
        let monitor = Monitor::start(&mut control.lab, binary, &flags)?;
        if let Some(folder) = captures {
            capture(&mut control.lab, &folder.join(format!("{}.pcap", self.title)))?;
        }
        let cases = (self.cases)(&token, programs);
        let mut said = Vec::new();
        for (index, case) in cases.iter().enumerate() {
            said.push(play::run(&control.lab, case, play::address(index)?)?);
        }
        let mut outcome = Outcome::default();
        let requests = self.requests(control, before, &cases)?;
        let connections = seen(&monitor, &cases)?;
        for (index, (case, said)) in cases.iter().zip(&said).enumerate() {
            let address = play::address(index)?;
            let requests: Vec<&Request> = requests.iter().filter(|request| request.source == address).collect();
            let mut seen: Vec<&Seen> = connections.iter().filter(|seen| seen.source == address).collect();
            seen.sort_by_key(|seen| seen.word("/time"));
            compare::case(&mut outcome, case, self.anonymous.actor(case), said, &requests, &seen);
        }
        let scrape = Scrape::new(&control.lab)?;
        for evidence in ["probe", "audit"] {
            let labels = ["source", "verb", "path_class"];
            let counted = scrape.sums("api_exposure_anonymous_requests_total", &[("evidence", evidence)], &labels);
            let truth = compare::requests(requests.iter().filter(|request| request.actor == Actor::Anonymous));
            outcome.failures.extend(compare::differences(evidence, &truth, &counted));
        }
        if captures.is_some() {
            control.lab.stop("tcpdump")?;
        }
        monitor.stop(&mut control.lab)?;
        control.stop()?;
        Ok(outcome)
    }

    /// What the audit log has of the cases, once all of it is there.
    fn requests(&self, control: &ControlPlane, before: usize, cases: &[Case]) -> Result<Vec<Request>> {
        let wanted: usize = cases.iter().map(|case| case.connections.len()).sum();
        let read = || Ok(audit::read(control.audit_log())?.split_off(before));
        let waited = interrupt::wait_for("all requests in the audit log", AUDIT_BEHIND, || {
            let requests: Vec<Request> = read()?;
            let ours = requests.iter().filter(|request| !request.source.is_loopback()).count();
            Ok((ours >= wanted).then_some(requests))
        });
        interrupt::check()?;
        // What is missing is told case by case.
        waited.or_else(|_| read())
    }
}

fn capture(lab: &mut Lab, file: &Path) -> Result<()> {
    let file = std::path::absolute(file).context("no current folder")?;
    let mut tcpdump = lab.command(Host::ControlPlane, "tcpdump");
    tcpdump.args(["-i", "eth0", "-U", "-Z", "root", "-w"]).arg(&file).arg("tcp");
    lab.start("tcpdump", &mut tcpdump)?;
    lab.wait_for("tcpdump", "tcpdump listening", |lab| Ok(lab.log_of("tcpdump").contains("listening on").then_some(())))
}

fn monitor_flags(control: &ControlPlane) -> Vec<String> {
    let _ = control;
    let insecure = INSECURE.to_string();
    let flags = [
        ["--cluster-node-cidr", "192.168.56.0/24"],
        ["--pod-cidr", POD_NETWORK],
        ["--trusted-cidr", TRUSTED_NETWORK],
        ["--insecure-port", &insecure],
    ];
    flags.concat().into_iter().map(str::to_owned).collect()
}

/// The connections of the cases, once all of them are there.
fn seen(monitor: &Monitor, cases: &[Case]) -> Result<Vec<Seen>> {
    let wanted: usize = cases.iter().map(|case| case.connections.len()).sum();
    let ours = |seen: &Seen| !seen.source.is_loopback();
    monitor
        .connections("all connections among the events", |seen| seen.iter().filter(|seen| ours(seen)).count() >= wanted)
}

fn dev(binary: &Path, captures: Option<&Path>) -> Result<()> {
    let mut control = ControlPlane::new()?;
    control.start(&Server { version: CURRENT, flags: &[] })?;
    control.credentials()?;
    let token = std::fs::read_to_string(control.lab.directory().join("service-account.token"))?;
    let flags = monitor_flags(&control);
    let before = audit::read(control.audit_log())?.len();
    let monitor = Monitor::start(&mut control.lab, binary, &flags)?;
    if let Some(folder) = captures {
        capture(&mut control.lab, &folder.join("load.pcap"))?;
    }
    let t = std::time::Instant::now();
    let sent = load::send(&control, &token, false)?;
    println!("load {:?}", t.elapsed());
    std::thread::sleep(Duration::from_secs(3));
    let requests = audit::read(control.audit_log())?.split_off(before);
    let mut outcome = Outcome::default();
    sent.audited(&requests, &mut outcome.failures);
    let seen = monitor.connections("x", |seen| seen.len() >= sent.connections.len())?;
    let mut m = Matrix::default();
    sent.compare(&seen, &mut outcome, &mut m);
    println!("{m}\n{:#?}", outcome.failures);
    if captures.is_some() {
        control.lab.stop("tcpdump")?;
    }
    monitor.stop(&mut control.lab)?;
    Ok(())
}
