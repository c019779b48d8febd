//! A real cluster, with the monitor installed by its chart: two control planes with an API server each, and a worker.
//!
//! Nodes are namespaces of this machine with a kubelet, containerd and runc in them. What is real: kubelets, containers,
//! API servers in static pods, their certificates, Node authorization, kubectl, helm, the chart, the image. What is not:
//! one etcd serves both API servers, the controller manager and scheduler are processes of the first node, one address
//! translation stands for kube-proxy, and all nodes share this machine's kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context as _, Result};

use crate::setup::{self, Group};
use crate::{image, workspace};

use super::binaries;
use network::Network;
use node::{Kind, Node, Role};
use release::Release;

mod alerts;
mod images;
mod life;
mod manifests;
mod network;
mod node;
mod release;
mod sight;

/// What names of folders and namespaces begin with; the number of the process that made them follows.
const PREFIX: &str = "api-exposure-e2e";

/// Runs the suite.
pub fn run(_all: bool) -> Result<()> {
    setup::ensure(&[Group::Cluster])?;
    let monitor = image::ensure_built()?;
    let commands = ["kube-apiserver", "kubelet", "kube-controller-manager", "kube-scheduler", "kubectl"];
    let binaries = binaries::kubernetes(binaries::CURRENT, &commands)?;
    let helm = binaries::helm()?;
    remove_left_over()?;
    let cluster = Cluster::start(binaries, &monitor)?;

    let release = Release::new(&cluster, helm);
    let outcome = looked_at(&cluster, &release);
    if outcome.is_err() {
        println!("the pods' last words:\n{}", release.last_words());
    }
    outcome
}

/// All that is looked at, in the order of a release's life.
fn looked_at(cluster: &Cluster, release: &Release<'_>) -> Result<()> {
    said("the manifests, at a real API server", || manifests::accepted(cluster, release))?;
    said("refused in a namespace that is `restricted`, with words that help", || release.refused_where_restricted())?;
    said("helm install --wait", || release.install())?;
    said("attached to eth0 and lo with exactly the chart's capabilities", || sight::attached(cluster, release))?;
    said("the cluster is known from the Kubernetes API", || sight::knows_the_cluster(cluster))?;
    said("pods, nodes and an outside host are told apart", || sight::sources(cluster))?;
    said("the audit log is followed", || sight::audit(cluster, release))?;
    said("the API server is probed in its static pod", || sight::probed(cluster, release))?;
    said("helm upgrade, rollout restart", || life::restarts(cluster, release))?;
    said("killed: what is left of it is taken away at the next start", || life::killed(cluster, release))?;
    said("a node is drained: the monitor stays", || life::drained(cluster, release))?;
    let watching = alerts::Watching::start(cluster, release)?;
    said("left alone, the cluster fires no alert", || watching.quiet())?;
    said("attacked, it fires the right ones and no other", || watching.attacked())?;
    said("helm uninstall: nothing stays", || life::uninstalled(cluster, release))?;
    said("without a monitor, its absence is alerted", || watching.absent())
}

/// Says what is looked at, looks, and says how long it took.
fn said(what: &str, look: impl FnOnce() -> Result<()>) -> Result<()> {
    let started = std::time::Instant::now();
    look().with_context(|| what.to_owned())?;
    println!("ok    {what} ({:.1} s)", started.elapsed().as_secs_f64());
    Ok(())
}

/// Nodes that run, and the network that they are in. Dropping it takes all of it away.
pub struct Cluster {
    // Ended in this order.
    nodes: Vec<Node>,
    network: Network,
    _folder: Folder,
}

impl Cluster {
    fn start(binaries: PathBuf, monitor: &Path) -> Result<Self> {
        let prefix = format!("{PREFIX}-{}", process::id());
        let folder = Folder(base()?.join(&prefix));
        fs::create_dir_all(&folder.0).with_context(|| format!("cannot create {}", folder.0.display()))?;
        let kind = Kind {
            images: vec![images::pause(&folder.0)?],
            control_plane_images: vec![
                images::api_server(&folder.0, &binaries.join("kube-apiserver"))?,
                monitor.to_owned(),
            ],
            pause: images::PAUSE.to_owned(),
            api_server: images::API_SERVER.to_owned(),
            binaries,
        };
        let mut cluster = Self { nodes: Vec::new(), network: Network::new(&prefix)?, _folder: folder };
        for (name, host, role) in
            [("cp-1", 10, Role::First), ("cp-2", 11, Role::ControlPlane), ("worker-1", 20, Role::Worker)]
        {
            said(&format!("node {name}"), || {
                let node =
                    Node::start(&kind, &cluster.network, &cluster._folder.0, name, host, role, cluster.nodes.first())?;
                cluster.nodes.push(node);
                Ok(())
            })?;
        }
        Ok(cluster)
    }

    /// The first control plane, from which the cluster is administered.
    pub fn first(&self) -> &Node {
        &self.nodes[0]
    }

    /// The nodes that run an API server.
    pub fn control_planes(&self) -> &[Node] {
        &self.nodes[..2]
    }

    /// The node that runs none.
    pub fn worker(&self) -> &Node {
        &self.nodes[2]
    }

    /// The network, with the outside host.
    pub fn network(&self) -> &Network {
        &self.network
    }
}

/// A folder that goes with its owner.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("warning: cannot remove {}: {error}", self.0.display());
        }
    }
}

/// Where nodes have their files: on a real file system, since containerd's overlays cannot lie on overlays.
fn base() -> Result<PathBuf> {
    Ok(workspace::cache()?.join("cluster"))
}

/// Takes away what runs that were killed have left.
fn remove_left_over() -> Result<()> {
    let base = base()?;
    fs::create_dir_all(&base).with_context(|| format!("cannot create {}", base.display()))?;
    for entry in fs::read_dir(&base).with_context(|| format!("cannot read {}", base.display()))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner =
            name.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('-')).and_then(|id| id.parse::<u32>().ok());
        if owner.is_none_or(|id| Path::new("/proc").join(id.to_string()).exists()) {
            continue;
        }
        println!("taking away what an earlier run left: {name}");
        for group in node::groups_of(&name) {
            node::end(std::slice::from_ref(&group));
            node::remove(&[group]);
        }
        network::remove(&name);
        fs::remove_dir_all(entry.path()).with_context(|| format!("cannot remove {}", entry.path().display()))?;
    }
    Ok(())
}
