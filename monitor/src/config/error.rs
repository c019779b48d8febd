//! What can be wrong with settings: one line each, with the name of the thing and the way out.

use std::fmt;
use std::path::PathBuf;

use super::Output;

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The configuration file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Unreadable {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration file is no TOML.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// Its path.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// The configuration file has a key that is no setting.
    #[error("{}:{line}: unknown key `{key}`: did you mean `{nearest}`?", path.display())]
    UnknownKey {
        /// Its path.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The key.
        key: String,
        /// The setting whose name is nearest.
        nearest: &'static str,
    },
    /// A value that its setting does not take.
    #[error("{}: expected {expected}", place.with(value))]
    Value {
        /// Where it was given.
        place: Place,
        /// The value, of a list the item.
        value: String,
        /// What a value has to be.
        expected: String,
    },
    /// One port has two roles.
    #[error("port {port} is given with {one} and with {other}: take it out of one of them")]
    TwoRoles {
        /// The port.
        port: u16,
        /// One flag.
        one: &'static str,
        /// The other flag.
        other: &'static str,
    },
    /// No port is left.
    #[error("no port is watched: name one with --secure-port, --insecure-port or --node-port")]
    NothingToWatch,
    /// A format that the command does not print.
    #[error("output `{}`: `{command}` prints {}", output.label(), words(formats))]
    Output {
        /// The command.
        command: &'static str,
        /// What was asked for.
        output: Output,
        /// What it prints.
        formats: &'static [Output],
    },
}

impl ConfigError {
    /// Whether the command line is wrong, which ends with the exit code of a usage error.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Value { place: Place::Flag(_), .. })
    }
}

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: it is the default of this key.
    Default(&'static str),
    /// On the command line, by this flag.
    Flag(&'static str),
    /// In this environment variable.
    Variable(&'static str),
    /// In the configuration file.
    File {
        /// Its path.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The key.
        key: &'static str,
    },
}

impl Place {
    /// The place with this value, as one would write it there.
    fn with<'a>(&'a self, value: &'a str) -> impl fmt::Display + 'a {
        fmt::from_fn(move |f| match self {
            Self::Default(key) => write!(f, "default of {key} `{value}`"),
            Self::Flag(flag) => write!(f, "{flag} `{value}`"),
            Self::Variable(variable) => write!(f, "{variable}=`{value}`"),
            Self::File { path, line, key } => write!(f, "{}:{line}: {key} = `{value}`", path.display()),
        })
    }
}

fn words(formats: &[Output]) -> String {
    formats.iter().map(|format| format.label()).collect::<Vec<_>>().join(", ")
}
