//! The dashboards' JSON against the types of Grafana's own foundation SDK, generated from Grafana's schema.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::setup::{self, Group};
use crate::workspace;

use super::grafana;

/// The SDK for Grafana 11.6. Its first number is the day of its making, the second Grafana's release.
const SDK: &str = "grafana-foundation-sdk==1769699379!11.6.0";

/// Fails with each key of a dashboard that the SDK's types do not know, and each value that they take for another.
pub fn check() -> Result<()> {
    setup::ensure(&[Group::Dashboards])?;
    let python = python()?;
    let folder = workspace::root().join("dashboards/grafana");
    let dashboards = grafana::all();
    let files = dashboards.iter().map(|dashboard| folder.join(dashboard.file()));
    let output = Command::new(&python)
        .args(["-c", include_str!("schema.py")])
        .args(files)
        .output()
        .with_context(|| format!("cannot start {}", python.display()))?;
    if !output.status.success() {
        let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        bail!("Grafana's types do not take the dashboards as they are:\n{out}{err}");
    }
    println!("dashboards: {} dashboards are what Grafana's types take", dashboards.len());
    Ok(())
}

/// A Python that has the SDK, in an environment of its own below the target directory.
fn python() -> Result<PathBuf> {
    let environment = workspace::target().join("xtask/grafana-foundation-sdk");
    let (python, installed) = (environment.join("bin/python"), environment.join("installed"));
    if fs::read_to_string(&installed).is_ok_and(|sdk| sdk == SDK) {
        return Ok(python);
    }
    println!("installing {SDK} in {}", environment.display());
    run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", SDK]))?;
    fs::write(&installed, SDK).with_context(|| format!("cannot write {}", installed.display()))?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
