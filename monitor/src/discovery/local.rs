//! The cluster as this node sees it over time: which of the nodes it is, what it has been told of, what has just left.

use std::net::IpAddr;
use std::time::Instant;

use monitor_common::Role;

use super::grace::Grace;
use super::{Known, ThisNode};
use crate::watch::ClusterWords;

/// This node's view.
#[derive(Debug, Default)]
pub struct Local {
    name: Option<String>,
    grace: Grace,
    /// Ports and load balancers, as they were told last.
    ports: Vec<(u16, Role)>,
    load_balancers: Vec<String>,
}

impl Local {
    /// Of the node on which this runs; nothing is known yet.
    pub fn new() -> Self {
        Self { name: node_name(), ..Self::default() }
    }

    /// What is to be watched here because of what is known; `own` are the addresses of this node's interfaces. Says in the
    /// log which ports have come and gone.
    pub fn words(&mut self, known: &Known, own: &[IpAddr], now: Instant) -> ClusterWords {
        let this = ThisNode { name: self.name.clone(), addresses: own.to_vec() };
        let words = known.words(&this);
        self.tell(&words, known);
        self.grace.extend(words, now)
    }

    fn tell(&mut self, words: &ClusterWords, known: &Known) {
        for (port, role) in words.ports.iter().filter(|port| !self.ports.contains(port)) {
            match role {
                Role::NodePort => tracing::warn!(port, "the Service kubernetes has this NodePort: watched"),
                _ => tracing::info!(port, "API servers listen on this port: watched"),
            }
        }
        for (port, _) in self.ports.iter().filter(|port| !words.ports.contains(port)) {
            tracing::info!(port, "the Kubernetes API no longer names this port: soon no longer watched for its sake");
        }
        self.ports.clone_from(&words.ports);
        let balancers: Vec<String> = known.load_balancers().map(str::to_owned).collect();
        if balancers != self.load_balancers && !balancers.is_empty() {
            tracing::warn!(
                at = balancers.join(", "),
                "the Service kubernetes has a load balancer: what reaches this node by its own port, and not by a NodePort, \
                 is read only with that port in --secure-port"
            );
        }
        self.load_balancers = balancers;
    }
}

/// This node's name in the cluster: what its pod was told (`NODE_NAME`, by the downward API), else its host name, which
/// kubelet takes too.
pub fn node_name() -> Option<String> {
    let told = std::env::var("NODE_NAME").ok().filter(|name| !name.is_empty());
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = told.or_else(host)?.trim().to_ascii_lowercase();
    (!name.is_empty()).then_some(name)
}
