//! One connection as it was sent and as the monitor's JSON tells it, and how the two are compared.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// What of a connection is compared. All words are those of the monitor's JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// The client's address.
    pub source_ip: String,
    /// Where that belongs.
    pub source: String,
    /// The server's port.
    pub port: u16,
    /// What that is meant to be.
    pub role: String,
    /// What was spoken.
    pub protocol: String,
    /// For TLS.
    pub tls: Option<Tls>,
    /// Requests in the clear, in their order.
    pub requests: Vec<Request>,
    /// What should not have been possible.
    pub exposures: BTreeSet<String>,
}

/// What of a TLS connection is compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Negotiated.
    pub version: Option<String>,
    /// Name that the client asked for.
    pub sni: Option<String>,
    /// How far the handshake came.
    pub handshake: String,
    /// What the client showed.
    pub client_certificate: String,
}

/// One request in the clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Method, as sent.
    pub method: String,
    /// Path without its query.
    pub path: String,
    /// Status of the answer.
    pub status: Option<u64>,
    /// What it carried.
    pub credential: String,
}

impl Connection {
    /// Reads a line of `/events`; `None` when it is about something else than a connection.
    pub fn from_json(line: &str) -> Result<Option<Self>> {
        let value: Value = serde_json::from_str(line).with_context(|| format!("not a line of JSON: {line}"))?;
        if value.get("type").and_then(Value::as_str) != Some("connection") {
            return Ok(None);
        }
        let tls = value.get("tls").filter(|tls| !tls.is_null()).map(|tls| Tls {
            version: optional(tls, "/version"),
            sni: optional(tls, "/sni"),
            handshake: word(tls, "/handshake"),
            client_certificate: word(tls, "/client_certificate"),
        });
        let requests = value.get("requests").and_then(Value::as_array).into_iter().flatten().map(|request| Request {
            method: word(request, "/method"),
            path: word(request, "/path"),
            status: request.get("status").and_then(Value::as_u64),
            credential: word(request, "/credential"),
        });
        let exposures = value.get("exposures").and_then(Value::as_array).into_iter().flatten();
        Ok(Some(Self {
            source_ip: word(&value, "/source/ip"),
            source: word(&value, "/source/class"),
            port: value
                .pointer("/destination/port")
                .and_then(Value::as_u64)
                .and_then(|p| p.try_into().ok())
                .unwrap_or(0),
            role: word(&value, "/destination/role"),
            protocol: word(&value, "/protocol"),
            tls,
            requests: requests.collect(),
            exposures: exposures.filter_map(Value::as_str).map(str::to_owned).collect(),
        }))
    }

    /// Whether the monitor said what happened. What packets of TLS 1.3 do not tell of a certificate may be `unknown`;
    /// anything else that is said has to be right.
    pub fn agrees_with(&self, seen: &Self) -> bool {
        let mut seen = seen.clone();
        if let (Some(sent), Some(tls)) = (&self.tls, &mut seen.tls)
            && tls.version.as_deref() == Some("1.3")
            && tls.client_certificate == "unknown"
        {
            tls.client_certificate.clone_from(&sent.client_certificate);
        }
        *self == seen
    }

    /// Lines for people.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("{} {} -> {} {}", self.source, self.source_ip, self.role, self.port)];
        match &self.tls {
            Some(tls) => {
                let version = tls.version.as_deref().unwrap_or("of no version");
                lines.push(format!("tls {version}, {}, certificate {}", tls.handshake, tls.client_certificate));
                lines.extend(tls.sni.as_ref().map(|name| format!("asked for {name}")));
            }
            None => lines.push(self.protocol.clone()),
        }
        lines.extend(self.requests.iter().map(ToString::to_string));
        if !self.exposures.is_empty() {
            let exposures: Vec<&str> = self.exposures.iter().map(String::as_str).collect();
            lines.push(format!("exposes {}", exposures.join(", ")));
        }
        lines
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.method, self.path)?;
        match self.status {
            Some(status) => write!(f, "{status}")?,
            None => f.write_str("no answer")?,
        }
        match self.credential.as_str() {
            "none" => Ok(()),
            credential => write!(f, " ({credential})"),
        }
    }
}

fn optional(value: &Value, pointer: &str) -> Option<String> {
    value.pointer(pointer).and_then(Value::as_str).map(str::to_owned)
}

fn word(value: &Value, pointer: &str) -> String {
    optional(value, pointer).unwrap_or_else(|| "missing".to_owned())
}

/// What was sent and what was seen of it, by index; one of the two is `None` where they differ in number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Index of what was sent.
    pub sent: Option<usize>,
    /// Index of what was seen.
    pub seen: Option<usize>,
    /// Whether they agree.
    pub equal: bool,
}

