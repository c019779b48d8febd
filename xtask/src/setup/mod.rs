//! `cargo xtask setup`: finds out what is missing and installs it where it may.

use std::env;
use std::io::{self, Write as _};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::terminal::Steps;

mod machine;
mod needs;
mod plan;
mod services;

pub use needs::Group;

use machine::Machine;
use plan::Plan;

/// Finds out what is missing on this machine and installs it (root on Debian or Ubuntu), or prints the commands.
#[derive(clap::Args)]
pub struct Arguments {
    /// What to set up; all that build, demo and test need when nothing is named.
    #[arg(value_enum)]
    groups: Vec<Group>,
    /// Only print the commands.
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    let groups = if arguments.groups.is_empty() { Group::DEFAULT } else { &arguments.groups };
    if arguments.dry_run {
        let plan = Plan::new(groups, &Machine::here())?;
        return write!(io::stdout(), "{plan}").context("cannot write");
    }
    ensure(groups)
}

/// Makes sure that all of these groups are there: says so, installs what is missing, or fails with the commands.
pub fn ensure(groups: &[Group]) -> Result<()> {
    let machine = Machine::here();
    let plan = Plan::new(groups, &machine)?;
    let names = groups.iter().map(|group| group.name()).collect::<Vec<_>>().join(", ");
    if plan.steps.is_empty() {
        println!("set-up: nothing to do ({names})");
        return Ok(());
    }
    println!("set-up: missing for {names}: {}", plan.missing.join(", "));
    if plan.needs_root() && !machine.root {
        bail!("this needs root; run these commands, then try again:\n{plan}");
    }
    let mut steps = Steps::new("setup", plan.steps.len())?;
    for step in &plan.steps {
        let quiet = step.root.then(|| services::Quiet::new(&machine)).transpose()?;
        let outcome = steps.run(&step.what, &mut step.command());
        drop(quiet);
        outcome.map_err(|error| anyhow!("{error:#}\nset-up stopped; by hand its steps are\n{plan}"))?;
    }
    let still = Plan::new(groups, &Machine::here())?.missing;
    if !still.is_empty() {
        bail!(
            "still missing after set-up: {}; the output of its steps is in {}",
            still.join(", "),
            steps.log().display()
        );
    }
    if machine.systemd && plan.missing.iter().any(|name| ["nginx", "promtool"].contains(name)) {
        println!(
            "nginx and prometheus are here for their programs; `systemctl disable nginx prometheus` keeps their services off"
        );
    }
    println!("set-up: done");
    Ok(())
}

/// Makes cargo and what it starts find what set-up puts beside cargo.
pub fn extend_path() -> Result<()> {
    let mut path: Vec<_> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    // The last one is where Go's own archive is unpacked, by its instructions.
    for directory in [machine::cargo_bin(), "/usr/sbin".into(), "/sbin".into(), "/usr/local/go/bin".into()] {
        if !path.contains(&directory) {
            path.push(directory);
        }
    }
    let path = env::join_paths(path).context("a directory in PATH has a colon in its name")?;
    // SAFETY: called first in `main`, while this process has one thread.
    unsafe { env::set_var("PATH", path) };
    Ok(())
}
