//! Every metric in one table: its name, its kind, its labels with every word they can hold, and its help.
//!
//! The label sets are closed; the two open labels (an interface's name, a program's name) are bounded by the node and
//! by the object. Exact and inferred knowledge never share a metric without the label `evidence` telling them apart.

use monitor_common::{Hook, LossReason, Role, Skip, SourceClass, closed_set};

use crate::anonymous::{Actual, Decision, INFERRED};
use crate::attach::{AttachMode, NotAttached};
use crate::audit::event::UnauthenticatedReason;
use crate::audit::follower::Change;
use crate::audit::log::AuditKind;
use crate::audit::node_restriction::{NodeRefusal, NodeResource};
use crate::classify::{ExposureKind, Outcome, PathClass, Verb};
use crate::configuration::{AnonymousMode, FindingKind, Severity, Source};
use crate::discover::CandidateOutcome;
use crate::discovery::{Object, Reason};
use crate::inspect::{ClientCertificate, Credential, Evidence, FirstRequest, Protocol, TlsHandshake, Unclassified};
use crate::probe::ProbeLoss;
use crate::probe::process::Component;
use crate::reassemble::GapReason;

/// What a metric is called, what it means, and which series it can have.
#[derive(Debug)]
pub struct Definition {
    /// The whole name.
    pub name: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// In the order in which a value is indexed.
    pub labels: &'static [Label],
    /// Every series is there from the start with 0, so that the first event is an increase; otherwise a series appears
    /// with its first event.
    pub present: bool,
    /// The text of `# HELP`.
    pub help: &'static str,
}

/// What a value does over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Grows until the process ends.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// A label and every word that it can hold.
#[derive(Debug)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// Its words in the order of their index; none where the set is open.
    pub words: &'static [&'static str],
}

closed_set! {
    /// Sources of evidence, from the ones that packets alone give to the API server's own word.
    Tier {
        /// Requests and credentials in the clear: exact.
        Plaintext = "plaintext",
        /// Hellos, and the client's certificate of TLS up to 1.2: exact.
        TlsClear = "tls_clear",
        /// Client certificates of TLS 1.3 from record lengths: inferred.
        RecordLength = "record_length",
        /// What became of the first request over HTTP/2 from the server's GOAWAY: inferred.
        Goaway = "goaway",
        /// The probe in the API server: exact.
        Probe = "probe",
        /// The API server's audit log: exact.
        Audit = "audit",
    }
}

closed_set! {
    /// Why a source of evidence works or does not.
    TierReason {
        /// It works.
        Working = "working",
        /// Nothing has been attached yet, or nothing any more.
        NotAttached = "not_attached",
        /// It was not asked for.
        NotConfigured = "not_configured",
        /// What it needs was not seen yet.
        NotSeen = "not_seen",
        /// The process may not.
        NotPermitted = "not_permitted",
        /// This kernel, server or build does not offer it.
        Unsupported = "unsupported",
        /// Any other error; the log has it.
        Failed = "failed",
    }
}

/// The words of a closed set, in the order of its values, with more behind them.
macro_rules! words {
    ($set:ty $(, $more:literal)*) => {{
        const MORE: &[&str] = &[$($more),*];
        const WORDS: [&str; <$set>::COUNT + MORE.len()] = {
            let mut words = [""; <$set>::COUNT + MORE.len()];
            let mut at = 0;
            while at < <$set>::COUNT {
                words[at] = <$set>::ALL[at].label();
                at += 1;
            }
            let mut more = 0;
            while more < MORE.len() {
                words[at + more] = MORE[more];
                more += 1;
            }
            words
        };
        &WORDS
    }};
}

/// Words of the label `status`: the first digit of the status code.
pub const STATUS: &[&str] = &["none", "1xx", "2xx", "3xx", "4xx", "5xx", "other"];

/// Words of the label `version`: what the server chose.
pub const TLS_VERSION: &[&str] = &["unknown", "ssl3.0", "1.0", "1.1", "1.2", "1.3", "other"];

/// Words of the label `first_request`.
pub const FIRST_REQUEST: &[&str] = words!(FirstRequest);

/// Words of the label `decision`.
pub const DECISION: &[&str] = words!(Decision);

