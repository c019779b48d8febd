//! Without root: captures of a real kube-apiserver are replayed and compared with their labels.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::workspace;

use super::connection::{self, Connection, Request, Tls};
use super::report;

/// Captures of kube-apiserver 1.37 and of a `kubectl proxy` beside it, of one connection each, with what they expose.
const CAPTURES: [(&str, &[&str]); 7] = [
    ("000-curl-tls12-none.pcap", &["external_source"]),
    ("001-curl-tls12-cert.pcap", &["external_source"]),
    ("137-kubectl-1.37-tls13-token.pcap", &["external_source"]),
    ("390-http-to-6443-external.pcap", &["external_source", "plaintext_to_secure_port"]),
    ("395-proxy-external-api-v1-secrets.pcap", &["anonymous_request", "external_source", "plaintext_api"]),
    ("398-proxy-worker-api-v1-secrets.pcap", &["anonymous_request", "plaintext_api"]),
    ("404-proxy-loopback-api-v1-secrets.pcap", &["anonymous_request", "plaintext_api"]),
];

/// Replays them and compares.
pub fn replay() -> Result<()> {
    let folder = workspace::root().join("tests/fixtures/captures/1.37");
    let path = folder.join("labels.jsonl");
    let labels = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let labels = labels.lines().map(|line| {
        let label: Value = serde_json::from_str(line).with_context(|| format!("no JSON in {}", path.display()))?;
        Ok((label["file"].as_str().unwrap_or_default().to_owned(), label))
    });
    let labels: BTreeMap<String, Value> = labels.collect::<Result<_>>()?;
    let mut sent = Vec::new();
    for (file, exposures) in CAPTURES {
        let label = labels.get(file).with_context(|| format!("{} has no line for {file}", path.display()))?;
        sent.extend(from_label(label, exposures));
    }

    let mut monitor = Command::new(workspace::binary());
    monitor.args([
        "replay",
        "--output",
        "json",
        "--node-address",
        "192.168.56.10",
        "--cluster-node-cidr",
        "192.168.56.0/24",
    ]);
    monitor.args(CAPTURES.map(|(file, _)| folder.join(file)));
    let output = monitor.output().with_context(|| format!("cannot start {}", workspace::binary().display()))?;
    if !output.status.success() {
        bail!("{monitor:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    let lines = String::from_utf8_lossy(&output.stdout);
    let seen: Vec<Connection> =
        lines.lines().filter_map(|line| Connection::from_json(line).transpose()).collect::<Result<_>>()?;

    let names: Vec<String> = CAPTURES.iter().map(|(file, _)| (*file).trim_end_matches(".pcap").to_owned()).collect();
    let pairs = connection::compare(&sent, &seen);
    println!("\n{}", report::table(&names, &sent, &seen, &pairs));
    println!("the metrics of the same: {} replay --output metrics FILE", workspace::binary().display());
    let unequal = pairs.iter().filter(|pair| !pair.equal).count();
    if unequal > 0 {
        bail!("what was seen is not what the labels say: {unequal} connections differ");
    }
    println!("\nwhat was seen is what the labels say: {} connections, in both directions", pairs.len());
    Ok(())
}

/// The connections that a label tells of, in the monitor's words.
fn from_label(label: &Value, exposures: &[&str]) -> Vec<Connection> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of = |connection: &Value| {
        let port = connection["dport"].as_u64().and_then(|port| port.try_into().ok()).unwrap_or(0);
        let (source_ip, plain) = (text(&label["src"]), connection["tls"].is_null());
        let tls = (!plain).then(|| Tls {
            version: connection["tls"].as_str().map(str::to_owned),
            sni: label["sni"].as_str().map(str::to_owned),
            handshake: "completed".to_owned(),
            client_certificate: if connection["client_cert"] == true { "presented" } else { "absent" }.to_owned(),
        });
        let requests =
            connection["requests"].as_array().into_iter().flatten().filter(|_| plain).map(|request| Request {
                method: text(&request["method"]),
                path: text(&request["path"]).split('?').next().unwrap_or_default().to_owned(),
                status: request["status"].as_u64(),
                credential: if request["authorization"] == "Bearer" { "bearer" } else { "none" }.to_owned(),
            });
        let source = match source_ip.as_str() {
            "127.0.0.1" => "loopback",
            "192.168.56.11" => "cluster_node",
            _ => "public",
        };
        Connection {
            source: source.to_owned(),
            source_ip,
            port,
            role: if port == 6443 { "secure" } else { "insecure" }.to_owned(),
            protocol: if plain { text(&connection["first"]) } else { "tls".to_owned() },
            tls,
            requests: requests.collect(),
            exposures: exposures.iter().map(|exposure| (*exposure).to_owned()).collect(),
        }
    };
    label["connections"].as_array().into_iter().flatten().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_says_what_the_monitor_has_to() {
        let label = serde_json::json!({"src": "192.168.56.11", "sni": null, "connections": [{"dport": 8080, "first": "http1",
            "tls": null, "requests": [{"method": "GET", "path": "/api/v1/pods?limit=1", "status": 200, "authorization": "Bearer"}]}]});
        let connections = from_label(&label, &["plaintext_api"]);
        assert_eq!(connections.len(), 1);
        let lines = connections[0].lines();
        assert_eq!(
            lines,
            [
                "cluster_node 192.168.56.11 -> insecure 8080",
                "http1",
                "GET /api/v1/pods 200 (bearer)",
                "exposes plaintext_api"
            ]
        );
        let label = serde_json::json!({"src": "203.0.113.7", "sni": "kubernetes", "connections": [{"dport": 6443,
            "first": "tls", "tls": "1.2", "client_cert": true, "requests": [{"method": "GET", "path": "/api"}]}]});
        let connections = from_label(&label, &[]);
        assert!(connections[0].requests.is_empty());
        assert_eq!(connections[0].tls.as_ref().map(|tls| tls.client_certificate.as_str()), Some("presented"));
    }
}
