//! Real API servers and real clients; the audit log is the truth.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::terminal::Steps;
use crate::workspace;

use super::control_plane::ControlPlane;

mod cases;
mod compare;
mod cost;
mod exact;
mod insecure;
mod load;
mod play;
mod session;

use cases::Programs;
use compare::Matrix;
use session::SESSIONS;

pub use exact::wait_until_at_work;

/// Runs the suite with this monitor.
pub fn run(binary: &Path, all: bool, captures: Option<&Path>) -> Result<()> {
    let sessions = SESSIONS.get(..if all { SESSIONS.len() } else { SESSIONS.len() - 1 }).unwrap_or_default();
    let mut steps = Steps::new("apiservers", 3 + sessions.len() + usize::from(all))?;
    let kube_rs = kube_client(&mut steps)?;
    let mut control = steps.within("network namespaces, credentials, etcd", ControlPlane::new)?;
    let programs = Programs { kubectl: control.kubectl_path().display().to_string(), kube_rs };
    let mut javac = Command::new("javac");
    steps.run("the client in Java", javac.arg("Client.java").current_dir(control.lab.directory()))?;

    let [mut certificates, mut first_requests, mut agreement] = [const { Matrix::new() }; 3];
    let mut exact = 0;
    let mut failures = Vec::new();
    for session in sessions {
        let outcome = steps.within(session.title, || session.run(&mut control, binary, &programs, captures))?;
        failures.extend(outcome.failures.iter().map(|failure| format!("{}: {failure}", session.title)));
        certificates.extend(&outcome.certificates);
        first_requests.extend(&outcome.first_requests);
        agreement.extend(&outcome.agreement);
        exact += outcome.exact;
    }
    if all {
        steps.within("what the probe costs the API server", || cost::measure(&mut control, binary))?;
    }
    println!("\nwhat was said of clients' certificates:\n{certificates}");
    println!("\nwhat was said of first requests:\n{first_requests}");
    println!("\nwhat the monitor itself says of its inference, where the probe knows better:\n{agreement}\n");
    for truth in ["anonymous", "refused"] {
        // Both figures that have to be reached: nearly all are told, and hardly one is told to have been let in.
        let (total, right) = (first_requests.total(truth), first_requests.count(truth, truth));
        let accepted = first_requests.count(truth, "accepted");
        let quiet = first_requests.count(truth, "unknown");
        if accepted * 100 > total {
            failures.push(format!("first requests: {accepted} of {total} {truth} ones were told to be accepted"));
        }
        println!("{truth}: {right} of {total} told, {quiet} left open");
    }
    failures.iter().for_each(|failure| println!("differs: {failure}"));
    if !failures.is_empty() {
        bail!("{} differences between what was seen and what the audit log says", failures.len());
    }
    println!(
        "\nthe audit log and the monitor agree: {exact} times the probe or the audit log's reader told of a request"
    );
    Ok(())
}

/// The client with the kube crate.
fn kube_client(steps: &mut Steps) -> Result<String> {
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--locked", "--package", "monitor-tests", "--bin", "kube_client", "--color", "never"]);
    steps.run("build the client in Rust", &mut cargo)?;
    Ok(workspace::target().join("debug/kube_client").display().to_string())
}
