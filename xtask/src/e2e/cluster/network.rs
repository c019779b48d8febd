//! The network of the nodes: a bridge in the namespace of the outside host, which is their router. Nothing of it is in the
//! machine's own namespace.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// An address of nobody's (TEST-NET-3): the attacker's.
pub const OUTSIDE: &str = "203.0.113.7";
/// The router's address in the nodes' network.
const ROUTER: &str = "192.168.77.1";

/// The address of the node with this number.
pub fn address(host: u8) -> String {
    format!("192.168.77.{host}")
}

/// The addresses of the pods of the node with this number.
pub fn pods(host: u8) -> String {
    format!("10.244.{host}.0/24")
}

/// The namespaces of one cluster. Dropping it removes them.
pub struct Network {
    prefix: String,
    nodes: std::cell::RefCell<Vec<(String, u8)>>,
}

impl Network {
    /// The bridge, and the outside host.
    pub fn new(prefix: &str) -> Result<Self> {
        let network = Self { prefix: prefix.to_owned(), nodes: std::cell::RefCell::default() };
        let outside = network.outside();
        ip(&["netns", "add", &outside])?;
        ip(&["-n", &outside, "link", "set", "lo", "up"])?;
        ip(&["-n", &outside, "link", "add", "nodes", "type", "bridge"])?;
        ip(&["-n", &outside, "address", "add", &format!("{ROUTER}/24"), "dev", "nodes"])?;
        ip(&["-n", &outside, "address", "add", &format!("{OUTSIDE}/32"), "dev", "lo"])?;
        ip(&["-n", &outside, "link", "set", "nodes", "up"])?;
        Ok(network)
    }

    /// The namespace of a node.
    pub fn namespace(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    fn outside(&self) -> String {
        self.namespace("outside")
    }

    /// Wires a node, and tells the others the way to its pods.
    pub fn add_node(&self, name: &str, host: u8) -> Result<()> {
        let (namespace, outside) = (self.namespace(name), self.outside());
        let port = format!("port{host}");
        ip(&["netns", "add", &namespace])?;
        ip(&["-n", &namespace, "link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", &outside])?;
        ip(&["-n", &outside, "link", "set", &port, "master", "nodes", "up"])?;
        ip(&["-n", &namespace, "address", "add", &format!("{}/24", address(host)), "dev", "eth0"])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
        ip(&["-n", &namespace, "route", "add", "default", "via", ROUTER])?;
        for (other, its) in self.nodes.borrow().iter() {
            ip(&["-n", &self.namespace(other), "route", "add", &pods(host), "via", &address(host)])?;
            ip(&["-n", &namespace, "route", "add", &pods(*its), "via", &address(*its)])?;
        }
        self.nodes.borrow_mut().push((name.to_owned(), host));
        Ok(())
    }

    /// A command on the outside host.
    pub fn command_outside(&self, program: &str) -> Command {
        self.command("outside", program)
    }

    /// A command in the network of a node; files and processes are the machine's.
    pub fn command(&self, name: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(name), program]);
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove(&self.prefix);
    }
}

/// Removes the namespaces whose names begin so.
pub fn remove(prefix: &str) {
    let Ok(listing) = Command::new("ip").args(["netns", "list"]).output() else { return };
    let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
    let names = listing.lines().filter_map(|line| line.split_whitespace().next());
    for name in names.filter(|name| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('-'))) {
        if let Err(error) = ip(&["netns", "delete", name]) {
            eprintln!("warning: {error:#}");
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("cannot start ip")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), said.trim());
    Ok(())
}
