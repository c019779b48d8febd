//! Every labelled capture of real clients and servers, replayed and compared with what happened.
//!
//! A test for each group of captures names all differences of that group: file, client's port, field, what the label
//! says, what was found.

#[path = "captures/marks.rs"]
mod marks;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use marks::Marks;
use monitor_tests::captures;

/// All captures, each with its group and what came of it. Made by the first test that asks.
static MARKED: LazyLock<Vec<(String, Marks)>> = LazyLock::new(|| {
    let captures = captures::all().expect("the labelled captures");
    let next = AtomicUsize::new(0);
    let work = || {
        let mut marked = Vec::new();
        while let Some(capture) = captures.get(next.fetch_add(1, Ordering::Relaxed)) {
            marked.push((capture.group().to_owned(), Marks::of(capture)));
        }
        marked
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker's panic stands above")).collect()
    })
});

fn group(name: &str) {
    let marked: Vec<&Marks> = MARKED.iter().filter(|(group, _)| group == name).map(|(_, marks)| marks).collect();
    assert!(!marked.is_empty(), "no capture has the group {name}");
    let wrong: Vec<&str> = marked.iter().flat_map(|marks| &marks.wrong).map(String::as_str).collect();
    assert!(wrong.is_empty(), "{} differences in {} captures:\n{}", wrong.len(), marked.len(), wrong.join("\n"));
}

macro_rules! groups {
    ($($test:ident: $group:literal,)+) => {
        const GROUPS: &[&str] = &[$($group),+];
        $(
            #[test]
            fn $test() {
                group($group);
            }
        )+
    };
}

groups! {
    anonymous_allowed: "anonymous-allowed",
    anonymous_auth_false: "anonymous-auth-false",
    anonymous_conditions: "anonymous-conditions",
    anonymous_paths: "anonymous-paths",
    auth_matrix: "auth-matrix",
    burst: "burst",
    cert_kinds: "cert-kinds",
    chunked: "chunked",
    derived_caploss: "derived-caploss",
    derived_dup: "derived-dup",
    derived_ip6ext: "derived-ip6ext",
    derived_ipfrag: "derived-ipfrag",
    derived_ipopt: "derived-ipopt",
    derived_midstream: "derived-midstream",
    derived_qinq: "derived-qinq",
    derived_reorder: "derived-reorder",
    derived_vlan: "derived-vlan",
    derived_vxlan: "derived-vxlan",
    etcd: "etcd",
    exec: "exec",
    goaway: "goaway",
    gso: "gso",
    ipv6: "ipv6",
    keep_alive: "keep-alive",
    kubectl: "kubectl",
    mixed: "mixed",
    multiplexing: "multiplexing",
    nginx: "nginx",
    no_front_proxy: "no-front-proxy",
    no_request: "no-request",
    node_restriction: "node-restriction",
    pipelining: "pipelining",
    places: "places",
    plaintext: "plaintext",
    plaintext_shapes: "plaintext-shapes",
    resumption: "resumption",
    scan: "scan",
    server_go127: "server-go127",
    server_mlkem: "server-mlkem",
    small_mss: "small-mss",
    sni: "sni",
    tiny_segments: "tiny-segments",
    tls_padding: "tls-padding",
    tls_shapes: "tls-shapes",
    tokens: "tokens",
    watch: "watch",
    wrong_protocol: "wrong-protocol",
}

#[test]
fn every_group_has_its_test() {
    let captured: BTreeSet<&str> = MARKED.iter().map(|(group, _)| group.as_str()).collect();
    let tested: BTreeSet<&str> = GROUPS.iter().copied().collect();
    assert_eq!(captured, tested);
}

/// Where the label knows and something tells, a verdict is given; and the fields were compared with something.
#[test]
fn no_verdict_is_missing() {
    let mut sums: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (what, (asked, undecided)) in MARKED.iter().flat_map(|(_, marks)| &marks.asked) {
        let sum = sums.entry(what).or_default();
        *sum = (sum.0 + asked, sum.1 + undecided);
    }
    let report: String =
        sums.iter().map(|(what, (asked, undecided))| format!("{what}: {asked}, {undecided} undecided\n")).collect();
    println!("{} captures\n{report}", MARKED.len());
    assert_eq!(MARKED.len(), 624);
    for (what, at_least) in [("client certificate", 500), ("first request over HTTP/2", 150)] {
        let (asked, undecided) = sums[what];
        assert!(asked >= at_least, "{what}: compared {asked} times only");
        assert_eq!(undecided, 0, "{what}: undecided, of {asked}");
    }
    for what in ["verb", "status", "path class of secrets", "ALPN", "handshake", "resumption", "bearer credential"] {
        assert!(sums[what].0 >= 50, "{what}: compared {} times only", sums[what].0);
    }
}
