//! Packages are installed for their programs; their services stay down.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result};

use super::machine::Machine;

/// Debian's own way of saying that no service may be started: a program that answers 101.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// While it lives no service is started by an installation. Only where there is systemd and no policy yet.
pub struct Quiet {
    ours: bool,
}

impl Quiet {
    /// Puts the policy in place where one is needed.
    pub fn new(machine: &Machine) -> Result<Self> {
        if !machine.systemd || Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(POLICY)
            .with_context(|| format!("cannot write {POLICY}"))?;
        file.write_all(b"#!/bin/sh\nexit 101\n").with_context(|| format!("cannot write {POLICY}"))?;
        fs::set_permissions(POLICY, Permissions::from_mode(0o755)).with_context(|| format!("cannot set {POLICY}"))?;
        println!("      ({POLICY} is there meanwhile, so that no service is started)");
        Ok(Self { ours: true })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("warning: cannot remove {POLICY}: {error}");
        }
    }
}
