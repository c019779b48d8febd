//! How the values of settings are read: the same for a flag, an environment variable and the configuration file.

use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net};

use super::{DiscoveryMode, OnOff, Output, UnauthenticatedGoaway};

/// How many values a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any number, separated by commas or given several times.
    List,
    /// One.
    One,
    /// `true` or `false`; the flag alone says `true`.
    Switch,
}

/// How a setting is read.
pub trait Setting {
    /// What it makes.
    type Value;
    /// How many values it takes.
    const KIND: Kind;

    /// What a value has to be, in words that fit behind "expected".
    fn expected() -> String;

    /// Reads what was given; the error is the piece that is wrong.
    fn parse(words: &[String]) -> Result<Self::Value, String>;
}

/// One value.
pub trait Item {
    /// What it makes.
    type Value: PartialEq;
    /// Of how many values a setting of one such item is.
    const KIND: Kind = Kind::One;

    /// What it has to be.
    fn expected() -> String;

    /// Reads it.
    fn parse(word: &str) -> Option<Self::Value>;
}

/// Any number of items, each once, in the order given. An empty word is an empty list.
pub struct List<I>(PhantomData<I>);

impl<I: Item> Setting for List<I> {
    type Value = Vec<I::Value>;
    const KIND: Kind = Kind::List;

    fn expected() -> String {
        format!("{}, or several separated by commas", I::expected())
    }

    fn parse(words: &[String]) -> Result<Self::Value, String> {
        let mut items = Vec::new();
        for word in words.iter().filter(|word| !word.trim().is_empty()) {
            for word in word.split(',') {
                let item = I::parse(word.trim()).ok_or_else(|| word.trim().to_owned())?;
                if !items.contains(&item) {
                    items.push(item);
                }
            }
        }
        Ok(items)
    }
}

/// Exactly one item.
pub struct One<I>(PhantomData<I>);

impl<I: Item> Setting for One<I> {
    type Value = I::Value;
    const KIND: Kind = I::KIND;

    fn expected() -> String {
        I::expected()
    }

    fn parse(words: &[String]) -> Result<Self::Value, String> {
        match words {
            [word] => I::parse(word.trim()).ok_or_else(|| word.clone()),
            words => Err(words.join(",")),
        }
    }
}

/// One item or, as an empty word, none.
pub struct Maybe<I>(PhantomData<I>);

impl<I: Item> Setting for Maybe<I> {
    type Value = Option<I::Value>;
    const KIND: Kind = I::KIND;

    fn expected() -> String {
        I::expected()
    }

    fn parse(words: &[String]) -> Result<Self::Value, String> {
        match words {
            [word] if word.trim().is_empty() => Ok(None),
            words => One::<I>::parse(words).map(Some),
        }
    }
}

/// A TCP port.
pub struct Port;

impl Item for Port {
    type Value = u16;

    fn expected() -> String {
        "a port from 1 to 65535".into()
    }

    fn parse(word: &str) -> Option<u16> {
        word.parse().ok().filter(|port| *port != 0)
    }
}

/// An IP address; IPv4-mapped IPv6 is IPv4.
pub struct Address;

impl Item for Address {
    type Value = IpAddr;

    fn expected() -> String {
        "an IPv4 or IPv6 address".into()
    }

    fn parse(word: &str) -> Option<IpAddr> {
        word.parse().ok().map(|address: IpAddr| address.to_canonical())
    }
}

/// A range of addresses, or one address. Bits behind the prefix length are cut off, as kube-apiserver does it with
/// `--service-cluster-ip-range` (Go's net.ParseCIDR): `10.96.0.1/12` is `10.96.0.0/12`.
pub struct Prefix;

impl Item for Prefix {
    type Value = IpNet;

    fn expected() -> String {
        "a CIDR such as 10.0.0.0/8 or fd00::/8, or an address".into()
    }

    fn parse(word: &str) -> Option<IpNet> {
        let net = if word.contains('/') { word.parse().ok()? } else { IpNet::from(word.parse::<IpAddr>().ok()?) };
        Some(canonical(net))
    }
}

/// IPv4-mapped IPv6 (RFC 4291 section 2.5.5.2) as IPv4, bits behind the prefix length cut off.
pub(crate) fn canonical(net: IpNet) -> IpNet {
    let IpNet::V6(mapped) = net else { return net.trunc() };
    let ipv4 = mapped.addr().to_ipv4_mapped().zip(mapped.prefix_len().checked_sub(96));
    let ipv4 = ipv4.and_then(|(address, length)| Ipv4Net::new(address, length).ok());
    ipv4.map_or(net, IpNet::V4).trunc()
}

/// Name of an interface, or a pattern.
pub struct InterfacePattern;

impl Item for InterfacePattern {
    type Value = String;

    fn expected() -> String {
        "the name of an interface, or a pattern such as eth*".into()
    }

    fn parse(word: &str) -> Option<String> {
        let refused = |letter: char| letter.is_whitespace() || letter.is_control() || letter == '/';
        (!word.is_empty() && !word.contains(refused)).then(|| word.to_owned())
    }
}

/// A host name, in lower case and without a dot at its end.
pub struct HostName;

impl Item for HostName {
    type Value = String;

    fn expected() -> String {
        "a host name such as api.example.com".into()
    }

    fn parse(word: &str) -> Option<String> {
        let name = word.strip_suffix('.').unwrap_or(word);
        let allowed = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
        let labels_have_letters = name.split('.').all(|label| !label.is_empty());
        (labels_have_letters && name.len() <= 253 && name.chars().all(allowed)).then(|| name.to_ascii_lowercase())
    }
}

/// Path of a file.
pub struct File;

impl Item for File {
    type Value = PathBuf;

    fn expected() -> String {
        "the path of a file".into()
    }

    fn parse(word: &str) -> Option<PathBuf> {
        (!word.is_empty() && !word.contains('\0')).then(|| PathBuf::from(word))
    }
}

/// Where to listen.
pub struct AddressAndPort;

impl Item for AddressAndPort {
    type Value = SocketAddr;

    fn expected() -> String {
        "an address and a port from 1 to 65535, such as 127.0.0.1:9464 or [::1]:9464".into()
    }

    fn parse(word: &str) -> Option<SocketAddr> {
        word.parse().ok().filter(|address: &SocketAddr| address.port() != 0)
    }
}

/// The absolute path of a file.
pub struct AbsolutePath;

impl Item for AbsolutePath {
    type Value = PathBuf;

    fn expected() -> String {
        "the absolute path of a file, such as /var/log/kubernetes/audit.log".into()
    }

    fn parse(word: &str) -> Option<PathBuf> {
        let path = PathBuf::from(word);
        (path.is_absolute() && path.file_name().is_some()).then_some(path)
    }
}

impl Item for bool {
    type Value = bool;
    const KIND: Kind = Kind::Switch;

    fn expected() -> String {
        "true or false".into()
    }

    fn parse(word: &str) -> Option<bool> {
        word.parse().ok()
    }
}

/// A word of a closed set.
pub struct Word<S>(PhantomData<S>);

macro_rules! word {
    ($($set:ty),+) => { $(
        impl Item for Word<$set> {
            type Value = $set;

            fn expected() -> String {
                let words: Vec<&str> = <$set>::ALL.iter().map(|item| item.label()).collect();
                format!("one of {}", words.join(", "))
            }

            fn parse(word: &str) -> Option<$set> {
                <$set>::from_label(word)
            }
        }
    )+ };
}

word!(UnauthenticatedGoaway, OnOff, DiscoveryMode, Output);
