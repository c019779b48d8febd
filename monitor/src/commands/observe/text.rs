//! A line of JSON as a line for people.

use std::io::Write as _;

use serde_json::Value;

const DIM: &str = "2";
const RED: &str = "1;31";
const YELLOW: &str = "33";

/// Appends the event's line. What is not understood is printed as it came, so that nothing is hidden.
pub fn write_line(buffer: &mut Vec<u8>, json: &[u8], coloured: bool) {
    let line = match serde_json::from_slice::<Value>(json) {
        Ok(event) => render(&event, coloured),
        Err(_) => None,
    };
    let line = line.unwrap_or_else(|| printable(&String::from_utf8_lossy(json)));
    // Writing to memory does not fail.
    let _ = writeln!(buffer, "{line}");
}

/// Text that a terminal prints as it is: control characters, and letters that change the direction of what follows, are
/// escaped. Paths and names in events are the peers' words.
pub fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter == ' ' || letter.is_ascii_graphic() || (!letter.is_ascii() && letter.is_alphanumeric()) {
            printable.push(letter);
        } else {
            printable.extend(letter.escape_default());
        }
    }
    printable
}

fn render(event: &Value, coloured: bool) -> Option<String> {
    let paint = |code: &str, text: String| if coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text };
    let kind = event.get("type")?.as_str()?;
    if kind == "lost" {
        let lines = event.get("lines")?.as_u64()?;
        return Some(paint(YELLOW, format!("-- {lines} lines lost: they came faster than they were read --")));
    }

    // The time of day to the millisecond: 2026-11-23T17:00:00.123456Z.
    let time = event.get("time")?.as_str()?.get(11..23)?;
    if kind == "port" {
        let (port, state) = (event.get("port")?.as_u64()?, word(event, "/state")?);
        let what = match state.as_str() {
            "found" => paint(RED, format!("port {port}: the Kubernetes API was found in the clear")),
            _ => format!("port {port}: {state}"),
        };
        return Some(format!("{}  {what}", paint(DIM, printable(time))));
    }
    if kind == "anonymous_request" {
        return Some(format!("{}  {}", paint(DIM, printable(time)), anonymous_request(event, paint)?));
    }
    if kind == "exposure" && event.get("destination").is_some_and(Value::is_null) {
        return Some(format!("{}  {}", paint(DIM, printable(time)), exposure_of_address(event, paint)?));
    }
    let class = word(event, "/source/class")?;
    let source = format!("{} ({class})", end(event, "/source")?);
    let source = if class == "public" { paint(YELLOW, source) } else { source };
    let mut parts = vec![
        paint(DIM, printable(time)),
        format!("{source} -> {} ({})", end(event, "/destination")?, word(event, "/destination/role")?),
    ];
    if let Some(interface) = word(event, "/interface") {
        parts.push(paint(DIM, interface));
    }
    let protocol = word(event, "/protocol")?;
    match kind {
        "connection" => {
            parts.push(match event.pointer("/outcome").and_then(Value::as_str) {
                Some("midstream") => format!("{protocol} (from the middle)"),
                _ => protocol,
            });
            parts.extend(event.get("tls").and_then(tls));
            let requests = event.get("requests").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let omitted = event.get("requests_omitted").and_then(Value::as_u64).unwrap_or_default();
            // Each request has had its own line; the connection says how many there were.
            match requests.len() as u64 + omitted {
                0 => {}
                1 => parts.push("1 request".into()),
                count => parts.push(format!("{count} requests")),
            }
            if let Some(reason) = word(event, "/unclassified") {
                parts.push(paint(YELLOW, format!("unclassified: {reason}")));
            }
            let exposures = event.get("exposures").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let exposures: Vec<String> = exposures.iter().filter_map(Value::as_str).map(printable).collect();
            if !exposures.is_empty() {
                parts.push(paint(RED, exposures.join(" ")));
            }
        }
        "request" => {
            parts.push(protocol);
            parts.push(request(event.get("request")?)?);
        }
        "exposure" => {
            parts.push(protocol);
            parts.push(paint(RED, format!("exposure {}", word(event, "/kind")?)));
        }
        _ => return None,
    }
    Some(parts.join("  "))
}

