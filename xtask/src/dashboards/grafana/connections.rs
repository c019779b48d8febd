//! *Connections and TLS*: what is spoken with the API server, and how it is secured.

use super::model::{Dashboard, Panel, Row};

/// The dashboard.
pub fn dashboard() -> Dashboard {
    Dashboard {
        name: "connections-tls",
        title: "API exposure / Connections and TLS",
        description: "Connections to the API servers' ports: sources, protocols, TLS versions, client certificates, requests in the clear.",
        rows: vec![connections(), tls(), plaintext(), packets()],
    }
}

fn rate(counter: &str, selector: &str, by: &str) -> String {
    format!("sum by ({by}) (rate({counter}{{$here{selector}}}[$__rate_interval])) > 0")
}

fn connections() -> Row {
    let counter = "api_exposure_connections_total";
    Row {
        title: "Connections with payload",
        height: 8,
        panels: vec![
            Panel::areas("By source", "New connections a second by where the client's address belongs.", "cps")
                .query("sum by (source) (rate(api_exposure_connections_total{$here}[$__rate_interval])) > 0", "{{source}}")
                .runbook("ApiExposurePublicSource"),
            Panel::areas("By port and protocol", "New connections a second by what the port is meant to be and what is spoken there.", "cps")
                .query(rate(counter, "", "role, protocol"), "{{role}}: {{protocol}}")
                .runbook("ApiExposurePlaintextOpen"),
            Panel::areas(
                "Not read to their end",
                "Connections a second that could not be classified, by the first reason. They are unknown, not harmless.",
                "cps",
            )
            .query(rate("api_exposure_unclassified_connections_total", "", "reason"), "{{reason}}")
            .none("none")
            .runbook("ApiExposureMonitorBlindLosingRecords"),
        ],
    }
}

fn tls() -> Row {
    let handshakes = "api_exposure_tls_handshakes_total";
    Row {
        title: "TLS",
        height: 8,
        panels: vec![
            Panel::areas("Versions", "TLS connections a second by negotiated version.", "cps")
                .query(rate(handshakes, "", "version"), "TLS {{version}}")
                .runbook("ApiExposurePublicSource"),
            Panel::areas(
                "Client certificates, exact",
                "Read from the handshake (TLS 1.2 and before). Presented is not authenticated; absent may mean a token.",
                "cps",
            )
            .query(rate(handshakes, r#",evidence="certificate_message""#, "client_certificate"), "{{client_certificate}}")
            .none("no TLS 1.2")
            .runbook("ApiExposureAnonymousProbing"),
            Panel::areas(
                "Client certificates, inferred",
                "Inferred from record and ticket lengths (TLS 1.3), never summed with what was read.",
                "cps",
            )
            .query(rate(handshakes, r#",evidence=~"record_length|ticket_length""#, "client_certificate"), "{{client_certificate}}")
            .none("no TLS 1.3")
            .runbook("ApiExposureAnonymousProbing"),
            Panel::areas(
                "How handshakes ended",
                "Rejected by the client: it hung up on the server's certificate, as a client does that uses a name which is not in it.",
                "cps",
            )
            .query(rate("api_exposure_tls_handshake_results_total", "", "handshake"), "{{handshake}}")
            .runbook("ApiExposurePublicSource"),
            Panel::areas(
                "First requests, inferred",
                "Inferred from the server's GOAWAY: what became of a connection's first request over HTTP/2.",
                "cps",
            )
            .query(rate("api_exposure_first_requests_inferred_total", "", "first_request"), "{{first_request}}")
            .none("none told")
            .runbook("ApiExposureAnonymousProbingInferred"),
            Panel::areas("TLS by source", "TLS connections a second by where the client's address belongs.", "cps")
                .query(rate(handshakes, "", "source"), "{{source}}")
                .runbook("ApiExposurePublicSource"),
        ],
    }
}

fn plaintext() -> Row {
    let requests = "api_exposure_plaintext_requests_total";
    Row {
        title: "Requests in the clear",
        height: 8,
        panels: vec![
            Panel::areas(
                "By verb",
                "Requests a second on watched ports, whether or not the server is the Kubernetes API.",
                "reqps",
            )
            .query(rate(requests, "", "verb"), "{{verb}}")
            .none("none read")
            .runbook("ApiExposurePlaintextOpen"),
            Panel::areas("By what the path leads to", "The same by class of path.", "reqps")
                .query(rate(requests, "", "path_class"), "{{path_class}}")
                .none("none read")
                .runbook("ApiExposurePlaintextOpen"),
            Panel::areas("By credential and answer", "The same by credential and class of status code.", "reqps")
                .query(rate(requests, "", "credential, status"), "{{credential}}: {{status}}")
                .none("none read")
                .runbook("ApiExposurePlaintextOpen"),
        ],
    }
}

fn packets() -> Row {
    Row {
        title: "Packets",
        height: 8,
        panels: vec![
            Panel::areas("Bytes by source", "To and from watched ports, with headers.", "Bps")
                .query(rate("api_exposure_bytes_total", "", "source"), "{{source}}")
                .runbook("ApiExposurePublicSource"),
            Panel::areas("Packets by port", "To and from watched ports, by what the port is meant to be.", "pps")
                .query(rate("api_exposure_packets_total", "", "role"), "{{role}}")
                .runbook("ApiExposurePublicSource"),
            Panel::lines(
                "Connections asked for, granted, broken off",
                "SYN, SYN-ACK and RST a second from outside the cluster, with or without payload after them: scans and \
                 floods show here only.",
                "pps",
            )
            .query(
                rate("api_exposure_tcp_handshake_packets_total", r#",source=~"public|private""#, "source, step"),
                "{{source}}: {{step}}",
            )
            .none("none")
            .runbook("ApiExposurePublicSource"),
        ],
    }
}