const ROLE: Label = Label { name: "role", words: words!(Role) };
const SOURCE: Label = Label { name: "source", words: words!(SourceClass) };
const KNOWN_SOURCE: Label = Label { name: "source", words: words!(SourceClass, "unknown") };
const VERB: Label = Label { name: "verb", words: words!(Verb) };
const PATH_CLASS: Label = Label { name: "path_class", words: words!(PathClass) };
const EVIDENCE: Label = Label { name: "evidence", words: words!(Evidence, "unknown") };
const INTERFACE: Label = Label { name: "interface", words: &[] };
const HOOK: Label = Label { name: "hook", words: words!(Hook) };
const OBJECT: Label = Label { name: "object", words: words!(Object) };
const PROGRAM: Label = Label { name: "program", words: &[] };

macro_rules! definitions {
    ($($(#[$meta:meta])* $constant:ident = $kind:ident $(($present:ident))? $name:literal [$($label:expr),* $(,)?] $help:literal;)+) => {
        $(
            #[doc = $help]
            pub static $constant: Definition = Definition {
                name: $name,
                kind: Kind::$kind,
                labels: &[$($label),*],
                present: definitions!(@present $($present)?),
                help: $help,
            };
        )+

        /// Every metric, in the order of the documentation.
        pub static ALL: &[&Definition] = &[$(&$constant),+];
    };
    (@present present) => { true };
    (@present) => { false };
}

definitions! {
    EXPOSURES = Counter(present) "api_exposure_exposures_total" [Label { name: "kind", words: words!(ExposureKind) }, SOURCE]
        "Exposures: connections on which something was seen that should not have been possible, once for each connection and kind, by where the client's address belongs. Kind anonymous_probing, a burst of refused requests, counts once a minute for each address.";
    CONNECTIONS = Counter "api_exposure_connections_total" [ROLE, SOURCE, Label { name: "protocol", words: words!(Protocol) }, Label { name: "outcome", words: words!(Outcome) }]
        "Connections to watched ports on which payload was seen, by what the port is meant to be, where the client's address belongs, what was spoken, and whether the start was seen. Connections without payload are in api_exposure_tcp_handshake_packets_total.";
    UNCLASSIFIED = Counter(present) "api_exposure_unclassified_connections_total" [Label { name: "reason", words: words!(Unclassified) }]
        "Connections that could not be read, or not to their end, by the first reason. They are unknown, not harmless.";
    TLS_HANDSHAKES = Counter "api_exposure_tls_handshakes_total" [ROLE, SOURCE, Label { name: "version", words: TLS_VERSION }, Label { name: "client_certificate", words: words!(ClientCertificate) }, EVIDENCE]
        "TLS connections by negotiated version and by what the client showed of a certificate. Evidence certificate_message was read and is exact; record_length and ticket_length are inferred from sizes. A presented certificate is not an authenticated one, and an absent one does not mean an anonymous request: a token may follow.";
    TLS_HANDSHAKE_RESULTS = Counter "api_exposure_tls_handshake_results_total" [ROLE, SOURCE, Label { name: "handshake", words: words!(TlsHandshake) }]
        "TLS connections by how far the handshake came: completed, rejected by the client (it hung up on the server's certificate), rejected by the server, or incomplete while it was watched.";
    FIRST_REQUESTS = Counter "api_exposure_first_requests_inferred_total" [ROLE, SOURCE, Label { name: "first_request", words: FIRST_REQUEST }, EVIDENCE]
        "Inferred, not exact: what the API server made of the first request of a completed TLS connection, told from its HTTP/2 GOAWAY: anonymous, refused (401), accepted (any credential), or unknown.";
    PLAINTEXT_REQUESTS = Counter "api_exposure_plaintext_requests_total" [ROLE, SOURCE, VERB, PATH_CLASS, Label { name: "credential", words: words!(Credential) }, Label { name: "status", words: STATUS }]
        "HTTP requests in the clear on watched ports, read exactly, by what they do, what their path leads to, which credential they carry by the API server's own rule, and the class of the answer's status code (none: no answer was seen). They count whether or not the server turned out to be the Kubernetes API.";
    ANONYMOUS_REQUESTS = Counter "api_exposure_anonymous_requests_total" [KNOWN_SOURCE, VERB, PATH_CLASS, Label { name: "decision", words: DECISION }, EVIDENCE]
        "Exact, not inferred: requests to the Kubernetes API without a credential. Evidence plaintext was read in the clear, where decision is denied for the status codes 401 and 403 and allowed for any other. Evidence probe was seen in the API server itself, where decision is denied for 401 under anonymous conditions and unknown for what was let in; evidence audit comes from its audit log and tells both. One request counts once for each evidence.";

    DISCOVERED_PORTS = Gauge(present) "api_exposure_discovered_ports" []
        "Ports named nowhere on which the Kubernetes API was found speaking in the clear and that are watched now, as role discovered. 0 where --discover-plaintext is off.";
    DISCOVERY_CANDIDATES = Counter(present) "api_exposure_discovery_candidates_total" [Label { name: "outcome", words: words!(CandidateOutcome) }]
        "Ports named nowhere to which a request for an API server's path was sent in the clear, by what became of them: their reply was the Kubernetes API's, or another server's, or none was seen, or there were too many to look at. All but the first are left alone for a while.";

    PACKETS = Counter(present) "api_exposure_packets_total" [ROLE, SOURCE]
        "TCP packets to and from watched ports as the kernel side counted them, by what the port is meant to be and where the client's address belongs. A packet that passes two watched interfaces counts on each.";
    BYTES = Counter(present) "api_exposure_bytes_total" [ROLE, SOURCE]
        "Bytes of the frames in api_exposure_packets_total, from the link layer's header on.";
    TCP_HANDSHAKE_PACKETS = Counter(present) "api_exposure_tcp_handshake_packets_total" [ROLE, SOURCE, Label { name: "step", words: &["syn", "syn_ack", "reset"] }]
        "Packets that ask for a connection (syn), grant it (syn_ack) or break it off (reset), whether or not payload followed: scans, floods and silent clients show here only.";
    SKIPPED_PACKETS = Counter(present) "api_exposure_skipped_packets_total" [HOOK, Label { name: "reason", words: words!(Skip) }]
        "Packets that the kernel side left alone, by hook and by the reason. Most reasons are the ordinary way of traffic that is of no interest; vxlan, geneve, gre, ip_in_ip, wireguard and encrypted are tunnels whose content is not read; truncated, malformed, table_full and ring_full are losses.";
    FLOWS_BEGUN = Counter(present) "api_exposure_flows_begun_total" []
        "Connections that the kernel side began to follow, at their first payload byte.";
    RECORDS_SENT = Counter(present) "api_exposure_records_sent_total" []
        "Records (a TCP segment's payload with its header) that the kernel side handed to user space.";
    RECORD_BYTES_SENT = Counter(present) "api_exposure_record_bytes_sent_total" []
        "Payload bytes in the records that the kernel side handed to user space.";
    RECORDS_LOST = Counter(present) "api_exposure_records_lost_total" [Label { name: "reason", words: words!(LossReason) }]
        "Records that did not reach user space, by reason: what they held was not seen.";
    RECORDS_RECEIVED = Counter(present) "api_exposure_records_received_total" []
        "Records that user space took from the kernel side.";
    RECORD_BYTES_RECEIVED = Counter(present) "api_exposure_record_bytes_received_total" []
        "Payload bytes in the records that user space took.";
    RECORDS_MALFORMED = Counter(present) "api_exposure_records_malformed_total" []
        "Records that user space could not make sense of; any is a defect of this program.";

    FLOWS_TRACKED = Gauge(present) "api_exposure_flows_tracked" []
        "Connections that user space follows now.";
    FLOWS_EVICTED = Counter(present) "api_exposure_flows_evicted_total" []
        "Connections that were dropped before their end to make room for others; each was reported with what was known.";
    FLOWS_EXPIRED = Counter(present) "api_exposure_flows_expired_total" []
        "Connections that were no longer followed because nothing had been seen of them for a while.";
    REASSEMBLY_GAPS = Counter(present) "api_exposure_reassembly_gaps_total" [Label { name: "reason", words: words!(GapReason) }]
        "Holes in the byte streams of connections, by why the bytes are missing; left_out is on purpose.";
    REASSEMBLY_GAP_BYTES = Counter(present) "api_exposure_reassembly_gap_bytes_total" [Label { name: "reason", words: words!(GapReason) }]
        "Bytes missing in the holes of api_exposure_reassembly_gaps_total.";
    REASSEMBLY_CONFLICTING_BYTES = Counter(present) "api_exposure_reassembly_conflicting_bytes_total" []
        "Retransmitted bytes that differed from the first copy, a way to hide from a monitor; the first copy was kept.";
    REASSEMBLY_RETRANSMITTED_BYTES = Counter(present) "api_exposure_reassembly_retransmitted_bytes_total" []
        "Bytes that came again after they had been read.";
    REASSEMBLY_OUTSIDE_BYTES = Counter(present) "api_exposure_reassembly_outside_bytes_total" []
        "Bytes that belong nowhere in their stream: before its beginning, behind its end, or further ahead than a TCP window reaches.";
    REASSEMBLY_OUT_OF_ORDER = Counter(present) "api_exposure_reassembly_out_of_order_total" []
        "Records that came before earlier bytes of their stream and were held until those came.";

    AUDIT_EVENTS = Counter(present) "api_exposure_audit_events_total" [Label { name: "kind", words: words!(AuditKind) }]
        "Events in the API server's audit log (--audit-log), by what they are about. Each request counts once under the first six kinds: anonymous (let in without a credential), unsecured (at the insecure port), unauthenticated (refused with 401), node_restriction (a node's write that the admission plugin NodeRestriction refused), node_refused (a node's write that the authorizer or another admission plugin refused), other. What the audit policy leaves out is not here.";
    AUDIT_MALFORMED_LINES = Counter(present) "api_exposure_audit_malformed_lines_total" []
        "Lines of the audit log that are no audit event in JSON, or longer than 10 MiB. They were passed over.";
    AUDIT_LOG_READABLE = Gauge "api_exposure_audit_log_readable" []
        "1 while the audit log can be read and has audit events in JSON, 0 while it cannot; api_exposure_detection_tier and the log have the reason. Absent without --audit-log.";
    AUDIT_LOG_CHANGES = Counter(present) "api_exposure_audit_log_changes_total" [Label { name: "change", words: words!(Change) }]
        "What happened to the audit log's file: how it was begun (from_end, from_start, resumed), that it was rotated or cut (rotated), and that the rest of an old one was not found again, so that events may be missing (rest_lost).";
    UNAUTHENTICATED_RESPONSES = Counter(present) "api_exposure_unauthenticated_responses_total" [KNOWN_SOURCE, Label { name: "reason", words: words!(UnauthenticatedReason) }]
        "Exact, from the audit log: requests that the API server refused with 401, by where the client's address belongs and whether they carried no credential or a bad one. The API server's own events do not tell which: unknown.";
    NODE_RESTRICTION_REFUSED = Counter "api_exposure_node_restriction_refused_total" [Label { name: "resource", words: words!(NodeResource) }, Label { name: "reason", words: words!(NodeRefusal) }]
        "Exact, from the audit log: writes of nodes (system:node: users) that the admission plugin NodeRestriction refused, by resource and reason. It shows that the plugin works; a node that tries more than it may is broken or taken over. What the Node authorizer refuses before is api_exposure_audit_events_total of kind node_refused.";

    ATTACHED = Gauge "api_exposure_attached" [INTERFACE, HOOK, Label { name: "mode", words: words!(AttachMode) }]
        "1 where a program of this monitor is attached, by interface, hook and way of attaching.";
    NOT_ATTACHED = Gauge "api_exposure_not_attached" [INTERFACE, HOOK, Label { name: "reason", words: words!(NotAttached) }]
        "1 where a program of this monitor should be attached and is not, by interface, hook and reason. Where XDP is missing, TC counts instead; where TC is missing, nothing is read there.";
    BEHIND_OTHERS = Gauge "api_exposure_behind_others" [INTERFACE, HOOK]
        "1 where programs of others see an interface's packets before this monitor's program on the same hook: what they drop, redirect or end the chain for is not seen there. The log and the command check name them.";
    DETECTION_TIER = Gauge "api_exposure_detection_tier" [Label { name: "tier", words: words!(Tier) }, Label { name: "reason", words: words!(TierReason) }]
        "Which evidence works now: 1 with reason working, 0 with the reason why it does not. plaintext, tls_clear, probe and audit are exact; record_length and goaway are inferred.";
    KERNEL_PROGRAM_RUN_SECONDS = Counter "api_exposure_kernel_program_run_seconds_total" [PROGRAM]
        "Time that the kernel spent in each program of this monitor. The kernel counts it only while the sysctl kernel.bpf_stats_enabled is 1.";
    KERNEL_PROGRAM_RUNS = Counter "api_exposure_kernel_program_runs_total" [PROGRAM]
        "How often the kernel ran each program of this monitor. The kernel counts it only while the sysctl kernel.bpf_stats_enabled is 1.";
    KERNEL_READ_FAILURES = Counter(present) "api_exposure_kernel_read_failures_total" []
        "Scrapes in which the kernel side's counters could not be read; its metrics are missing from those scrapes.";

    EVENT_READERS = Gauge(present) "api_exposure_event_readers" []
        "Readers of /events now.";
    EVENT_READERS_REFUSED = Counter(present) "api_exposure_event_readers_refused_total" []
        "Readers of /events that were turned away because there were too many.";
    EVENT_LINES = Counter(present) "api_exposure_event_lines_total" []
        "Lines that were written for readers of /events, each once however many readers took it.";
    EVENT_LINES_LOST = Counter(present) "api_exposure_event_lines_lost_total" []
        "Lines that readers of /events did not get because they read too slowly, summed over the readers.";

    CONFIGURATION_FINDING = Gauge "api_exposure_configuration_finding" [Label { name: "finding", words: words!(FindingKind) }, Label { name: "severity", words: words!(Severity) }]
        "1 where the API server's configuration has this finding, 0 where it was looked at and is fine; absent where it cannot be told. The command check says what was read where and what to do.";
    CONFIGURATION_UNREADABLE = Gauge "api_exposure_configuration_unreadable" [Label { name: "source", words: words!(Source) }]
        "What of the API server's configuration could not be read; the log and the command check say why. Absent where all could.";
    CONFIGURATION_CHECKED = Gauge "api_exposure_configuration_checked_timestamp_seconds" []
        "When the API server's configuration was read last, in seconds since 1970 in UTC.";
    ANONYMOUS_AUTH_MODE = Gauge "api_exposure_anonymous_auth_mode" [Label { name: "mode", words: words!(AnonymousMode) }]
        "1 for who is let in without a credential by the API server's configuration: all, paths (some paths alone), off or unknown. Of several API servers the most open one; absent where none was found.";
    SERVING_CERTIFICATE_EXPIRY = Gauge "api_exposure_serving_certificate_expiry_timestamp_seconds" []
        "When the API server's serving certificate ends, in seconds since 1970 in UTC; of several the earliest. Absent where none was read.";

    PROBE_ATTACHED = Gauge(present) "api_exposure_probe_attached" [Label { name: "component", words: words!(Component) }]
        "API servers' processes whose anonymous authenticator is probed now, by what runs them: kube_apiserver, or embedded in k3s, RKE2 or MicroK8s.";
    PROBE_NOT_ATTACHED = Gauge(present) "api_exposure_probe_not_attached" [Label { name: "component", words: words!(Component) }]
        "API servers' processes that were found and cannot be probed; the log and the command check say why. 0 where the probe is off.";
    PROBE_HITS = Counter(present) "api_exposure_probe_hits_total" [Label { name: "outcome", words: &["joined", "no_flow"] }]
        "Requests that the probe saw, by whether a connection on a watched port was seen by the same address and port. Requests of this monitor's own self-test do not count.";
    PROBE_LOST = Counter(present) "api_exposure_probe_lost_total" [Label { name: "reason", words: words!(ProbeLoss) }]
        "Requests that the probe saw and that were lost, or not wholly read, by reason: unreadable requests count with what could be read.";
    SELF_TEST_SUCCESS = Gauge "api_exposure_self_test_success" []
        "1 where the last self-test of the probe succeeded: an anonymous GET /livez of this monitor's own over loopback came back through the probe within a second. Absent before the first one.";
    SELF_TEST_TIMESTAMP = Gauge "api_exposure_self_test_timestamp_seconds" []
        "When the last self-test of the probe ended, in seconds since 1970 in UTC. Absent before the first one.";
    INFERENCE_AGREEMENT = Counter "api_exposure_inference_agreement_total" [Label { name: "inferred", words: INFERRED }, Label { name: "actual", words: words!(Actual) }]
        "How the inference does on this very cluster, while the probe sees every anonymous request: completed TLS connections to the secure port by what was inferred, of the first request (anonymous, refused, accepted) and of the client certificate (the others), and by whether the probe saw the first request without a credential. Not all differences are errors: an absent certificate leaves room for a token, and a presented one need not be accepted.";
    DISCOVERY_SYNCED = Gauge(present) "api_exposure_discovery_synced" [OBJECT]
        "1 where the Kubernetes API is followed for this object of the cluster: all that there is was listed, and changes come. 0 where it is not, or not now: then what was known last is kept, and without any the flags alone say what the cluster is.";
    DISCOVERY_OBJECTS = Gauge(present) "api_exposure_discovery_objects" [OBJECT]
        "Objects of the cluster that are known from the Kubernetes API.";
    DISCOVERY_ERRORS = Counter(present) "api_exposure_discovery_errors_total" [OBJECT, Label { name: "reason", words: words!(Reason) }]
        "Attempts to follow an object of the cluster by the Kubernetes API that failed, by reason; they are repeated after a while. That the API has no ServiceCIDRs (before Kubernetes 1.33), or does not let them be read, is no error.";
    DISCOVERY_LAST_CHANGE = Gauge(present) "api_exposure_discovery_last_change_timestamp_seconds" []
        "When the Kubernetes API last said something new of the cluster, in seconds since 1970 in UTC; 0: never.";

    BUILD_INFO = Gauge "api_exposure_build_info" [Label { name: "version", words: &[] }, Label { name: "revision", words: &[] }]
        "1; version and source revision of this program.";
    PROCESS_CPU_SECONDS = Counter "process_cpu_seconds_total" []
        "User and system CPU time of this process in seconds.";
    PROCESS_OPEN_FDS = Gauge "process_open_fds" []
        "File descriptors that this process has open.";
    PROCESS_RESIDENT_MEMORY_BYTES = Gauge "process_resident_memory_bytes" []
        "Resident memory of this process in bytes, without the kernel's maps.";
    PROCESS_START_TIME_SECONDS = Gauge "process_start_time_seconds" []
        "When this process began, in seconds since 1970 in UTC.";
    PROCESS_VIRTUAL_MEMORY_BYTES = Gauge "process_virtual_memory_bytes" []
        "Virtual memory of this process in bytes.";
}

/// The metrics reference as a table in Markdown, made from [`ALL`].
pub fn documentation() -> String {
    let mut text = String::from("| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n");
    for definition in ALL {
        let kind = match definition.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let labels: Vec<String> = definition.labels.iter().map(|label| format!("`{}`", label.name)).collect();
        text += &format!(
            "| `{}` | {kind} | {} | {} |\n",
            definition.name,
            labels.join(", "),
            definition.help.replace('|', "\\|")
        );
    }
    text += "\n| Label | Words |\n|---|---|\n";
    let mut seen: Vec<(&str, &[&str])> = Vec::new();
    for label in ALL.iter().flat_map(|definition| definition.labels) {
        if !label.words.is_empty() && !seen.contains(&(label.name, label.words)) {
            seen.push((label.name, label.words));
        }
    }
    for (name, words) in &seen {
        // Two metrics may use one label name for different sets (`reason`): each says whose it is.
        let users: Vec<String> = ALL
            .iter()
            .filter(|definition| definition.labels.iter().any(|label| label.name == *name && label.words == *words))
            .map(|definition| format!("`{}`", definition.name))
            .collect();
        let ambiguous = seen.iter().filter(|(other, _)| other == name).count() > 1;
        let of = if ambiguous { format!(" of {}", users.join(", ")) } else { String::new() };
        let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
        text += &format!("| `{name}`{of} | {} |\n", words.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_follow_prometheus_conventions() {
        let mut names = HashSet::new();
        for definition in ALL {
            let name = definition.name;
            assert!(names.insert(name), "{name} is defined twice");
            assert!(name.starts_with("api_exposure_") || name.starts_with("process_"), "{name}");
            assert_eq!(definition.kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert!(definition.help.ends_with('.'), "{name}: help is a sentence");
            let open = definition.labels.iter().any(|label| label.words.is_empty());
            assert!(!(open && definition.present), "{name}: an open set cannot be there from the start");
            for label in definition.labels {
                let distinct: HashSet<_> = label.words.iter().collect();
                assert_eq!(distinct.len(), label.words.len(), "{name}: a word of {} stands twice", label.name);
            }
        }
    }

    #[test]
    fn words_stand_at_their_values() {
        assert_eq!(ROLE.words.get(Role::NodePort as usize), Some(&"node_port"));
        assert_eq!(EVIDENCE.words.len(), Evidence::COUNT + 1);
        assert_eq!(EVIDENCE.words.get(Evidence::Goaway as usize), Some(&"goaway"));
        assert_eq!(EVIDENCE.words.last(), Some(&"unknown"));
    }

    #[test]
    fn documentation_names_every_metric_and_word() {
        let text = documentation();
        for definition in ALL {
            assert!(text.contains(&format!("| `{}` |", definition.name)), "{}", definition.name);
            for word in definition.labels.iter().flat_map(|label| label.words) {
                assert!(text.contains(&format!("`{word}`")), "{word}");
            }
        }
        assert!(text.lines().filter(|line| !line.is_empty()).all(|line| line.starts_with('|')));
    }
}
