//! Bursts of refusals: a client that tries what it may not.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::time::{Duration, SystemTime};

use lru::LruCache;
use monitor_common::SourceClass;

use crate::inspect::Evidence;

/// So many refusals (401, or 403 without a credential) of one address within [`WINDOW`] are a burst. A client whose
/// credential has just expired tries again some times a minute at the most; a scanner tries dozens of paths in seconds.
pub const REFUSALS: usize = 20;

/// How long a burst is, and how long nothing more is told of an address after it.
pub const WINDOW: Duration = Duration::from_secs(60);

/// Addresses that are remembered; those that were refused least recently are forgotten. With the times of their
/// refusals about 3 MiB.
const ADDRESSES: NonZeroUsize = NonZeroUsize::new(4_096).expect("more than zero");

/// A burst of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probing {
    /// When the refusal came that made it one.
    pub time: SystemTime,
    /// Whose requests were refused.
    pub ip: IpAddr,
    /// Where that address belongs.
    pub class: SourceClass,
    /// Where it is known from.
    pub evidence: Evidence,
}

/// What was refused lately.
#[derive(Debug)]
pub struct Refusals(LruCache<IpAddr, Address>);

#[derive(Debug, Default)]
struct Address {
    told: Option<SystemTime>,
    /// One request may be known from several sources: they are not added up.
    by_evidence: Vec<(Evidence, VecDeque<SystemTime>)>,
}

impl Default for Refusals {
    fn default() -> Self {
        Self(LruCache::new(ADDRESSES))
    }
}

impl Refusals {
    /// A request of this address was refused. Gives a burst once in [`WINDOW`] for each address.
    pub fn refused(&mut self, ip: IpAddr, class: SourceClass, evidence: Evidence, time: SystemTime) -> Option<Probing> {
        let address = self.0.get_or_insert_mut(ip, Address::default);
        let at = match address.by_evidence.iter().position(|(of, _)| *of == evidence) {
            Some(at) => at,
            None => {
                address.by_evidence.push((evidence, VecDeque::with_capacity(REFUSALS)));
                address.by_evidence.len() - 1
            }
        };
        let (_, times) = address.by_evidence.get_mut(at)?;
        if times.len() >= REFUSALS {
            times.pop_front();
        }
        times.push_back(time);
        let burst = times.len() >= REFUSALS && times.front().is_some_and(|first| !is_over(time, *first));
        if !burst || address.told.is_some_and(|told| !is_over(time, told)) {
            return None;
        }
        address.told = Some(time);
        Some(Probing { time, ip, class, evidence })
    }
}

/// Whether the window that began then has ended. Times that run backwards end none.
fn is_over(now: SystemTime, since: SystemTime) -> bool {
    now.duration_since(since).is_ok_and(|age| age > WINDOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 7));

    fn at(milliseconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000 + milliseconds)
    }

    /// Refusals at these times, in milliseconds; at which of them a burst was told.
    fn told(refusals: &mut Refusals, evidence: Evidence, times: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let refused = |time: &u64| refusals.refused(IP, SourceClass::Public, evidence, at(*time)).is_some();
        times.into_iter().filter(refused).collect()
    }

    #[test]
    fn a_burst_is_told_once_in_a_window() {
        let mut refusals = Refusals::default();
        assert_eq!(told(&mut refusals, Evidence::Audit, 0..19), [0; 0]);
        let probing = refusals.refused(IP, SourceClass::Public, Evidence::Audit, at(19));
        assert_eq!(
            probing,
            Some(Probing { time: at(19), ip: IP, class: SourceClass::Public, evidence: Evidence::Audit })
        );
        assert_eq!(told(&mut refusals, Evidence::Audit, (20..180_000).step_by(1_000)), [60_020, 121_020]);
    }

    #[test]
    fn a_slow_client_is_none() {
        // Twenty within a bit more than a minute, for ever.
        assert_eq!(told(&mut Refusals::default(), Evidence::Audit, (0..2_000).map(|number| number * 3_170)), [0; 0]);
        assert_eq!(told(&mut Refusals::default(), Evidence::Audit, (0..25).map(|number| number * 3_157)), [19 * 3_157]);
    }

    #[test]
    fn evidence_of_several_kinds_is_not_added_up_and_told_once() {
        let mut refusals = Refusals::default();
        for time in 0..19 {
            assert_eq!(told(&mut refusals, Evidence::Audit, [time]), [0; 0]);
            assert_eq!(told(&mut refusals, Evidence::Goaway, [time]), [0; 0]);
        }
        assert_eq!(told(&mut refusals, Evidence::Goaway, [30]), [30]);
        assert_eq!(told(&mut refusals, Evidence::Audit, [31]), [0; 0]);
    }

    #[test]
    fn addresses_are_apart_and_bounded() {
        let mut refusals = Refusals::default();
        for number in 0..2 * ADDRESSES.get() as u32 {
            let ip = IpAddr::V4(std::net::Ipv4Addr::from(number));
            assert_eq!(refusals.refused(ip, SourceClass::Public, Evidence::Audit, at(0)), None);
        }
        assert_eq!(refusals.0.len(), ADDRESSES.get());
    }
}
