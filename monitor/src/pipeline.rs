//! The way of a record through user space: the only file that names all stages.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lru::LruCache;
use monitor_common::{Decision, FlowKey, RecordFlags, RecordHeader, Role, Side, SourceClass, limits};

use crate::classify::{Classifier, Connection, Destination, ExposureKind, Outcome, RequestMeaning, Source};
use crate::export::metrics::Metrics;
use crate::inspect::{FirstRequest, Inspector, Observation, Protocol};
use crate::key_hash::KeyHashing;
use crate::reassemble::{Chunk, Streams};
use crate::receive::Record;

/// A connection of which nothing was heard for so long is listed as it is; should it speak again, it is a new one whose
/// start was not seen. Longer than any keep-alive of clients and load balancers that is usual.
const IDLE: Duration = Duration::from_secs(3_600);

/// How long after a RST a connection may still show that the RST was none of its own: a forged or broken one that the
/// host ignored. Longer than a retransmission takes.
const RESET_LINGER: Duration = Duration::from_secs(1);

/// How often connections are looked over for the two above.
const SWEEP: Duration = Duration::from_millis(500);

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
    flows: LruCache<FlowKey, Flow, KeyHashing>,
    live: usize,
    classifier: Classifier,
    metrics: Arc<Metrics>,
    interface_names: InterfaceNames,
    /// Added to a record's time to make it one since 1970.
    clock_offset: Duration,
    next_sweep: u64,
}

struct Flow {
    born: u64,
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
    last_heard: u64,
    /// Time and sender of a RST that nothing has contradicted yet.
    reset: Option<(u64, Side)>,
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
        let capacity = NonZeroUsize::new(limits::FLOWS as usize).unwrap_or(NonZeroUsize::MIN);
        Self {
            flows: LruCache::with_hasher(capacity, KeyHashing::default()),
            live: 0,
            classifier,
            metrics,
            interface_names,
            clock_offset,
            next_sweep: 0,
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
        if !self.admit(record, output) {
            return None;
        }
        let Self { flows, classifier, metrics, .. } = self;
        let Some(Flow { state: State::Live(live), .. }) = flows.get_mut(&header.key) else {
            return None;
        };
        live.last_heard = header.time;
        if header.flags & RecordFlags::RST != 0 {
            live.reset = live.reset.or(Some((header.time, side)));
        } else if header.length > 0 {
            live.reset = None;
        }
        let mut wanted = live.decision;
        let Live { streams, inspector, connection, .. } = &mut **live;
        let mut stripped = *record;
        stripped.header.flags &= !RecordFlags::RST;
        streams.record(&stripped, &mut |chunk: Chunk<'_>| {
            count_gap(metrics, &chunk);
            wanted = inspector.chunk(&chunk, &mut connection.observation);
        });
        metrics.reassembly(&streams.take_counts());
        let ended = live.streams.ended();
        live.classify(classifier, metrics, ended, output);
        let feedback =
            (wanted != live.decision).then_some(Feedback { key: header.key, born: header.born, decision: wanted });
        live.decision = wanted;
        if wanted == Decision::Enough {
            live.streams.discard();
        }
        if ended || live.inspector.settled() {
            self.close(&header.key, State::Done, output);
        }
        feedback
    }

    /// Makes sure that the record's connection is being read; false where it is not and need not be.
    fn admit(&mut self, record: &Record<'_>, output: &mut impl FnMut(Event<'_>)) -> bool {
        let header = &record.header;
        match self.flows.get(&header.key) {
            Some(flow) if flow.born > header.born => return false,
            Some(Flow { born, state }) if *born == header.born => match state {
                State::Live(_) => return true,
                State::Done => return false,
                State::Forgotten => {}
            },
            Some(_) => self.close(&header.key, State::Done, output),
            None => {}
        }
        if header.length == 0 {
            return false;
        }
        let Some(live) = self.begin(header) else {
            self.metrics.malformed();
            return false;
        };
        let flow = Flow { born: header.born, state: State::Live(Box::new(live)) };
        self.live += 1;
        if let Some((key, Flow { state: State::Live(mut evicted), .. })) = self.flows.push(header.key, flow)
            && key != header.key
        {
            self.live -= 1;
            self.metrics.evicted();
            evicted.close(&mut self.classifier, &self.metrics, output);
        }
        self.metrics.set_flows(self.live);
        true
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
            last_heard: header.time,
            reset: None,
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
        let over = |since: u64, limit: Duration| now.saturating_sub(since) > limit.as_nanos() as u64;
        let mut closing = Vec::new();
        for (key, flow) in &self.flows {
            let State::Live(live) = &flow.state else { continue };
            if live.reset.is_some_and(|(time, _)| over(time, RESET_LINGER)) {
                closing.push((*key, State::Done));
            } else if over(live.last_heard, IDLE) {
                closing.push((*key, State::Forgotten));
            }
        }
        for (key, after) in closing {
            if matches!(after, State::Forgotten) {
                self.metrics.expired();
            }
            self.close(&key, after, output);
        }
    }

    /// Lists every connection that is still being read, as at the end of a capture or of the daemon.
    pub fn finish(&mut self, output: &mut impl FnMut(Event<'_>)) {
        while let Some((_, flow)) = self.flows.pop_lru() {
            if let State::Live(mut live) = flow.state {
                live.close(&mut self.classifier, &self.metrics, output);
            }
        }
        self.live = 0;
        self.metrics.set_flows(0);
    }

    fn close(&mut self, key: &FlowKey, after: State, output: &mut impl FnMut(Event<'_>)) {
        let Some(flow) = self.flows.peek_mut(key) else { return };
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

fn count_gap(metrics: &Metrics, chunk: &Chunk<'_>) {
    if let Chunk::Gap { length, reason, .. } = chunk {
        metrics.gap(*reason, *length);
    }
}
