//! One API server, the clients that come to it, and what the monitor says of them.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::e2e::audit::{self, Actor, Request};
use crate::e2e::binaries::{CLOSURE, CURRENT, OLD};
use crate::e2e::control_plane::{ControlPlane, INSECURE, POD_NETWORK, Server, TRUSTED_NETWORK};
use crate::e2e::monitor::{Monitor, Seen};
use crate::interrupt;
use crate::lab::{Host, Lab};

use super::cases::{self, Case, Programs};
use super::compare::{self, Outcome};
use super::exact::{self, Truth};
use super::{insecure, load, play};

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
pub struct Session {
    /// What it is, for people.
    pub title: &'static str,
    version: &'static str,
    anonymous: Anonymous,
    cases: fn(&str, &Programs) -> Vec<Case>,
    beside: Beside,
}

/// What comes beside the cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// Ten thousand requests of all kinds at once.
    Load,
    /// Requests to the real insecure port.
    InsecurePort,
}

/// Each server that is tried; the last one with `--all` only.
pub const SESSIONS: [Session; 5] = [
    Session {
        title: "1.37.2, anonymous on",
        version: CURRENT,
        anonymous: Anonymous::On,
        cases: cases::all,
        beside: Beside::Load,
    },
    Session {
        title: "1.37.2, anonymous off",
        version: CURRENT,
        anonymous: Anonymous::Off,
        cases: cases::few,
        beside: Beside::Nothing,
    },
    Session {
        title: "1.37.2, anonymous for the health paths",
        version: CURRENT,
        anonymous: Anonymous::Conditions,
        cases: cases::few,
        beside: Beside::Nothing,
    },
    Session {
        title: "1.19.16, with its insecure port",
        version: OLD,
        anonymous: Anonymous::On,
        cases: cases::few,
        beside: Beside::InsecurePort,
    },
    Session {
        title: "1.30.14, where the authenticator is a closure",
        version: CLOSURE,
        anonymous: Anonymous::On,
        cases: cases::few,
        beside: Beside::Nothing,
    },
];

impl Session {
    /// Starts the server and the monitor, lets the clients come, compares.
    pub fn run(
        &self,
        control: &mut ControlPlane,
        binary: &Path,
        programs: &Programs,
        captures: Option<&Path>,
    ) -> Result<Outcome> {
        let mut flags = self.anonymous.flags();
        if self.beside == Beside::InsecurePort {
            flags.extend([format!("--insecure-port={INSECURE}"), "--insecure-bind-address=0.0.0.0".to_owned()]);
        }
        control.start(&Server { version: self.version, flags: &flags })?;
        control.credentials()?;
        let token = std::fs::read_to_string(control.lab.directory().join("service-account.token"))
            .context("cannot read the service account's token")?;
        let before = audit::read(control.audit_log())?.len();
        let flags = monitor_flags(control);
        let monitor = Monitor::start(&mut control.lab, binary, &flags)?;
        if self.anonymous != Anonymous::Off {
            exact::wait_until_at_work(&control.lab)?;
        }
        if let Some(folder) = captures {
            capture(&mut control.lab, &folder.join(format!("{}.pcap", self.title)))?;
        }

        let cases = (self.cases)(&token, programs);
        let mut said = Vec::new();
        for (index, case) in cases.iter().enumerate() {
            said.push(play::run(&control.lab, case, play::address(index)?)?);
        }
        let (mut requests, mut connections) = totals(&cases);
        if self.beside == Beside::InsecurePort {
            insecure::send(control, cases.len())?;
            requests += insecure::count();
            connections += insecure::connections();
        }
        let load = (self.beside == Beside::Load).then(|| load::send(control, &token)).transpose()?;
        if let Some(load) = &load {
            requests += load.requests;
            connections += load.connections.len();
        }

        let requests = audited(control, before, requests)?;
        let connections = seen(&monitor, connections)?;
        let mut outcome = Outcome::default();
        for (index, (case, said)) in cases.iter().zip(&said).enumerate() {
            let address = play::address(index)?;
            let requests: Vec<&Request> = requests.iter().filter(|request| request.source == address).collect();
            let mut seen: Vec<&Seen> = connections.iter().filter(|seen| seen.source == address).collect();
            seen.sort_by_key(|seen| seen.word("/time"));
            compare::case(&mut outcome, case, self.anonymous.actor(case), said, &requests, &seen);
        }
        if self.beside == Beside::InsecurePort {
            insecure::compare(cases.len(), &requests, &connections, &mut outcome.failures)?;
        }
        if let Some(load) = &load {
            load.audited(&requests, &mut outcome.failures);
            load.compare(&connections, &mut outcome);
        }
        let without = |request: &&Request| self.without_credential(request, &cases);
        let truth = Truth {
            anonymous: requests.iter().filter(|request| request.actor == Actor::Anonymous).collect(),
            unsecured: requests.iter().filter(|request| request.actor == Actor::Unsecured).collect(),
            without: requests.iter().filter(without).collect(),
        };
        exact::compare(&truth, control, &monitor, self.anonymous != Anonymous::Off, &mut outcome)?;
        if captures.is_some() {
            control.lab.stop("tcpdump")?;
        }
        monitor.stop(&mut control.lab)?;
        control.stop()?;
        Ok(outcome)
    }
}

