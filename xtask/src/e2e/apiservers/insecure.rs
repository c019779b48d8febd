//! The real insecure port: every request as it was sent, and as the audit log has it.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};

use crate::e2e::audit::{Actor, Request};
use crate::e2e::control_plane::{ControlPlane, INSECURE};
use crate::e2e::credentials::{STATIC_TOKEN, WRONG_TOKEN};
use crate::e2e::monitor::Seen;
use crate::lab::Host;
use crate::lab::network::CONTROL_PLANE;

use super::play;

/// One start of curl: its arguments but the address, and the paths that it asks for.
struct Call {
    arguments: Vec<String>,
    paths: &'static [&'static str],
    credential: &'static str,
}

fn calls() -> Vec<Call> {
    let call = |arguments: &[&str], paths, credential| {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Call { arguments, paths, credential }
    };
    let bearer = |token: &str| format!("Authorization: Bearer {token}");
    vec![
        call(&[], &["/version"], "none"),
        call(&[], &["/api/v1/secrets", "/api/v1/nodes", "/livez"], "none"),
        call(&["--header", &bearer(WRONG_TOKEN)], &["/api/v1/secrets"], "bearer"),
        call(&["--header", &bearer(STATIC_TOKEN)], &["/api/v1/pods"], "bearer"),
        call(&["--user", "e2e:e2e"], &["/apis"], "none"),
        call(&["--http1.0"], &["/api/v1/namespaces/kube-system/configmaps"], "none"),
        call(&["--request", "DELETE"], &["/api/v1/namespaces/default/secrets/nothing"], "none"),
        call(
            &[
                "--header",
                "Content-Type: application/json",
                "--data",
                r#"{"metadata":{"name":"from-the-insecure-port"}}"#,
            ],
            &["/api/v1/namespaces"],
            "none",
        ),
        call(&[], &["/nothing/of/the/kind"], "none"),
    ]
}

/// Sends the calls, the first of them from the address of this index.
pub fn send(control: &ControlPlane, first: usize) -> Result<()> {
    for (index, call) in calls().iter().enumerate() {
        play::take_address(&control.lab, play::address(first + index)?)?;
        let mut curl = control.lab.command(Host::Outside, "curl");
        curl.args(["--silent", "--show-error", "--max-time", "20"]).args(&call.arguments);
        curl.args(call.paths.iter().map(|path| format!("http://{CONTROL_PLANE}:{INSECURE}{path}")));
        let output = curl.output().context("cannot start curl")?;
        if !output.status.success() {
            bail!("curl to the insecure port: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
    }
    Ok(())
}

/// How many requests there are.
pub fn count() -> usize {
    calls().iter().map(|call| call.paths.len()).sum()
}

/// How many connections: curl keeps its own for all of its paths.
pub fn connections() -> usize {
    calls().len()
}

/// Compares what was seen of each call with what the audit log has of it.
pub fn compare(first: usize, requests: &[Request], seen: &[Seen], failures: &mut Vec<String>) -> Result<()> {
    for (index, call) in calls().iter().enumerate() {
        let address = play::address(first + index)?;
        let from = |request: &&Request| request.source == address;
        let ours: Vec<&Request> = requests.iter().filter(from).collect();
        if ours.len() != call.paths.len() || ours.iter().any(|request| request.actor != Actor::Unsecured) {
            failures.push(format!("insecure port: the audit log has {ours:?} for {:?}", call.paths));
        }
        let truth: Vec<_> = ours.iter().map(|request| line(request, call.credential)).collect();
        let said = said(&address, seen);
        if truth != said {
            failures.push(format!("insecure port: seen {said:?} instead of {truth:?}"));
        }
    }
    Ok(())
}

fn line(request: &Request, credential: &str) -> String {
    format!("{} {} {} {credential}", request.verb, request.path, request.code)
}

fn said(address: &IpAddr, seen: &[Seen]) -> Vec<String> {
    let ours = seen.iter().filter(|seen| seen.source == *address);
    let requests = ours.filter_map(|seen| seen.line.get("requests")?.as_array()).flatten();
    let word = |request: &serde_json::Value, name: &str| match request.get(name) {
        Some(serde_json::Value::String(word)) => word.clone(),
        other => other.map(ToString::to_string).unwrap_or_default(),
    };
    requests.map(|request| ["verb", "path", "status", "credential"].map(|name| word(request, name)).join(" ")).collect()
}
