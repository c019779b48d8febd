//! What the pods see: the interfaces that they are attached to, the cluster, who speaks with the API servers.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::network::OUTSIDE;
use super::node::Node;
use super::release::Release;
use super::{Cluster, images};
use crate::e2e::monitor::Scrape;
use crate::interrupt;

/// What is seen is in the metrics within this time.
const PATIENCE: Duration = Duration::from_secs(30);
/// CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF (include/uapi/linux/capability.h): what the chart says without the probe.
const CAPABILITIES: u64 = 1 << 12 | 1 << 38 | 1 << 39;
/// The pod that asks the API servers.
const CLIENT: &str = "client";

/// Attached to `eth0` and `lo` of each control plane, with exactly the capabilities that the chart names.
pub fn attached(cluster: &Cluster, release: &Release<'_>) -> Result<()> {
    for node in cluster.control_planes() {
        let scrape = scrape(node)?;
        for interface in ["eth0", "lo"] {
            let there = scrape.sum("api_exposure_attached", &[("hook", "tc"), ("interface", interface)]);
            ensure!(there == 1, "{}: TC is attached {there} times to {interface}", node.name);
        }
        let missing = scrape.sums("api_exposure_not_attached", &[("hook", "tc")], &["interface", "reason"]);
        ensure!(missing.is_empty(), "{}: not attached: {missing:?}", node.name);
        let process = release.process(node)?;
        let status = fs::read_to_string(format!("/proc/{process}/status")).context("cannot read the pod's status")?;
        let field =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
        for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
            let has = u64::from_str_radix(&field(set), 16).with_context(|| format!("no {set}"))?;
            ensure!(has == CAPABILITIES, "{}: {set} {has:x}, the chart says {CAPABILITIES:x}", node.name);
        }
        ensure!(field("NoNewPrivs:") == "1", "{}: the pod may gain privileges", node.name);
    }
    Ok(())
}

/// Waits until TC is attached to `eth0` in this way on each control plane.
pub fn attached_by(cluster: &Cluster, mode: &str) -> Result<()> {
    for node in cluster.control_planes() {
        interrupt::wait_for(&format!("{} attached by {mode}", node.name), PATIENCE, || {
            let Ok(scrape) = scrape(node) else { return Ok(None) };
            let labels = [("hook", "tc"), ("interface", "eth0"), ("mode", mode)];
            Ok((scrape.sum("api_exposure_attached", &labels) == 1).then_some(()))
        })?;
    }
    Ok(())
}

/// All that discovery follows is known, without a word in the chart's values.
pub fn knows_the_cluster(cluster: &Cluster) -> Result<()> {
    for node in cluster.control_planes() {
        interrupt::wait_for("discovery", PATIENCE, || {
            let scrape = scrape(node)?;
            let synced = scrape.sums("api_exposure_discovery_synced", &[], &["object"]);
            let objects = |object: &str| scrape.sum("api_exposure_discovery_objects", &[("object", object)]);
            Ok((synced.len() == 4 && objects("nodes") == 3 && objects("service") == 1).then_some(()))
        })?;
    }
    Ok(())
}

