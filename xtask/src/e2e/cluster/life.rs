//! The life of a pod: upgraded, restarted, killed, its node drained, uninstalled.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::node::Node;
use super::release::{NAME, Release};
use super::{Cluster, sight};
use crate::interrupt;

/// A pod is there again, or gone, within this time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Attached by netlink, programs stay on the interface when their process is killed: the harder case.
const OLDER_WAY: &str = "monitor.tcx=false";

/// `helm upgrade` with other values and `kubectl rollout restart`: ready again, on the same nodes, attached.
pub fn restarts(cluster: &Cluster, release: &Release<'_>) -> Result<()> {
    let began = sight::started(cluster.first())?;
    release.upgrade(&[OLDER_WAY])?;
    sight::attached_by(cluster, "clsact")?;
    let again = sight::started(cluster.first())?;
    ensure!(again > began, "process_start_time_seconds does not say that counters begin anew: {began}, {again}");
    release.kubectl(&["rollout", "restart", &format!("daemonset/{NAME}")])?;
    release.rolled_out()?;
    let at = release.nodes_of_ready_pods()?;
    ensure!(at == ["cp-1", "cp-2"], "after a restart pods are ready on {at:?}");
    sight::attached_by(cluster, "clsact")
}

/// SIGKILL, which it cannot see coming: its filters stay, the next one removes them and stands there once.
pub fn killed(cluster: &Cluster, release: &Release<'_>) -> Result<()> {
    let node = cluster.first();
    let process = release.process(node)?;
    let before = filters(node)?;
    ensure!(before.len() == 2, "filters on eth0: {before:?}, expected one in each direction");
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw).context("no process number")?;
    kill_process(pid, Signal::KILL).context("cannot kill the monitor")?;
    interrupt::wait_for("the killed monitor's successor", PATIENCE, || {
        Ok(release.process(node).is_ok_and(|now| now != process).then_some(()))
    })?;
    interrupt::wait_for("the successor attached", PATIENCE, || Ok(sight::attached_by(cluster, "clsact").ok()))?;
    let after = filters(node)?;
    ensure!(after.len() == 2, "filters on eth0 after a kill: {after:?}");
    ensure!(
        after.iter().all(|filter| !before.contains(filter)),
        "filters of the killed process are still there: {after:?}"
    );
    let logs = release.kubectl(&["logs", "--selector", &format!("app.kubernetes.io/instance={NAME}"), "--tail=-1"])?;
    ensure!(
        logs.contains("removed the filter that a predecessor left"),
        "the log does not say what it removed: {logs}"
    );
    release.upgrade(&[])
}

/// A drained node keeps its monitor, as it keeps its API server.
pub fn drained(cluster: &Cluster, release: &Release<'_>) -> Result<()> {
    let first = cluster.first();
    let process = release.process(&cluster.control_planes()[1])?;
    first.kubectl(&["drain", "cp-2", "--ignore-daemonsets", "--force", "--timeout=60s"])?;
    let at = release.nodes_of_ready_pods()?;
    let same = release.process(&cluster.control_planes()[1])? == process;
    first.kubectl(&["uncordon", "cp-2"])?;
    ensure!(at == ["cp-1", "cp-2"] && same, "after a drain pods are ready on {at:?}");
    Ok(())
}

/// Nothing of it stays: no program on an interface, no pinned object, no object of the cluster.
pub fn uninstalled(cluster: &Cluster, release: &Release<'_>) -> Result<()> {
    release.uninstall()?;
    for node in cluster.control_planes() {
        let attached = interrupt::wait_for("programs taken away", PATIENCE, || {
            let attached = node.run("bpftool", &["net", "list"])?;
            Ok((!attached.contains("api_exposure")).then_some(attached))
        });
        attached
            .with_context(|| format!("{}: {}", node.name, node.run("bpftool", &["net", "list"]).unwrap_or_default()))?;
        // A killed monitor cannot take away the qdisc that it made, and its successor cannot know whose it is: empty it
        // stays there, and nowhere else.
        let qdiscs = node.run("tc", &["qdisc", "show", "dev", "eth0"])?;
        let killed = node.name == cluster.first().name;
        ensure!(killed || !qdiscs.contains("clsact"), "{}: the qdisc stays: {qdiscs}", node.name);
        ensure!(filters(node)?.is_empty(), "{}: filters stay", node.name);
        let pinned = node.run("find", &["/sys/fs/bpf", "-mindepth", "1"])?;
        ensure!(pinned.is_empty(), "{}: pinned: {pinned}", node.name);
    }
    let kinds = "clusterroles,clusterrolebindings,roles,rolebindings,daemonsets,serviceaccounts,services,configmaps";
    let selector = format!("app.kubernetes.io/instance={NAME}");
    let left =
        cluster.first().kubectl(&["get", kinds, "--all-namespaces", "--selector", &selector, "--output", "name"])?;
    ensure!(left.is_empty(), "the cluster still has {left}");
    Ok(())
}

/// Our filters of clsact on eth0, each with the number of its program.
fn filters(node: &Node) -> Result<Vec<String>> {
    let mut filters = Vec::new();
    for direction in ["ingress", "egress"] {
        let listing = node.run("tc", &["filter", "show", "dev", "eth0", direction])?;
        let ours = listing.lines().filter(|line| line.contains("api_exposure"));
        let numbers = ours.filter_map(|line| line.split(" id ").nth(1)?.split_whitespace().next());
        filters.extend(numbers.map(|number| format!("{direction} {number}")));
    }
    Ok(filters)
}
