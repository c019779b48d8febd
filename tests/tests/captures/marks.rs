//! One capture compared with its label, field by field.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;

use monitor_tests::captures::{Labelled, Replayed, SECRETS, replayed};
use serde_json::{Value, json};

/// `kubectl proxy` and the insecure port; the other ports in the clear are nginx's and etcd's.
const KUBERNETES_PORTS: [u64; 2] = [8080, 8088];

/// The ports where TLS is meant to be.
const SECURE_PORTS: [u64; 4] = [6443, 8443, 9443, 2379];

/// A verdict may be missing here, never be wrong.
const UNDECIDABLE: [&str; 2] = ["tls-padding", "derived-ipfrag"];

/// The labels are those of the whole file, of which a part is missing: anything may be missing, nothing may be wrong.
const LOSSY: [&str; 2] = ["derived-caploss", "derived-midstream"];

/// The connection is inside a tunnel, into which nobody looks; the labels are those of what is inside.
const TUNNELED: &str = "derived-vxlan";

/// The server says GOAWAY to a client that it accepts, or a PING came in one record with the request: no packet tells.
const MISLEADING: [&str; 2] = ["goaway-chance", "h2-ping-first"];

/// Ports that the captures' settings do not watch.
const NOT_WATCHED: [u64; 4] = [1025, 22, 80, 443];

/// What came of the comparison of one capture.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    /// Differences: file, connection, field, expected, got.
    pub wrong: Vec<String>,
    /// By field: how often it was compared, and how often the verdict was missing where it may.
    pub asked: BTreeMap<&'static str, (u64, u64)>,
    file: String,
    port: u64,
}

impl Marks {
    /// Compares what `replay` says with the label.
    pub fn of(capture: &Labelled) -> Self {
        let mut marks = Self { file: capture.name.clone(), ..Self::default() };
        match replayed(&[&capture.path], &capture.settings()) {
            Ok(replayed) => marks.compare(capture, &replayed),
            Err(error) => marks.wrong("replay", "no error", format!("{error:#}")),
        }
        marks
    }

    fn wrong(&mut self, what: &str, expected: impl Debug, got: impl Debug) {
        self.wrong.push(format!("{} port {}: {what}: expected {expected:?}, got {got:?}", self.file, self.port));
    }

    /// `got` has to be one of `expected`.
    fn check<T: PartialEq + Debug>(&mut self, what: &'static str, expected: &[T], got: &T) {
        self.asked.entry(what).or_default().0 += 1;
        if !expected.contains(got) {
            self.wrong(what, expected, got);
        }
    }

    fn holds(&mut self, what: &'static str, holds: bool, got: &Value) {
        self.asked.entry(what).or_default().0 += 1;
        if !holds {
            self.wrong(what, true, got);
        }
    }

    /// As [`Self::check`], but nothing known is no difference; it is counted.
    fn decided(&mut self, what: &'static str, expected: &[&str], got: &Value) {
        let asked = self.asked.entry(what).or_default();
        asked.0 += 1;
        match got.as_str() {
            None | Some("unknown") => asked.1 += 1,
            Some(word) if expected.contains(&word) => {}
            Some(word) => self.wrong(what, expected, word),
        }
    }

    /// `got` is not known, or it is one of `expected`; not counted.
    fn not_guessed(&mut self, what: &str, expected: &[&str], got: &Value) {
        if let Some(word) = got.as_str()
            && word != "unknown"
            && !expected.contains(&word)
        {
            self.wrong(what, expected, word);
        }
    }

