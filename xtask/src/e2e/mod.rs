//! `cargo xtask e2e`: the monitor beside real API servers and in a real cluster, with programs built and kept outside of
//! the clone.

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;

use crate::setup::{self, Group};
use crate::{build, workspace};

mod apiservers;
mod audit;
pub mod binaries;
mod cluster;
pub mod control_plane;
pub mod credentials;
mod hardening;
mod module_file;
pub mod monitor;

/// Runs the monitor beside real API servers with real clients, and in a real cluster. Needs root.
#[derive(clap::Args)]
pub struct Arguments {
    /// What to run; all of it when nothing is named.
    #[arg(value_enum)]
    suites: Vec<Suite>,
    /// More than CI runs: all releases, all requests, the cost of the probe.
    #[arg(long)]
    all: bool,
    /// This monitor, instead of a release build of what is here.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Write what was on the wire of each server of `apiservers` into this folder.
    #[arg(long, value_name = "FOLDER")]
    captures: Option<PathBuf>,
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

/// What CI runs: the API servers, with a release binary that is there.
pub fn quick() -> Result<()> {
    setup::ensure(&[Group::Lab, Group::Kubernetes])?;
    apiservers::run(&workspace::binary(), false, None)
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    let suites = if arguments.suites.is_empty() { Suite::value_variants() } else { &arguments.suites };
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "e2e needs root: it makes network namespaces and attaches the monitor to them"
    );
    setup::ensure(&[Group::Build, Group::Lab, Group::Kubernetes])?;
    let binary = match &arguments.binary {
        Some(binary) => binary.clone(),
        None => {
            // A cluster runs the image's own.
            if suites.iter().any(|suite| *suite != Suite::Cluster) {
                build::binary()?;
            }
            workspace::binary()
        }
    };
    for suite in suites {
        println!(
            "\n== e2e {}",
            suite.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
        );
        match suite {
            Suite::Apiservers => apiservers::run(&binary, arguments.all, arguments.captures.as_deref())?,
            Suite::Cluster => cluster::run(arguments.all)?,
            Suite::Hardening => hardening::run(&binary)?,
        }
    }
    println!("\ne2e: done");
    Ok(())
}
