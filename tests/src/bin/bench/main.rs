//! What `cargo xtask bench` measures with the kernel half in hand: prints one JSON object of figures.

use std::process::ExitCode;

use anyhow::{Result, bail};

mod busy;
mod curves;
mod daemon;
mod flows;
mod load;
mod peers;
mod program;
mod programs;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<()> {
    match arguments {
        ["programs"] => programs::measure(),
        ["curves"] => curves::measure(),
        ["busy", monitor, pairs] => busy::measure(monitor, pairs.parse()?),
        ["load", monitor, suricata, traffic] => load::measure(monitor, suricata, traffic),
        ["flows", monitor, count] => flows::measure(monitor, count.parse()?),
        _ => bail!("this is a part of `cargo xtask bench`: run that"),
    }
}