    fn compare(&mut self, capture: &Labelled, replayed: &Replayed) {
        let printed = replayed.events.iter().chain([&replayed.scrape]);
        let mut secrets = tokens(capture);
        secrets.extend(SECRETS.map(str::to_owned));
        let told: Vec<&String> =
            secrets.iter().filter(|secret| printed.clone().any(|text| text.contains(*secret))).collect();
        self.check("no token is printed", &[0], &told.len());
        let events: Vec<Value> = replayed.events.iter().map(|line| parsed(line)).collect();
        let of_type = |word| events.iter().filter(move |event| event["type"] == word);
        let mut listed: HashMap<(u64, u64), &Value> = HashMap::new();
        let mut twice = BTreeSet::new();
        for connection in of_type("connection") {
            if listed.insert(ports(connection), connection).is_some() {
                twice.insert(ports(connection));
            }
        }
        if capture.group() == TUNNELED {
            self.check("connections seen inside a tunnel", &[0], &listed.len());
            return;
        }
        let lossy = LOSSY.contains(&capture.group());
        if !lossy {
            // The label lists no more than twelve connections, but counts them all.
            let with_data = capture.label["with_data"].as_u64();
            self.check("connections", &[with_data], &Some(of_type("connection").count() as u64));
        }
        self.sums(replayed, &events);
        for label in capture.connections() {
            let key = (number(&label["sport"]), number(&label["dport"]));
            self.port = key.0;
            let connection = listed.get(&key).copied();
            if number(&label["client_bytes"]) + number(&label["server_bytes"]) == 0 {
                self.check("not listed without payload", &[true], &connection.is_none());
                continue;
            }
            if NOT_WATCHED.contains(&key.1) {
                self.check("not listed without being watched", &[true], &connection.is_none());
                continue;
            }
            if lossy {
                self.lossy(label, connection.unwrap_or(&Value::Null));
                continue;
            }
            let version = connection.map_or(&Value::Null, |connection| &connection["tls"]["version"]);
            if capture.group() == "derived-ipfrag" && version.is_null() {
                continue;
            }
            self.check("listed", &[true], &connection.is_some());
            let Some(connection) = connection else { continue };
            self.check("listed once", &[false], &twice.contains(&key));
            self.ends(capture, connection);
            self.events_of(connection, &events);
            self.check("outcome", &[&json!("established")], &&connection["outcome"]);
            self.protocol(label, connection);
            if !label["tls"].is_null() {
                self.tls(capture, label, &connection["tls"]);
                self.check("requests inside of TLS", &[&json!([])], &&connection["requests"]);
            } else if matches!(label["first"].as_str(), Some("http1" | "h2c")) {
                self.plaintext(capture, label, connection);
            }
        }
    }

    /// The scrape adds up to what the lines say.
    fn sums(&mut self, replayed: &Replayed, events: &[Value]) {
        let connections = events.iter().filter(|event| event["type"] == "connection");
        let requests = connections.clone().map(|connection| array(&connection["requests"]).len() as u64).sum();
        let exposures = connections.clone().map(|connection| array(&connection["exposures"]).len() as u64).sum();
        for (what, metric, expected) in [
            ("connections in the scrape", "api_exposure_connections_total", connections.count() as u64),
            ("requests in the scrape", "api_exposure_plaintext_requests_total", requests),
            ("exposures in the scrape", "api_exposure_exposures_total", exposures),
        ] {
            let sum = sum_of(&replayed.scrape, metric);
            self.check(what, &[expected], &sum);
        }
    }

    /// Part of the capture is missing: what is said must not contradict the label.
    fn lossy(&mut self, label: &Value, connection: &Value) {
        let tls = &connection["tls"];
        self.not_guessed("TLS version guessed", &words(&[&label["tls"]]), &tls["version"]);
        self.not_guessed("first request guessed", &words(&[&label["first_request"]]), &tls["first_request"]);
        if !tls["resumed"].is_null() && tls["resumed"] != label["resumed"] {
            self.wrong("resumption guessed", &label["resumed"], &tls["resumed"]);
        }
        if let Some(right) = certificate(label) {
            self.not_guessed("client certificate guessed", &right, &tls["client_certificate"]);
        }
    }

    /// Source, destination and what hangs on them.
    fn ends(&mut self, capture: &Labelled, connection: &Value) {
        let (source, destination) = (&connection["source"], &connection["destination"]);
        self.check("source", &[&capture.label["src"]], &&source["ip"]);
        let address = source["ip"].as_str().unwrap_or_default();
        self.check("source class", source_class(address), &source["class"].as_str().unwrap_or_default());
        let external = has(&connection["exposures"], "external_source");
        self.check("external_source", &[source["class"] == "public"], &external);
        let server = ["192.168.56.10", "fd00:56::10", "10.96.0.1", "127.0.0.1", "::1"];
        self.check("destination", &server, &destination["ip"].as_str().unwrap_or_default());
        let secure = SECURE_PORTS.contains(&number(&destination["port"]));
        self.check("role", &[if secure { "secure" } else { "insecure" }], &string(&destination["role"]));
        if !UNDECIDABLE.contains(&capture.group()) {
            self.check("unclassified", &[&Value::Null], &&connection["unclassified"]);
        }
        self.check("requests omitted", &[0], &number(&connection["requests_omitted"]));
    }

    /// What is told as it happens is what the connection's line says in the end, once each.
    fn events_of(&mut self, connection: &Value, events: &[Value]) {
        let of_type = |word| {
            let mine = events.iter().filter(|event| ports(event) == ports(connection));
            mine.filter(move |event| event["type"] == word)
        };
        let requests: Vec<&Value> = of_type("request").map(|event| &event["request"]).collect();
        self.check("requests as they happen", &[array(&connection["requests"]).iter().collect()], &requests);
        let kinds: BTreeSet<&str> = of_type("exposure").map(|event| string(&event["kind"])).collect();
        self.check("exposures as they happen", &[array(&connection["exposures"]).iter().map(string).collect()], &kinds);
        self.check("exposures told once", &[kinds.len()], &of_type("exposure").count());
    }

