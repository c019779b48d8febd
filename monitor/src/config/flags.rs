//! Settings on the command line and in the environment.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};

use super::{Entry, Given, Kind, Place, TABLE, Words};

/// Heading of the settings in a command's help.
const HEADING: &str = "Settings (flag, environment or configuration file)";

/// The settings that were given on the command line or in the environment; flattened into a command's arguments.
#[derive(Clone, Debug, Default)]
pub struct SettingsArgs {
    /// The configuration file.
    pub(super) config: Option<PathBuf>,
    pub(super) given: Given,
}

impl Args for SettingsArgs {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config").long("config");
        let config = from_variable(config, "API_EXPOSURE_CONFIG")
            .value_name("FILE")
            .help("Configuration file (TOML): the settings below, with underscores (secure_port = [6443])")
            .value_parser(value_parser!(PathBuf))
            .help_heading(HEADING);
        command.arg(config).args(TABLE.iter().map(argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn argument(entry: &'static Entry) -> Arg {
    let long = entry.flag.trim_start_matches('-');
    let argument = from_variable(Arg::new(entry.key).long(long), entry.variable)
        .value_name(entry.value_name)
        .help(entry.meaning)
        .help_heading(HEADING);
    let argument = match entry.default {
        "" => argument,
        default => argument.default_value(default),
    };
    match entry.kind {
        Kind::List => argument.action(ArgAction::Append),
        Kind::One => argument.action(ArgAction::Set),
        Kind::Switch => {
            argument.action(ArgAction::Set).num_args(0..=1).require_equals(true).default_missing_value("true")
        }
    }
}

/// A variable that is set to nothing is as good as not set: charts and units leave such behind.
fn from_variable(argument: Arg, variable: &'static str) -> Arg {
    match std::env::var_os(variable) {
        Some(value) if value.is_empty() => argument,
        _ => argument.env(variable).hide_env_values(true),
    }
}

impl FromArgMatches for SettingsArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self { config: matches.get_one::<PathBuf>("config").cloned(), given: Given::default() };
        for entry in TABLE.iter() {
            let place = match matches.value_source(entry.key) {
                Some(ValueSource::CommandLine) => Place::Flag(entry.flag),
                Some(ValueSource::EnvVariable) => Place::Variable(entry.variable),
                _ => continue,
            };
            let words: Vec<String> = matches.get_many::<String>(entry.key).into_iter().flatten().cloned().collect();
            args.given.0.insert(entry.key, Words { words, place });
        }
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
