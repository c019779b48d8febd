//! The command line of an API server, read as Kubernetes' own programs read it: pflag, on top of cobra.

use std::collections::HashMap;

/// Flags that take no value of their own: `--flag` alone says true (pflag's `NoOptDefVal` of a bool).
const SWITCHES: [&str; 6] = [
    "anonymous-auth",
    "profiling",
    "allow-privileged",
    "enable-bootstrap-token-auth",
    "contention-profiling",
    "version",
];

/// Flags whose values add up when they are given several times (pflag's string slices); of others the last counts.
const LISTS: [&str; 4] =
    ["authorization-mode", "enable-admission-plugins", "disable-admission-plugins", "admission-control"];

/// The flags of a command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments(HashMap<String, String>);

impl Arguments {
    /// Reads the words behind the program's name. What is no flag is left alone.
    pub fn read<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut flags = HashMap::<String, String>::new();
        let mut words = words.into_iter().peekable();
        while let Some(word) = words.next() {
            if word == "--" {
                break;
            }
            let Some(rest) = word.strip_prefix("--").filter(|rest| !rest.is_empty()) else { continue };
            let (name, value) = match rest.split_once('=') {
                Some((name, value)) => (name, value.to_owned()),
                None if SWITCHES.contains(&rest.replace('_', "-").as_str()) => (rest, "true".to_owned()),
                // pflag takes the next word whatever it is; a flag there means that this one is a switch we do not know.
                None => (rest, words.next_if(|next| !next.starts_with("--")).unwrap_or("true").to_owned()),
            };
            // WordSepNormalizeFunc (component-base/cli/flag/flags.go): both separators are the same.
            let name = name.replace('_', "-");
            let before = flags.get(&name).filter(|_| LISTS.contains(&name.as_str()));
            let value = before.map_or_else(|| value.clone(), |before| format!("{before},{value}"));
            flags.insert(name, value);
        }
        Self(flags)
    }

    /// The value of a flag; `None` where it is not given.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The value of a flag that says true or false, as Go's strconv.ParseBool reads it; `None` where it is not given or
    /// says neither (then the API server would not have started).
    pub fn switch(&self, name: &str) -> Option<bool> {
        match self.get(name)? {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
            _ => None,
        }
    }

    /// The items of a flag that is a list; `None` where it is not given.
    pub fn list(&self, name: &str) -> Option<Vec<&str>> {
        Some(self.get(name)?.split(',').map(str::trim).filter(|item| !item.is_empty()).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn flags_are_read_as_pflag_reads_them() {
        let read = Arguments::read(
            "--secure-port=6443 --insecure_port 0 --anonymous-auth --profiling=false stray --authorization-mode=Node \
             --authorization-mode=RBAC,Webhook --etcd-servers=a=b --secure-port=7443 --audit-log-path - -- --x=y"
                .split(' ')
                .filter(|word| !word.is_empty()),
        );
        assert_eq!(read.get("secure-port"), Some("7443"), "the last one counts");
        assert_eq!(read.get("insecure-port"), Some("0"));
        assert_eq!((read.switch("anonymous-auth"), read.switch("profiling")), (Some(true), Some(false)));
        assert_eq!(read.list("authorization-mode"), Some(vec!["Node", "RBAC", "Webhook"]));
        assert_eq!(read.get("etcd-servers"), Some("a=b"));
        assert_eq!(read.get("audit-log-path"), Some("-"));
        assert_eq!((read.get("x"), read.get("token-auth-file"), read.switch("secure-port")), (None, None, None));
    }

    proptest! {
        #[test]
        fn whatever_the_words_are_nothing_panics(words in proptest::collection::vec("[-=_a-z,]{0,12}", 0..12)) {
            let read = Arguments::read(words.iter().map(String::as_str));
            for name in read.0.keys() {
                prop_assert!(read.get(name).is_some() && read.list(name).is_some());
            }
        }

        #[test]
        fn both_ways_to_give_a_value_say_the_same(name in "[a-z]{3,9}", value in "[a-z0-9./]{1,9}") {
            let (joined, flag) = (format!("--{name}={value}"), format!("--{name}"));
            prop_assume!(!SWITCHES.contains(&name.as_str()));
            prop_assert_eq!(Arguments::read([joined.as_str()]), Arguments::read([flag.as_str(), value.as_str()]));
        }
    }
}