/// A client on each side of the borders that sources are told apart by: each is counted where it belongs.
pub fn sources(cluster: &Cluster) -> Result<()> {
    let (first, worker) = (cluster.first(), cluster.worker());
    first.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {CLIENT}}}\nspec:\n  nodeName: worker-1\n  \
         terminationGracePeriodSeconds: 0\n  containers:\n  - {{name: pause, image: '{}', imagePullPolicy: Never}}\n",
        images::PAUSE
    ))?;
    first.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{CLIENT}"), "--timeout=60s"])?;
    let address = first.kubectl(&["get", "pod", CLIENT, "--output", "jsonpath={.status.podIP}"])?;
    let before = sources_of(first)?;
    let count = |source: &str| before.get(&vec![source.to_owned()]).copied().unwrap_or(0);

    let url = format!("https://{}:6443/version", first.ip);
    let ask = ["--silent", "--insecure", "--output", "/dev/null", &url];
    // The network plugin names a pod's network in the node's own /run/netns.
    let in_pod = format!(
        "for n in /run/netns/*; do if nsenter --net=$n ip -o address | grep -q ' {address}/'; then \
         exec nsenter --net=$n curl {}; fi; done; exit 9",
        ask.join(" ")
    );
    worker.run("sh", &["-c", &in_pod])?;
    worker.run("curl", &ask)?;
    first.run("curl", &["--silent", "--insecure", "--output", "/dev/null", "https://127.0.0.1:6443/version"])?;
    outside(cluster, &url)?;
    for source in ["pod", "cluster_node", "loopback", "public"] {
        interrupt::wait_for(&format!("a connection of source {source}"), PATIENCE, || {
            let now = sources_of(first)?.get(&vec![source.to_owned()]).copied().unwrap_or(0);
            Ok((now > count(source)).then_some(()))
        })
        .with_context(|| format!("seen: {:?}", sources_of(first).unwrap_or_default()))?;
    }
    first.kubectl(&["delete", "pod", CLIENT, "--wait=false"])?;
    Ok(())
}

/// The audit log, by a value of the chart: an anonymous request from outside is in it, with what became of it.
pub fn audit(cluster: &Cluster, release: &Release<'_>) -> Result<()> {
    let first = cluster.first();
    release.upgrade(&["auditLog.enabled=true"])?;
    interrupt::wait_for("the audit log", PATIENCE, || {
        Ok((scrape(first)?.sum("api_exposure_audit_log_readable", &[]) == 1).then_some(()))
    })?;
    outside(cluster, &format!("https://{}:6443/api/v1/secrets", first.ip))?;
    interrupt::wait_for("the anonymous request in the audit log", PATIENCE, || {
        let labels = [("evidence", "audit"), ("source", "public"), ("path_class", "secret"), ("decision", "denied")];
        Ok((scrape(first)?.sum("api_exposure_anonymous_requests_total", &labels) == 1).then_some(()))
    })
}

/// The probe, by a value of the chart: the API server's process is found in its static pod, and tells an anonymous request.
pub fn probed(cluster: &Cluster, release: &Release<'_>) -> Result<()> {
    let first = cluster.first();
    release.upgrade(&["probe.enabled=true"])?;
    interrupt::wait_for("the probe", PATIENCE, || {
        let labels = [("component", "kube_apiserver")];
        Ok((scrape(first)?.sum("api_exposure_probe_attached", &labels) == 1).then_some(()))
    })?;
    outside(cluster, &format!("https://{}:6443/api/v1/secrets", first.ip))?;
    interrupt::wait_for("the anonymous request in the API server", PATIENCE, || {
        let labels = [("evidence", "probe"), ("source", "public"), ("path_class", "secret")];
        Ok((scrape(first)?.sum("api_exposure_anonymous_requests_total", &labels) == 1).then_some(()))
    })
}

/// When the pod's process began, in seconds since 1970.
pub fn started(node: &Node) -> Result<u64> {
    Ok(scrape(node)?.sum("process_start_time_seconds", &[]))
}

/// A request from the outside host, without credentials.
pub fn outside(cluster: &Cluster, url: &str) -> Result<()> {
    let mut curl = cluster.network().command_outside("curl");
    curl.args(["--silent", "--insecure", "--max-time", "10", "--interface", OUTSIDE, "--output", "/dev/null", url]);
    let status = curl.status().context("cannot start curl")?;
    ensure!(status.success(), "the outside host does not reach {url}: {status}");
    Ok(())
}

/// A scrape of the pod on this node.
pub fn scrape(node: &Node) -> Result<Scrape> {
    let url = format!("http://{}:9464/metrics", node.ip);
    Ok(Scrape::of(node.run("curl", &["--silent", "--show-error", "--fail", "--max-time", "10", &url])?))
}

fn sources_of(node: &Node) -> Result<crate::e2e::monitor::Counts> {
    Ok(scrape(node)?.sums("api_exposure_connections_total", &[("role", "secure"), ("protocol", "tls")], &["source"]))
}
