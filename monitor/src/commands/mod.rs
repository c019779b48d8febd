//! The commands: one file each, with `run(&its arguments, settings)`.

pub mod arguments;
pub mod check;
pub mod observe;
pub mod replay;
pub mod run;
pub mod version;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};
use tracing_subscriber::EnvFilter;

use crate::config::{ConfigError, Settings, SettingsArgs};
use arguments::{Arguments, Command};

/// Exit code of what went wrong.
const FAILURE: u8 = 1;

/// Exit code of a command line that cannot be read; clap's own.
const USAGE: u8 = 2;

/// Exit code of `check` where the configuration has findings that matter.
const EXPOSED: u8 = 3;

/// Reads the command line and runs the command. What goes wrong is one line on stderr.
pub fn main() -> ExitCode {
    let arguments = match parse(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() => return fail(USAGE, &one_line(&error)),
        Err(help) => {
            // A reader that left before the end of the help needs no more of it.
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    log_to_stderr(&arguments);
    match dispatch(&arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) if error.downcast_ref::<check::Exposed>().is_some() => fail(EXPOSED, &format!("{error}")),
        Err(error) => {
            let usage = error.downcast_ref::<ConfigError>().is_some_and(ConfigError::is_usage);
            fail(if usage { USAGE } else { FAILURE }, &format!("error: {error:#}"))
        }
    }
}

fn dispatch(command: &Command) -> anyhow::Result<()> {
    let load = |settings: &SettingsArgs| Settings::load(settings);
    match command {
        Command::Run(args) => run::run(args, load(&args.settings)?),
        Command::Observe(args) => observe::run(args, load(&args.settings)?),
        Command::Replay(args) => replay::run(args, load(&args.settings)?),
        Command::Check(args) => check::run(args, load(&args.settings)?),
        Command::Version => version::run(),
    }
}

fn parse(words: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Arguments, clap::Error> {
    let mut matches = Arguments::command().try_get_matches_from(words)?;
    Arguments::from_arg_matches_mut(&mut matches)
}

/// clap's error without its paragraphs: what is wrong, its tip, and where help is.
fn one_line(error: &clap::Error) -> String {
    let rendered = error.render().to_string();
    let lines = rendered.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines = lines.filter(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"));
    let line = lines.collect::<Vec<_>>().join("; ");
    format!("{}; see --help", line.replace(":;", ":"))
}

/// Writes what the daemon has to say to stderr: stdout is for results. Data of connections is never logged.
fn log_to_stderr(arguments: &Arguments) {
    let default = match arguments.command {
        Command::Run(_) => "info",
        // What cannot be asked of the cluster is in its answer.
        Command::Check(_) => "warn,monitor::discovery=off",
        _ => "warn",
    };
    let filter = arguments.log_level.as_deref().filter(|level| !level.is_empty()).unwrap_or(default);
    let subscriber = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
        .with_env_filter(without_quotes(EnvFilter::new(filter)));
    // There is a logger already in tests only.
    let _ = subscriber.try_init();
}

/// The client of the Kubernetes API says at any level what it was answered, and the same at each attempt: what has to be
/// known of that is told by `discovery`.
fn without_quotes(filter: EnvFilter) -> EnvFilter {
    ["kube_client=off", "kube_runtime=off", "kube_core=off", "hyper_util=off", "tower=off"]
        .into_iter()
        .filter_map(|directive| directive.parse().ok())
        .fold(filter, EnvFilter::add_directive)
}

fn fail(code: u8, line: &str) -> ExitCode {
    let line = line.split('\n').map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
    // With stderr closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "{line}");
    ExitCode::from(code)
}

/// Whether somebody who read our output has left, as `head` does: that ends a command, but it is no failure.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe))
}

#[cfg(test)]
mod tests;
