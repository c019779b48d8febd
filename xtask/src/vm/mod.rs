//! `cargo xtask vm`: the kernel half on the oldest and the newest kernels that clusters run, each in a virtual machine.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::setup::{self, Group};
use crate::terminal::Steps;
use crate::workspace;

mod archive;
mod kernels;
mod machine;
mod record;
mod table;

use kernels::{KERNELS, Kernel};

/// The target that the guest is built for: named, so that what it is made of is kept apart from all else.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The guest is alone in its file system, so it brings the C library with it; without symbols it is read faster.
const FLAGS: &str = "-C target-feature=+crt-static -C strip=symbols -C debuginfo=0";

/// Loads, attaches and tests the kernel half under Debian's kernels from 5.10 to the newest, in software emulation.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only this kernel: 5.10, 6.1, 6.12, or `newest` (Debian sid's).
    #[arg(long, value_name = "RELEASE", value_parser = kernels::parse)]
    kernel: Option<&'static Kernel>,
    /// Look for newer packages of the kernels; without it those that were fetched once are used.
    #[arg(long)]
    update: bool,
    /// Only load the programs and count what the verifier follows.
    #[arg(long)]
    verifier: bool,
}

/// Runs the command: prints one table, and fails when a test failed.
pub fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(&[Group::Build, Group::Vm])?;
    let kernels = arguments.kernel.map_or_else(|| KERNELS.iter().collect(), |kernel| vec![kernel]);
    let mut steps = Steps::new("vm", 1 + 2 * kernels.len())?;
    let guest = build(&mut steps)?;
    let mut columns = Vec::new();
    for kernel in kernels {
        let what = format!("the kernel of Debian {}", kernel.suite);
        let files = steps.within(&what, || kernels::fetch(kernel, arguments.update))?;
        let what = format!("boot {}, test, end", files.release);
        columns.push(steps.within(&what, || machine::run(&guest, &files, arguments.verifier))?);
    }
    print!("\n{}", table::Table(&columns));
    let failures: usize = columns.iter().map(table::Column::failures).sum();
    if failures > 0 {
        bail!("{failures} failed");
    }
    if arguments.kernel.is_none() && !arguments.verifier {
        record::note()?;
    }
    Ok(())
}

/// Runs all of it unless this very kernel half has passed here before; whether it was run.
pub fn run_where_changed() -> Result<bool> {
    if record::passed()? {
        return Ok(false);
    }
    run(&Arguments { kernel: None, update: false, verifier: false })?;
    Ok(true)
}

/// Builds the guest.
fn build(steps: &mut Steps) -> Result<PathBuf> {
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--locked", "--package", "monitor-tests", "--bin", "vm_guest", "--target", TARGET]);
    cargo.args(["--color", "never"]).env("RUSTFLAGS", FLAGS);
    steps.run("build the guest", &mut cargo)?;
    let guest = workspace::target().join(TARGET).join("debug/vm_guest");
    std::fs::metadata(&guest).with_context(|| format!("cannot find {}", guest.display()))?;
    Ok(guest)
}
