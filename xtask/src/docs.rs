//! `cargo xtask docs`: writes what README says of flags and metrics, and docs/alerts.md of alerts, anew.

use anyhow::{Result, ensure};

use crate::workspace;

/// Writes the generated parts of README and of the alert reference.
#[derive(clap::Args)]
pub struct Arguments {}

/// Runs the command. The test that compares README with the code is what writes it: one place knows both.
pub fn run(_: &Arguments) -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--quiet", "--package", "monitor-tests", "--test", "documentation"]);
    let status = cargo.env("API_EXPOSURE_WRITE_DOCUMENTATION", "1").status()?;
    ensure!(status.success(), "the generated parts of README.md and docs/alerts.md could not be written");
    println!("README.md and docs/alerts.md are what the code and the rules say");
    Ok(())
}
