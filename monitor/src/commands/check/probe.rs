//! What the probe would do here: it is attached, tests itself and is gone again, which changes nothing in an API server.

use super::{Finding, Status, finding};
use crate::config::{OnOff, Settings};
use crate::probe::self_test::{self, Outcome};
use crate::probe::{self, Probe, Probed};

/// A line for each API server on this node, and one for its self-test.
pub fn look(settings: &Settings) -> Vec<Finding> {
    if settings.probe == OnOff::Off {
        let found = "off: anonymous requests over TLS are inferred; --probe on would know them exactly";
        return vec![finding("probe", Status::Ok, found)];
    }
    let mut probe = match Probe::start(probe::Settings::default()) {
        Ok(probe) => probe,
        // `run` goes on without.
        Err(error) => return vec![finding("probe", Status::Limited, format!("{error:#}"))],
    };
    let servers = probe.status();
    let mut findings = Vec::new();
    if !servers.iter().any(probe::Status::is_here) {
        let found = "no API server runs here (in a pod, hostPID is needed to see it); it is probed once it does";
        findings.push(finding("probe", Status::Limited, found));
    }
    for server in servers {
        let name = format!("probe of {} ({})", server.executable, server.component.label());
        match &server.outcome {
            Ok(probed) => findings.push(finding(name.as_str(), Status::Ok, attached(probed, &server.processes))),
            Err(refusal) => {
                let status = if server.is_here() { Status::Limited } else { Status::Ok };
                findings.push(finding(name.as_str(), status, refusal.to_string()));
                continue;
            }
        }
        for (process, endpoint) in server.endpoints {
            let (_, outcome) = self_test::run(&mut probe, endpoint, &mut |_| {});
            let (status, found) = tested(&outcome);
            findings.push(finding(format!("probe's self-test of process {process}"), status, found));
        }
    }
    findings
}

fn attached(probed: &Probed, processes: &[u32]) -> String {
    let processes: Vec<String> = processes.iter().map(u32::to_string).collect();
    let answers = match &probed.answers {
        Ok(true) => "; what conditions refuse is told apart".to_owned(),
        Ok(false) => String::new(),
        Err(reason) => format!("; what conditions refuse is not told apart: {reason}"),
    };
    format!(
        "works for process {} by {}, which needs {} (and CAP_SYS_PTRACE to open another user's or container's \
         executable); made with {}{answers}",
        processes.join(", "),
        probed.way.label(),
        probed.way.needs(),
        probed.go_version,
    )
}

fn tested(outcome: &Outcome) -> (Status, String) {
    match outcome {
        Outcome::Passed { took, answer } => {
            let goaway = match answer.and_then(|answer| answer.goaway) {
                Some(true) => "; the server sends GOAWAY to clients without a credential",
                Some(false) => "; the server sends no GOAWAY to clients without a credential",
                None => "",
            };
            (Status::Ok, format!("came back after {} ms{goaway}", took.as_millis()))
        }
        Outcome::NoAnonymous => (
            Status::Ok,
            "the server refuses anonymous requests (--anonymous-auth=false): there is nothing to be seen".to_owned(),
        ),
        Outcome::NotListening(words) | Outcome::Failed(words) => (Status::Limited, words.clone()),
    }
}
