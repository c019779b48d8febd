//! The cluster as this node sees it over time: which of the nodes it is, what it has been told of, what has just left.

use std::net::IpAddr;
use std::time::Instant;

use monitor_common::Role;

use super::grace::Grace;
use super::{Known, State, ThisNode};
use crate::watch::ClusterWords;

/// This node's view.
#[derive(Debug, Default)]
pub struct Local {
    name: Option<String>,
    grace: Grace,
    /// From what `words` were made: a node that has thousands of neighbours, and whose pods come and go, makes them again
    /// only where that differs.
    version: Option<u64>,
    own: Vec<IpAddr>,
    words: ClusterWords,
    /// Ports and load balancers, as they were told last.
    ports: Vec<(u16, Role)>,
    load_balancers: Vec<String>,
}

impl Local {
    /// Of the node on which this runs; nothing is known yet.
    pub fn new() -> Self {
        Self { name: node_name(), ..Self::default() }
    }

    /// Takes what is known now, and says whether something else may have to be watched; `own` are the addresses of this
    /// node's interfaces. Says in the log which ports have come and gone.
    pub fn update(&mut self, state: &State, own: &[IpAddr], now: Instant) -> bool {
        if self.version == Some(state.version) && self.own == own && !self.grace.is_leaving() {
            return false;
        }
        let this = ThisNode { name: self.name.clone(), addresses: own.to_vec() };
        let words = state.known.words(&this);
        self.tell(&words, &state.known);
        self.words = self.grace.extend(words, now);
        self.version = Some(state.version);
        self.own = this.addresses;
        true
    }

    /// What is to be watched here because of it.
    pub fn words(&self) -> &ClusterWords {
        &self.words
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Object;
    use super::super::grace::GRACE;
    use super::super::known::{Change, Facts, Listing};
    use super::*;

    #[test]
    fn words_are_made_anew_where_something_differs() {
        let (mut state, mut local, now) = (State::default(), Local::new(), Instant::now());
        let own = ["10.0.0.1".parse().unwrap()];
        assert!(local.update(&state, &own, now) && !local.update(&state, &own, now));
        assert!(local.update(&state, &[], now) && local.update(&state, &own, now));

        let mut facts = Facts::default();
        facts.take_addresses(["10.0.0.1", "10.0.0.2"]);
        facts.take_ports([31_443]);
        let mut listing = Listing::default();
        let mut take = |state: &mut State, change| {
            assert!(listing.take(&mut state.known, Object::Service, change));
            state.version += 1;
        };
        take(&mut state, Change::Apply("kubernetes".into(), facts));
        assert!(local.update(&state, &own, now) && !local.update(&state, &own, now + GRACE));
        assert_eq!((local.words().ports.len(), local.words().prefixes.len()), (1, 2));
        take(&mut state, Change::Delete("kubernetes".into()));
        for after in [Duration::ZERO, GRACE / 2] {
            assert!(local.update(&state, &own, now + after), "something is on its way out");
            assert_eq!((local.words().ports.len(), local.words().prefixes.len()), (1, 2));
        }
        assert!(local.update(&state, &own, now + GRACE) && !local.update(&state, &own, now + GRACE));
        assert_eq!(local.words(), &ClusterWords::default());
    }
}
