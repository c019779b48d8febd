//! The memory that all connections take together.

use monitor_common::FlowKey;

use super::{Event, Live, Pipeline, State};
use crate::classify::{Connection, RequestMeaning};
use crate::inspect::TlsObservation;

/// Memory that connections may take together. Each is capped by itself, but tens of thousands that all hold what they
/// may would take gigabytes: then those that hold most give way. Connections as they usually are take a quarter of it
/// when there are as many as may be.
const BUDGET: usize = 256 << 20;

/// A connection that takes more gives way before those that take less.
const HEAVY: usize = 16 << 10;

/// Memory of the connections that are being read, and how much it may be.
#[derive(Debug)]
pub(super) struct Memory {
    pub used: usize,
    pub budget: usize,
}

/// Memory of one connection as of its last record.
#[derive(Debug, Default)]
pub(super) struct Weight {
    pub bytes: usize,
    /// Of its first so many requests, this is in `of_requests`.
    requests: usize,
    of_requests: usize,
}

impl Default for Memory {
    fn default() -> Self {
        Self { used: 0, budget: BUDGET }
    }
}

impl Memory {
    pub fn is_over(&self) -> bool {
        self.used > self.budget
    }

    pub fn free(&mut self, weight: &Weight) {
        self.used -= weight.bytes;
    }

    pub fn clear(&mut self) {
        self.used = 0;
    }
}

impl Live {
    /// Brings the account to what this connection takes now, close enough.
    pub(super) fn weigh(&mut self, memory: &mut Memory) {
        let weight = &mut self.weight;
        let Connection { observation, requests, .. } = &self.connection;
        if observation.requests.len() < weight.requests {
            (weight.requests, weight.of_requests) = (0, 0);
        }
        // What a request means is made of parts of its path.
        let fresh = observation.requests.iter().skip(weight.requests);
        weight.of_requests += fresh.map(|request| request.memory() + request.path.len()).sum::<usize>();
        weight.requests = observation.requests.len();
        let meanings = requests.capacity() * size_of::<RequestMeaning>();
        let tls = observation.tls.as_ref().map_or(0, |tls| size_of::<TlsObservation>() + tls.memory());
        memory.used -= weight.bytes;
        weight.bytes = size_of::<Self>()
            + self.streams.buffered()
            + self.inspector.buffered()
            + weight.of_requests
            + meanings
            + tls;
        memory.used += weight.bytes;
    }
}

impl Pipeline {
    /// Lists connections that take much memory, the longest silent first, and where that is not enough others too, but
    /// not the one at hand. Should they go on, they are new ones whose start was not seen.
    pub(super) fn make_room(&mut self, at_hand: &FlowKey, output: &mut impl FnMut(Event<'_>)) {
        // Some more than has to be, so that this does not come with every record.
        let enough = self.memory.budget / 4 * 3;
        for heavy in [HEAVY, 0] {
            let mut left = self.memory.used;
            let mut closing = Vec::new();
            for (key, flow) in self.flows.oldest_first() {
                if left <= enough {
                    break;
                }
                if let State::Live(live) = &flow.state
                    && live.weight.bytes > heavy
                    && key != at_hand
                {
                    left -= live.weight.bytes;
                    closing.push(*key);
                }
            }
            for key in closing {
                if let Some(place) = self.flows.find(&key) {
                    self.metrics.evicted();
                    self.close(place, State::Forgotten, output);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
