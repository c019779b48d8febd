//! The first process of a virtual machine in which `cargo xtask vm` tries the kernel half on an older or newer kernel:
//! mounts what it needs, does every test, writes one line a test to the second serial port, and ends the machine.

use std::process::ExitCode;

use anyhow::Result;

mod attachment;
mod connection;
mod frames;
mod machine;
mod network;
mod privileges;
mod report;
mod verifier;

use attachment::Loaded;
use report::{Outcome, Report};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next();
    if first.as_deref() == Some(privileges::WITHOUT) {
        return privileges::child(arguments.next().as_deref().unwrap_or_default());
    }
    if std::process::id() != 1 {
        eprintln!("error: this is the first process of a virtual machine: run `cargo xtask vm`");
        return ExitCode::FAILURE;
    }
    if let Err(error) = machine::set_up().and_then(|()| run(&mut Report::open()?, first.as_deref() == Some(VERIFIER))) {
        // The console: what `cargo xtask vm` shows when a machine ends too early.
        println!("the guest failed: {error:#}");
    }
    machine::restart()
}

/// Argument of the first process: only what the verifier says.
const VERIFIER: &str = "verifier";

/// Every test, each in a row of its own; one that fails hinders no other.
fn run(report: &mut Report, only_verifier: bool) -> Result<()> {
    report.row("kernel", || Ok(Outcome::Works(machine::release()?)))?;
    report.row("modules", machine::load_modules)?;
    let mut loaded = None;
    report.row("loads", || {
        loaded = Some(Loaded::new()?);
        Outcome::works()
    })?;
    verifier::rows(report)?;
    if only_verifier {
        return report.end();
    }
    report.row("loads without the kernel's BTF", machine::loads_without_btf)?;
    let client = network::Namespace::new()?;
    network::make_wire(&client)?;
    if let Some(mut loaded) = loaded {
        report.row("frames, TC", || frames::tc(&mut loaded))?;
        report.row("frames, XDP", || frames::xdp(&mut loaded))?;
        attachment::rows(report, loaded, &client)?;
    }
    privileges::rows(report)?;
    report.row("under lockdown (confidentiality)", machine::loads_under_lockdown)?;
    report.end()
}