impl Session {
    /// Whether the anonymous authenticator is asked about a request: it has no credential that any other one looks at,
    /// and there is an anonymous authenticator. Under conditions it may say no.
    fn without_credential(&self, request: &Request, cases: &[Case]) -> bool {
        let refused = self.anonymous == Anonymous::Conditions && request.actor == Actor::Refused;
        let case = (0..cases.len()).find(|index| play::address(*index).is_ok_and(|from| from == request.source));
        let case = case.and_then(|index| cases.get(index));
        // The monitor's own self-test, the one request over loopback, is the probe's business alone.
        request.actor == Actor::Anonymous && !request.source.is_loopback()
            || refused && case.is_some_and(|case| case.credential.actor() == Actor::Anonymous)
    }
}

/// How many requests and connections there are of the cases: one request on each connection.
fn totals(cases: &[Case]) -> (usize, usize) {
    let connections = cases.iter().map(|case| case.connections.len()).sum();
    (connections, connections)
}

/// What the audit log has, once there are as many requests from other hosts.
fn audited(control: &ControlPlane, before: usize, wanted: usize) -> Result<Vec<Request>> {
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

/// The connections, once there are as many from other hosts.
fn seen(monitor: &Monitor, wanted: usize) -> Result<Vec<Seen>> {
    let ours = |seen: &&Seen| !seen.source.is_loopback();
    monitor.connections("all connections among the events", |seen| seen.iter().filter(ours).count() >= wanted)
}

fn capture(lab: &mut Lab, file: &Path) -> Result<()> {
    let file = std::path::absolute(file).context("no current folder")?;
    let mut tcpdump = lab.command(Host::ControlPlane, "tcpdump");
    tcpdump.args(["-i", "eth0", "-U", "-Z", "root", "-w"]).arg(&file).arg("tcp");
    lab.start("tcpdump", &mut tcpdump)?;
    lab.wait_for("tcpdump", "tcpdump listening", |lab| Ok(lab.log_of("tcpdump").contains("listening on").then_some(())))
}

fn monitor_flags(control: &ControlPlane) -> Vec<String> {
    let (insecure, audit_log) = (INSECURE.to_string(), control.audit_log().display().to_string());
    let flags = [
        ["--cluster-node-cidr", "192.168.56.0/24"],
        ["--pod-cidr", POD_NETWORK],
        ["--trusted-cidr", TRUSTED_NETWORK],
        ["--insecure-port", &insecure],
        ["--discovery", "none"],
        ["--probe", "on"],
        ["--audit-log", &audit_log],
    ];
    flags.concat().into_iter().map(str::to_owned).collect()
}
