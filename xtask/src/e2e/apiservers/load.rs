//! Many requests of all kinds at once: each one in the audit log, each connection with its first request.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::e2e::audit::{Actor, Request};
use crate::e2e::control_plane::{ControlPlane, SECURE};
use crate::e2e::credentials::WRONG_TOKEN;
use crate::e2e::monitor::Seen;
use crate::lab::Host;
use crate::lab::network::CONTROL_PLANE;

use super::compare::Outcome;
use super::play;

/// Connections of one kind.
struct Kind {
    name: &'static str,
    actor: Actor,
    http: u8,
    /// Where they come from: a class of its own for whom the server takes them.
    address: &'static str,
    connections: usize,
    requests: usize,
    certificate: Option<&'static str>,
    authorization: Option<String>,
}

/// Ten thousand requests over some two thousand connections.
fn kinds(token: &str) -> Vec<Kind> {
    let bearer = |token: &str| Some(format!("Bearer {token}"));
    let kind = |name, actor, http, address, connections, requests, certificate, authorization| Kind {
        name,
        actor,
        http,
        address,
        connections,
        requests,
        certificate,
        authorization,
    };
    vec![
        kind("h2-token", Actor::Accepted, 2, "10.9.9.200", 700, 3, None, bearer(token)),
        kind("h2-certificate", Actor::Accepted, 2, "10.9.9.201", 300, 3, Some("client"), None),
        kind("h2-none", Actor::Anonymous, 2, "203.0.113.200", 600, 1, None, None),
        kind("h2-wrong", Actor::Refused, 2, "10.244.1.200", 400, 1, None, bearer(WRONG_TOKEN)),
        kind("h1-none", Actor::Anonymous, 1, "203.0.113.201", 60, 50, None, None),
        kind("h1-token", Actor::Accepted, 1, "10.9.9.202", 40, 50, None, bearer(token)),
        kind("h1-wrong", Actor::Refused, 1, "10.244.1.201", 20, 50, None, bearer(WRONG_TOKEN)),
    ]
}

/// Sends all of it; gives the connections that the client made, and how many requests there were.
pub fn send(control: &ControlPlane, token: &str) -> Result<Sent> {
    let kinds = kinds(token);
    let mut plan = Vec::new();
    for kind in &kinds {
        play::take_address(&control.lab, kind.address.parse()?)?;
        plan.push(json!({
            "kind": kind.name, "http": kind.http, "address": kind.address, "connections": kind.connections,
            "requests": kind.requests, "certificate": kind.certificate, "authorization": kind.authorization,
        }));
    }
    let mut node = control.lab.command(Host::Outside, "timeout");
    node.args(["--foreground", "300", "node", "load.mjs", &format!("https://{CONTROL_PLANE}:{SECURE}")]);
    let output = node.arg(Value::from(plan).to_string()).output().context("cannot start node")?;
    if !output.status.success() {
        bail!("the load failed: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    let mut connections = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let line: Value = serde_json::from_str(line).context("the load says no JSON")?;
        let word = |name: &str| line.get(name).and_then(Value::as_str).context("the load leaves a word out");
        let (name, address): (&str, IpAddr) = (word("kind")?, word("address")?.parse()?);
        let port = line.get("port").and_then(Value::as_u64).context("the load leaves a port out")?;
        let kind = kinds.iter().find(|kind| kind.name == name).context("a kind that was not asked for")?;
        connections.insert((address, port), (kind.actor, kind.http == 2));
    }
    let requests = kinds.iter().map(|kind| kind.connections * kind.requests).sum();
    let actors = kinds.iter().map(|kind| (kind.name, kind.actor)).collect();
    Ok(Sent { connections, requests, actors })
}

/// What the clients did.
pub struct Sent {
    /// As whom the requests of each connection have to be taken, and whether they went over HTTP/2.
    pub connections: BTreeMap<(IpAddr, u64), (Actor, bool)>,
    /// How many requests there were.
    pub requests: usize,
    actors: BTreeMap<&'static str, Actor>,
}

impl Sent {
    /// Whether a request is one of these.
    pub fn has(&self, request: &Request) -> bool {
        self.actor(&request.path).is_some()
    }

    fn actor(&self, path: &str) -> Option<Actor> {
        let namespace = path.strip_prefix("/api/v1/namespaces/")?.strip_suffix("/configmaps")?;
        let (kind, _) = namespace.rsplit_once('-')?;
        self.actors.get(kind).copied()
    }

    /// Each request once in the audit log, as whom it had to be taken.
    pub fn audited(&self, requests: &[Request], failures: &mut Vec<String>) {
        let ours: Vec<&Request> = requests.iter().filter(|request| self.has(request)).collect();
        let paths: BTreeSet<&str> = ours.iter().map(|request| request.path.as_str()).collect();
        if ours.len() != self.requests || paths.len() != self.requests {
            failures.push(format!("load: {} requests in the audit log instead of {}", ours.len(), self.requests));
        }
        let wrong = ours.iter().filter(|request| self.actor(&request.path) != Some(request.actor)).count();
        if wrong > 0 {
            failures.push(format!("load: {wrong} requests were taken as somebody else than meant"));
        }
    }

    /// What was said of each connection's first request.
    pub fn compare(&self, seen: &[Seen], outcome: &mut Outcome) {
        let mut found = BTreeSet::new();
        for seen in seen {
            let port = seen.line.pointer("/source/port").and_then(Value::as_u64).unwrap_or(0);
            let key = (seen.source, port);
            let Some((actor, http2)) = self.connections.get(&key) else { continue };
            found.insert(key);
            let said = seen.word("/tls/first_request");
            let truth = if *http2 { actor.word() } else { "over HTTP/1.1" };
            outcome.first_request(truth, &said, "load");
        }
        if found.len() != self.connections.len() {
            let wanted = self.connections.len();
            outcome.failures.push(format!("load: {} connections seen instead of {wanted}", found.len()));
        }
    }
}
