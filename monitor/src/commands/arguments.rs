//! The command line.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Arg, Args, Parser, Subcommand};
use monitor_common::{Role, SourceClass};
use tracing_subscriber::EnvFilter;

use crate::classify::ExposureKind;
use crate::config::{Output, SettingsArgs};
use crate::configuration::Severity;
use crate::export::Filter;

/// Tells from packets who reaches a Kubernetes API server, from where, over what and with which credential.
#[derive(Debug, Parser)]
#[command(name = "api-exposure-monitor", version, disable_help_subcommand = true, arg_required_else_help = false)]
pub struct Arguments {
    /// What is logged on stderr: error, warn, info, debug, trace, or a filter such as
    /// info,monitor=debug; `run` says info by default, the others warn.
    #[arg(long, global = true, env = "RUST_LOG", hide_env_values = true, value_name = "LEVEL", value_parser = log_level)]
    pub log_level: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch this node: attach to its interfaces, serve metrics and events until stopped.
    Run(RunArgs),
    /// Print connections and exposures as they happen: those of a running monitor, else of this node.
    Observe(ObserveArgs),
    /// Read capture files (pcap, pcapng) as if their packets came by; needs no privilege.
    Replay(ReplayArgs),
    /// Say what would work here and what not, before anything is attached.
    Check(CheckArgs),
    /// Print the version and what this binary was built for.
    Version,
}

/// Arguments of `run`.
#[derive(Args, Clone, Debug)]
#[command(mut_arg("output", |output| output.hide(true)))]
pub struct RunArgs {
    /// The settings.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// Arguments of `observe`.
#[derive(Args, Clone, Debug)]
#[command(mut_arg("output", |output| formats(output, ObserveArgs::FORMATS)))]
pub struct ObserveArgs {
    /// Only of clients in these classes.
    #[arg(long, value_name = "CLASS,...", value_delimiter = ',', value_parser = words(SourceClass::ALL, SourceClass::label))]
    pub source: Vec<String>,
    /// Only these exposures, and connections that have one of them.
    #[arg(long, value_name = "KIND,...", value_delimiter = ',', value_parser = words(ExposureKind::ALL, ExposureKind::label))]
    pub exposure: Vec<String>,
    /// Only on ports in these roles.
    #[arg(long, value_name = "ROLE,...", value_delimiter = ',', value_parser = words(Role::ALL, Role::label))]
    pub role: Vec<String>,
    /// Address of a running monitor (http://HOST:PORT); without it, the monitor at --listen, else this node itself.
    #[arg(long, value_name = "URL")]
    pub from: Option<String>,
    /// The settings.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

impl ObserveArgs {
    /// What it prints, the default first.
    pub const FORMATS: &[Output] = &[Output::Text, Output::Json];

    /// Which events are wanted.
    pub fn filter(&self) -> Filter {
        Filter {
            source: members(&self.source, SourceClass::from_label),
            exposure: members(&self.exposure, ExposureKind::from_label),
            role: members(&self.role, Role::from_label),
        }
    }
}

/// Arguments of `replay`.
#[derive(Args, Clone, Debug)]
#[command(mut_arg("output", |output| formats(output, ReplayArgs::FORMATS)))]
pub struct ReplayArgs {
    /// Capture files, read one after the other; `-` is standard input (`tcpdump -w - | api-exposure-monitor replay -`).
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The settings.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

impl ReplayArgs {
    /// What it prints, the default first.
    pub const FORMATS: &[Output] = &[Output::Table, Output::Json, Output::Metrics];
}

/// Arguments of `check`.
#[derive(Args, Clone, Debug)]
#[command(mut_arg("output", |output| formats(output, CheckArgs::FORMATS)))]
pub struct CheckArgs {
    /// Only judge the API server's configuration.
    #[arg(long)]
    pub configuration_only: bool,
    /// End with code 3 where the configuration has a finding of this severity or worse; `never`: whatever it has.
    #[arg(long, value_name = "SEVERITY", default_value = "high", value_parser = severities())]
    pub fail_on: String,
    /// The settings.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

impl CheckArgs {
    /// What it prints, the default first.
    pub const FORMATS: &[Output] = &[Output::Table, Output::Json];
}

fn severities() -> PossibleValuesParser {
    PossibleValuesParser::new(Severity::ALL.iter().map(|severity| severity.label()).chain(["never"]))
}

/// The setting `output` with the formats of this command.
fn formats(output: Arg, formats: &[Output]) -> Arg {
    let default = formats.first().map_or("", |format| format.label());
    output
        .value_parser(PossibleValuesParser::new(formats.iter().map(|format| format.label())))
        .help(format!("How results are printed; {default} by default."))
}

fn words<T: Copy>(all: &'static [T], label: fn(T) -> &'static str) -> PossibleValuesParser {
    PossibleValuesParser::new(all.iter().map(|item| label(*item)))
}

/// The words are members of the set: clap takes no others.
fn members<T>(words: &[String], from_label: fn(&str) -> Option<T>) -> Vec<T> {
    words.iter().filter_map(|word| from_label(word)).collect()
}

fn log_level(filter: &str) -> Result<String, String> {
    match EnvFilter::builder().parse(filter) {
        Ok(_) => Ok(filter.to_owned()),
        Err(error) => Err(format!("{error}: use error, warn, info, debug, trace or a list of TARGET=LEVEL")),
    }
}
