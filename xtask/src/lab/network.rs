//! Namespaces and the wires between them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::interrupt;

use super::{Host, Lab};

/// Address of the control plane.
pub const CONTROL_PLANE: &str = "192.168.56.10";
/// Address of the worker.
pub const WORKER: &str = "192.168.56.11";
/// Address of the outside host: a documentation range, so nobody's.
pub const OUTSIDE: &str = "203.0.113.7";
/// The network of the nodes.
pub const NODES: &str = "192.168.56.0/24";

/// Makes the hosts and wires of a lab.
pub fn make(lab: &Lab) -> Result<()> {
    for host in Host::ALL {
        ip(&["netns", "add", &lab.namespace(host)])?;
        ip(&["-n", &lab.namespace(host), "link", "set", "lo", "up"])?;
    }
    let router = lab.namespace(Host::Router);
    ip(&["-n", &router, "link", "add", "cluster", "type", "bridge"])?;
    for host in [Host::ControlPlane, Host::Worker, Host::Outside] {
        let (there, port) = (lab.namespace(host), host.name());
        ip(&["-n", &router, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", &there])?;
        if host != Host::Outside {
            ip(&["-n", &router, "link", "set", port, "master", "cluster"])?;
        }
        ip(&["-n", &router, "link", "set", port, "up"])?;
    }
    ip(&["-n", &router, "link", "set", "cluster", "up"])?;
    ip(&["-n", &router, "address", "add", "192.168.56.1/24", "dev", "cluster"])?;
    ip(&["-n", &router, "address", "add", "203.0.113.1/24", "dev", Host::Outside.name()])?;
    for (host, address, gateway) in [
        (Host::ControlPlane, CONTROL_PLANE, "192.168.56.1"),
        (Host::Worker, WORKER, "192.168.56.1"),
        (Host::Outside, OUTSIDE, "203.0.113.1"),
    ] {
        let namespace = lab.namespace(host);
        ip(&["-n", &namespace, "address", "add", &format!("{address}/24"), "dev", "eth0"])?;
        ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
        ip(&["-n", &namespace, "route", "add", "default", "via", gateway])?;
    }
    // /proc/sys/net is that of the namespace of who opens it.
    let mut forward = lab.command(Host::Router, "sh");
    forward.args(["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
    let output = forward.output().context("cannot start nsenter")?;
    if !output.status.success() {
        bail!("the router cannot forward: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Ends what runs in a namespace and removes it; says whether it was there.
pub fn unmake(namespace: &str) -> Result<bool> {
    if !Path::new("/run/netns").join(namespace).exists() {
        return Ok(false);
    }
    for signal in [Signal::TERM, Signal::KILL] {
        let left = processes(namespace)?;
        for process in &left {
            // It may just have ended by itself.
            let _ = kill_process(*process, signal);
        }
        let gone = || Ok(processes(namespace)?.is_empty().then_some(()));
        if left.is_empty() || wait(Duration::from_secs(5), gone)? {
            break;
        }
    }
    ip(&["netns", "delete", namespace])?;
    Ok(true)
}

/// As [`interrupt::wait_for`], but also after an interrupt: this is the cleaning up.
fn wait(timeout: Duration, mut condition: impl FnMut() -> Result<Option<()>>) -> Result<bool> {
    let started = std::time::Instant::now();
    loop {
        if condition()?.is_some() {
            return Ok(true);
        }
        if started.elapsed() > timeout {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn processes(namespace: &str) -> Result<Vec<Pid>> {
    let listing = ip(&["netns", "pids", namespace])?;
    Ok(listing.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)).collect())
}

/// `ip`, with what it prints.
pub fn ip(arguments: &[&str]) -> Result<String> {
    let output = Command::new("ip").args(arguments).output().context("cannot start ip")?;
    if !output.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Waits until somebody on this host listens on all of these TCP ports. Reads `/proc/PID/net`, which is that of the
/// process's namespace.
pub fn wait_until_listening(lab: &mut Lab, name: &str, process: u32, ports: &[u16]) -> Result<()> {
    interrupt::check()?;
    lab.wait_for(name, &format!("{name} listening on {ports:?}"), |_| {
        let mut listening = Vec::new();
        for table in ["tcp", "tcp6"] {
            // No table: the process is gone, which is noticed by who waits; or no IPv6.
            let text = std::fs::read_to_string(format!("/proc/{process}/net/{table}")).unwrap_or_default();
            listening.extend(text.lines().filter_map(listening_port));
        }
        Ok(ports.iter().all(|port| listening.contains(port)).then_some(()))
    })
}

/// The port of a line of `/proc/net/tcp` in state LISTEN (0A).
fn listening_port(line: &str) -> Option<u16> {
    let mut fields = line.split_whitespace().skip(1);
    let (_, port) = fields.next()?.rsplit_once(':')?;
    (fields.nth(1)? == "0A").then(|| u16::from_str_radix(port, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_who_listens() {
        let listen = "   0: 00000000:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1";
        assert_eq!(listening_port(listen), Some(6443));
        assert_eq!(listening_port(&listen.replace(" 0A ", " 01 ")), None);
        assert_eq!(listening_port("  sl  local_address rem_address   st tx_queue"), None);
    }
}
