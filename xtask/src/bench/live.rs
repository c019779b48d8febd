//! What is measured on interfaces with traffic: what a busy server loses, and what the monitor takes beside suricata.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::handshakes::{self, Traffic};
use super::row::{Goal, Peer, Row};
use super::{directory, kernel, replay};
use crate::workspace;

/// Percent of its requests that a server may lose: over kept connections, and where each is a connection of its own.
const LOSS: [(&str, &str, f64); 2] = [
    ("kept", "nginx and wrk, HTTPS requests over kept connections: lost with the monitor", 1.0),
    ("new", "nginx and wrk, new TLS connections: lost with the monitor", 3.0),
];
/// What part of suricata's processor time the monitor may take.
const PART: f64 = 0.1;
/// Requests in the clear for each TLS connection.
const REQUESTS: u64 = 10;

/// Measures what a busy server loses to the monitor: the median of the pairs.
pub fn busy(pairs: u32) -> Result<Vec<Row>> {
    let figures = match kernel::ask(&["busy", &workspace::binary().display().to_string(), &pairs.to_string()]) {
        Ok(figures) => figures,
        Err(error) => return Ok(vec![Row::missing(LOSS[0].1, "%", format!("{error:#}"))]),
    };
    let rows = LOSS.iter().map(|(name, what, goal)| {
        let rates = |which: &str| -> Vec<f64> {
            figures[*name][which].as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
        };
        let (without, with) = (rates("without"), rates("with"));
        let lost = without.iter().zip(&with).map(|(without, with)| (1.0 - with / without) * 100.0).collect();
        // Between runs of the same kind the machine itself differs by so much.
        let spread = spread(&without);
        let what = format!("{what}, median of {} pairs", with.len());
        let peer =
            spread.map_or(Peer::Missing("no runs"), |spread| Peer::measured("runs without differ by, %", spread));
        Row::new(&what, "%", median(lost)).peer(peer).goal(Goal::AtMost(*goal))
    });
    Ok(rows.collect())
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Percent between the slowest and the fastest.
fn spread(rates: &[f64]) -> Option<f64> {
    let fastest = rates.iter().copied().reduce(f64::max)?;
    let slowest = rates.iter().copied().reduce(f64::min)?;
    Some((1.0 - slowest / fastest) * 100.0)
}

/// Measures processor time for so many TLS connections, and for ten times as many requests in the clear.
pub fn load(connections: u64, keep: bool) -> Result<Vec<Row>> {
    let directory = directory()?;
    let capture = handshakes::write(&directory, "tls.pcap", Traffic::Tls(connections))?;
    let requests = (connections * REQUESTS).to_string();
    let path = capture.path.display().to_string();
    let mut rows = Vec::new();
    for (traffic, what) in [
        (path.as_str(), format!("{connections} TLS connections")),
        (requests.as_str(), format!("{requests} requests in the clear")),
    ] {
        rows.extend(load_of(traffic, &what)?);
    }
    if !keep {
        std::fs::remove_file(&capture.path).with_context(|| format!("cannot remove {}", capture.path.display()))?;
    }
    Ok(rows)
}

fn load_of(traffic: &str, what: &str) -> Result<Vec<Row>> {
    let configuration = if workspace::has_program("suricata") {
        let path = directory()?.join("suricata-live.yaml");
        std::fs::write(&path, format!("{}{AF_PACKET}", replay::SURICATA))
            .with_context(|| format!("cannot write {}", path.display()))?;
        path.display().to_string()
    } else {
        String::new()
    };
    let named = format!("processor time, {what}");
    let figures = match kernel::ask(&["load", &workspace::binary().display().to_string(), &configuration, traffic]) {
        Ok(figures) => figures,
        Err(error) => return Ok(vec![Row::missing(&named, "s", format!("{error:#}"))]),
    };
    let figure = |name: &str| figures[name].as_f64();
    let both = figure("monitor").zip(figure("programs")).map(|(monitor, programs)| monitor + programs);
    let peer = match (figures["suricata"]["seconds"].as_f64(), figures["suricata"]["lines"].as_u64()) {
        (Some(seconds), Some(lines)) => {
            Peer::measured(&format!("suricata, AF_PACKET, which logged {lines} handshakes and requests"), seconds)
        }
        _ => Peer::Missing("suricata is not installed"),
    };
    let seen = figures["connections"].as_f64().unwrap_or_default();
    let named = format!("{named} ({seen:.0} connections seen), the daemon and its programs in the kernel");
    Ok(vec![
        Row::new(&named, "s", both).peer(peer).goal(Goal::PartOfPeer(PART)),
        Row::new(&format!("records lost, {what}"), "records", figure("lost")).goal(Goal::AtMost(0.0)),
    ])
}

/// The interface, read by one thread.
const AF_PACKET: &str = "af-packet:
  - interface: eth0
    threads: 1
    cluster-id: 99
    cluster-type: cluster_flow
    defrag: no
    ring-size: 100000
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_counts_and_the_ends_say_how_sure_it_is() {
        assert_eq!(median(vec![5.0, -1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![]), None);
        assert_eq!(spread(&[50.0, 100.0, 75.0]), Some(50.0));
        assert_eq!(spread(&[]), None);
    }
}