/// An exposure that an address has, and not one of its connections.
fn exposure_of_address(event: &Value, paint: impl Fn(&str, String) -> String) -> Option<String> {
    let (ip, class) = (word(event, "/source/ip")?, word(event, "/source/class")?);
    let (kind, evidence) = (word(event, "/kind")?, word(event, "/evidence")?);
    let (refusals, seconds) = (event.get("refusals")?.as_u64()?, event.get("window_seconds")?.as_u64()?);
    let source = format!("{ip} ({class})");
    let source = if class == "public" { paint(YELLOW, source) } else { source };
    let words = format!("{refusals} requests or more refused within {seconds} s ({evidence})");
    Some([source, words, paint(RED, format!("exposure {kind}"))].join("  "))
}

/// A request of which the API server itself told: port and destination may not be known.
fn anonymous_request(event: &Value, paint: impl Fn(&str, String) -> String) -> Option<String> {
    let class = word(event, "/source/class")?;
    let source = end(event, "/source").or_else(|| word(event, "/source/ip")).unwrap_or_else(|| "?".into());
    let source = format!("{source} ({class})");
    let source = if class == "public" { paint(YELLOW, source) } else { source };
    let mut parts = vec![match (end(event, "/destination"), word(event, "/destination/role")) {
        (Some(destination), Some(role)) => format!("{source} -> {destination} ({role})"),
        _ => format!("{source} (no connection seen)"),
    }];
    parts.extend(word(event, "/interface").map(|interface| paint(DIM, interface)));
    let (method, path, verb) = (word(event, "/method")?, word(event, "/path")?, word(event, "/verb")?);
    let (decision, evidence) = (word(event, "/decision")?, word(event, "/evidence")?);
    parts.push(format!("anonymous {method} {path} ({verb}) -> {decision} ({evidence})"));
    let exposures = event.get("exposures").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    parts.extend(exposures.iter().filter_map(Value::as_str).map(|kind| paint(RED, printable(kind))));
    Some(parts.join("  "))
}

fn tls(tls: &Value) -> Option<String> {
    let mut parts = vec![word(tls, "/version").unwrap_or_else(|| "no version".into())];
    parts.extend(word(tls, "/sni").map(|name| format!("sni={name}")));
    parts.extend(word(tls, "/alpn").map(|protocol| format!("alpn={protocol}")));
    if tls.get("resumed").and_then(Value::as_bool) == Some(true) {
        parts.push("resumed".into());
    }
    parts.extend(word(tls, "/handshake").filter(|handshake| handshake != "completed"));
    parts.push(with_evidence(tls, "client_certificate", "evidence")?);
    if word(tls, "/first_request").is_some_and(|first| first != "unknown") {
        parts.extend(with_evidence(tls, "first_request", "first_request_evidence"));
    }
    Some(parts.join(" "))
}

/// `client_certificate=absent (record_length)`: what is inferred is seen to be.
fn with_evidence(tls: &Value, name: &str, evidence: &str) -> Option<String> {
    let verdict = format!("{name}={}", word(tls, &format!("/{name}"))?);
    Some(match word(tls, &format!("/{evidence}")) {
        Some(evidence) => format!("{verdict} ({evidence})"),
        None => verdict,
    })
}

fn request(request: &Value) -> Option<String> {
    let verb = word(request, "/verb").unwrap_or_else(|| "?".into());
    let status = request.get("status").and_then(Value::as_u64).map_or("no answer".into(), |status| status.to_string());
    let credential = word(request, "/credential")?;
    let (method, path) = (word(request, "/method")?, word(request, "/path")?);
    Some(format!("{method} {path} ({verb}) -> {status} credential={credential}"))
}

