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

use report::{Outcome, Report};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if let Some(flag) = arguments.next()
        && flag == privileges::WITHOUT
    {
        return privileges::child(arguments.next().as_deref().unwrap_or_default());
    }
    if std::process::id() != 1 {
        eprintln!("error: this is the first process of a virtual machine: run `cargo xtask vm`");
        return ExitCode::FAILURE;
    }
    if let Err(error) = machine::set_up().and_then(|()| run(&mut Report::open()?)) {
        // The console: what `cargo xtask vm` shows when a machine ends too early.
        println!("the guest failed: {error:#}");
    }
    machine::restart()
}

/// Every test, each in a row of its own; one that fails hinders no other.
fn run(report: &mut Report) -> Result<()> {
    report.row("kernel", || Ok(Outcome::Works(machine::release()?)))?;
    report.row("modules", machine::load_modules)?;
    verifier::rows(report)?;
    report.row("loads without the kernel's BTF", machine::loads_without_btf)?;
    report.row("frames, TC", frames::tc)?;
    report.row("frames, XDP", frames::xdp)?;
    let client = network::Namespace::new()?;
    network::make_wire(&client)?;
    attachment::rows(report, &client)?;
    privileges::rows(report)?;
    report.row("under lockdown (confidentiality)", machine::loads_under_lockdown)?;
    report.end()
}
