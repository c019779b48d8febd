use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use monitor_common::{PacketCount, PacketKind, Role, Skip, SourceClass};

use super::super::examples::{anonymous_over_tls, evident, plaintext, silent};
use super::super::kernel::KernelCounts;
use super::*;
use crate::anonymous::{Actual, Agreement};
use crate::audit::event::UnauthenticatedReason;
use crate::audit::follower::Change;
use crate::audit::log::AuditKind;
use crate::audit::node_restriction::{NodeRefusal, NodeResource};
use crate::configuration::{AnonymousMode, Finding, FindingKind, Report, Source};
use crate::discover::CandidateOutcome;
use crate::probe::ProbeLoss;
use crate::probe::process::Component;

/// Set to any value, this variable makes the test write the golden scrape instead of comparing with it.
const WRITE_GOLDEN: &str = "API_EXPOSURE_WRITE_GOLDEN";

struct Fixed(KernelCounts);

impl KernelSource for Fixed {
    fn read(&self) -> anyhow::Result<KernelCounts> {
        Ok(self.0.clone())
    }
}

/// Metrics in which something of everything has happened.
fn prepared() -> Metrics {
    let metrics = Metrics::new();
    for connection in [anonymous_over_tls(), plaintext(), silent()] {
        metrics.event(&Event::Connection(&connection));
        for index in 0..connection.requests.len() {
            metrics.event(&Event::Request(&connection, index));
        }
        for &kind in &connection.exposures {
            metrics.event(&Event::Exposure(&connection, kind));
        }
    }
    metrics.record(1_448);
    metrics.record(0);
    metrics.malformed();
    metrics.lost(LossReason::Unreadable, 4);
    metrics.set_flows(2);
    metrics.evicted();
    metrics.expired();
    metrics.gap(GapReason::Lost, 1_000);
    metrics.reassembly(&Counts { out_of_order: 2, retransmitted: 300, conflicts: 4, outside: 50, capped: 1 });
    metrics.not_attached("eth0", Hook::Xdp, NotAttached::Taken);
    metrics.behind_others("eth1", Hook::Tc, true);
    metrics.attached("eth0", Hook::Tc, AttachMode::Clsact);
    metrics.not_attached("eth1", Hook::Xdp, NotAttached::Failed);
    metrics.attached("eth1", Hook::Xdp, AttachMode::Native);
    metrics.attached("veth0", Hook::Tc, AttachMode::Tcx);
    metrics.detached("veth0");
    metrics.tier(Tier::Plaintext, TierReason::Working);
    metrics.tier(Tier::Goaway, TierReason::NotSeen);
    metrics.audit_event(AuditKind::Anonymous);
    metrics.audit_malformed_line();
    metrics.set_audit_log_readable(false);
    metrics.audit_log_change(Change::RestLost);
    metrics.unauthenticated_response(Some(SourceClass::Public), UnauthenticatedReason::BadCredential);
    metrics.node_restriction_refused(NodeResource::Nodes, NodeRefusal::RestrictedLabel);
    metrics.set_discovered_ports(1);
    metrics.discovery_candidate(CandidateOutcome::Other);
    metrics.event(&Event::Anonymous(&evident(true)));
    metrics.event(&Event::Anonymous(&evident(false)));
    metrics.agreement(Agreement { inferred: "absent", actual: Actual::Anonymous });
    metrics.set_probed(Component::ApiServer, 2, 1);
    metrics.set_probe_lost(ProbeLoss::QueueFull, 3);
    metrics.self_test(true, SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_795_453_200));
    metrics.configuration(&configuration(), SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_795_453_300));
    metrics.set_event_readers(1);
    metrics.event_reader_refused();
    metrics.event_line();
    metrics.event_line_lost();

    let mut counts = KernelCounts::default();
    for (kind, packets) in [(PacketKind::Syn, 3), (PacketKind::SynAck, 2), (PacketKind::Data, 9)] {
        counts.packets[PacketCount::index(Role::Secure, SourceClass::Public, kind) as usize] =
            PacketCount { packets, bytes: packets * 66 };
    }
    counts.skips[Hook::Tc as usize][Skip::NotWatched as usize] = 100;
    counts.losses[LossReason::RingFull as usize] = 7;
    counts.events = [5, 11, 22_000];
    counts.programs = vec![("xdp_count".into(), 14, 1_500), ("tc_read".into(), 28, 2_500_000_000)];
    metrics.set_kernel_source(Some(Arc::new(Fixed(counts))));
    metrics
}

/// A server that lets anonymous requests in, and whose manifest could not be read beside it.
fn configuration() -> Report {
    let finding = |kind: FindingKind, found: bool| Finding {
        kind,
        found,
        severity: kind.severity(),
        cis: kind.cis(),
        subject: "kube-apiserver (process 1)".into(),
        evidence: "a flag".into(),
        advice: None,
    };
    Report {
        findings: vec![finding(FindingKind::AnonymousAuthEnabled, true), finding(FindingKind::TokenAuthFile, false)],
        unreadable: vec![(Source::Manifest, "it is no YAML of a pod".into())],
        subjects: vec!["kube-apiserver (process 1)".into()],
        anonymous: Some(AnonymousMode::All),
        certificate_ends: Some(1_826_989_200),
    }
}

