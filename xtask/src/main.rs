//! The project's manual: each command is one file (or folder) here, a variant and a line below.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod build;
mod chart;
mod dashboards;
mod demo;
mod docs;
mod e2e;
mod image;
mod interrupt;
mod lab;
mod setup;
mod terminal;
mod test;
mod tidy;
mod vm;
mod workspace;

/// What a developer or a newcomer does with api-exposure-monitor. Each command does its own set-up first.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Setup(setup::Arguments),
    Build(build::Arguments),
    Bench(bench::Arguments),
    Dashboards(dashboards::Arguments),
    Chart(chart::Arguments),
    Demo(demo::Arguments),
    Docs(docs::Arguments),
    E2e(e2e::Arguments),
    Image(image::Arguments),
    Test(test::Arguments),
    Tidy(tidy::Arguments),
    Vm(vm::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = setup::extend_path().and_then(|()| interrupt::install()).and_then(|()| match arguments.command {
        Command::Setup(arguments) => setup::run(&arguments),
        Command::Build(arguments) => build::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Dashboards(arguments) => dashboards::run(&arguments),
        Command::Chart(arguments) => chart::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Docs(arguments) => docs::run(&arguments),
        Command::Image(arguments) => image::run(&arguments),
        Command::E2e(arguments) => e2e::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Tidy(arguments) => tidy::run(&arguments),
        Command::Vm(arguments) => vm::run(&arguments),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
