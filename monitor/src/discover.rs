//! Discovery: ports that nobody named and to which a request for an API server's path was sent in the clear. The kernel
//! side watches such a port at once, as [`Role::Discovered`](monitor_common::Role::Discovered); what is here decides by
//! the replies whether it stays watched. A function of what was seen and of the records' time: no clock, no map.

use std::collections::HashMap;

use monitor_common::{Asked, FlowKey, closed_set};

/// Ports that are found or being decided about at the most: a node has few, and a scan of all ports is not to make this
/// side read all of a node's traffic.
pub const PORTS: usize = 64;

/// Connections to a port that is not decided about which are read at the most: one reply decides, and a busy server
/// has thousands.
const CONNECTIONS: usize = 16;

const SECOND: u64 = 1_000_000_000;

/// A port from which no reply has come for so long is forgotten.
const NO_REPLY: u64 = 5 * SECOND;

/// How long a port is left alone whose reply was another server's.
const QUIET: u64 = 600 * SECOND;

/// How long a port is left alone of which less is known: no reply, an error, one that cannot be read.
const QUIET_UNSURE: u64 = 60 * SECOND;

/// How long a port is left alone when there were too many.
const QUIET_FULL: u64 = 10 * SECOND;

/// A port that was found is forgotten when for so long no reply was the Kubernetes API's: port numbers are used again.
/// Should it be one all the same, its next request finds it again.
const FOUND_UNTIL: u64 = 3_600 * SECOND;

/// Records of a port that was forgotten may be under way for so long.
const UNDER_WAY: u64 = SECOND;

closed_set! {
    /// What became of a port to which a request for an API server's path was sent in the clear.
    CandidateOutcome {
        /// Its reply is the Kubernetes API's: it stays watched.
        Kubernetes = "kubernetes",
        /// Its reply is another server's.
        Other = "other",
        /// No reply was seen.
        NoReply = "no_reply",
        /// It was not looked at: there are too many already.
        TooMany = "too_many",
    }
}

closed_set! {
    /// What is new about a port.
    PortState {
        /// The Kubernetes API speaks there in the clear.
        Found = "found",
        /// It has not done so for long: the port is no longer watched.
        Expired = "expired",
    }
}

/// What is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// A candidate was decided about.
    Decided(u16, CandidateOutcome),
    /// A port that was found is not watched any more.
    Expired(u16),
}

/// To be done by the kernel side: this port is not watched any more, and left alone for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forget {
    /// The port.
    pub port: u16,
    /// Until when (the records' time) it is left alone, by what is [`Asked`] of it; 0: not at all.
    pub quiet_until: [u64; Asked::COUNT],
}

/// What is done with a record of a port that was discovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Left alone.
    Ignored,
    /// Read, and nothing told of it before the port is found.
    Undecided,
    /// Read as on any watched port.
    Found,
}

/// What a reply that is not the Kubernetes API's says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherReply {
    /// What it answers.
    pub asked: Asked,
    /// Its status is none of success: another request may be answered otherwise.
    pub error: bool,
}

/// Every port that was discovered or may be.
#[derive(Debug, Default)]
pub struct Discovery {
    ports: HashMap<u16, Port>,
    /// Ports that were forgotten a moment ago, and when.
    forgotten: HashMap<u16, u64>,
    forget: Vec<Forget>,
    dropped: Vec<FlowKey>,
    news: Vec<News>,
}

#[derive(Debug)]
enum Port {
    /// Nothing has decided yet; `connections` are being read.
    Undecided { since: u64, connections: Vec<FlowKey> },
    /// A reply was the Kubernetes API's, the last one then.
    Found { proved: u64 },
}

impl Discovery {
    /// A record of this port came that was seen at `now`; `candidate`: it is the one for which the kernel side watches
    /// the port.
    pub fn seen(&mut self, port: u16, candidate: bool, now: u64) -> Standing {
        match self.ports.get(&port) {
            Some(Port::Found { .. }) => return Standing::Found,
            Some(Port::Undecided { .. }) => return Standing::Undecided,
            None => {}
        }
        // A record without that word can come first where the one with it was lost.
        let under_way = self.forgotten.get(&port).is_some_and(|then| now.saturating_sub(*then) < UNDER_WAY);
        if under_way && !candidate {
            return Standing::Ignored;
        }
        if self.ports.len() >= PORTS {
            self.decided(port, CandidateOutcome::TooMany);
            self.forget(port, now, [now + QUIET_FULL; Asked::COUNT]);
            return Standing::Ignored;
        }
        self.ports.insert(port, Port::Undecided { since: now, connections: Vec::new() });
        Standing::Undecided
    }

