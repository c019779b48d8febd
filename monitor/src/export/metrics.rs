//! Counting: one method for each thing that happens, each an addition at an index.
//!
//! What the metrics are is in [`definitions`](super::definitions).

mod configuration;
mod evidence;

use std::sync::Arc;
use std::time::SystemTime;

use monitor_common::{Hook, LossReason};
use prometheus::{Registry, TextEncoder};

use super::definitions::{self, FIRST_REQUEST, STATUS, TLS_VERSION, Tier, TierReason};
use super::family::{Family, OpenFamily};
use super::kernel::{KernelCollector, KernelSource};
use super::process::ProcessCollector;
use super::{FirstRequestFacts, first_request};
use crate::anonymous::Decision;
use crate::attach::{AttachMode, NotAttached};
use crate::classify::{Connection, ExposureKind, RequestMeaning};
use crate::discover::CandidateOutcome;
use crate::discovery::{Object, Reason};
use crate::inspect::{Credential, Evidence, Request, Unclassified};
use crate::pipeline::Event;
use crate::reassemble::{Counts, GapReason};

/// All metrics of this process; shared by reference.
pub struct Metrics {
    registry: Registry,
    kernel: KernelCollector,

    exposures: Family<2>,
    connections: Family<4>,
    unclassified: Family<1>,
    tls_handshakes: Family<5>,
    tls_handshake_results: Family<3>,
    first_requests: Family<4>,
    plaintext_requests: Family<6>,
    anonymous_requests: Family<5>,
    discovered_ports: Family<0>,
    discovery_candidates: Family<1>,

    records_received: Family<0>,
    record_bytes_received: Family<0>,
    records_malformed: Family<0>,
    flows_tracked: Family<0>,
    flows_evicted: Family<0>,
    flows_expired: Family<0>,
    gaps: Family<1>,
    gap_bytes: Family<1>,
    conflicting_bytes: Family<0>,
    retransmitted_bytes: Family<0>,
    outside_bytes: Family<0>,
    out_of_order: Family<0>,

    audit_events: Family<1>,
    audit_malformed_lines: Family<0>,
    audit_log_readable: OpenFamily,
    audit_log_changes: Family<1>,
    unauthenticated_responses: Family<2>,
    node_restriction_refused: Family<2>,

    attached: OpenFamily,
    not_attached: OpenFamily,
    behind_others: OpenFamily,
    detection_tier: OpenFamily,

    configuration_finding: OpenFamily,
    configuration_unreadable: OpenFamily,
    configuration_checked: OpenFamily,
    anonymous_auth_mode: OpenFamily,
    serving_certificate_expiry: OpenFamily,

    probe_attached: Family<1>,
    probe_not_attached: Family<1>,
    probe_hits: Family<1>,
    probe_lost: Family<1>,
    self_test_success: OpenFamily,
    self_test_timestamp: OpenFamily,
    inference_agreement: Family<2>,
    discovery_synced: Family<1>,
    discovery_objects: Family<1>,
    discovery_errors: Family<2>,
    discovery_last_change: Family<0>,

    event_readers: Family<0>,
    event_readers_refused: Family<0>,
    event_lines: Family<0>,
    event_lines_lost: Family<0>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Everything at 0, every tier of evidence not attached, no kernel counters yet.
    pub fn new() -> Self {
        // The table is constant, and the golden scrape of the tests goes through every line of this: it cannot fail.
        #[expect(clippy::expect_used, reason = "the table of definitions is constant and tested")]
        Self::try_new().expect("the table of definitions is valid")
    }

