//! Real API servers and real clients.

use anyhow::Result;

use super::binaries::{self, CURRENT, OLD};

/// Runs the suite.
pub fn run(_all: bool) -> Result<()> {
    for (version, commands) in [(CURRENT, &["kube-apiserver", "kubectl"][..]), (OLD, &["kube-apiserver"])] {
        println!("{version}: {}", binaries::kubernetes(version, commands)?.display());
    }
    Ok(())
}
