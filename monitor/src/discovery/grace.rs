//! What leaves the cluster leaves the tables a little later.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use monitor_common::{Role, SourceClass};

use crate::watch::ClusterWords;

/// For so long a prefix keeps its class and a port stays watched after the API no longer names them: connections that
/// are open then end as what they began.
pub const GRACE: Duration = Duration::from_secs(15);

/// What was named last, and what is on its way out since when.
#[derive(Debug, Default)]
pub struct Grace {
    ports: HashMap<u16, (Role, Option<Instant>)>,
    prefixes: HashMap<IpNet, (SourceClass, Option<Instant>)>,
}

impl Grace {
    /// Whether anything is on its way out: then this wants to be asked again.
    pub fn is_leaving(&self) -> bool {
        self.ports.values().any(|(_, gone)| gone.is_some()) || self.prefixes.values().any(|(_, gone)| gone.is_some())
    }

    /// What is named now, with what was until a moment ago.
    pub fn extend(&mut self, words: ClusterWords, now: Instant) -> ClusterWords {
        ClusterWords {
            ports: extend(&mut self.ports, words.ports, now),
            prefixes: extend(&mut self.prefixes, words.prefixes, now),
        }
    }
}

fn extend<K, V>(kept: &mut HashMap<K, (V, Option<Instant>)>, words: Vec<(K, V)>, now: Instant) -> Vec<(K, V)>
where
    K: Copy + Eq + std::hash::Hash + Ord,
    V: Copy,
{
    let mut words: HashMap<K, V> = words.into_iter().collect();
    kept.retain(|key, (value, gone)| match words.remove(key) {
        Some(new) => {
            (*value, *gone) = (new, None);
            true
        }
        None => now.saturating_duration_since(*gone.get_or_insert(now)) < GRACE,
    });
    kept.extend(words.into_iter().map(|(key, value)| (key, (value, None))));
    let mut all: Vec<(K, V)> = kept.iter().map(|(key, (value, _))| (*key, *value)).collect();
    all.sort_unstable_by_key(|(key, _)| *key);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(ports: &[u16], prefixes: &[(&str, SourceClass)]) -> ClusterWords {
        ClusterWords {
            ports: ports.iter().map(|port| (*port, Role::NodePort)).collect(),
            prefixes: prefixes.iter().map(|(net, class)| (net.parse().unwrap(), *class)).collect(),
        }
    }

    #[test]
    fn what_is_gone_stays_a_moment_and_what_comes_is_there_at_once() {
        let (mut grace, start) = (Grace::default(), Instant::now());
        let both =
            words(&[30_443, 31_443], &[("10.0.0.1/32", SourceClass::ClusterNode), ("10.0.0.2/32", SourceClass::Pod)]);
        let left = words(&[31_443], &[("10.0.0.2/32", SourceClass::ClusterNode)]);
        let mixed = words(
            &[30_443, 31_443],
            &[("10.0.0.1/32", SourceClass::ClusterNode), ("10.0.0.2/32", SourceClass::ClusterNode)],
        );
        assert_eq!(grace.extend(both.clone(), start), both);
        assert!(!grace.is_leaving());
        let gone = start + Duration::from_secs(3_600);
        assert_eq!(grace.extend(left.clone(), gone), mixed, "a class changes at once");
        assert_eq!(grace.extend(left.clone(), gone + GRACE - Duration::from_millis(1)), mixed);
        assert_eq!(grace.extend(both.clone(), gone + GRACE - Duration::from_millis(1)), both, "it came back");
        assert_eq!(grace.extend(left.clone(), gone + GRACE), mixed, "the time begins anew");
        assert!(grace.is_leaving());
        assert_eq!(grace.extend(left.clone(), gone + GRACE * 2), left);
        assert!(!grace.is_leaving());
        assert_eq!(grace.extend(ClusterWords::default(), gone + GRACE * 2), left);
        assert_eq!(grace.extend(ClusterWords::default(), gone + GRACE * 3), ClusterWords::default());
    }
}