    fn try_new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let kernel_failures = register(&registry, &definitions::KERNEL_READ_FAILURES)?;
        let kernel = KernelCollector::new(kernel_failures)?;
        registry.register(Box::new(kernel.clone()))?;
        register_open(&registry, &definitions::BUILD_INFO)?
            .set(&[env!("CARGO_PKG_VERSION"), option_env!("API_EXPOSURE_REVISION").unwrap_or("unknown")], 1.0);
        let metrics = Self {
            kernel,
            exposures: register(&registry, &definitions::EXPOSURES)?,
            connections: register(&registry, &definitions::CONNECTIONS)?,
            unclassified: register(&registry, &definitions::UNCLASSIFIED)?,
            tls_handshakes: register(&registry, &definitions::TLS_HANDSHAKES)?,
            tls_handshake_results: register(&registry, &definitions::TLS_HANDSHAKE_RESULTS)?,
            first_requests: register(&registry, &definitions::FIRST_REQUESTS)?,
            plaintext_requests: register(&registry, &definitions::PLAINTEXT_REQUESTS)?,
            anonymous_requests: register(&registry, &definitions::ANONYMOUS_REQUESTS)?,
            discovered_ports: register(&registry, &definitions::DISCOVERED_PORTS)?,
            discovery_candidates: register(&registry, &definitions::DISCOVERY_CANDIDATES)?,
            records_received: register(&registry, &definitions::RECORDS_RECEIVED)?,
            record_bytes_received: register(&registry, &definitions::RECORD_BYTES_RECEIVED)?,
            records_malformed: register(&registry, &definitions::RECORDS_MALFORMED)?,
            flows_tracked: register(&registry, &definitions::FLOWS_TRACKED)?,
            flows_evicted: register(&registry, &definitions::FLOWS_EVICTED)?,
            flows_expired: register(&registry, &definitions::FLOWS_EXPIRED)?,
            gaps: register(&registry, &definitions::REASSEMBLY_GAPS)?,
            gap_bytes: register(&registry, &definitions::REASSEMBLY_GAP_BYTES)?,
            conflicting_bytes: register(&registry, &definitions::REASSEMBLY_CONFLICTING_BYTES)?,
            retransmitted_bytes: register(&registry, &definitions::REASSEMBLY_RETRANSMITTED_BYTES)?,
            outside_bytes: register(&registry, &definitions::REASSEMBLY_OUTSIDE_BYTES)?,
            out_of_order: register(&registry, &definitions::REASSEMBLY_OUT_OF_ORDER)?,
            audit_events: register(&registry, &definitions::AUDIT_EVENTS)?,
            audit_malformed_lines: register(&registry, &definitions::AUDIT_MALFORMED_LINES)?,
            audit_log_readable: register_open(&registry, &definitions::AUDIT_LOG_READABLE)?,
            audit_log_changes: register(&registry, &definitions::AUDIT_LOG_CHANGES)?,
            unauthenticated_responses: register(&registry, &definitions::UNAUTHENTICATED_RESPONSES)?,
            node_restriction_refused: register(&registry, &definitions::NODE_RESTRICTION_REFUSED)?,
            attached: register_open(&registry, &definitions::ATTACHED)?,
            not_attached: register_open(&registry, &definitions::NOT_ATTACHED)?,
            behind_others: register_open(&registry, &definitions::BEHIND_OTHERS)?,
            detection_tier: register_open(&registry, &definitions::DETECTION_TIER)?,
            configuration_finding: register_open(&registry, &definitions::CONFIGURATION_FINDING)?,
            configuration_unreadable: register_open(&registry, &definitions::CONFIGURATION_UNREADABLE)?,
            configuration_checked: register_open(&registry, &definitions::CONFIGURATION_CHECKED)?,
            anonymous_auth_mode: register_open(&registry, &definitions::ANONYMOUS_AUTH_MODE)?,
            serving_certificate_expiry: register_open(&registry, &definitions::SERVING_CERTIFICATE_EXPIRY)?,
            probe_attached: register(&registry, &definitions::PROBE_ATTACHED)?,
            probe_not_attached: register(&registry, &definitions::PROBE_NOT_ATTACHED)?,
            probe_hits: register(&registry, &definitions::PROBE_HITS)?,
            probe_lost: register(&registry, &definitions::PROBE_LOST)?,
            self_test_success: register_open(&registry, &definitions::SELF_TEST_SUCCESS)?,
            self_test_timestamp: register_open(&registry, &definitions::SELF_TEST_TIMESTAMP)?,
            inference_agreement: register(&registry, &definitions::INFERENCE_AGREEMENT)?,
            discovery_synced: register(&registry, &definitions::DISCOVERY_SYNCED)?,
            discovery_objects: register(&registry, &definitions::DISCOVERY_OBJECTS)?,
            discovery_errors: register(&registry, &definitions::DISCOVERY_ERRORS)?,
            discovery_last_change: register(&registry, &definitions::DISCOVERY_LAST_CHANGE)?,
            event_readers: register(&registry, &definitions::EVENT_READERS)?,
            event_readers_refused: register(&registry, &definitions::EVENT_READERS_REFUSED)?,
            event_lines: register(&registry, &definitions::EVENT_LINES)?,
            event_lines_lost: register(&registry, &definitions::EVENT_LINES_LOST)?,
            registry,
        };
        for &tier in Tier::ALL {
            metrics.tier(tier, TierReason::NotAttached);
        }
        Ok(metrics)
    }

    /// Adds the metrics of the process itself; for the daemon, not for `replay`.
    pub fn watch_process(&self) -> prometheus::Result<()> {
        self.registry.register(Box::new(ProcessCollector::new()?))
    }

    /// Where the kernel side's counters are read at each scrape; `None` when nothing is attached any more.
    pub fn set_kernel_source(&self, source: Option<Arc<dyn KernelSource>>) {
        self.kernel.set_source(source);
    }

    /// The scrape in Prometheus' text format 0.0.4, in a stable order. Reads the kernel side's counters, so it may block.
    pub fn encode(&self) -> String {
        self.kernel.refresh();
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!("cannot write the metrics: {error}");
        }
        text
    }

    /// The metrics reference as a table in Markdown.
    pub fn documentation() -> String {
        definitions::documentation()
    }

    /// Counts what the pipeline says: all that belongs to a connection, a request or an exposure.
    pub fn event(&self, event: &Event<'_>) {
        match *event {
            Event::Connection(connection) => {
                self.connection(connection);
                self.handshake(connection);
                if let Some(reason) = connection.observation.unclassified {
                    self.unclassified(reason);
                }
            }
            Event::Request(connection, index) => self.request(connection, index),
            Event::Exposure(connection, kind) => self.exposure(connection, kind),
            // The pipeline counts ports itself: what became of most is no event.
            Event::Port(_) | Event::Finding(_) => {}
            Event::Anonymous(request) => self.anonymous_request(request),
            Event::Probing(probing) => self.probing(probing),
        }
    }

    /// A connection, once.
    pub fn connection(&self, connection: &Connection) {
        let [role, source] = place(connection);
        self.connections.increment([
            role,
            source,
            connection.observation.protocol as usize,
            connection.outcome as usize,
        ]);
    }

    /// What a connection's TLS showed, once; nothing where it is no TLS.
    pub fn handshake(&self, connection: &Connection) {
        let Some(tls) = &connection.observation.tls else { return };
        let [role, source] = place(connection);
        let version = tls.version.map_or(0, |version| word(TLS_VERSION, version.label()));
        let certificate = tls.client_certificate as usize;
        self.tls_handshakes.increment([role, source, version, certificate, evidence(tls.evidence)]);
        self.tls_handshake_results.increment([role, source, tls.handshake as usize]);
        if tls.handshake == crate::inspect::TlsHandshake::Completed {
            let FirstRequestFacts { verdict, evidence: from } = first_request(connection);
            self.first_requests.increment([role, source, word(FIRST_REQUEST, verdict), evidence(from)]);
        }
    }

    /// One request in the clear, once; `index` into the connection's requests.
    pub fn request(&self, connection: &Connection, index: usize) {
        let (Some(request), Some(meaning)) =
            (connection.observation.requests.get(index), connection.requests.get(index))
        else {
            return;
        };
        self.unlisted_request(connection, request, meaning);
    }

    /// One request in the clear, once, that is not (or no longer) listed in the connection.
    pub fn unlisted_request(&self, connection: &Connection, request: &Request, meaning: &RequestMeaning) {
        let [role, source] = place(connection);
        let (verb, path_class) = (meaning.verb as usize, meaning.path_class as usize);
        self.plaintext_requests.increment([
            role,
            source,
            verb,
            path_class,
            meaning.credential as usize,
            status(request.status),
        ]);
        if connection.observation.kubernetes && meaning.credential == Credential::None {
            let decision = match request.status {
                None => Decision::Unknown,
                Some(401 | 403) => Decision::Denied,
                Some(_) => Decision::Allowed,
            };
            self.anonymous_requests.increment([
                source,
                verb,
                path_class,
                decision as usize,
                Evidence::Plaintext as usize,
            ]);
        }
    }

    /// An exposure, once for each connection and kind.
    pub fn exposure(&self, connection: &Connection, kind: ExposureKind) {
        self.exposures.increment([kind as usize, connection.source.class as usize]);
    }

    /// A port that nobody named was decided about.
    pub fn discovery_candidate(&self, outcome: CandidateOutcome) {
        self.discovery_candidates.increment([outcome as usize]);
    }

    /// How many such ports are watched now because the Kubernetes API speaks there.
    pub fn set_discovered_ports(&self, ports: usize) {
        self.discovered_ports.set([], ports as u64);
    }

    /// A connection that could not be read, or not to its end.
    pub fn unclassified(&self, reason: Unclassified) {
        self.unclassified.increment([reason as usize]);
    }

    /// A record with this many payload bytes came from the kernel side.
    pub fn record(&self, bytes: usize) {
        self.records_received.increment([]);
        self.record_bytes_received.add([], bytes as u64);
    }

    /// What came from the kernel side was no record.
    pub fn malformed(&self) {
        self.records_malformed.increment([]);
    }

    /// Records were lost that the kernel side did not count itself.
    pub fn lost(&self, reason: LossReason, count: u64) {
        self.kernel.lost(reason, count);
    }

    /// How many connections user space follows now.
    pub fn set_flows(&self, flows: usize) {
        self.flows_tracked.set([], flows as u64);
    }

    /// A connection was dropped to make room.
    pub fn evicted(&self) {
        self.flows_evicted.increment([]);
    }

    /// A connection was given up because nothing was seen of it for a while.
    pub fn expired(&self) {
        self.flows_expired.increment([]);
    }

    /// Bytes of a stream are missing.
    pub fn gap(&self, reason: GapReason, bytes: u64) {
        self.gaps.increment([reason as usize]);
        self.gap_bytes.add([reason as usize], bytes);
    }

    /// What went otherwise than in order in a connection's streams.
    pub fn reassembly(&self, counts: &Counts) {
        self.out_of_order.add([], counts.out_of_order.into());
        self.retransmitted_bytes.add([], counts.retransmitted.into());
        self.conflicting_bytes.add([], counts.conflicts.into());
        self.outside_bytes.add([], counts.outside.into());
    }

    /// A program is attached from now on.
    pub fn attached(&self, interface: &str, hook: Hook, mode: AttachMode) {
        let here = |words: &[String]| is(words, 0, interface) && is(words, 1, hook.label());
        self.not_attached.remove(here);
        self.attached.remove(here);
        self.attached.set(&[interface, hook.label(), mode.label()], 1.0);
    }

    /// A program that should be attached is not, from now on.
    pub fn not_attached(&self, interface: &str, hook: Hook, reason: NotAttached) {
        let here = |words: &[String]| is(words, 0, interface) && is(words, 1, hook.label());
        self.attached.remove(here);
        self.not_attached.remove(here);
        self.not_attached.set(&[interface, hook.label(), reason.label()], 1.0);
    }

    /// An interface is gone, or no longer watched.
    pub fn detached(&self, interface: &str) {
        self.attached.remove(|words| is(words, 0, interface));
        self.not_attached.remove(|words| is(words, 0, interface));
        self.behind_others.remove(|words| is(words, 0, interface));
    }

    /// Whether programs of others see packets before ours.
    pub fn behind_others(&self, interface: &str, hook: Hook, behind: bool) {
        if behind {
            self.behind_others.set(&[interface, hook.label()], 1.0);
        } else {
            self.behind_others.remove(|words| is(words, 0, interface) && is(words, 1, hook.label()));
        }
    }

    /// Whether a source of evidence works, and why not.
    pub fn tier(&self, tier: Tier, reason: TierReason) {
        self.detection_tier.remove(|words| is(words, 0, tier.label()));
        let works = if reason == TierReason::Working { 1.0 } else { 0.0 };
        self.detection_tier.set(&[tier.label(), reason.label()], works);
    }

    /// Whether the Kubernetes API is followed for this object.
    pub fn discovery_synced(&self, object: Object, synced: bool) {
        self.discovery_synced.set([object as usize], synced.into());
    }

    /// The Kubernetes API said something new: so many of this object are known now.
    pub fn discovery_changed(&self, object: Object, objects: usize) {
        self.discovery_objects.set([object as usize], objects as u64);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.discovery_last_change.set([], now.as_secs());
    }

    /// An attempt to follow this object failed.
    pub fn discovery_failed(&self, object: Object, reason: Reason) {
        self.discovery_errors.increment([object as usize, reason as usize]);
    }

    /// How many read the events now.
    pub(super) fn set_event_readers(&self, readers: usize) {
        self.event_readers.set([], readers as u64);
    }

    /// A reader of the events was turned away.
    pub(super) fn event_reader_refused(&self) {
        self.event_readers_refused.increment([]);
    }

    /// A line was written for readers of the events.
    pub(super) fn event_line(&self) {
        self.event_lines.increment([]);
    }

    /// A reader did not get a line.
    pub(super) fn event_line_lost(&self) {
        self.event_lines_lost.increment([]);
    }

    /// Lines that readers did not get.
    pub fn event_lines_lost(&self) -> u64 {
        self.event_lines_lost.get([])
    }
}

