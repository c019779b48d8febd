//! The way of a record through user space: the only file that names all stages.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use monitor_common::{Decision, FlowKey, RecordFlags, RecordHeader, Role, Side, SourceClass, limits};

use crate::classify::{Classifier, Connection, Destination, ExposureKind, Outcome, RequestMeaning, Source};
use crate::export::metrics::Metrics;
use crate::flow_table::{FlowTable, Place};
use crate::inspect::{FirstRequest, Inspector, Observation, Protocol};
use crate::reassemble::{Chunk, Counts, Streams};
use crate::receive::Record;

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

/// What the pipeline says as it happens.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A connection, once: when nothing more will change about it (TLS that has been read to its verdict, or its end).
    Connection(&'a Connection),
    /// A plaintext request whose response was seen or whose connection ended; `index` into `connection.requests`.
    Request(&'a Connection, usize),
    /// An exposure, once for each connection, as soon as it is known.
    Exposure(&'a Connection, ExposureKind),
}

/// What goes back to the kernel half: a decision about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feedback {
    /// The flow.
    pub key: FlowKey,
    /// Which of its lives ([`RecordHeader::born`]).
    pub born: u64,
    /// What was decided.
    pub decision: Decision,
}

/// Names an interface by its index ([`RecordHeader::interface`]).
pub type InterfaceNames = Box<dyn Fn(u32) -> Option<Arc<str>> + Send>;

/// Every connection that is being read, from its records to its events.
pub struct Pipeline {
    flows: FlowTable<Flow>,
    live: usize,
    classifier: Classifier,
    metrics: Arc<Metrics>,
    interface_names: InterfaceNames,
    /// Added to a record's time to make it one since 1970.
    clock_offset: Duration,
    next_sweep: u64,
    next_idle_sweep: u64,
    /// Connections with a RST, from the earliest on; each is in it once.
    resets: VecDeque<Reset>,
}

/// A connection that was reset then.
struct Reset {
    time: u64,
    key: FlowKey,
    born: u64,
}

struct Flow {
    born: u64,
    last_heard: u64,
    state: State,
}

enum State {
    /// Being read.
    Live(Box<Live>),
    /// Read to its verdict or ended, and reported: what still comes of it says nothing new.
    Done,
    /// Reported because nothing was heard of it for long; payload begins it anew.
    Forgotten,
}

struct Live {
    connection: Connection,
    streams: Streams,
    inspector: Inspector,
    decision: Decision,
    /// Time and sender of a RST that nothing has contradicted yet.
    reset: Option<(u64, Side)>,
    /// It is among the pipeline's `resets`.
    reset_awaited: bool,
    counted: bool,
    requests_reported: usize,
}

impl Pipeline {
    /// A pipeline without connections. `clock_offset` added to the records' time makes it one since 1970.
    pub fn new(
        classifier: Classifier,
        metrics: Arc<Metrics>,
        interface_names: InterfaceNames,
        clock_offset: Duration,
    ) -> Self {
        Self {
            flows: FlowTable::new(limits::FLOWS),
            live: 0,
            classifier,
            metrics,
            interface_names,
            clock_offset,
            next_sweep: 0,
            next_idle_sweep: 0,
            resets: VecDeque::new(),
        }
    }

    /// What is added to a record's time from now on: the wall clock was set, or the machine slept.
    pub fn set_clock_offset(&mut self, clock_offset: Duration) {
        self.clock_offset = clock_offset;
    }

    /// Connections that are being read.
    pub fn live(&self) -> usize {
        self.live
    }

    /// Takes one record, and says what is decided about its flow where that has changed.
    pub fn record(&mut self, record: &Record<'_>, output: &mut impl FnMut(Event<'_>)) -> Option<Feedback> {
        let header = &record.header;
        let Some(side) = Side::from_value(header.side) else {
            self.metrics.malformed();
            return None;
        };
        self.metrics.record(record.bytes.len());
        let place = self.admit(record, output)?;
        let Self { flows, classifier, metrics, resets, .. } = self;
        let Flow { last_heard, state: State::Live(live), .. } = flows.at(place)? else {
            return None;
        };
        *last_heard = header.time;
        if header.flags & RecordFlags::RST != 0 {
            live.reset = live.reset.or(Some((header.time, side)));
            if !std::mem::replace(&mut live.reset_awaited, true) {
                resets.push_back(Reset { time: header.time, key: header.key, born: header.born });
            }
        } else if header.length > 0 {
            live.reset = None;
        }
        let mut wanted = live.decision;
        let Live { streams, inspector, connection, .. } = &mut **live;
        let mut stripped = *record;
        stripped.header.flags &= !RecordFlags::RST;
        let mut delivered = false;
        streams.record(&stripped, &mut |chunk: Chunk<'_>| {
            delivered = true;
            count_gap(metrics, &chunk);
            wanted = inspector.chunk(&chunk, &mut connection.observation);
        });
        let counts = streams.take_counts();
        if counts != Counts::default() {
            metrics.reassembly(&counts);
        }
        let ended = live.streams.ended();
        if delivered || ended {
            live.classify(classifier, metrics, ended, output);
        }
        let feedback =
            (wanted != live.decision).then_some(Feedback { key: header.key, born: header.born, decision: wanted });
        live.decision = wanted;
        if wanted == Decision::Enough {
            live.streams.discard();
        }
        if ended || live.inspector.settled() {
            self.close(place, State::Done, output);
        }
        feedback
    }

    /// Makes sure that the record's connection is being read, and gives its place; `None` where it is not and need not
    /// be.
    fn admit(&mut self, record: &Record<'_>, output: &mut impl FnMut(Event<'_>)) -> Option<Place> {
        let header = &record.header;
        let known = self.flows.find(&header.key);
        if let Some(place) = known {
            self.flows.touch(place);
            match self.flows.at(place)? {
                flow if flow.born > header.born => return None,
                Flow { born, state, .. } if *born == header.born => match state {
                    State::Live(_) => return Some(place),
                    State::Done => return None,
                    State::Forgotten => {}
                },
                _ => self.close(place, State::Done, output),
            }
        }
        if header.length == 0 {
            return None;
        }
        let Some(live) = self.begin(header) else {
            self.metrics.malformed();
            return None;
        };
        let flow = Flow { born: header.born, last_heard: header.time, state: State::Live(Box::new(live)) };
        self.live += 1;
        let place = match known {
            Some(place) => {
                *self.flows.at(place)? = flow;
                place
            }
            None => {
                let (place, gone) = self.flows.insert(header.key, flow);
                if let Some((_, Flow { state: State::Live(mut evicted), .. })) = gone {
                    self.live -= 1;
                    self.metrics.evicted();
                    evicted.close(&mut self.classifier, &self.metrics, output);
                }
                place
            }
        };
        self.metrics.set_flows(self.live);
        Some(place)
    }

    fn begin(&self, header: &RecordHeader) -> Option<Live> {
        let role = Role::from_value(header.role)?;
        let class = SourceClass::from_value(header.source)?;
        let start_known = header.flags & (RecordFlags::START_KNOWN | RecordFlags::OTHER_START_KNOWN) != 0;
        let address = |bytes: [u8; 16]| std::net::Ipv6Addr::from(bytes).to_canonical();
        Some(Live {
            connection: Connection {
                time: SystemTime::UNIX_EPOCH + self.clock_offset + Duration::from_nanos(header.time),
                interface: (self.interface_names)(header.interface()),
                source: Source { ip: address(header.key.client), port: header.key.client_port, class },
                destination: Destination { ip: address(header.key.server), port: header.key.server_port, role },
                outcome: if start_known { Outcome::Established } else { Outcome::Midstream },
                observation: Observation::default(),
                requests: Vec::new(),
                first_request: FirstRequest::Unknown,
                exposures: Vec::new(),
            },
            streams: Streams::new(),
            inspector: Inspector::new(start_known),
            decision: Decision::Read,
            reset: None,
            reset_awaited: false,
            counted: false,
            requests_reported: 0,
        })
    }

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
        let flows = self.flows.from_oldest().take_while(|(_, flow)| over(now, flow.last_heard, IDLE));
        let idle = flows.filter(|(_, flow)| matches!(flow.state, State::Live(_))).map(|(key, _)| *key);
        for key in idle.collect::<Vec<_>>() {
            if let Some(place) = self.flows.find(&key) {
                self.metrics.expired();
                self.close(place, State::Forgotten, output);
            }
        }
    }

    /// Lists every connection that is still being read, as at the end of a capture or of the daemon.
    pub fn finish(&mut self, output: &mut impl FnMut(Event<'_>)) {
        while let Some((_, flow)) = self.flows.pop_oldest() {
            if let State::Live(mut live) = flow.state {
                live.close(&mut self.classifier, &self.metrics, output);
            }
        }
        self.live = 0;
        self.metrics.set_flows(0);
    }

    fn close(&mut self, place: Place, after: State, output: &mut impl FnMut(Event<'_>)) {
        let Some(flow) = self.flows.at(place) else { return };
        if let State::Live(mut live) = std::mem::replace(&mut flow.state, after) {
            live.close(&mut self.classifier, &self.metrics, output);
            self.live -= 1;
            self.metrics.set_flows(self.live);
        }
    }
}

impl Live {
    /// Brings what is known of the connection to its meaning, and tells what is new about it.
    fn classify(
        &mut self,
        classifier: &mut Classifier,
        metrics: &Metrics,
        ended: bool,
        output: &mut impl FnMut(Event<'_>),
    ) {
        let found = classifier.classify(&mut self.connection);
        if !self.counted && (ended || self.connection.observation.protocol != Protocol::None) {
            self.counted = true;
            metrics.connection(&self.connection);
        }
        for kind in found {
            metrics.exposure(&self.connection, kind);
            output(Event::Exposure(&self.connection, kind));
        }
        while let Some(request) = self.connection.observation.requests.get(self.requests_reported)
            && (ended || request.status.is_some())
        {
            metrics.request(&self.connection, self.requests_reported);
            output(Event::Request(&self.connection, self.requests_reported));
            self.requests_reported += 1;
        }
        for request in self.connection.observation.take_overflow() {
            metrics.unlisted_request(&self.connection, &request, &RequestMeaning::of(&request));
        }
    }

    /// The connection's last word.
    fn close(&mut self, classifier: &mut Classifier, metrics: &Metrics, output: &mut impl FnMut(Event<'_>)) {
        let Self { streams, inspector, connection, reset, .. } = self;
        streams.finish(&mut |chunk: Chunk<'_>| {
            count_gap(metrics, &chunk);
            inspector.chunk(&chunk, &mut connection.observation);
        });
        if let Some((_, side)) = *reset {
            inspector.chunk(&Chunk::End { side }, &mut connection.observation);
        }
        inspector.finish(&mut connection.observation);
        metrics.reassembly(&streams.take_counts());
        self.classify(classifier, metrics, true, output);
        metrics.handshake(&self.connection);
        if let Some(reason) = self.connection.observation.unclassified {
            metrics.unclassified(reason);
        }
        output(Event::Connection(&self.connection));
    }
}

/// Whether more than `limit` went by since then.
fn over(now: u64, since: u64, limit: Duration) -> bool {
    now.saturating_sub(since) > limit.as_nanos() as u64
}

fn count_gap(metrics: &Metrics, chunk: &Chunk<'_>) {
    if let Chunk::Gap { length, reason, .. } = chunk {
        metrics.gap(*reason, *length);
    }
}
