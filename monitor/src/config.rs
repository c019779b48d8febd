//! Settings: each has one name as flag, environment variable and key of the configuration file.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// What decides what is watched and how it is called; the same in `run`, `observe` and `replay`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Ports where the API server speaks TLS.
    pub secure_port: Vec<u16>,
    /// Ports of the legacy insecure port and of `kubectl proxy`.
    pub insecure_port: Vec<u16>,
    /// NodePorts of the `kubernetes` Service.
    pub node_port: Vec<u16>,
    /// Names and patterns (`eth*`) of the interfaces to watch; empty: every interface that is up, `lo` included.
    pub interface: Vec<String>,
    /// This node's own addresses, beside those that were found on its interfaces.
    pub node_address: Vec<IpAddr>,
    /// Where the cluster's nodes have their addresses.
    pub cluster_node_cidr: Vec<IpNet>,
    /// Where pods have their addresses.
    pub pod_cidr: Vec<IpNet>,
    /// Where Services have their addresses.
    pub service_cidr: Vec<IpNet>,
    /// The operator's word: bastions, health checks of load balancers.
    pub trusted_cidr: Vec<IpNet>,
    /// Whether a private source of no known range counts as external.
    pub private_is_external: bool,
    /// Host names that clients inside use to reach the API server, beside Kubernetes' own.
    pub expected_sni: Vec<String>,
    /// Whether the server is known to answer an unauthenticated first request over HTTP/2 with GOAWAY.
    pub unauthenticated_goaway: UnauthenticatedGoaway,
    /// Where `/metrics`, `/livez`, `/readyz` and `/events` are served.
    pub listen: SocketAddr,
    /// Generic XDP where an interface has no native one; otherwise TC counts there.
    pub xdp_generic: bool,
}

monitor_common::closed_set! {
    /// Whether the server is known to answer an unauthenticated first request over HTTP/2 with GOAWAY.
    UnauthenticatedGoaway {
        /// Learned from the self-probe or from a GOAWAY of that server.
        Auto = "auto",
        /// It does (Kubernetes 1.29 and later by default).
        On = "on",
        /// It does not.
        Off = "off",
    }
}