fn register<const N: usize>(
    registry: &Registry,
    definition: &'static definitions::Definition,
) -> prometheus::Result<Family<N>> {
    let family = Family::new(definition)?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

fn register_open(registry: &Registry, definition: &'static definitions::Definition) -> prometheus::Result<OpenFamily> {
    let family = OpenFamily::new(definition)?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

/// Indices of the labels that most metrics begin with.
fn place(connection: &Connection) -> [usize; 2] {
    [connection.destination.role as usize, connection.source.class as usize]
}

/// Index of the label `evidence`; the last word is `unknown`.
fn evidence(evidence: Option<Evidence>) -> usize {
    evidence.map_or(Evidence::COUNT, |evidence| evidence as usize)
}

/// Index of the label `status`.
fn status(status: Option<u16>) -> usize {
    match status {
        None => 0,
        Some(code @ 100..=599) => usize::from(code / 100),
        Some(_) => STATUS.len() - 1,
    }
}

/// Index of a word in a short list; 0, which every such list has for what is not known, where it is not in it.
fn word(words: &[&str], wanted: &str) -> usize {
    words.iter().position(|word| *word == wanted).unwrap_or(0)
}

fn is(words: &[String], at: usize, wanted: &str) -> bool {
    words.get(at).is_some_and(|word| word == wanted)
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
