//! `cargo xtask bench`: how fast and how small, each figure beside a peer that was measured in the same run.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::setup::{self, Group};
use crate::terminal::Steps;
use crate::{build, workspace};

mod curves;
mod handshakes;
mod kernel;
mod live;
mod measure;
mod replay;
mod report;
mod row;

use report::Report;

/// Measures and prints one table; a figure that could not be measured is not printed.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only this one; all when none is named. Can be given several times.
    #[arg(long, value_enum)]
    only: Vec<Name>,
    /// How the figures are printed; progress goes to standard error.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Packets of the capture that replay is measured with.
    #[arg(long, value_name = "PACKETS", default_value_t = 5_000_000)]
    packets: u64,
    /// Measured so often; the best run counts.
    #[arg(long, value_name = "RUNS", default_value_t = 3)]
    runs: u32,
    /// Pairs of runs of a busy server without and with the monitor.
    #[arg(long, value_name = "PAIRS", default_value_t = 5)]
    pairs: u32,
    /// TLS connections, and ten times as many requests in the clear, that processor time is measured for.
    #[arg(long, value_name = "CONNECTIONS", default_value_t = 100_000)]
    connections: u64,
    /// Write BENCHMARKS.md.
    #[arg(long)]
    write: bool,
    /// Measure what was built last, without set-up and build.
    #[arg(long)]
    as_built: bool,
    /// Keep the capture that was made.
    #[arg(long)]
    keep: bool,
}

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Packets a second that `replay` reads from a capture of TLS and HTTP handshakes.
    Replay,
    /// Resident memory of the daemon with as many connections as it follows, and that of the kernel's maps.
    Memory,
    /// Nanoseconds of the kernel's programs a packet.
    Programs,
    /// Requests a second that a busy server loses to the monitor.
    Busy,
    /// Processor time of the monitor and of suricata on the same interface.
    Load,
    /// How the cost of a packet grows.
    Curves,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// One table.
    Table,
    /// One JSON document.
    Json,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    let printed = row::divert_standard_output()?;
    if !arguments.as_built {
        if let Err(error) = setup::ensure(&[Group::Build, Group::Bench]) {
            eprintln!("going on with what is here: {error:#}");
        }
        build::binary()?;
        let mut steps = Steps::new("bench", 1)?;
        let mut cargo = workspace::cargo();
        cargo.args(["build", "--locked", "--package", "monitor-tests", "--bin", "bench", "--color", "never"]);
        steps.run("build what measures the kernel half", &mut cargo)?;
    }
    let names = if arguments.only.is_empty() { Name::value_variants() } else { &arguments.only };
    let (mut rows, mut curves) = (Vec::new(), Vec::new());
    for name in names {
        let measured = match name {
            Name::Replay => replay::measure(arguments.packets, arguments.runs, arguments.keep),
            Name::Memory => kernel::memory(),
            Name::Programs => kernel::programs(),
            Name::Busy => live::busy(arguments.pairs),
            Name::Load => live::load(arguments.connections, arguments.keep),
            Name::Curves => curves::measure(&mut curves),
        };
        rows.extend(measured.with_context(|| format!("measuring {name:?}"))?);
    }
    let report = Report::new(rows, curves)?;
    drop(printed);
    let text = match arguments.output {
        Output::Table => report.table(),
        Output::Json => report.json(),
    };
    io::stdout().write_all(text.as_bytes()).context("cannot write")?;
    if arguments.write {
        let drawn = curves::draw(report.curves())?;
        let path = workspace::root().join("BENCHMARKS.md");
        fs::write(&path, report.markdown(drawn)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The directory for what is made for measuring.
fn directory() -> Result<PathBuf> {
    let directory = workspace::target().join("xtask/bench");
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    Ok(directory)
}
