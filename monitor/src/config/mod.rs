//! Settings: each has one name as flag, environment variable and key of the configuration file.
//!
//! They are written down once, in the table of this file: from it come the fields of [`Settings`], the flags with their
//! help, the keys of the file and the reference in the documentation. A flag beats the environment, the environment
//! beats the file, the file beats the default; a list that is given replaces the one that it beats.

mod documentation;
mod error;
mod file;
mod flags;
mod value;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use ipnet::IpNet;
use monitor_common::{Role, closed_set};

pub use documentation::documentation;
pub use error::{ConfigError, Place};
pub use flags::SettingsArgs;
pub(crate) use value::canonical;
use value::{
    AbsolutePath, Address, AddressAndPort, File, HostName, InterfacePattern, Kind, List, Maybe, One, Port, Prefix,
    Setting, Word,
};

/// What environment variables begin with.
const PREFIX: &str = "API_EXPOSURE_";

/// Makes [`Settings`] and [`TABLE`] of one list: what it means (help and reference), key, type, how it is read, default,
/// and the word that stands for the value in help.
macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $key:ident: $type:ty, $setting:ty = $default:literal, $value_name:literal;)+) => {
        /// What decides what is watched and how it is called; the same in every command.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Settings {
            $($(#[doc = $doc])+ pub $key: $type,)+
        }

        impl Settings {
            /// From what was given; the rest is as the defaults say.
            fn from_given(given: &Given) -> Result<Self, ConfigError> {
                Ok(Self { $($key: given.parse::<$setting>(stringify!($key))?,)+ })
            }
        }

        /// Every setting.
        static TABLE: LazyLock<Vec<Entry>> = LazyLock::new(|| vec![
            $(Entry::new::<$setting>(stringify!($key), $default, $value_name, concat!($($doc),+)),)+
        ]);
    };
}

settings! {
    /// Ports where the API server speaks TLS.
    secure_port: Vec<u16>, List<Port> = "6443", "PORT,...";
    /// Ports of the insecure port of releases before 1.20, and of `kubectl proxy`.
    insecure_port: Vec<u16>, List<Port> = "8080,8001", "PORT,...";
    /// NodePorts of the `kubernetes` Service.
    node_port: Vec<u16>, List<Port> = "", "PORT,...";
    /// Interfaces to watch, by name or pattern (`eth*`); none: every interface that is up, `lo` included.
    interface: Vec<String>, List<InterfacePattern> = "", "NAME,...";
    /// Addresses of this node, beside those that were found on its interfaces (`replay` finds none).
    node_address: Vec<IpAddr>, List<Address> = "", "ADDRESS,...";
    /// Where the cluster's nodes have their addresses.
    cluster_node_cidr: Vec<IpNet>, List<Prefix> = "", "CIDR,...";
    /// Where pods have their addresses.
    pod_cidr: Vec<IpNet>, List<Prefix> = "", "CIDR,...";
    /// Where Services have their addresses.
    service_cidr: Vec<IpNet>, List<Prefix> = "", "CIDR,...";
    /// Clients that you vouch for: bastions, health checks of load balancers.
    trusted_cidr: Vec<IpNet>, List<Prefix> = "", "CIDR,...";
    /// Whether a private source (RFC 1918, CGNAT, ULA, link-local) that is in none of the ranges above counts as
    /// external, as a public one does.
    private_is_external: bool, One<bool> = "false", "true|false";
    /// Names by which clients from outside the cluster may reach the API server, beside Kubernetes' own (SNI).
    expected_sni: Vec<String>, List<HostName> = "", "NAME,...";
    /// Whether the API server answers an unauthenticated first request over HTTP/2 with GOAWAY, as 1.29 and later do by
    /// default; `auto`: once it was seen to.
    unauthenticated_goaway: UnauthenticatedGoaway, One<Word<UnauthenticatedGoaway>> = "auto", "auto|on|off";
    /// Whether an API in the clear is looked for on ports that are named nowhere: a request to an API server's path
    /// there makes the port watched, until a reply shows that it is something else.
    discover_plaintext: OnOff, One<Word<OnOff>> = "on", "on|off";
    /// Whether the API servers of this node are probed: which requests reach them without a credential is then known
    /// from them exactly. Needs more privilege than packets do; `check` says which.
    probe: OnOff, One<Word<OnOff>> = "off", "on|off";
    /// Address and port where `/metrics`, `/livez`, `/readyz` and `/events` are served.
    listen: SocketAddr, One<AddressAndPort> = "127.0.0.1:9464", "ADDRESS:PORT";
    /// Whether generic XDP counts where an interface has no native one; otherwise TC counts there.
    xdp_generic: bool, One<bool> = "false", "true|false";
    /// Whether TC attaches by tcx where the kernel has it (6.6 and later); otherwise by a clsact qdisc.
    tcx: bool, One<bool> = "true", "true|false";
    /// The API server's audit log, the file of its `--audit-log-path` in JSON: it is followed for requests without a
    /// credential, those refused with 401, and nodes' writes that NodeRestriction refused.
    audit_log: Option<PathBuf>, Maybe<AbsolutePath> = "", "PATH";
    /// File in which the position in the audit log is kept over restarts. Without it, and the first time, the log is
    /// followed from its end.
    audit_state: Option<PathBuf>, Maybe<AbsolutePath> = "", "PATH";
    /// Whether the Kubernetes API is asked, and followed, for what it knows of the cluster: addresses of nodes, ranges of
    /// pods and Services, ports of the API server; `auto`: where there are credentials, of a kubeconfig or of the pod.
    /// What is named by flags comes first.
    discovery: DiscoveryMode, One<Word<DiscoveryMode>> = "auto", "auto|kubernetes|none";
    /// Kubeconfig with the credentials for that; otherwise those of the pod's service account are taken.
    kubeconfig: Option<PathBuf>, Maybe<File> = "", "FILE";
    /// Static pod manifest of the API server, whose configuration is judged where its process is not seen; kubeadm's,
    /// where there is one.
    manifest: Option<PathBuf>, Maybe<AbsolutePath> = "", "PATH";
    /// How results are printed; each command has its own formats and default.
    output: Option<Output>, Maybe<Word<Output>> = "", "FORMAT";
}

