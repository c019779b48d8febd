//! What became of the requests that the probe saw: the audit log's word, matched by client, method, path and time.
//!
//! An audit event has no port. So of equal requests of one address, the first hit takes the first event's decision; the
//! counts are right, whichever is whose.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use monitor_common::limits;

use super::{AnonymousRequest, Decision};

/// How long a hit waits for its event. The log is looked at four times a second, and an event is written once the answer
/// is complete: what takes longer is told without a decision.
const DEADLINE: Duration = Duration::from_secs(3);

/// The API server receives a request and asks who sent it in one go; its clock is this one.
const APART: Duration = Duration::from_secs(1);

/// Hits, and events, that wait at the most; what is beyond is told without a decision.
const WAITING: usize = 16_384;

/// Hits that wait for their events, and events that wait for their hits.
#[derive(Debug, Default)]
pub struct Decisions {
    hashing: RandomState,
    hits: Waiting<AnonymousRequest>,
    events: Waiting<Decision>,
}

/// Client, and a hash of method and path with a seed of this process, so that nobody outside can choose what collides.
type Key = (IpAddr, u64);

impl Decisions {
    /// Takes a hit; gives it back with its decision where that is known, or as it is where it need not wait.
    pub fn hit(&mut self, mut hit: AnonymousRequest) -> Option<AnonymousRequest> {
        let request = &hit.request;
        let Some(ip) = request.ip.filter(|_| request.decision == Decision::Unknown && request.let_in) else {
            return Some(hit);
        };
        let (key, time) = (self.key(ip, &request.method, &request.path), request.time);
        if let Some(decision) = self.events.take(&key, time) {
            hit.request.decision = decision;
            return Some(hit);
        }
        self.hits.put(key, time, hit)
    }

    /// Takes an event of the audit log, with the path decoded; gives the hit that waited for it, with its decision.
    pub fn event(
        &mut self,
        ip: IpAddr,
        method: &str,
        path: &str,
        time: SystemTime,
        decision: Decision,
    ) -> Option<AnonymousRequest> {
        let key = self.key(ip, method, path);
        let Some(mut hit) = self.hits.take(&key, time) else {
            self.events.put(key, time, decision);
            return None;
        };
        hit.request.decision = decision;
        Some(hit)
    }

    /// The hits that have waited long enough by `now`.
    pub fn expire(&mut self, now: SystemTime) -> Vec<AnonymousRequest> {
        self.events.expire(now);
        self.hits.expire(now)
    }

    /// All hits that wait.
    pub fn finish(&mut self) -> Vec<AnonymousRequest> {
        std::mem::take(&mut self.hits).all()
    }

    /// HEAD is GET in an event, and of a long path the probe has the beginning.
    fn key(&self, ip: IpAddr, method: &str, path: &str) -> Key {
        let method = if method == "HEAD" { "GET" } else { method };
        let path = path.as_bytes();
        (ip, self.hashing.hash_one((method, &path[..path.len().min(limits::HIT_PATH)])))
    }
}

/// Values that wait, by key; of one key in the order of their times.
#[derive(Debug)]
struct Waiting<T> {
    by_key: HashMap<Key, VecDeque<(SystemTime, T)>>,
    /// When which key has one that is due. What was taken before is left here until then.
    due: VecDeque<(SystemTime, Key)>,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self { by_key: HashMap::new(), due: VecDeque::new() }
    }
}

impl<T> Waiting<T> {
    /// Gives the value back where there is no room.
    fn put(&mut self, key: Key, time: SystemTime, value: T) -> Option<T> {
        if self.due.len() >= WAITING {
            return Some(value);
        }
        self.due.push_back((time + DEADLINE, key));
        self.by_key.entry(key).or_default().push_back((time, value));
        None
    }

    fn take(&mut self, key: &Key, time: SystemTime) -> Option<T> {
        let of_key = self.by_key.get_mut(key)?;
        let near = |other: SystemTime| {
            let apart = time.duration_since(other).or_else(|_| other.duration_since(time));
            apart.is_ok_and(|apart| apart <= APART)
        };
        let at = of_key.iter().position(|(other, _)| near(*other))?;
        let value = of_key.remove(at).map(|(_, value)| value);
        if of_key.is_empty() {
            self.by_key.remove(key);
        }
        value
    }

    fn expire(&mut self, now: SystemTime) -> Vec<T> {
        let mut expired = Vec::new();
        while let Some((_, key)) = self.due.pop_front_if(|(due, _)| *due <= now) {
            let Some(of_key) = self.by_key.get_mut(&key) else { continue };
            while let Some((_, value)) = of_key.pop_front_if(|(time, _)| *time + DEADLINE <= now) {
                expired.push(value);
            }
            if of_key.is_empty() {
                self.by_key.remove(&key);
            }
        }
        expired
    }