/// Pairs what was sent with what was seen, in the order of what was sent; what was seen beside it comes last.
pub fn compare(sent: &[Connection], seen: &[Connection]) -> Vec<Pair> {
    let mut pairs: Vec<Pair> =
        (0..sent.len()).map(|index| Pair { sent: Some(index), seen: None, equal: false }).collect();
    let mut left: Vec<usize> = (0..seen.len()).collect();
    // The strictest first, so that an `unknown` is no match for what another line tells exactly; what differs is shown
    // beside what is nearest to it.
    let rules: [fn(&Connection, &Connection) -> bool; 4] = [
        |sent, seen| sent == seen,
        Connection::agrees_with,
        |sent, seen| sent.source_ip == seen.source_ip && sent.port == seen.port && sent.requests == seen.requests,
        |sent, seen| sent.source_ip == seen.source_ip && sent.port == seen.port,
    ];
    for (strictness, rule) in rules.iter().enumerate() {
        for (pair, sent) in pairs.iter_mut().zip(sent).filter(|(pair, _)| pair.seen.is_none()) {
            let found = left.iter().position(|&index| seen.get(index).is_some_and(|seen| rule(sent, seen)));
            if let Some(at) = found {
                pair.seen = Some(left.remove(at));
                pair.equal = strictness < 2;
            }
        }
    }
    pairs.extend(left.into_iter().map(|index| Pair { sent: None, seen: Some(index), equal: false }));
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(version: &str, certificate: &str) -> Connection {
        Connection {
            source_ip: "192.0.2.1".into(),
            source: "public".into(),
            port: 6443,
            role: "secure".into(),
            protocol: "tls".into(),
            tls: Some(Tls {
                version: Some(version.into()),
                sni: None,
                handshake: "completed".into(),
                client_certificate: certificate.into(),
            }),
            exposures: ["external_source".to_owned()].into(),
            ..Connection::default()
        }
    }

    fn equal(pairs: &[Pair]) -> Vec<bool> {
        pairs.iter().map(|pair| pair.equal).collect()
    }

    #[test]
    fn reads_the_documented_line() {
        let line = r#"{"type":"connection","time":"2026-11-23T17:00:00.123456Z","interface":"eth0",
            "source":{"ip":"203.0.113.7","port":51234,"class":"public"},
            "destination":{"ip":"192.168.56.10","port":8080,"role":"insecure"},"outcome":"established",
            "protocol":"http1","tls":null,"requests":[{"method":"GET","path":"/api","verb":"get","resource":null,
            "path_class":"discovery","credential":"none","status":200,"anonymous":"yes","evidence":"plaintext"}],
            "exposures":["external_source","plaintext_api"]}"#;
        let connection = Connection::from_json(line).unwrap().unwrap();
        let expected = Connection {
            source_ip: "203.0.113.7".into(),
            source: "public".into(),
            port: 8080,
            role: "insecure".into(),
            protocol: "http1".into(),
            tls: None,
            requests: vec![Request {
                method: "GET".into(),
                path: "/api".into(),
                status: Some(200),
                credential: "none".into(),
            }],
            exposures: ["external_source".to_owned(), "plaintext_api".to_owned()].into(),
        };
        assert_eq!(connection, expected);
        assert_eq!(Connection::from_json(r#"{"type":"exposure"}"#).unwrap(), None);
        assert!(Connection::from_json("no JSON").is_err());
        assert_eq!(Connection::from_json(r#"{"type":"connection"}"#).unwrap().unwrap().source_ip, "missing");
    }

    #[test]
    fn equal_in_any_order_and_as_often() {
        let (a, b) = (tls("1.2", "absent"), tls("1.2", "presented"));
        let sent = [a.clone(), b.clone(), a.clone()];
        assert_eq!(equal(&compare(&sent, &[b.clone(), a.clone(), a.clone()])), [true; 3]);
        // Seen once too few, once too many, another instead.
        assert_eq!(equal(&compare(&sent, &[b.clone(), a.clone()])), [true, true, false]);
        let more = compare(&sent, &[b.clone(), a.clone(), a.clone(), a.clone()]);
        assert_eq!(more[3], Pair { sent: None, seen: Some(3), equal: false });
        assert_eq!(equal(&compare(&sent, &[b.clone(), a.clone(), b.clone()])), [true, true, false]);
        assert_eq!(compare(&[], &[]), []);
    }

    #[test]
    fn unknown_is_right_for_tls_1_3_only_and_a_wrong_claim_never() {
        let unknown = [tls("1.3", "unknown"), tls("1.3", "presented")];
        assert_eq!(equal(&compare(&[tls("1.3", "presented"), tls("1.3", "absent")], &unknown)), [true, true]);
        assert_eq!(equal(&compare(&[tls("1.3", "absent")], &[tls("1.3", "presented")])), [false]);
        assert_eq!(equal(&compare(&[tls("1.2", "absent")], &[tls("1.2", "unknown")])), [false]);
    }

    #[test]
    fn any_field_that_differs_makes_a_difference() {
        let sent = tls("1.2", "absent");
        let change: [fn(&mut Connection); 6] = [
            |c| c.source = "private".into(),
            |c| c.role = "node_port".into(),
            |c| c.protocol = "other".into(),
            |c| c.exposures.clear(),
            |c| c.tls = None,
            |c| {
                c.requests.push(Request {
                    method: "GET".into(),
                    path: "/".into(),
                    status: None,
                    credential: "none".into(),
                })
            },
        ];
        for (index, change) in change.iter().enumerate() {
            let mut seen = sent.clone();
            change(&mut seen);
            let pairs = compare(std::slice::from_ref(&sent), &[seen]);
            assert_eq!(pairs, [Pair { sent: Some(0), seen: Some(0), equal: false }], "change {index}");
        }
    }
}
