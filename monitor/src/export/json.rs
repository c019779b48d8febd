//! One line of JSON for a connection, a request, an exposure or a port.
//!
//! Absent knowledge is `null` or the word `unknown`, never a default that looks like knowledge. Names may be added, not
//! changed. No query, token or body is ever in a line: the stages before do not keep them.

mod evidence;

use std::net::IpAddr;
use std::time::SystemTime;

use monitor_common::Role;
use serde::{Serialize, Serializer};

use super::time::Timestamp;
use super::{FirstRequestFacts, alpn_evidence, first_request};
use crate::classify::{Connection, ExposureKind, RequestMeaning};
use crate::configuration::Finding;
use crate::inspect::{Credential, Evidence, Request, TlsObservation};
use crate::pipeline::{Event, PortChange};
use evidence::{AnonymousLine, ProbingLine};

/// Appends the event's line, its newline included. Nothing is appended for a request that the connection does not list.
pub fn write_event(lines: &mut Vec<u8>, event: &Event<'_>) -> serde_json::Result<()> {
    match *event {
        Event::Connection(connection) => write_connection(lines, connection),
        Event::Request(connection, index) => match connection.observation.requests.get(index) {
            Some(request) => write(
                lines,
                "request",
                connection,
                RequestBody {
                    protocol: connection.observation.protocol.label(),
                    request: RequestObject::new(request, connection.requests.get(index)),
                },
            ),
            None => Ok(()),
        },
        Event::Exposure(connection, kind) => write(
            lines,
            "exposure",
            connection,
            ExposureBody { kind: kind.label(), protocol: connection.observation.protocol.label() },
        ),
        Event::Probing(probing) => {
            serde_json::to_writer(&mut *lines, &ProbingLine::new(probing))?;
            lines.push(b'\n');
            Ok(())
        }
        Event::Anonymous(request) => {
            serde_json::to_writer(&mut *lines, &AnonymousLine::new(request))?;
            lines.push(b'\n');
            Ok(())
        }
        Event::Finding(finding) => {
            let line = FindingLine { r#type: "finding", time: Timestamp(SystemTime::now()), finding };
            serde_json::to_writer(&mut *lines, &line)?;
            lines.push(b'\n');
            Ok(())
        }
        Event::Port(PortChange { time, port, state }) => {
            let line = PortLine {
                r#type: "port",
                time: Timestamp(time),
                port,
                role: Role::Discovered.label(),
                state: state.label(),
            };
            serde_json::to_writer(&mut *lines, &line)?;
            lines.push(b'\n');
            Ok(())
        }
    }
}

/// A finding about the API server's configuration.
#[derive(Serialize)]
struct FindingLine<'a> {
    r#type: &'static str,
    time: Timestamp,
    #[serde(flatten)]
    finding: &'a Finding,
}

/// Appends the connection's line, its newline included.
pub fn write_connection(lines: &mut Vec<u8>, connection: &Connection) -> serde_json::Result<()> {
    let observation = &connection.observation;
    write(
        lines,
        "connection",
        connection,
        ConnectionBody {
            outcome: connection.outcome.label(),
            protocol: observation.protocol.label(),
            tls: observation.tls.as_ref().map(|tls| TlsObject::new(connection, tls)),
            kubernetes: observation.kubernetes,
            requests: Requests(connection),
            requests_omitted: observation.requests_omitted,
            exposures: Exposures(&connection.exposures),
            unclassified: observation.unclassified.map(|reason| reason.label()),
        },
    )
}

fn write<T: Serialize>(
    lines: &mut Vec<u8>,
    r#type: &'static str,
    connection: &Connection,
    body: T,
) -> serde_json::Result<()> {
    let (source, destination) = (&connection.source, &connection.destination);
    let line = Line {
        r#type,
        time: Timestamp(connection.time),
        interface: connection.interface.as_deref(),
        source: SourceObject { ip: source.ip, port: source.port, class: source.class.label() },
        destination: DestinationObject { ip: destination.ip, port: destination.port, role: destination.role.label() },
        body,
    };
    serde_json::to_writer(&mut *lines, &line)?;
    lines.push(b'\n');
    Ok(())
}

