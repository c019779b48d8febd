//! Which events a reader wants.

use monitor_common::{Role, SourceClass};

use crate::anonymous::AnonymousRequest;
use crate::classify::{Connection, ExposureKind};
use crate::pipeline::Event;

/// Which events a reader wants; an empty list takes everything. All three have to fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Classes of the client's address.
    pub source: Vec<SourceClass>,
    /// Exposures: an exposure's own kind, or one that its connection has so far.
    pub exposure: Vec<ExposureKind>,
    /// Roles of the port.
    pub role: Vec<Role>,
}

impl Filter {
    /// Whether the event is wanted.
    pub fn wants(&self, event: &Event<'_>) -> bool {
        match *event {
            Event::Connection(connection) | Event::Request(connection, _) => {
                self.wants_ends(connection)
                    && (self.exposure.is_empty()
                        || connection.exposures.iter().any(|kind| self.exposure.contains(kind)))
            }
            Event::Exposure(connection, kind) => {
                self.wants_ends(connection) && (self.exposure.is_empty() || self.exposure.contains(&kind))
            }
            Event::Anonymous(AnonymousRequest { class, flow, exposures, .. }) => {
                (self.source.is_empty() || class.is_some_and(|class| self.source.contains(&class)))
                    && (self.role.is_empty() || flow.as_ref().is_some_and(|(_, to)| self.role.contains(&to.role)))
                    && (self.exposure.is_empty() || exposures.iter().any(|kind| self.exposure.contains(kind)))
            }
            // It has no source, role or exposure to be chosen by.
            Event::Finding(_) => self.source.is_empty() && self.exposure.is_empty() && self.role.is_empty(),
            Event::Probing(probing) => {
                self.role.is_empty()
                    && (self.source.is_empty() || self.source.contains(&probing.class))
                    && (self.exposure.is_empty() || self.exposure.contains(&ExposureKind::AnonymousProbing))
            }
            Event::Port(_) => {
                self.source.is_empty()
                    && (self.exposure.is_empty() || self.exposure.contains(&ExposureKind::PlaintextApi))
                    && (self.role.is_empty() || self.role.contains(&Role::Discovered))
            }
        }
    }

    fn wants_ends(&self, connection: &Connection) -> bool {
        (self.source.is_empty() || self.source.contains(&connection.source.class))
            && (self.role.is_empty() || self.role.contains(&connection.destination.role))
    }

    /// Reads a URL's query: `source=public,private&exposure=plaintext_api&role=secure`, each key any number of times.
    /// The error names what is not known and what would be.
    pub fn from_query(query: &str) -> Result<Self, String> {
        let mut filter = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, words) = pair.split_once('=').unwrap_or((pair, ""));
            // Only commas may stand escaped: no word of ours has another character that needs it.
            let words = words.replace("%2C", ",").replace("%2c", ",");
            match key {
                "source" => extend(&mut filter.source, key, &words, SourceClass::ALL, SourceClass::label)?,
                "exposure" => extend(&mut filter.exposure, key, &words, ExposureKind::ALL, ExposureKind::label)?,
                "role" => extend(&mut filter.role, key, &words, Role::ALL, Role::label)?,
                _ => return Err(format!("unknown key {key:?}: use source, exposure or role")),
            }
        }
        Ok(filter)
    }

    /// The query that [`Filter::from_query`] reads back; empty for a filter that takes everything.
    pub fn to_query(&self) -> String {
        let list = |key: &str, words: Vec<&str>| (!words.is_empty()).then(|| format!("{key}={}", words.join(",")));
        let lists = [
            list("source", self.source.iter().map(|class| class.label()).collect()),
            list("exposure", self.exposure.iter().map(|kind| kind.label()).collect()),
            list("role", self.role.iter().map(|role| role.label()).collect()),
        ];
        lists.into_iter().flatten().collect::<Vec<_>>().join("&")
    }
}

fn extend<T: Copy>(
    list: &mut Vec<T>,
    key: &str,
    words: &str,
    all: &[T],
    label: fn(T) -> &'static str,
) -> Result<(), String> {
    for word in words.split(',') {
        let Some(&item) = all.iter().find(|item| label(**item) == word) else {
            let known: Vec<&str> = all.iter().map(|item| label(*item)).collect();
            return Err(format!("unknown {key} {word:?}: use {}", known.join(", ")));
        };
        list.push(item);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::examples::{anonymous_over_tls, evident, plaintext};
    use super::*;
    use crate::discover::PortState;
    use crate::pipeline::PortChange;

    #[test]
    fn queries_are_read_back() {
        let filter =
            Filter::from_query("source=public%2Cprivate&role=secure&exposure=plaintext_api&role=insecure").unwrap();
        let expected = Filter {
            source: vec![SourceClass::Public, SourceClass::Private],
            exposure: vec![ExposureKind::PlaintextApi],
            role: vec![Role::Secure, Role::Insecure],
        };
        assert_eq!(filter, expected);
        assert_eq!(Filter::from_query(&expected.to_query()), Ok(expected));
        assert_eq!(Filter::from_query(""), Ok(Filter::default()));
        assert_eq!(Filter::default().to_query(), "");
    }

    #[test]
    fn unknown_words_are_named_with_the_known_ones() {
        let error = Filter::from_query("source=publik").unwrap_err();
        assert!(error.contains("publik") && error.contains("cluster_node"), "{error}");
        let error = Filter::from_query("sources=public").unwrap_err();
        assert!(error.contains("sources") && error.contains("exposure"), "{error}");
        assert!(Filter::from_query("role=").is_err());
        assert!(Filter::from_query("role").is_err());
    }

    #[test]
    fn all_three_lists_have_to_fit() {
        let (tls, clear) = (anonymous_over_tls(), plaintext());
        let wants = |query: &str, event: Event<'_>| Filter::from_query(query).unwrap().wants(&event);
        assert!(wants("", Event::Connection(&tls)));
        assert!(wants("source=public,pod", Event::Connection(&tls)));
        assert!(!wants("source=pod", Event::Connection(&tls)));
        assert!(!wants("source=public&role=insecure", Event::Connection(&tls)));
        assert!(!wants("exposure=plaintext_api", Event::Connection(&tls)));
        assert!(wants("exposure=plaintext_api", Event::Request(&clear, 0)));
        assert!(wants("exposure=plaintext_api", Event::Exposure(&clear, ExposureKind::PlaintextApi)));
        assert!(!wants("exposure=plaintext_api", Event::Exposure(&clear, ExposureKind::ExternalSource)));
        let (joined, alone) = (evident(true), evident(false));
        assert!(wants("source=public&role=secure&exposure=anonymous_request", Event::Anonymous(&joined)));
        assert!(wants("source=public", Event::Anonymous(&alone)) && !wants("role=secure", Event::Anonymous(&alone)));
        assert!(!wants("source=pod", Event::Anonymous(&joined)));
        assert!(!wants("exposure=plaintext_api", Event::Anonymous(&joined)));
        let port = PortChange { time: clear.time, port: 31_234, state: PortState::Found };
        assert!(
            wants("", Event::Port(port)) && wants("role=discovered,secure&exposure=plaintext_api", Event::Port(port))
        );
        assert!(!wants("role=secure", Event::Port(port)) && !wants("source=public", Event::Port(port)));
    }
}