    fn protocol(&mut self, label: &Value, connection: &Value) {
        let expected: &[&str] = match label["first"].as_str() {
            _ if !label["tls"].is_null() => &["tls"],
            Some("tls") => &["tls"],
            Some("http1") => &["http1"],
            Some("h2c") => &["http2"],
            Some("other") => &["other", "http1"],
            _ => &[],
        };
        if !expected.is_empty() {
            self.check("protocol", expected, &string(&connection["protocol"]));
        }
        if label["first"] == "tls" {
            self.check("plaintext_api not named", &[false], &has(&connection["exposures"], "plaintext_api"));
            if label["tls"].is_null() {
                let tls = &connection["tls"];
                let nothing = tls["version"].is_null() && is_unknown(&tls["client_certificate"]);
                self.holds("TLS without ServerHello", nothing && tls["handshake"] != "completed", tls);
            }
        }
    }

    fn tls(&mut self, capture: &Labelled, label: &Value, tls: &Value) {
        let undecidable = UNDECIDABLE.contains(&capture.group());
        self.check("TLS version", &[&label["tls"]], &&tls["version"]);
        if !label["resumed"].is_null() {
            self.check("resumption", &[&label["resumed"]], &&tls["resumed"]);
        }
        self.check("SNI", &[&capture.label["sni"]], &&tls["sni"]);
        let got = &tls["client_certificate"];
        match certificate(label) {
            Some(right) if undecidable => self.not_guessed("client certificate guessed", &right, got),
            Some(right) if right == ["unknown"] => self.check("client certificate", &["unknown"], &string(got)),
            Some(right) => self.decided("client certificate", &right, got),
            None => {}
        }
        self.check("reason why unknown", &[is_unknown(got)], &!tls["certificate_unknown"].is_null());
        if !is_unknown(got) {
            let resumed = string(got).starts_with("resumed");
            let evidence: &[&str] = match label["tls"].as_str() {
                _ if resumed => &["ticket_length", "certificate_message"],
                Some("1.3") => &["record_length"],
                _ => &["certificate_message"],
            };
            self.check("evidence", evidence, &string(&tls["evidence"]));
        }
        let answered = array(&label["requests"]).iter().any(|request| !request["status"].is_null());
        if answered && !undecidable {
            self.check("handshake", &["completed"], &string(&tls["handshake"]));
        }
        self.alpn(capture, label, tls);
        self.first_request(capture, label, tls, undecidable);
    }

    /// In the clear up to TLS 1.2; inferred in TLS 1.3, or not known.
    fn alpn(&mut self, capture: &Labelled, label: &Value, tls: &Value) {
        if UNDECIDABLE.contains(&capture.group()) {
            return;
        }
        let clear = label["tls"] != "1.3";
        self.check("ALPN evidence", &[!clear && !tls["alpn"].is_null()], &!tls["alpn_evidence"].is_null());
        // nginx's clients did not say, but its log does.
        let http2 = array(&capture.label["nginx"]).iter().any(|line| string(&line["req"]).ends_with("HTTP/2.0"));
        let alpn = if http2 { json!("h2") } else { capture.label["alpn"].clone() };
        if clear {
            self.check("ALPN", &[&alpn], &&tls["alpn"]);
        } else if !alpn.is_null() {
            self.check("ALPN", &[&alpn, &Value::Null], &&tls["alpn"]);
        }
    }

    fn first_request(&mut self, capture: &Labelled, label: &Value, tls: &Value, undecidable: bool) {
        let got = &tls["first_request"];
        self.check("evidence of the first request", &[is_unknown(got)], &tls["first_request_evidence"].is_null());
        if MISLEADING.iter().any(|name| capture.name.contains(name)) {
            return;
        }
        let version = array(&label["requests"]).first().map_or(&capture.label["http_version"], |request| &request["v"]);
        if let Some(right) = label["first_request"].as_str()
            && !undecidable
        {
            self.decided("first request over HTTP/2", &[right], got);
        } else if !capture.sends_goaway() || version == "1" {
            self.not_guessed("first request guessed", &[], got);
        }
    }

