//! `cargo xtask e2e`: the monitor beside real API servers and in a real cluster, with programs built and kept outside of
//! the clone.

use anyhow::Result;
use clap::ValueEnum;

use crate::setup::{self, Group};
use crate::{build, workspace};

mod apiservers;
pub mod binaries;
mod cluster;
mod hardening;
mod module_file;

/// Runs the monitor beside real API servers with real clients, and in a real cluster. Needs root.
#[derive(clap::Args)]
pub struct Arguments {
    /// What to run; all of it when nothing is named.
    #[arg(value_enum)]
    suites: Vec<Suite>,
    /// More than CI runs: all releases, all requests, the cost of the probe.
    #[arg(long)]
    all: bool,
}

/// A part of the end-to-end tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// Real API servers and clients in network namespaces; the audit log is the truth.
    Apiservers,
    /// A cluster with kubelets and containers, the monitor installed by its chart.
    Cluster,
    /// The walk through hardening, which writes docs/hardening.md.
    Hardening,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    let suites = if arguments.suites.is_empty() { Suite::value_variants() } else { &arguments.suites };
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "e2e needs root: it makes network namespaces and attaches the monitor to them"
    );
    setup::ensure(&[Group::Build, Group::Lab, Group::Kubernetes])?;
    build::binary()?;
    for suite in suites {
        println!(
            "\n== e2e {}",
            suite.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
        );
        match suite {
            Suite::Apiservers => apiservers::run(arguments.all)?,
            Suite::Cluster => cluster::run(arguments.all)?,
            Suite::Hardening => hardening::run()?,
        }
    }
    println!("\ne2e: done, with {}", workspace::binary().display());
    Ok(())
}
