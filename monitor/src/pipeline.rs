//! The way of a record through user space: the only file that names all stages.

mod evidence;
mod live;
mod memory;
mod sweep;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use monitor_common::{Decision, FlowKey, RecordFlags, RecordHeader, Role, Side, SourceClass, limits};

use crate::anonymous::{Anonymous, AnonymousRequest, Decisions};
use crate::classify::{Classifier, Connection, Destination, ExposureKind, Outcome, Probing, Source};
use crate::configuration::Finding;
use crate::discover::{CandidateOutcome, Discovery, Forget, News, PortState, Standing};
use crate::export::metrics::Metrics;
use crate::flow_table::{FlowTable, Place};
use crate::inspect::{FirstRequest, Inspector, Observation};
use crate::reassemble::{Chunk, Counts, Streams};
use crate::receive::Record;
use crate::watch::Watch;
use live::count_gap;

/// What the pipeline says as it happens.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A connection, once: when nothing more will change about it (TLS that has been read to its verdict, or its end).
    Connection(&'a Connection),
    /// A plaintext request whose response was seen or whose connection ended; `index` into `connection.requests`.
    Request(&'a Connection, usize),
    /// An exposure, once for each connection, as soon as it is known.
    Exposure(&'a Connection, ExposureKind),
    /// A port that nobody named was found to speak the Kubernetes API in the clear, or has not done so for long.
    Port(PortChange),
    /// A request without a credential of which the API server itself told: by the probe or its audit log.
    Anonymous(&'a AnonymousRequest),
    /// Something about the API server's configuration, when it is found and when it is no longer so.
    Finding(&'a Finding),
    /// A burst of refused requests from one address.
    Probing(&'a Probing),
}

/// What changed about a port that nobody named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortChange {
    /// When.
    pub time: SystemTime,
    /// The port.
    pub port: u16,
    /// What is so from now on.
    pub state: PortState,
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
    memory: memory::Memory,
    classifier: Classifier,
    discovery: Discovery,
    /// Connections of which exact evidence may come; `None` where none is looked for.
    anonymous: Option<Anonymous>,
    /// What the audit log says of hits; `None` where it is not followed.
    decisions: Option<Decisions>,
    watch: Arc<Watch>,
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
    /// Time of the record that began it.
    began: u64,
    streams: Streams,
    inspector: Inspector,
    decision: Decision,
    last_heard: u64,
    /// Time and sender of a RST that nothing has contradicted yet.
    reset: Option<(u64, Side)>,
    /// It is among the pipeline's `resets`.
    reset_awaited: bool,
    /// Whether anything is told of it: not on a port of which it is not known what speaks there.
    told: bool,
    counted: bool,
    requests_reported: usize,
    weight: memory::Weight,
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
            memory: memory::Memory::default(),
            classifier,
            discovery: Discovery::default(),
            anonymous: None,
            decisions: None,
            watch: Arc::default(),
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

    /// Ports that the kernel side is to forget, since the last call.
    pub fn take_forget(&mut self) -> Vec<Forget> {
        self.discovery.take_forget()
    }

    /// Takes one record, and says what is decided about its flow where that has changed.
    pub fn record(&mut self, record: &Record<'_>, output: &mut impl FnMut(Event<'_>)) -> Option<Feedback> {
        let feedback = self.read(record, output);
        if record.header.role == Role::Discovered as u8 {
            self.tell_discovery(record.header.time, output);
        }
        feedback
    }

    fn read(&mut self, record: &Record<'_>, output: &mut impl FnMut(Event<'_>)) -> Option<Feedback> {
        let header = &record.header;
        let Some(side) = Side::from_value(header.side) else {
            self.metrics.malformed();
            return None;
        };
        self.metrics.record(record.bytes.len());
        let place = self.admit(record, output)?;
        let Self { flows, classifier, discovery, metrics, resets, anonymous, .. } = self;
        let Flow { state: State::Live(live), .. } = flows.at(place)? else {
            return None;
        };
        live.last_heard = header.time;
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
        if (delivered || ended) && live.is_told(discovery) {
            let exposures = live.connection.exposures.len();
            live.classify(classifier, metrics, ended, output);
            if let (Some(anonymous), Some(new)) = (anonymous, live.connection.exposures.get(exposures..))
                && new.contains(&ExposureKind::AnonymousRequest)
            {
                anonymous.exposed(&live.connection);
            }
        }
        let feedback =
            (wanted != live.decision).then_some(Feedback { key: header.key, born: header.born, decision: wanted });
        live.decision = wanted;
        if wanted == Decision::Enough {
            live.streams.discard();
        }
        let settled = ended || live.inspector.settled();
        live.weigh(&mut self.memory);
        if settled {
            self.close(place, State::Done, output);
        } else if self.memory.is_over() {
            self.make_room(&header.key, output);
        }
        feedback
    }

    /// Makes sure that the record's connection is being read, and gives its place; `None` where it is not and need not
    /// be.
    fn admit(&mut self, record: &Record<'_>, output: &mut impl FnMut(Event<'_>)) -> Option<Place> {
        let header = &record.header;
        if header.role == Role::Discovered as u8 {
            let (port, candidate) = (header.key.server_port, header.flags & RecordFlags::CANDIDATE != 0);
            if self.discovery.seen(port, candidate, header.time) == Standing::Ignored {
                return None;
            }
        }
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
        if header.role == Role::Discovered as u8 && !self.discovery.admits(&header.key) {
            return None;
        }
        let Some(live) = self.begin(header) else {
            self.metrics.malformed();
            return None;
        };
        if let Some(anonymous) = &mut self.anonymous
            && live.told
        {
            anonymous.began(&live.connection);
        }
        let flow = Flow { born: header.born, state: State::Live(Box::new(live)) };
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
                    self.memory.free(&evicted.weight);
                    self.metrics.evicted();
                    evicted.close(&mut self.classifier, &mut self.discovery, &self.metrics, output);
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
                time: self.wall_clock(header.time),
                interface: (self.interface_names)(header.interface()),
                source: Source { ip: address(header.key.client), port: header.key.client_port, class },
                destination: Destination { ip: address(header.key.server), port: header.key.server_port, role },
                outcome: if start_known { Outcome::Established } else { Outcome::Midstream },
                observation: Observation::default(),
                requests: Vec::new(),
                first_request: FirstRequest::Unknown,
                exposures: Vec::new(),
            },
            began: header.time,
            streams: Streams::new(),
            inspector: Inspector::new(start_known),
            decision: Decision::Read,
            last_heard: header.time,
            reset: None,
            reset_awaited: false,
            told: role != Role::Discovered,
            counted: false,
            requests_reported: 0,
            weight: memory::Weight::default(),
        })
    }

    /// Tells what is new about ports, and drops the connections of which nothing will be told.
    fn tell_discovery(&mut self, now: u64, output: &mut impl FnMut(Event<'_>)) {
        for key in self.discovery.take_dropped() {
            let Some(place) = self.flows.find(&key) else { continue };
            let Some(flow) = self.flows.at(place) else { continue };
            // Should the port be found later, what follows of it is read.
            if let State::Live(live) = &flow.state {
                self.memory.free(&live.weight);
                flow.state = State::Forgotten;
                self.live -= 1;
                self.metrics.set_flows(self.live);
            }
        }
        let time = self.wall_clock(now);
        for news in self.discovery.take_news() {
            let (port, state) = match news {
                News::Decided(port, outcome) => {
                    self.metrics.discovery_candidate(outcome);
                    if outcome != CandidateOutcome::Kubernetes {
                        continue;
                    }
                    (port, PortState::Found)
                }
                News::Expired(port) => (port, PortState::Expired),
            };
            self.metrics.set_discovered_ports(self.discovery.found());
            output(Event::Port(PortChange { time, port, state }));
        }
    }

    /// Lists every connection that is still being read, as at the end of a capture or of the daemon.
    pub fn finish(&mut self, output: &mut impl FnMut(Event<'_>)) {
        let mut now = 0;
        while let Some((_, flow)) = self.flows.pop_oldest() {
            if let State::Live(mut live) = flow.state {
                now = now.max(live.last_heard);
                live.close(&mut self.classifier, &mut self.discovery, &self.metrics, output);
            }
        }
        self.live = 0;
        self.memory.clear();
        self.metrics.set_flows(0);
        self.tell_discovery(now, output);
        self.tell_undecided(output);
    }

    fn close(&mut self, place: Place, after: State, output: &mut impl FnMut(Event<'_>)) {
        let Some(flow) = self.flows.at(place) else { return };
        if let State::Live(mut live) = std::mem::replace(&mut flow.state, after) {
            live.close(&mut self.classifier, &mut self.discovery, &self.metrics, output);
            self.live -= 1;
            self.memory.free(&live.weight);
            self.metrics.set_flows(self.live);
            let last_heard = self.wall_clock(live.last_heard);
            if let Some(anonymous) = &mut self.anonymous
                && live.told
            {
                anonymous.judged(&live.connection, last_heard, &self.watch);
            }
        }
    }

    /// A record's time as one since 1970.
    fn wall_clock(&self, time: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.clock_offset + Duration::from_nanos(time)
    }
}
