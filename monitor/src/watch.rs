//! What is watched: ports with their roles, prefixes with their source classes. Made from the settings (and, later,
//! from discovery), then loaded into the kernel's tables or asked natively by `replay`.

use std::net::IpAddr;

use ipnet::IpNet;
use monitor_common::{Role, SourceClass};

use crate::config::Settings;

/// Ports with their roles and prefixes with their classes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// Watched ports, ascending, each once.
    pub ports: Vec<(u16, Role)>,
    /// Prefixes, each once; the longest that holds an address decides.
    pub prefixes: Vec<(IpNet, SourceClass)>,
}

impl Watch {
    /// What these settings watch; `own` are the addresses found on this node's interfaces (none in `replay`).
    pub fn new(_settings: &Settings, _own: &[IpAddr]) -> Self {
        Self::default()
    }

    /// What this port is meant to be, `None` where it is not watched.
    pub fn role(&self, port: u16) -> Option<Role> {
        self.ports.iter().find(|(watched, _)| *watched == port).map(|(_, role)| *role)
    }

    /// Where this address (IPv4 as IPv4-mapped) belongs.
    pub fn source(&self, _address: &[u8; 16]) -> SourceClass {
        SourceClass::Public
    }
}
