//! What comes to the API server while the pictures are made: the ordinary traffic of a cluster, and somebody who tries it.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::e2e::control_plane::{self, ControlPlane, SECURE};
use crate::interrupt;
use crate::lab::Host;
use crate::lab::network::{self, CONTROL_PLANE};

/// How long it goes on: alerts wait for a minute, and a line needs some points.
pub const LASTS: Duration = Duration::from_secs(180);
/// Somebody's machine in the internet.
const ATTACKER: &str = "203.0.113.66";
/// A load balancer that asks for health; the monitor is told to trust its network.
const BALANCER: &str = "10.9.9.20";
/// An administrator in the office.
const OFFICE: &str = "10.60.0.20";
/// Pods with a service account's token.
const PODS: [&str; 3] = ["10.244.1.20", "10.244.1.21", "10.244.1.22"];
/// Where a `kubectl proxy` listens that should not.
const PROXY: u16 = 8001;
/// What is tried without a credential, in the order in which it is tried in the wild.
const TRIED: [&str; 12] = [
    "/",
    "/version",
    "/api",
    "/apis",
    "/openapi/v2",
    "/api/v1/namespaces",
    "/api/v1/pods",
    "/api/v1/secrets",
    "/api/v1/namespaces/kube-system/secrets",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "/apis/rbac.authorization.k8s.io/v1/roles",
    "/apis/apps/v1/daemonsets",
];
/// A role for everybody, as it should never be.
const BINDING: &str = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: open-to-all}\n\
                       roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}\nsubjects:\n\
                       - {apiGroup: rbac.authorization.k8s.io, kind: User, name: 'system:anonymous'}\n";

/// Makes the addresses and roles that the clients need.
pub fn prepare(control: &ControlPlane) -> Result<()> {
    let outside = control.lab.namespace(Host::Outside);
    for address in PODS.iter().chain(&[ATTACKER, BALANCER, OFFICE]) {
        network::ip(&["-n", &outside, "address", "replace", &format!("{address}/32"), "dev", "lo"])?;
    }
    control.write("binding.yaml", BINDING)?;
    let mut create = control.kubectl(Host::ControlPlane, "admin.kubeconfig");
    control_plane::output(create.args(["create", "--validate=false", "-f", "binding.yaml"])).map(drop)
}

/// Second after second, what comes in it.
pub fn run(control: &mut ControlPlane) -> Result<()> {
    let token = fs::read_to_string(control.lab.directory().join("service-account.token")).context("no token")?;
    let started = Instant::now();
    for second in 0..LASTS.as_secs() {
        let until = started + Duration::from_secs(second);
        interrupt::wait_for("the next second", LASTS, || Ok((Instant::now() >= until).then_some(())))?;
        ordinary(control, second, token.trim())?;
        unusual(control, second)?;
    }
    Ok(())
}

/// What a healthy cluster does.
fn ordinary(control: &ControlPlane, second: u64, token: &str) -> Result<()> {
    let every = |seconds: u64| second.is_multiple_of(seconds);
    // kubelet probes the static pod from the node's own address.
    curl(control, Host::ControlPlane, &[&secure("/readyz")])?;
    if every(10) {
        curl(control, Host::ControlPlane, &[&secure("/livez")])?;
    }
    if every(5) {
        curl(control, Host::Outside, &["--interface", BALANCER, &secure("/healthz")])?;
    }
    if every(2) {
        let pod = PODS.get(usize::try_from(second / 2).unwrap_or(0) % PODS.len()).copied().unwrap_or_default();
        let header = format!("Authorization: Bearer {token}");
        curl(
            control,
            Host::Outside,
            &["--interface", pod, "--header", &header, &secure("/api/v1/namespaces/default/pods")],
        )?;
    }
    if every(4) {
        let certificate = ["--cert", "kubelet.crt", "--key", "kubelet.key"];
        curl(control, Host::Worker, &[&certificate[..], &[&secure("/api/v1/nodes?limit=1")]].concat())?;
    }
    if every(7) {
        let certificate = ["--tls-max", "1.2", "--cert", "admin.crt", "--key", "admin.key", "--interface", OFFICE];
        curl(control, Host::Outside, &[&certificate[..], &[&secure("/api/v1/pods")]].concat())?;
    }
    Ok(())
}

/// What should not be: each thing has its time.
fn unusual(control: &mut ControlPlane, second: u64) -> Result<()> {
    let attacker = ["--interface", ATTACKER];
    let tried = |from: u64| usize::try_from(second.wrapping_sub(from)).ok().and_then(|at| TRIED.get(at)).copied();
    // Three rounds of trying.
    for from in [30, 75, 130] {
        if let Some(path) = tried(from) {
            curl(control, Host::Outside, &[&attacker[..], &[&secure(path)]].concat())?;
        }
    }
    match second {
        20 => {
            let mut proxy = control.kubectl(Host::ControlPlane, "admin.kubeconfig");
            proxy.args(["proxy", "--address=0.0.0.0", "--accept-hosts=.*", &format!("--port={PROXY}")]);
            control.lab.start("proxy", &mut proxy)?;
        }
        // A pod's token that has ended; a kubelet that reaches for another node; a name that only outsiders use.
        50..=56 => {
            let header = "Authorization: Bearer ended";
            curl(control, Host::Outside, &["--interface", PODS[0], "--header", header, &secure("/api/v1/pods")])?;
        }
        100 | 110 => {
            let words = ["--cert", "kubelet.crt", "--key", "kubelet.key", "--header", "Content-Type: application/json"];
            let node = ["--data", r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"not-its-own"}}"#];
            curl(control, Host::Worker, &[&words[..], &node, &[&secure("/api/v1/nodes")]].concat())?;
        }
        60..=64 => {
            let name = format!("kubernetes:{SECURE}:{CONTROL_PLANE}");
            curl(
                control,
                Host::Outside,
                &["--interface", ATTACKER, "--resolve", &name, "https://kubernetes:6443/version"],
            )?;
        }
        115..=118 => {
            curl(control, Host::Outside, &["--interface", ATTACKER, &format!("http://{CONTROL_PLANE}:{SECURE}/api")])?;
        }
        _ => {}
    }
    if second > 25 && second.is_multiple_of(3) {
        curl(control, Host::ControlPlane, &[&format!("http://127.0.0.1:{PROXY}/api/v1/nodes")])?;
    }
    if second > 40 && second.is_multiple_of(5) {
        curl(control, Host::Worker, &[&format!("http://{CONTROL_PLANE}:{PROXY}/api/v1/pods")])?;
    }
    if let Some(path) = tried(85) {
        curl(control, Host::Outside, &[&attacker[..], &[&format!("http://{CONTROL_PLANE}:{PROXY}{path}")]].concat())?;
    }
    Ok(())
}

fn secure(path: &str) -> String {
    format!("https://{CONTROL_PLANE}:{SECURE}{path}")
}

/// One request on a connection of its own. What became of it is for the panels to show, and for the alerts.
fn curl(control: &ControlPlane, host: Host, words: &[&str]) -> Result<()> {
    let mut curl: Command = control.lab.command(host, "curl");
    curl.args(["--silent", "--max-time", "5", "--cacert", "ca.crt"]).args(words);
    curl.stdout(Stdio::null()).stderr(Stdio::null()).status().context("cannot start curl").map(drop)
}
