//! `cargo xtask build`: the kernel object and the release binary around it.

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::setup::{self, Group};
use crate::terminal::Steps;
use crate::workspace;

/// Builds the kernel object and the release binary around it.
#[derive(clap::Args)]
pub struct Arguments {}

/// Runs the command.
pub fn run(_: &Arguments) -> Result<()> {
    setup::ensure(&[Group::Build])?;
    binary()?;
    println!("built: {}", workspace::binary().display());
    Ok(())
}

/// Builds the release binary; fails when it would be without its kernel object.
pub fn binary() -> Result<()> {
    let mut steps = Steps::new("build", 1)?;
    let mut cargo = workspace::cargo();
    // The kernel object is built by the package's build script, with a compiler that set-up has seen to.
    cargo.args(["build", "--release", "--locked", "--package", "api-exposure-monitor", "--color", "never"]);
    steps.run("build the kernel object and the release binary", &mut cargo)?;
    let log = fs::read_to_string(steps.log()).with_context(|| format!("cannot read {}", steps.log().display()))?;
    match log.lines().find(|line| line.contains("built without the kernel object")) {
        Some(line) => bail!("{line}"),
        None => Ok(()),
    }
}