    /// Whether this connection is to be read: one to a port that is not decided about only while they are few.
    pub fn admits(&mut self, key: &FlowKey) -> bool {
        match self.ports.get_mut(&key.server_port) {
            Some(Port::Undecided { connections, .. }) if connections.len() < CONNECTIONS => {
                connections.push(*key);
                true
            }
            Some(Port::Undecided { .. }) => false,
            Some(Port::Found { .. }) | None => true,
        }
    }

    /// Whether this port was found.
    pub fn is_found(&self, port: u16) -> bool {
        matches!(self.ports.get(&port), Some(Port::Found { .. }))
    }

    /// How many ports were found.
    pub fn found(&self) -> usize {
        self.ports.values().filter(|port| matches!(port, Port::Found { .. })).count()
    }

    /// A reply of this port is the Kubernetes API's.
    pub fn is_kubernetes(&mut self, port: u16, now: u64) {
        match self.ports.get_mut(&port) {
            Some(Port::Found { proved }) => *proved = now,
            Some(state) => {
                *state = Port::Found { proved: now };
                self.decided(port, CandidateOutcome::Kubernetes);
            }
            None => {}
        }
    }

    /// A reply of this port is another server's.
    pub fn is_other(&mut self, port: u16, reply: OtherReply, now: u64) {
        if !matches!(self.ports.get(&port), Some(Port::Undecided { .. })) {
            return;
        }
        let mut quiet_until = [0; Asked::COUNT];
        match reply.asked {
            // What a server says of its health tells nothing about its other paths.
            Asked::Health => quiet_until[Asked::Health as usize] = now + QUIET,
            Asked::Api => quiet_until = [now + if reply.error { QUIET_UNSURE } else { QUIET }; Asked::COUNT],
        }
        self.decided(port, CandidateOutcome::Other);
        self.forget(port, now, quiet_until);
    }

    /// A connection to this port has ended with no reply that would have decided.
    pub fn ended(&mut self, port: u16, now: u64) {
        if matches!(self.ports.get(&port), Some(Port::Undecided { .. })) {
            self.decided(port, CandidateOutcome::NoReply);
            self.forget(port, now, [now + QUIET_UNSURE; Asked::COUNT]);
        }
    }

    /// Forgets what has waited too long.
    pub fn sweep(&mut self, now: u64) {
        self.forgotten.retain(|_, then| now.saturating_sub(*then) < UNDER_WAY);
        let over = |since: u64, limit: u64| now.saturating_sub(since) > limit;
        let mut over: Vec<(u16, bool)> = self
            .ports
            .iter()
            .filter_map(|(port, state)| match state {
                Port::Undecided { since, .. } => over(*since, NO_REPLY).then_some((*port, false)),
                Port::Found { proved } => over(*proved, FOUND_UNTIL).then_some((*port, true)),
            })
            .collect();
        over.sort_unstable();
        for (port, found) in over {
            if found {
                self.news.push(News::Expired(port));
                self.forget(port, now, [0; Asked::COUNT]);
            } else {
                self.ended(port, now);
            }
        }
    }

    /// What the kernel side has to forget since the last call.
    pub fn take_forget(&mut self) -> Vec<Forget> {
        std::mem::take(&mut self.forget)
    }

    /// Connections of which nothing is to be told, since the last call.
    pub fn take_dropped(&mut self) -> Vec<FlowKey> {
        std::mem::take(&mut self.dropped)
    }

    /// What is new since the last call.
    pub fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    fn decided(&mut self, port: u16, outcome: CandidateOutcome) {
        self.news.push(News::Decided(port, outcome));
    }