    fn plaintext(&mut self, capture: &Labelled, label: &Value, connection: &Value) {
        let (want, have) = (array(&label["requests"]), array(&connection["requests"]));
        // A server that takes HTTP/2 for HTTP/1.1: listing `PRI *`, what the client meant, or nothing is all the same.
        let unspoken = label["first"] == "h2c" && want.iter().all(|request| request["status"].is_null());
        let mut numbers = vec![want.len()];
        if unspoken {
            numbers.extend([0, 1]);
        }
        self.check("number of requests", &numbers, &have.len());
        for (want, have) in want.iter().zip(have) {
            self.request(capture, want, have, unspoken);
        }
        let kubernetes = KUBERNETES_PORTS.contains(&number(&label["dport"]));
        let answered = |request: &Value| {
            let status = request["status"].as_u64();
            status.is_some_and(|status| (200..500).contains(&status) && status != 400)
        };
        let api = has(&connection["exposures"], "plaintext_api");
        if !kubernetes {
            self.check("plaintext_api not named", &[false], &api);
        } else if want.iter().any(answered) {
            self.check("plaintext_api", &[true], &api);
        }
        self.check("kubernetes", &[api], &(connection["kubernetes"] == true));
        let anonymous = api && have.iter().any(|request| request["anonymous"] == "yes");
        self.check("anonymous_request", &[anonymous], &has(&connection["exposures"], "anonymous_request"));
    }

    fn request(&mut self, capture: &Labelled, want: &Value, have: &Value, unspoken: bool) {
        let whole = string(&want["path"]);
        let whole = whole.strip_prefix("http://x").unwrap_or(whole);
        let path = whole.split('?').next().unwrap_or_default();
        let mut expected = vec![(string(&want["method"]), path)];
        if unspoken {
            expected.push(("PRI", "*"));
        }
        self.check("method and path", &expected, &(string(&have["method"]), string(&have["path"])));
        if !want["status"].is_null() {
            self.check("status", &[&want["status"]], &&have["status"]);
        }
        let bearer = want["authorization"].as_str().is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer"));
        self.check("bearer credential", &[bearer], &(have["credential"] == "bearer"));
        let anonymous = if have["credential"] == "none" { "yes" } else { "no" };
        self.check("anonymous", &[anonymous], &string(&have["anonymous"]));
        self.check("evidence of a request", &["plaintext"], &string(&have["evidence"]));
        self.check("path class of secrets", &[path.contains("/secrets")], &(have["path_class"] == "secret"));
        let audit = array(&capture.label["audit"]).iter().filter(|entry| entry["uri"] == whole);
        let verbs: Vec<&str> = audit.map(|entry| string(&entry["verb"])).collect();
        if !verbs.is_empty() {
            self.check("verb", &verbs, &string(&have["verb"]));
        }
    }
}

/// The verdicts that are right for a connection, `None` where the label does not know.
fn certificate(label: &Value) -> Option<Vec<&'static str>> {
    // It hung up before the record that would tell.
    if label["client_flight"] == false {
        return Some(vec!["unknown"]);
    }
    let presented = label["client_cert"].as_bool()?;
    label["tls"].as_str()?;
    Some(match (label["resumed"].as_bool(), label["cert_by_ticket"].as_bool()) {
        (Some(true), Some(true)) => vec!["resumed_presented"],
        (Some(true), _) => vec!["resumed_absent"],
        _ if presented => vec!["presented"],
        _ => vec!["absent", "not_requested"],
    })
}

fn source_class(address: &str) -> &'static [&'static str] {
    match address {
        "127.0.0.1" | "::1" => &["loopback"],
        "192.168.56.10" | "fd00:56::10" | "10.96.0.1" => &["node"],
        _ if address.starts_with("192.168.56.") || address.starts_with("fd00:56:") => &["cluster_node"],
        _ if address.starts_with("10.244.") => &["pod"],
        _ => &["public"],
    }
}

/// The bearer tokens that stand in the capture in the clear.
fn tokens(capture: &Labelled) -> BTreeSet<String> {
    let bytes = std::fs::read(&capture.path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    // Shorter ones are those of clients that send none, or only the beginning; words that may stand anywhere.
    let after = text.match_indices("earer ").map(|(at, word)| &text[at + word.len()..]);
    let tokens = after.map(|rest| rest.chars().take_while(char::is_ascii_graphic).collect::<String>());
    tokens.filter(|token| token.len() > 8).collect()
}

/// The sum of a metric's series.
fn sum_of(scrape: &str, metric: &str) -> u64 {
    let series = scrape.lines().filter(|line| line.starts_with(metric) && line[metric.len()..].starts_with(['{', ' ']));
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

fn parsed(line: &str) -> Value {
    serde_json::from_str(line).expect("a line of JSON")
}

fn ports(event: &Value) -> (u64, u64) {
    (number(&event["source"]["port"]), number(&event["destination"]["port"]))
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

fn string(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn words<'a>(values: &[&'a Value]) -> Vec<&'a str> {
    values.iter().filter_map(|value| value.as_str()).collect()
}

fn has(list: &Value, word: &str) -> bool {
    array(list).iter().any(|item| item == word)
}

fn is_unknown(value: &Value) -> bool {
    matches!(value.as_str(), None | Some("unknown"))
}