/// Address and port of one end, IPv6 in brackets.
fn end(event: &Value, pointer: &str) -> Option<String> {
    let end = event.pointer(pointer)?;
    let (ip, port) = (word(end, "/ip")?, end.get("port")?.as_u64()?);
    Some(if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") })
}

fn word(value: &Value, pointer: &str) -> Option<String> {
    value.pointer(pointer)?.as_str().map(printable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::{Connection, ExposureKind};
    use crate::discover::PortState;
    use crate::export::examples::{anonymous_over_tls, evident, plaintext, probing, silent};
    use crate::export::json::write_event;
    use crate::pipeline::{Event, PortChange};

    fn shown(event: &Event<'_>, coloured: bool) -> String {
        let (mut json, mut text) = (Vec::new(), Vec::new());
        write_event(&mut json, event).unwrap();
        write_line(&mut text, json.trim_ascii_end(), coloured);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn lines_for_people() {
        let (tls, clear, silent) = (anonymous_over_tls(), plaintext(), silent());
        let (joined, mut alone) = (evident(true), evident(false));
        (alone.request.port, alone.class) = (None, Some(monitor_common::SourceClass::Pod));
        let burst = probing();
        let cases: [(Event<'_>, &str); 8] = [
            (
                Event::Probing(&burst),
                "17:00:00.123  203.0.113.7 (public)  20 requests or more refused within 60 s (audit)  \
                 exposure anonymous_probing\n",
            ),
            (
                Event::Anonymous(&joined),
                "17:00:00.123  203.0.113.7:51234 (public) -> 192.168.56.10:6443 (secure)  eth0  \
                 anonymous GET /api/v1/namespaces/default/secrets (list) -> unknown (probe)  anonymous_request\n",
            ),
            (
                Event::Anonymous(&alone),
                "17:00:00.123  203.0.113.7 (pod) (no connection seen)  \
                 anonymous GET /api/v1/namespaces/default/secrets (list) -> unknown (probe)  anonymous_request\n",
            ),
            (
                Event::Connection(&tls),
                "17:00:00.123  203.0.113.7:51234 (public) -> 192.168.56.10:6443 (secure)  eth0  tls  1.3 sni=kubernetes \
                 client_certificate=absent (record_length)  external_source\n",
            ),
            (
                Event::Connection(&clear),
                "17:00:00.000  [2001:db8::7]:40000 (public) -> [2001:db8::10]:8080 (insecure)  eth0  http1  5 requests  \
                 plaintext_api anonymous_request external_source\n",
            ),
            (
                Event::Request(&clear, 0),
                "17:00:00.000  [2001:db8::7]:40000 (public) -> [2001:db8::10]:8080 (insecure)  eth0  http1  \
                 GET /api/v1/namespaces/default/secrets (list) -> 200 credential=none\n",
            ),
            (
                Event::Exposure(&clear, ExposureKind::PlaintextApi),
                "17:00:00.000  [2001:db8::7]:40000 (public) -> [2001:db8::10]:8080 (insecure)  eth0  http1  exposure plaintext_api\n",
            ),
            (
                Event::Connection(&silent),
                "00:00:00.000  10.244.1.5:39000 (pod) -> 10.96.0.1:6443 (secure)  tls (from the middle)  \
                 no version incomplete client_certificate=unknown  unclassified: no_start\n",
            ),
        ];
        for (event, expected) in cases {
            assert_eq!(shown(&event, false), expected);
        }
    }

    #[test]
    fn colours_only_where_asked_for() {
        let connection = anonymous_over_tls();
        assert!(!shown(&Event::Connection(&connection), false).contains('\x1b'));
        let port = PortChange { time: connection.time, port: 31_234, state: PortState::Found };
        let line = shown(&Event::Port(port), false);
        assert!(line.ends_with("  port 31234: the Kubernetes API was found in the clear\n"), "{line}");
        assert!(shown(&Event::Connection(&connection), true).contains("\x1b[1;31mexternal_source\x1b[0m"));
    }

    #[test]
    fn what_a_peer_sent_cannot_steer_the_terminal() {
        let mut connection: Connection = plaintext();
        connection.observation.requests[0].path = "/\x1b]0;x\x07\u{202e}\u{9b}2J/\u{e9}\n".into();
        let text = shown(&Event::Request(&connection, 0), false);
        assert!(text.contains("/\\u{1b}]0;x\\u{7}\\u{202e}\\u{9b}2J/\u{e9}\\n (list)"), "{text}");
        assert_eq!(text.matches('\n').count(), 1);
    }

    #[test]
    fn losses_and_unknown_lines_are_shown() {
        let mut text = Vec::new();
        write_line(&mut text, br#"{"type":"lost","lines":12}"#, false);
        write_line(&mut text, br#"{"type":"new"}"#, false);
        write_line(&mut text, b"no JSON \x1b", false);
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("12 lines lost"));
        assert_eq!(lines[1..], [r#"{"type":"new"}"#, r"no JSON \u{1b}"]);
    }
}