/// What every line begins with.
#[derive(Serialize)]
struct Line<'a, T> {
    r#type: &'static str,
    /// Of the connection's first payload byte.
    time: Timestamp,
    interface: Option<&'a str>,
    source: SourceObject,
    destination: DestinationObject,
    #[serde(flatten)]
    body: T,
}

/// What changed about a port that nobody named.
#[derive(Serialize)]
struct PortLine {
    r#type: &'static str,
    time: Timestamp,
    port: u16,
    role: &'static str,
    state: &'static str,
}

#[derive(Serialize)]
struct SourceObject {
    ip: IpAddr,
    port: u16,
    class: &'static str,
}

#[derive(Serialize)]
struct DestinationObject {
    ip: IpAddr,
    port: u16,
    role: &'static str,
}

#[derive(Serialize)]
struct ConnectionBody<'a> {
    outcome: &'static str,
    protocol: &'static str,
    tls: Option<TlsObject<'a>>,
    kubernetes: bool,
    requests: Requests<'a>,
    requests_omitted: u64,
    exposures: Exposures<'a>,
    unclassified: Option<&'static str>,
}

#[derive(Serialize)]
struct RequestBody<'a> {
    protocol: &'static str,
    request: RequestObject<'a>,
}

#[derive(Serialize)]
struct ExposureBody {
    kind: &'static str,
    protocol: &'static str,
}

#[derive(Serialize)]
struct TlsObject<'a> {
    version: Option<&'static str>,
    sni: Option<&'a str>,
    alpn_offered: &'a [String],
    alpn: Option<&'a str>,
    alpn_evidence: Option<&'static str>,
    resumed: Option<bool>,
    handshake: &'static str,
    client_certificate: &'static str,
    evidence: Option<&'static str>,
    /// Why `client_certificate` is unknown.
    certificate_unknown: Option<&'static str>,
    first_request: &'static str,
    first_request_evidence: Option<&'static str>,
    answered_in_the_clear: bool,
}

impl<'a> TlsObject<'a> {
    fn new(connection: &Connection, tls: &'a TlsObservation) -> Self {
        let FirstRequestFacts { verdict, evidence } = first_request(connection);
        Self {
            version: tls.version.map(|version| version.label()),
            sni: tls.sni.as_deref(),
            alpn_offered: &tls.alpn_offered,
            alpn: tls.alpn.as_deref(),
            alpn_evidence: alpn_evidence(tls).map(Evidence::label),
            resumed: tls.resumed,
            handshake: tls.handshake.label(),
            client_certificate: tls.client_certificate.label(),
            evidence: tls.evidence.map(Evidence::label),
            certificate_unknown: tls.certificate_unknown.map(|reason| reason.label()),
            first_request: verdict,
            first_request_evidence: evidence.map(Evidence::label),
            answered_in_the_clear: tls.answered_in_the_clear,
        }
    }
}

#[derive(Serialize)]
struct RequestObject<'a> {
    method: &'a str,
    path: &'a str,
    verb: Option<&'static str>,
    resource: Option<&'a str>,
    subresource: Option<&'a str>,
    namespace: Option<&'a str>,
    path_class: Option<&'static str>,
    credential: &'static str,
    status: Option<u16>,
    anonymous: &'static str,
    evidence: &'static str,
}

