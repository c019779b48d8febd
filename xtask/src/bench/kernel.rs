//! What is measured with the kernel half in hand, by a program of the tests that has it: the cost of its programs, and
//! the memory of a daemon that follows many connections.

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::row::{Goal, Peer, Row};
use crate::workspace;

/// Connections that are followed while the daemon's memory is measured: as many as it follows at the most.
const FLOWS: u64 = 65_536;
/// Bytes that the daemon may take then, and the kernel's maps.
const RESIDENT: u64 = 64 << 20;
const MAPS: u64 = 48 << 20;
/// Connections that a scraped daemon has seen, and milliseconds that a scrape may take.
const SCRAPED: [u64; 2] = [1_000, 1_000_000];
const SCRAPE: f64 = 5.0;
/// What is called flat: a machine with other work gives no better.
const FLAT: f64 = 1.25;
const MIB: f64 = (1 << 20) as f64;

/// Each: what, the figure, the peer and its figure, the goals.
const PROGRAMS: &[(&str, &str, &str, &str, Goal)] = &[
    ("XDP, UDP", "xdp udp", "empty XDP program", "xdp empty", Goal::OverPeer(6.0)),
    ("XDP, TCP to a port of no interest", "xdp other port", "empty XDP program", "xdp empty", Goal::OverPeer(6.0)),
    ("XDP, UDP", "xdp udp", ALLOW, "xdp-filter alw_tcp udp", Goal::PartOfPeer(1.0)),
    (
        "XDP, TCP to a port of no interest",
        "xdp other port",
        ALLOW,
        "xdp-filter alw_tcp other port",
        Goal::PartOfPeer(1.0),
    ),
    ("XDP, established, IPv4", "xdp established ipv4", DENY, "xdp-filter dny_all ipv4", Goal::PartOfPeer(0.5)),
    ("XDP, established, IPv6", "xdp established ipv6", DENY, "xdp-filter dny_all ipv6", Goal::PartOfPeer(0.5)),
    ("XDP, SYN", "xdp syn", "established packet", "xdp established ipv4", Goal::PartOfPeer(1.2)),
    ("TC ingress, UDP", "tc ingress udp", EMPTY_TC, "tc empty", Goal::OverPeer(8.0)),
    ("TC ingress, TCP to a port of no interest", "tc ingress other port", EMPTY_TC, "tc empty", Goal::OverPeer(15.0)),
    (
        "TC ingress, TCP to a port of no interest, no discovery",
        "tc ingress other port, no discovery",
        EMPTY_TC,
        "tc empty",
        Goal::OverPeer(8.0),
    ),
    ("TC egress, UDP", "tc egress udp", EMPTY_TC, "tc empty", Goal::OverPeer(8.0)),
    ("TC egress, TCP from a port of no interest", "tc egress other port", EMPTY_TC, "tc empty", Goal::OverPeer(15.0)),
    (
        "TC egress, TCP from a port of no interest, no discovery",
        "tc egress other port, no discovery",
        EMPTY_TC,
        "tc empty",
        Goal::OverPeer(8.0),
    ),
    ("TC ingress, established and done", "tc ingress established and done", EMPTY_TC, "tc empty", Goal::OverPeer(60.0)),
    ("TC egress, established and done", "tc egress established and done", EMPTY_TC, "tc empty", Goal::OverPeer(60.0)),
    ("TC ingress, acknowledgement", "tc ingress acknowledgement", EMPTY_TC, "tc empty", Goal::OverPeer(60.0)),
    ("TC egress, acknowledgement", "tc egress acknowledgement", EMPTY_TC, "tc empty", Goal::OverPeer(60.0)),
    (
        "TC ingress, first payload handed on",
        "tc ingress first payload",
        "empty TC program, once a packet",
        "tc ingress empty, once",
        Goal::OverPeer(600.0),
    ),
    (
        "TC egress, first payload handed on",
        "tc egress first payload",
        "empty TC program, once a packet",
        "tc egress empty, once",
        Goal::OverPeer(600.0),
    ),
    (
        "TC ingress, SYN flood of a million clients: no flow, no record",
        "tc ingress syn flood",
        "established and done, once a packet",
        "tc ingress established and done, once",
        Goal::PartOfPeer(1.2),
    ),
];
const EMPTY_TC: &str = "empty TC program";
const ALLOW: &str = "xdp-filter alw_tcp";
const DENY: &str = "xdp-filter dny_all";