#[test]
fn the_whole_scrape_is_as_it_was() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/export/golden.prom");
    let scrape = prepared().encode();
    // The version changes with each release, the revision with each build.
    let scrape: String = scrape
        .lines()
        .map(|line| match line.split_once('{') {
            Some(("api_exposure_build_info", _)) => {
                "api_exposure_build_info{revision=\"REVISION\",version=\"VERSION\"} 1\n".into()
            }
            _ => format!("{line}\n"),
        })
        .collect();
    if std::env::var_os(WRITE_GOLDEN).is_some() {
        std::fs::write(&path, &scrape).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    for (line, (got, wanted)) in scrape.lines().zip(golden.lines()).enumerate() {
        assert_eq!(got, wanted, "line {} of golden.prom; {WRITE_GOLDEN}=1 writes it anew", line + 1);
    }
    assert_eq!(scrape.lines().count(), golden.lines().count(), "{WRITE_GOLDEN}=1 writes golden.prom anew");
}

#[test]
fn two_scrapes_are_equal() {
    assert_eq!(prepared().encode(), prepared().encode());
}

#[test]
fn the_scrape_has_every_defined_metric() {
    let metrics = prepared();
    metrics.watch_process().unwrap();
    let scrape = metrics.encode();
    for definition in definitions::ALL {
        assert!(scrape.contains(&format!("# TYPE {} ", definition.name)), "{}", definition.name);
    }
}

#[test]
fn promtool_finds_nothing_to_complain_about() {
    let metrics = prepared();
    metrics.watch_process().unwrap();
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match promtool {
        Ok(promtool) => promtool,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("SKIPPED: promtool is not installed (Debian's package `prometheus` has it)");
            return;
        }
        Err(error) => panic!("cannot run promtool: {error}"),
    };
    promtool.stdin.take().unwrap().write_all(metrics.encode().as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "promtool says: {said}");
}

#[test]
fn a_scrape_without_traffic_is_short() {
    let lines = Metrics::new().encode().lines().count();
    assert!(lines < 300, "{lines} lines");
}

#[test]
fn attaching_replaces_what_was_said_of_the_hook() {
    let scrape = prepared().encode();
    let lines: Vec<&str> = scrape
        .lines()
        .filter(|line| line.starts_with("api_exposure_attached{") || line.starts_with("api_exposure_not_attached{"))
        .collect();
    assert_eq!(
        lines,
        [
            r#"api_exposure_attached{hook="tc",interface="eth0",mode="clsact"} 1"#,
            r#"api_exposure_attached{hook="xdp",interface="eth1",mode="native"} 1"#,
            r#"api_exposure_not_attached{hook="xdp",interface="eth0",reason="taken"} 1"#,
        ]
    );
}

#[test]
fn a_tier_has_one_reason() {
    let metrics = Metrics::new();
    metrics.tier(Tier::Probe, TierReason::Working);
    metrics.tier(Tier::Probe, TierReason::Failed);
    let scrape = metrics.encode();
    let lines: Vec<&str> = scrape.lines().filter(|line| line.contains(r#"tier="probe""#)).collect();
    assert_eq!(lines, [r#"api_exposure_detection_tier{reason="failed",tier="probe"} 0"#]);
}

#[test]
fn an_anonymous_request_counts_only_where_it_is_the_kubernetes_api() {
    let metrics = Metrics::new();
    let mut connection = plaintext();
    let anonymous = |metrics: &Metrics| {
        let at = |decision: &str| {
            let (verb, class) = (connection_verb(), crate::classify::PathClass::Secret as usize);
            let evidence = Evidence::Plaintext as usize;
            metrics.anonymous_requests.get([
                SourceClass::Public as usize,
                verb,
                class,
                Decision::from_label(decision).unwrap() as usize,
                evidence,
            ])
        };
        [at("unknown"), at("allowed"), at("denied")]
    };
    connection.observation.kubernetes = false;
    metrics.request(&connection, 0);
    assert_eq!(anonymous(&metrics), [0, 0, 0]);
    connection.observation.kubernetes = true;
    for status in [None, Some(200), Some(401), Some(403), Some(404)] {
        connection.observation.requests[0].status = status;
        metrics.request(&connection, 0);
    }
    metrics.request(&connection, 1);
    assert_eq!(anonymous(&metrics), [1, 2, 2]);
}

fn connection_verb() -> usize {
    crate::classify::Verb::List as usize
}

#[test]
fn status_codes_have_their_class() {
    let cases = [
        (None, "none"),
        (Some(101), "1xx"),
        (Some(200), "2xx"),
        (Some(599), "5xx"),
        (Some(99), "other"),
        (Some(600), "other"),
    ];
    for (code, class) in cases {
        assert_eq!(STATUS[status(code)], class, "{code:?}");
    }
}