closed_set! {
    /// Whether the server is known to answer an unauthenticated first request over HTTP/2 with GOAWAY.
    UnauthenticatedGoaway {
        /// Learned from the self-probe or from a GOAWAY of that server.
        Auto = "auto",
        /// It does (Kubernetes 1.29 and later by default).
        On = "on",
        /// It does not.
        Off = "off",
    }
}

closed_set! {
    /// Whether something is done.
    OnOff {
        /// It is.
        On = "on",
        /// It is not.
        Off = "off",
    }
}

closed_set! {
    /// Whether the Kubernetes API is asked what it knows of the cluster.
    DiscoveryMode {
        /// Where there are credentials for it.
        Auto = "auto",
        /// It is: without usable credentials nothing starts.
        Kubernetes = "kubernetes",
        /// It is not.
        None = "none",
    }
}

closed_set! {
    /// How results are printed.
    Output {
        /// A line each, for people.
        Text = "text",
        /// A summary for people.
        Table = "table",
        /// A line of JSON each.
        Json = "json",
        /// As `/metrics` has it.
        Metrics = "metrics",
    }
}

impl Default for Settings {
    fn default() -> Self {
        #[expect(clippy::expect_used, reason = "the defaults stand in this file, and a test reads them")]
        Self::from_given(&Given::default()).expect("defaults are valid")
    }
}

impl Settings {
    /// The settings, by flag, environment, file and default, in this order.
    ///
    /// # Errors
    /// The first thing that is wrong, by name, with the way out.
    pub fn load(args: &SettingsArgs) -> Result<Self, ConfigError> {
        let mut given = Given::default();
        if let Some(path) = &args.config {
            given = file::read(path)?;
        }
        given.0.extend(args.given.0.iter().map(|(key, words)| (*key, words.clone())));
        Self::from_all(&given)
    }