/// Measures the programs.
pub fn programs() -> Result<Vec<Row>> {
    let figures = match ask(&["programs"]) {
        Ok(figures) => figures,
        Err(error) => return Ok(vec![Row::missing("the kernel's programs", "ns", format!("{error:#}"))]),
    };
    let figure = |name: &str| figures[name].as_f64();
    let rows = PROGRAMS.iter().map(|(what, name, peer, peer_name, goal)| {
        let row = match figure(name) {
            Some(value) => Row::new(what, "ns", Some(value)),
            None => Row::missing(what, "ns", "it was not run".to_owned()),
        };
        let peer = match figure(peer_name) {
            Some(value) => Peer::measured(peer, value),
            None => Peer::Missing("xdp-filter is not installed"),
        };
        row.peer(peer).goal(*goal)
    });
    Ok(rows.collect())
}

/// Measures the daemon's memory, and how long it takes for a scrape.
pub fn memory() -> Result<Vec<Row>> {
    let what = format!("resident memory of the daemon, {FLOWS} connections live");
    let figures = match with_connections(FLOWS) {
        Ok(figures) => figures,
        Err(error) => return Ok(vec![Row::missing(&what, "MiB", format!("{error:#}"))]),
    };
    let mebibytes = |name: &str| figures[name].as_u64().map(|bytes| bytes as f64 / MIB);
    let mut rows = vec![
        Row::new(&what, "MiB", mebibytes("resident"))
            .peer(told("the same daemon without a connection", mebibytes("resident before")))
            .goal(Goal::AtMost(RESIDENT as f64 / MIB)),
        Row::new(&format!("kernel maps, {} of them", figures["maps"]), "MiB", mebibytes("kernel"))
            .goal(Goal::AtMost(MAPS as f64 / MIB)),
    ];
    rows.extend(scrapes()?);
    Ok(rows)
}

/// Scrapes of a daemon that has seen few connections, and many.
fn scrapes() -> Result<Vec<Row>> {
    let what = |flows: u64, figures: &Value| {
        format!("scrape, 99th percentile, {flows} connections seen, {} series", figures["series"])
    };
    let (few, many) = match (with_connections(SCRAPED[0]), with_connections(SCRAPED[1])) {
        (Ok(few), Ok(many)) => (few, many),
        (Err(error), _) | (_, Err(error)) => {
            return Ok(vec![Row::missing("scrape, 99th percentile", "ms", format!("{error:#}"))]);
        }
    };
    let worst = |figures: &Value| figures["scrape p99"].as_f64();
    let median = |figures: &Value| figures["scrape median"].as_f64();
    Ok(vec![
        Row::new(&what(SCRAPED[0], &few), "ms", worst(&few)).goal(Goal::AtMost(SCRAPE)),
        Row::new(&what(SCRAPED[1], &many), "ms", worst(&many)).goal(Goal::AtMost(SCRAPE)),
        Row::new(&format!("scrape, median, {} connections seen", SCRAPED[1]), "ms", median(&many))
            .peer(told(&format!("{} connections seen", SCRAPED[0]), median(&few)))
            .goal(Goal::PartOfPeer(FLAT)),
    ])
}

fn with_connections(count: u64) -> Result<Value> {
    ask(&["flows", &workspace::binary().display().to_string(), &count.to_string()])
}

fn told(name: &str, value: Option<f64>) -> Peer {
    value.map_or(Peer::Missing("not told"), |value| Peer::measured(name, value))
}

/// What the program of the tests says.
pub fn ask(words: &[&str]) -> Result<Value> {
    let mut command = Command::new(workspace::target().join("debug/bench"));
    let output =
        command.args(words).output().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    eprint!("{said}");
    if !output.status.success() {
        bail!("{}", said.lines().last().unwrap_or("it failed without a word"));
    }
    serde_json::from_slice(&output.stdout).context("it printed no JSON")
}