    fn all(mut self) -> Vec<T> {
        let mut all = Vec::new();
        for (_, key) in self.due {
            all.extend(self.by_key.remove(&key).into_iter().flatten().map(|(_, value)| value));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::super::Evident;
    use super::*;
    use crate::classify::RequestMeaning;
    use crate::inspect::Evidence;

    const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

    fn at(milliseconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) + Duration::from_millis(milliseconds)
    }

    fn hit(time: SystemTime, port: u16, method: &str, path: &str) -> AnonymousRequest {
        let request = Evident {
            time,
            ip: Some(IP),
            port: Some(port),
            method: method.into(),
            path: path.into(),
            meaning: RequestMeaning::of_decoded(method, path),
            decision: Decision::Unknown,
            let_in: true,
            evidence: Evidence::Probe,
        };
        AnonymousRequest { request, class: None, flow: None, exposures: Vec::new(), new_exposures: Vec::new() }
    }

    fn told(hit: Option<AnonymousRequest>) -> Option<(Option<u16>, Decision)> {
        hit.map(|hit| (hit.request.port, hit.request.decision))
    }

    #[test]
    fn whichever_comes_first() {
        let mut decisions = Decisions::default();
        assert_eq!(told(decisions.hit(hit(at(1), 1, "GET", "/a"))), None);
        assert_eq!(told(decisions.event(IP, "GET", "/a", at(0), Decision::Denied)), Some((Some(1), Decision::Denied)));
        assert_eq!(told(decisions.event(IP, "GET", "/a", at(5), Decision::Allowed)), None);
        assert_eq!(told(decisions.hit(hit(at(6), 2, "HEAD", "/a"))), Some((Some(2), Decision::Allowed)));
        assert!(decisions.finish().is_empty());
        assert!(decisions.hits.by_key.is_empty() && decisions.events.by_key.is_empty());
    }

    #[test]
    fn of_equal_ones_each_decision_is_given_once() {
        let mut decisions = Decisions::default();
        for port in 1..=3 {
            decisions.hit(hit(at(port), port as u16, "GET", "/a"));
        }
        let mut told_of = |decision| told(decisions.event(IP, "GET", "/a", at(2), decision));
        assert_eq!(told_of(Decision::Allowed), Some((Some(1), Decision::Allowed)));
        assert_eq!(told_of(Decision::Denied), Some((Some(2), Decision::Denied)));
        assert_eq!(told_of(Decision::Denied), Some((Some(3), Decision::Denied)));
        assert_eq!(told_of(Decision::Denied), None);
    }

    #[test]
    fn another_address_method_path_or_time_is_another_request() {
        let mut decisions = Decisions::default();
        decisions.hit(hit(at(0), 1, "GET", "/a"));
        let other = "192.0.2.8".parse().unwrap();
        for (ip, method, path, time) in [
            (other, "GET", "/a", at(0)),
            (IP, "POST", "/a", at(0)),
            (IP, "GET", "/b", at(0)),
            (IP, "GET", "/a", at(1_001)),
        ] {
            assert_eq!(told(decisions.event(ip, method, path, time, Decision::Allowed)), None);
        }
        assert_eq!(
            told(decisions.event(IP, "GET", "/a", at(1_000), Decision::Allowed)),
            Some((Some(1), Decision::Allowed))
        );
    }

    #[test]
    fn a_path_of_which_the_probe_has_the_beginning() {
        let mut decisions = Decisions::default();
        let path = format!("/{}", "x".repeat(1_000));
        decisions.hit(hit(at(0), 1, "GET", &path[..limits::HIT_PATH]));
        assert!(decisions.event(IP, "GET", &path, at(0), Decision::Denied).is_some());
    }

    #[test]
    fn nothing_waits_for_ever_and_what_is_known_does_not_wait() {
        let mut decisions = Decisions::default();
        decisions.hit(hit(at(0), 1, "GET", "/a"));
        decisions.hit(hit(at(10), 2, "GET", "/a"));
        decisions.event(IP, "GET", "/b", at(0), Decision::Denied);
        assert!(decisions.expire(at(2_999)).is_empty());
        let expired: Vec<_> = decisions.expire(at(3_000)).into_iter().map(|hit| told(Some(hit))).collect();
        assert_eq!(expired, [Some((Some(1), Decision::Unknown))]);
        assert_eq!(decisions.finish().len(), 1);
        assert!(decisions.events.by_key.is_empty());

        let mut known = hit(at(0), 1, "GET", "/a");
        (known.request.decision, known.request.let_in) = (Decision::Denied, false);
        assert!(decisions.hit(known).is_some());
        let mut nobody = hit(at(0), 1, "GET", "/a");
        nobody.request.ip = None;
        assert!(decisions.hit(nobody).is_some());
    }

    #[test]
    fn no_more_wait_than_may() {
        let mut decisions = Decisions::default();
        for number in 0..WAITING {
            assert!(decisions.hit(hit(at(0), 1, "GET", &format!("/{number}"))).is_none());
        }
        assert!(decisions.hit(hit(at(0), 1, "GET", "/more")).is_some());
        assert_eq!(decisions.finish().len(), WAITING);
    }
}