    /// The settings of a configuration file's text alone; `path` is its name in errors.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn from_toml(path: &Path, text: &str) -> Result<Self, ConfigError> {
        Self::from_all(&file::parse(path, text)?)
    }

    fn from_all(given: &Given) -> Result<Self, ConfigError> {
        let mut settings = Self::from_given(given)?;
        settings.let_given_ports_beat_defaults(given);
        settings.validate()?;
        Ok(settings)
    }

    /// `--secure-port 8080` says that 8080 is no insecure port, though that is so by default.
    fn let_given_ports_beat_defaults(&mut self, given: &Given) {
        let is_given = |key: &str| given.0.contains_key(key);
        let all: Vec<u16> = self
            .roles()
            .iter()
            .filter(|(key, ..)| is_given(key))
            .flat_map(|(_, _, ports)| ports.iter().copied())
            .collect();
        let lists = [("secure_port", &mut self.secure_port), ("insecure_port", &mut self.insecure_port)];
        for (_, ports) in lists.into_iter().filter(|(key, _)| !is_given(key)) {
            ports.retain(|port| !all.contains(port));
        }
    }

    /// Whether the settings fit together.
    ///
    /// # Errors
    /// A port with two roles, or no port at all.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut roles: HashMap<u16, &'static str> = HashMap::new();
        for (key, _, ports) in self.roles() {
            for port in ports {
                match roles.insert(*port, key) {
                    Some(other) if other != key => {
                        return Err(ConfigError::TwoRoles {
                            port: *port,
                            one: entry(other).flag,
                            other: entry(key).flag,
                        });
                    }
                    _ => {}
                }
            }
        }
        if roles.is_empty() {
            return Err(ConfigError::NothingToWatch);
        }
        Ok(())
    }

    /// The ports to watch: key of the setting, role, ports.
    pub(crate) fn roles(&self) -> [(&'static str, Role, &[u16]); 3] {
        [
            ("secure_port", Role::Secure, &self.secure_port),
            ("insecure_port", Role::Insecure, &self.insecure_port),
            ("node_port", Role::NodePort, &self.node_port),
        ]
    }

    /// Whether this port has this role only because that is so by default.
    pub(crate) fn is_default_port(&self, port: u16, role: Role) -> bool {
        const SECURE: &[u16] = &[6443];
        const INSECURE: &[u16] = &[8080, 8001];
        let (ports, default) = match role {
            Role::Secure => (&self.secure_port, SECURE),
            Role::Insecure => (&self.insecure_port, INSECURE),
            _ => return false,
        };
        // What was given may have taken ports from the default; it has others besides.
        default.contains(&port) && ports.iter().all(|port| default.contains(port))
    }

    /// How a command prints its results: as asked for, else in the first of its `formats`.
    ///
    /// # Errors
    /// The format that is asked for (by a file that is shared between commands) is none of this command's.
    pub fn output_of(&self, command: &'static str, formats: &'static [Output]) -> Result<Output, ConfigError> {
        match self.output {
            Some(output) if formats.contains(&output) => Ok(output),
            Some(output) => Err(ConfigError::Output { command, output, formats }),
            None => Ok(formats.first().copied().unwrap_or(Output::Text)),
        }
    }
}

/// One setting, as help and documentation show it.
#[derive(Debug)]
struct Entry {
    /// Key of the configuration file.
    key: &'static str,
    /// Flag, with its dashes.
    flag: &'static str,
    /// Environment variable.
    variable: &'static str,
    /// What stands for the value in help.
    value_name: &'static str,
    /// As one would write it behind the flag; empty: nothing.
    default: &'static str,
    /// In a sentence, with the unit.
    meaning: &'static str,
    /// What a value has to be.
    expected: String,
    /// How many values it takes.
    kind: Kind,
}

impl Entry {
    fn new<S: Setting>(key: &'static str, default: &'static str, value_name: &'static str, meaning: &str) -> Self {
        // The table is made once in a process and lives as long; clap takes names of that life only.
        Self {
            key,
            flag: String::leak(format!("--{}", key.replace('_', "-"))),
            variable: String::leak(format!("{PREFIX}{}", key.to_ascii_uppercase())),
            value_name,
            default,
            meaning: String::leak(meaning.split_whitespace().collect::<Vec<_>>().join(" ")),
            expected: S::expected(),
            kind: S::KIND,
        }
    }
}

/// The entry with this key. The keys are those of the table, by the macro; another one would be the first entry.
fn entry(key: &str) -> &'static Entry {
    let table: &'static [Entry] = &TABLE;
    table.iter().find(|entry| entry.key == key).unwrap_or(&table[0])
}

/// What was given for settings, by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Given(HashMap<&'static str, Words>);

/// The value of one setting as it was written, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Words {
    words: Vec<String>,
    place: Place,
}

impl Given {
    fn parse<S: Setting>(&self, key: &'static str) -> Result<S::Value, ConfigError> {
        let entry = entry(key);
        match self.0.get(key) {
            Some(Words { words, place }) => S::parse(words).map_err(|value| ConfigError::Value {
                place: place.clone(),
                value,
                expected: entry.expected.clone(),
            }),
            None => S::parse(&[entry.default.to_owned()]).map_err(|value| ConfigError::Value {
                place: Place::Default(entry.key),
                value,
                expected: entry.expected.clone(),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
