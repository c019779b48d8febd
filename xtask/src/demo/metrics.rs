//! The second witness: what the scrape counts has to be what the events told.

use std::collections::BTreeMap;

use super::connection::Connection;

/// The counter of connections by role, source, protocol and outcome.
const CONNECTIONS: &str = "api_exposure_connections_total";
/// What of the scrape is shown.
const SHOWN: [&str; 4] = [
    "api_exposure_connections_total",
    "api_exposure_exposures_total",
    "api_exposure_plaintext_requests_total",
    "api_exposure_records_",
];

/// Counts by (role, source, protocol).
pub type Counts = BTreeMap<(String, String, String), u64>;

/// What the scrape counts of connections.
pub fn connections(scrape: &str) -> Counts {
    let mut counts = Counts::new();
    for line in scrape.lines().filter(|line| line.starts_with(CONNECTIONS)) {
        let label = |name: &str| {
            let (_, rest) = line.split_once(&format!("{name}=\""))?;
            rest.split('"').next().map(str::to_owned)
        };
        let value = line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).unwrap_or(0.0);
        if let (Some(role), Some(source), Some(protocol)) = (label("role"), label("source"), label("protocol"))
            && value > 0.0
        {
            // A counter of connections is a whole number far below 2^53.
            *counts.entry((role, source, protocol)).or_default() += value as u64;
        }
    }
    counts
}

/// What it has to count when all of this was seen.
pub fn expected(connections: &[Connection]) -> Counts {
    let mut counts = Counts::new();
    for connection in connections {
        let key = (connection.role.clone(), connection.source.clone(), connection.protocol.clone());
        *counts.entry(key).or_default() += 1;
    }
    counts
}

/// Where two counts differ, a line each.
pub fn differences(expected: &Counts, found: &Counts) -> Vec<String> {
    let keys: std::collections::BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    let differing = keys.into_iter().filter_map(|key| {
        let [wanted, is] = [expected, found].map(|counts| counts.get(key).copied().unwrap_or(0));
        let (role, source, protocol) = key;
        (wanted != is).then(|| format!("role={role} source={source} protocol={protocol}: {is} counted, {wanted} sent"))
    });
    differing.collect()
}

/// The lines worth showing: samples of the families above that are not zero.
pub fn shown(scrape: &str) -> Vec<&str> {
    let lines = scrape.lines().filter(|line| SHOWN.iter().any(|name| line.starts_with(name)));
    lines.filter(|line| !line.ends_with(" 0")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_differences() {
        let scrape = "# HELP api_exposure_connections_total Connections.\n\
            api_exposure_connections_total{outcome=\"established\",protocol=\"tls\",role=\"secure\",source=\"public\"} 2\n\
            api_exposure_connections_total{outcome=\"midstream\",protocol=\"tls\",role=\"secure\",source=\"public\"} 1\n\
            api_exposure_connections_total{outcome=\"established\",protocol=\"http1\",role=\"secure\",source=\"pod\"} 0\n";
        let found = connections(scrape);
        assert_eq!(found.values().sum::<u64>(), 3);
        let one = Connection {
            role: "secure".into(),
            source: "public".into(),
            protocol: "tls".into(),
            ..Connection::default()
        };
        assert_eq!(differences(&expected(&[one.clone(), one.clone(), one.clone()]), &found), Vec::<String>::new());
        let other = Connection { protocol: "http1".into(), ..one.clone() };
        let lines = differences(&expected(&[one.clone(), one, other]), &found);
        assert_eq!(
            lines,
            [
                "role=secure source=public protocol=http1: 0 counted, 1 sent",
                "role=secure source=public protocol=tls: 3 counted, 2 sent"
            ]
        );
        assert_eq!(shown(scrape).len(), 2);
    }
}