impl<'a> RequestObject<'a> {
    fn new(request: &'a Request, meaning: Option<&'a RequestMeaning>) -> Self {
        let credential = meaning.map_or(request.credential, |meaning| meaning.credential);
        Self {
            method: &request.method,
            path: &request.path,
            verb: meaning.map(|meaning| meaning.verb.label()),
            resource: meaning.and_then(|meaning| meaning.resource.as_deref()),
            subresource: meaning.and_then(|meaning| meaning.subresource.as_deref()),
            namespace: meaning.and_then(|meaning| meaning.namespace.as_deref()),
            path_class: meaning.map(|meaning| meaning.path_class.label()),
            credential: credential.label(),
            status: request.status,
            anonymous: if credential == Credential::None { "yes" } else { "no" },
            evidence: Evidence::Plaintext.label(),
        }
    }
}

/// The requests of a connection with their meanings.
struct Requests<'a>(&'a Connection);

impl Serialize for Requests<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let requests = self.0.observation.requests.iter().enumerate();
        serializer.collect_seq(requests.map(|(at, request)| RequestObject::new(request, self.0.requests.get(at))))
    }
}

/// The words of exposures.
struct Exposures<'a>(&'a [ExposureKind]);

impl Serialize for Exposures<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|kind| kind.label()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::examples::{anonymous_over_tls, evident, plaintext, probing, silent};
    use super::*;
    use crate::inspect::FirstRequest;

    fn parsed(event: &Event<'_>) -> Value {
        let mut lines = Vec::new();
        write_event(&mut lines, event).unwrap();
        assert_eq!(lines.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(lines.last(), Some(&b'\n'));
        serde_json::from_slice(&lines).unwrap()
    }

    #[test]
    fn a_port_that_was_found_is_a_line() {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_795_453_200);
        let value = parsed(&Event::Port(PortChange { time, port: 31_234, state: crate::discover::PortState::Found }));
        let expected = serde_json::json!({
            "type": "port", "time": "2026-11-23T17:00:00.000000Z", "port": 31_234, "role": "discovered", "state": "found",
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn an_anonymous_request_of_which_the_api_server_told() {
        let expected = json!({
            "type": "anonymous_request", "time": "2026-11-23T17:00:00.123456Z", "interface": "eth0",
            "source": {"ip": "203.0.113.7", "port": 51234, "class": "public"},
            "destination": {"ip": "192.168.56.10", "port": 6443, "role": "secure"},
            "method": "GET", "path": "/api/v1/namespaces/default/secrets", "verb": "list", "resource": "secrets",
            "subresource": null, "namespace": "default", "path_class": "secret", "decision": "unknown",
            "evidence": "probe", "exposures": ["anonymous_request"],
        });
        assert_eq!(parsed(&Event::Anonymous(&evident(true))), expected);
        let mut alone = evident(false);
        (alone.request.ip, alone.request.port, alone.class) = (None, None, None);
        let value = parsed(&Event::Anonymous(&alone));
        assert_eq!(value["source"], json!({"ip": null, "port": null, "class": "unknown"}));
        assert_eq!((&value["interface"], &value["destination"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn a_burst_of_refusals_is_an_exposure_of_an_address() {
        let expected = json!({
            "type": "exposure", "time": "2026-11-23T17:00:00.123456Z", "interface": null,
            "source": {"ip": "203.0.113.7", "port": null, "class": "public"}, "destination": null,
            "kind": "anonymous_probing", "evidence": "audit", "refusals": 20, "window_seconds": 60,
        });
        assert_eq!(parsed(&Event::Probing(&probing())), expected);
    }

    #[test]
    fn a_connection_over_tls() {
        let connection = anonymous_over_tls();
        let expected = json!({
            "type": "connection", "time": "2026-11-23T17:00:00.123456Z", "interface": "eth0",
            "source": {"ip": "203.0.113.7", "port": 51234, "class": "public"},
            "destination": {"ip": "192.168.56.10", "port": 6443, "role": "secure"},
            "outcome": "established", "protocol": "tls", "kubernetes": false,
            "tls": {
                "version": "1.3", "sni": "kubernetes", "alpn_offered": ["h2", "http/1.1"], "alpn": null,
                "alpn_evidence": null, "resumed": false, "handshake": "completed", "client_certificate": "absent",
                "evidence": "record_length", "certificate_unknown": null, "first_request": "unknown", "first_request_evidence": null,
                "answered_in_the_clear": false,
            },
            "requests": [], "requests_omitted": 0, "exposures": ["external_source"], "unclassified": null,
        });
        assert_eq!(parsed(&Event::Connection(&connection)), expected);
    }

    #[test]
    fn a_connection_in_the_clear() {
        let connection = plaintext();
        let value = parsed(&Event::Connection(&connection));
        let request = json!({
            "method": "GET", "path": "/api/v1/namespaces/default/secrets", "verb": "list", "resource": "secrets",
            "subresource": null, "namespace": "default", "path_class": "secret", "credential": "none", "status": 200,
            "anonymous": "yes", "evidence": "plaintext",
        });
        assert_eq!(value["requests"][0], request);
        assert_eq!(value["requests"][1]["anonymous"], "no");
        assert_eq!(value["requests"][1]["credential"], "bearer");
        assert_eq!(value["requests"][1]["status"], Value::Null);
        assert_eq!(value["requests_omitted"], 3);
        assert_eq!(value["exposures"], json!(["plaintext_api", "anonymous_request", "external_source"]));
        assert_eq!(value["tls"], Value::Null);
        assert_eq!(value["kubernetes"], true);

        let value = parsed(&Event::Request(&connection, 0));
        assert_eq!((&value["type"], &value["request"]), (&json!("request"), &request));
        assert_eq!(value["source"], json!({"ip": "2001:db8::7", "port": 40000, "class": "public"}));
        let value = parsed(&Event::Exposure(&connection, ExposureKind::PlaintextApi));
        assert_eq!((&value["type"], &value["kind"]), (&json!("exposure"), &json!("plaintext_api")));
        assert_eq!(value["destination"], json!({"ip": "2001:db8::10", "port": 8080, "role": "insecure"}));
    }

    #[test]
    fn what_is_not_known_is_null_or_unknown() {
        let connection = silent();
        let value = parsed(&Event::Connection(&connection));
        assert_eq!(value["interface"], Value::Null);
        assert_eq!(value["outcome"], "midstream");
        assert_eq!(value["unclassified"], "no_start");
        let tls = &value["tls"];
        for name in ["version", "sni", "alpn", "alpn_evidence", "resumed", "evidence", "first_request_evidence"] {
            assert_eq!(tls.get(name), Some(&Value::Null), "{name}");
        }
        for name in ["client_certificate", "first_request"] {
            assert_eq!(tls[name], "unknown", "{name}");
        }
        assert_eq!(tls["handshake"], "incomplete");
    }

    #[test]
    fn what_is_inferred_says_so() {
        let mut connection = anonymous_over_tls();
        let tls = connection.observation.tls.as_mut().unwrap();
        tls.alpn = Some("h2".into());
        tls.alpn_evidence = Some(Evidence::RecordLength);
        connection.first_request = FirstRequest::Anonymous;
        let value = parsed(&Event::Connection(&connection));
        assert_eq!((&value["tls"]["alpn"], &value["tls"]["alpn_evidence"]), (&json!("h2"), &json!("record_length")));
        assert_eq!(value["tls"]["first_request"], "anonymous");
        assert_eq!(value["tls"]["first_request_evidence"], "goaway");
    }

    #[test]
    fn a_meaning_that_is_missing_is_null() {
        let mut connection = plaintext();
        connection.requests.clear();
        let value = parsed(&Event::Request(&connection, 1));
        assert_eq!(value["request"]["verb"], Value::Null);
        assert_eq!(value["request"]["path_class"], Value::Null);
        assert_eq!(value["request"]["credential"], "bearer");
        let mut lines = Vec::new();
        write_event(&mut lines, &Event::Request(&connection, 9)).unwrap();
        assert!(lines.is_empty());
    }
}
