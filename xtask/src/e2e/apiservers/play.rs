//! Runs the cases, each from an address of its own, so that the audit log and the monitor's lines are told apart by it.

use std::fs;
use std::net::IpAddr;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use crate::interrupt;
use crate::lab::network::{self, OUTSIDE};
use crate::lab::{Host, Lab};

use super::cases::Case;

/// Networks whose addresses the clients have in turn, and what the monitor has to take them for.
pub const SOURCES: [(&str, &str); 4] =
    [("203.0.113", "public"), ("10.244.1", "pod"), ("10.60.0", "private"), ("10.9.9", "trusted")];
/// The first address of each network that is used.
const FIRST: usize = 20;
/// Seconds after which a client is ended.
const TIME_LIMIT: &str = "30";

/// The class of an address.
pub fn class_of(address: &IpAddr) -> &'static str {
    let text = address.to_string();
    if address.is_loopback() {
        return "loopback";
    }
    let prefix = text.rsplit_once('.').map_or("", |(prefix, _)| prefix);
    SOURCES.iter().find(|(network, _)| *network == prefix).map_or("other", |(_, class)| class)
}

/// The address of a case.
pub fn address(index: usize) -> Result<IpAddr> {
    let (network, _) = SOURCES.get(index % SOURCES.len()).copied().unwrap_or_default();
    format!("{network}.{}", FIRST + index / SOURCES.len()).parse().context("more cases than addresses")
}

/// Runs a case from an address; gives what it said. Whether it succeeded is for the audit log to tell.
pub fn run(lab: &Lab, case: &Case, from: IpAddr) -> Result<String> {
    interrupt::check()?;
    take_address(lab, from)?;
    let mut command = lab.command(Host::Outside, "timeout");
    command.args(["--foreground", TIME_LIMIT]).args(&case.words).stdin(Stdio::null());
    if let Some(input) = &case.input {
        let path = lab.directory().join("input");
        fs::write(&path, input).context("cannot write input")?;
        command.stdin(fs::File::open(&path).context("cannot read input")?);
    }
    let output = command.output().with_context(|| format!("cannot start {}", case.name))?;
    if output.status.code() == Some(124) {
        bail!("{}: not done within {TIME_LIMIT} s", case.name);
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().chars().take(500).collect::<String>();
    Ok(format!("{} {} {}", output.status, text(&output.stdout), text(&output.stderr)))
}

/// From now on what the outside host begins comes from this address.
pub fn take_address(lab: &Lab, from: IpAddr) -> Result<()> {
    let (outside, address) = (lab.namespace(Host::Outside), from.to_string());
    if address != OUTSIDE {
        network::ip(&["-n", &outside, "address", "replace", &format!("{address}/32"), "dev", "lo"])?;
    }
    network::ip(&["-n", &outside, "route", "replace", "default", "via", "203.0.113.1", "src", &address])?;
    Ok(())
}
