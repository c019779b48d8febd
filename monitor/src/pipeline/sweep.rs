//! Looking over the connections from time to time: those that were reset, and those that were idle for long.

use std::time::Duration;

use super::{Event, Flow, Pipeline, Reset, State};

/// A connection of which nothing was heard for so long is listed as it is; should it speak again, it is a new one whose
/// start was not seen. Longer than any keep-alive of clients and load balancers that is usual.
const IDLE: Duration = Duration::from_secs(3_600);

/// How long after a RST a connection may still show that the RST was none of its own: a forged or broken one that the
/// host ignored. Longer than a retransmission takes.
const RESET_LINGER: Duration = Duration::from_secs(1);

/// How often those that were reset are looked over.
const SWEEP: Duration = Duration::from_millis(500);

/// How often those that were idle are: what ended long ago has to be passed over too.
const SWEEP_IDLE: Duration = Duration::from_secs(30);

impl Pipeline {
    /// Looks over the connections at `now` (the records' time): those that were reset and those that were idle for
    /// long are listed. Does nothing when called again too soon.
    pub fn sweep(&mut self, now: u64, output: &mut impl FnMut(Event<'_>)) {
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + SWEEP.as_nanos() as u64;
        self.sweep_resets(now, output);
        if now >= self.next_idle_sweep {
            self.next_idle_sweep = now + SWEEP_IDLE.as_nanos() as u64;
            self.sweep_idle(now, output);
        }
        let wall_clock = self.wall_clock(now);
        self.tell_expired(wall_clock, output);
        if let Some(anonymous) = &mut self.anonymous {
            for agreement in anonymous.agreements(wall_clock) {
                self.metrics.agreement(agreement);
            }
        }
        self.discovery.sweep(now);
        self.tell_discovery(now, output);
    }

    fn sweep_resets(&mut self, now: u64, output: &mut impl FnMut(Event<'_>)) {
        while let Some(first) = self.resets.pop_front_if(|reset| over(now, reset.time, RESET_LINGER)) {
            let Some(place) = self.flows.find(&first.key) else { continue };
            let Some(Flow { born, state: State::Live(live), .. }) = self.flows.at(place) else { continue };
            if *born != first.born {
                continue;
            }
            match live.reset {
                None => live.reset_awaited = false,
                Some((time, _)) if over(now, time, RESET_LINGER) => self.close(place, State::Done, output),
                // It spoke after that one, and was reset again.
                Some((time, _)) => self.resets.push_back(Reset { time, ..first }),
            }
        }
    }

    fn sweep_idle(&mut self, now: u64, output: &mut impl FnMut(Event<'_>)) {
        let live = self.flows.oldest_first().filter_map(|(key, flow)| match &flow.state {
            State::Live(live) => Some((key, live.last_heard)),
            State::Done | State::Forgotten => None,
        });
        let idle = live.take_while(|(_, last_heard)| over(now, *last_heard, IDLE)).map(|(key, _)| *key);
        for key in idle.collect::<Vec<_>>() {
            if let Some(place) = self.flows.find(&key) {
                self.metrics.expired();
                self.close(place, State::Forgotten, output);
            }
        }
    }
}

/// Whether more than `limit` went by since then.
fn over(now: u64, since: u64, limit: Duration) -> bool {
    now.saturating_sub(since) > limit.as_nanos() as u64
}