    fn forget(&mut self, port: u16, now: u64, quiet_until: [u64; Asked::COUNT]) {
        if let Some(Port::Undecided { connections, .. }) = self.ports.remove(&port) {
            self.dropped.extend(connections);
        }
        // Bounded: the sweep clears it, and a scan fills it with one entry for each port at the most.
        self.forgotten.insert(port, now);
        self.forget.push(Forget { port, quiet_until });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: u16 = 31_234;
    const NOW: u64 = 1_000 * SECOND;
    const PAGE: OtherReply = OtherReply { asked: Asked::Api, error: false };

    fn key(client_port: u16) -> FlowKey {
        FlowKey { client: [1; 16], server: [2; 16], client_port, server_port: PORT }
    }

    #[test]
    fn a_port_whose_reply_is_kubernetes_stays_until_it_is_silent() {
        let mut discovery = Discovery::default();
        assert_eq!(discovery.seen(PORT, true, NOW), Standing::Undecided);
        assert!(!discovery.is_found(PORT));
        discovery.is_kubernetes(PORT, NOW + 1);
        assert_eq!(discovery.seen(PORT, false, NOW + 2), Standing::Found);
        assert_eq!(discovery.take_news(), [News::Decided(PORT, CandidateOutcome::Kubernetes)]);
        discovery.is_other(PORT, PAGE, NOW + 3);
        discovery.ended(PORT, NOW + 3);
        discovery.sweep(NOW + 60 * SECOND);
        assert_eq!((discovery.found(), discovery.take_forget().len()), (1, 0), "what is found is not refuted");

        discovery.is_kubernetes(PORT, NOW + 60 * SECOND);
        discovery.sweep(NOW + 1 + FOUND_UNTIL);
        assert!(discovery.is_found(PORT));
        discovery.sweep(NOW + 60 * SECOND + FOUND_UNTIL + 1);
        assert_eq!(discovery.take_news(), [News::Expired(PORT)]);
        assert_eq!(discovery.take_forget(), [Forget { port: PORT, quiet_until: [0, 0] }]);
        assert_eq!(discovery.found(), 0);
    }

    #[test]
    fn a_port_whose_reply_is_another_servers_is_left_alone() {
        for (asked, error, quiet_until) in [
            (Asked::Api, false, [NOW + QUIET; 2]),
            (Asked::Api, true, [NOW + QUIET_UNSURE; 2]),
            (Asked::Health, false, [0, NOW + QUIET]),
            (Asked::Health, true, [0, NOW + QUIET]),
        ] {
            let mut discovery = Discovery::default();
            discovery.seen(PORT, true, NOW - 1);
            assert!(discovery.admits(&key(1)));
            discovery.is_other(PORT, OtherReply { asked, error }, NOW);
            assert_eq!(discovery.take_forget(), [Forget { port: PORT, quiet_until }], "{asked:?} {error}");
            assert_eq!(discovery.take_dropped(), [key(1)]);
            assert_eq!(discovery.take_news(), [News::Decided(PORT, CandidateOutcome::Other)]);
            discovery.is_other(PORT, PAGE, NOW);
            assert!(discovery.take_forget().is_empty(), "once");
            // Records that were under way do not make it a candidate again, a request does.
            assert_eq!(discovery.seen(PORT, false, NOW + UNDER_WAY - 1), Standing::Ignored);
            assert_eq!(discovery.seen(PORT, true, NOW + 2), Standing::Undecided);
        }
    }

    #[test]
    fn without_a_reply_it_is_forgotten() {
        let mut discovery = Discovery::default();
        discovery.seen(PORT, true, NOW);
        discovery.sweep(NOW + NO_REPLY);
        assert!(discovery.take_forget().is_empty());
        discovery.sweep(NOW + NO_REPLY + 1);
        let quiet_until = [NOW + NO_REPLY + 1 + QUIET_UNSURE; 2];
        assert_eq!(discovery.take_forget(), [Forget { port: PORT, quiet_until }]);
        assert_eq!(discovery.take_news(), [News::Decided(PORT, CandidateOutcome::NoReply)]);
        // The record with the word was lost.
        assert_eq!(discovery.seen(PORT, false, NOW + 60 * SECOND), Standing::Undecided);
    }

    #[test]
    fn ports_and_connections_are_few() {
        let mut discovery = Discovery::default();
        for port in 0..PORTS as u16 {
            assert_eq!(discovery.seen(port, true, NOW), Standing::Undecided);
        }
        assert_eq!(discovery.seen(PORT, true, NOW), Standing::Ignored);
        assert_eq!(discovery.take_news(), [News::Decided(PORT, CandidateOutcome::TooMany)]);
        assert_eq!(discovery.take_forget(), [Forget { port: PORT, quiet_until: [NOW + QUIET_FULL; 2] }]);

        let mut discovery = Discovery::default();
        discovery.seen(PORT, true, NOW);
        let admitted = (0..100).filter(|client| discovery.admits(&key(*client))).count();
        assert_eq!(admitted, CONNECTIONS);
        discovery.is_kubernetes(PORT, NOW);
        assert!(discovery.admits(&key(100)));
    }
}
