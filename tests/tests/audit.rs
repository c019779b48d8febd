//! `run --audit-log`: what the API server writes is counted once, joined with connections and told, over rotations and
//! restarts; and what cannot be followed is told and tried again.
#![expect(clippy::unwrap_used, reason = "what a test cannot do without fails it")]

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;

use monitor_tests::daemon::{ADDRESS, Daemon, PATIENCE, check, wait};
use monitor_tests::namespace::Namespace;
use monitor_tests::require_root;
use serde_json::{Value, json};
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_monitor");

/// A node with an audit log.
struct Node {
    namespace: Namespace,
    folder: TempDir,
    requests: Cell<u32>,
}

/// What the API server saw of a request.
struct Request {
    user: Value,
    verb: &'static str,
    uri: &'static str,
    source: &'static str,
    code: u16,
    decision: Option<&'static str>,
    message: &'static str,
}

impl Request {
    fn anonymous(uri: &'static str, source: &'static str, code: u16) -> Self {
        let decision = Some(if code == 403 { "forbid" } else { "allow" });
        Self { user: json!({"username": "system:anonymous"}), verb: "list", uri, source, code, decision, message: "" }
    }

    fn refused(source: &'static str) -> Self {
        let refused = Self::anonymous("/api/v1/secrets", source, 401);
        Self { user: json!({}), decision: None, message: "Unauthorized", ..refused }
    }
}

impl Node {
    fn new() -> Self {
        require_root();
        let namespace = Namespace::new().unwrap();
        Self { namespace, folder: tempfile::tempdir().unwrap(), requests: Cell::new(0) }
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("audit.log")
    }

    fn words(&self) -> Vec<String> {
        let folder = self.folder.path().display();
        let words = format!(
            "--interface lo --probe off --trusted-cidr 192.0.2.0/24 --audit-log {folder}/audit.log --audit-state \
             {folder}/audit.state"
        );
        words.split_whitespace().map(str::to_owned).collect()
    }

    fn start(&self) -> Daemon<'_> {
        let words = self.words();
        Daemon::start(BINARY, &self.namespace, &words.iter().map(String::as_str).collect::<Vec<_>>()).unwrap()
    }

    fn writer(&self) -> File {
        OpenOptions::new().create(true).append(true).open(self.log()).unwrap()
    }

    /// The events of a request, as the API server writes them.
    fn events(&self, request: &Request) -> String {
        self.requests.set(self.requests.get() + 1);
        let event = |stage: &str, done: bool| {
            let mut event = json!({
                "level": "Metadata", "auditID": self.requests.get().to_string(),
                "stage": stage, "requestURI": request.uri, "verb": request.verb, "user": request.user,
                "sourceIPs": ["203.0.113.99", request.source], "objectRef": {"resource": "nodes"},
                "requestReceivedTimestamp": "2026-11-25T07:15:01.954733Z", "annotations": {},
            });
            if done {
                event["responseStatus"] = json!({"code": request.code, "message": request.message});
                if let Some(decision) = request.decision {
                    event["annotations"]["authorization.k8s.io/decision"] = decision.into();
                }
            }
            // Kubernetes writes the kind first, this library by the alphabet.
            format!("{{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/v1\",{}\n", &event.to_string()[1..])
        };
        if request.code == 401 {
            return event("ResponseStarted", true);
        }
        event("RequestReceived", false) + &event("ResponseComplete", true)
    }

    fn write(&self, requests: &[Request]) {
        let mut lines = String::new();
        for request in requests {
            lines += &self.events(request);
        }
        self.writer().write_all(lines.as_bytes()).unwrap();
    }

    /// Waits until this many requests of nobody were counted and joined, and says whether it stays at that.
    fn counted(&self, daemon: &Daemon<'_>, expected: u64) {
        let events = ("api_exposure_audit_events_total", "kind=\"anonymous\"");
        let joined = ("api_exposure_anonymous_requests_total", "evidence=\"audit\"");
        let sums = || -> anyhow::Result<[u64; 2]> {
            let scrape = daemon.metrics()?;
            Ok([events, joined].map(|(name, word)| scrape.sum(name, &[word])))
        };
        wait(|| Ok(sums()?.iter().all(|sum| *sum >= expected).then_some(()))).unwrap();
        assert_eq!(sums().unwrap(), [expected; 2]);
    }
}

#[test]
#[ignore = "needs root"]
fn what_the_api_server_writes_is_counted_once_over_rotations_and_restarts() {
    let node = Node::new();
    let daemon = node.start();
    let tier = r#"api_exposure_detection_tier{reason="not_seen",tier="audit"}"#;
    wait(|| Ok(daemon.metrics()?.value(tier))).expect("a log that is not there yet is told");
    assert_eq!(daemon.metrics().unwrap().value("api_exposure_audit_log_readable"), Some(0.0));

    let one = || Request::anonymous("/api/v1/secrets?limit=7", "198.51.100.7", 403);
    node.write(&[one(), Request::anonymous("/api/v1/pods", "192.0.2.7", 200)]);
    node.counted(&daemon, 2);
    let scrape = daemon.metrics().unwrap();
    assert_eq!(scrape.value(r#"api_exposure_detection_tier{reason="working",tier="audit"}"#), Some(1.0));
    let secrets = r#"api_exposure_anonymous_requests_total{decision="denied",evidence="audit",path_class="secret",source="public",verb="list"}"#;
    assert_eq!(scrape.value(secrets), Some(1.0));
    assert_eq!(scrape.sum("api_exposure_anonymous_requests_total", &["allowed", "trusted", "audit"]), 1);
    assert_eq!(scrape.sum("api_exposure_exposures_total", &["anonymous_request"]), 2);

    // The API server's own rotation, then logrotate's by copying.
    fs::rename(node.log(), node.folder.path().join("audit-2026-11-25T07-00-00.000.log")).unwrap();
    node.write(&[one(), one()]);
    node.counted(&daemon, 4);
    node.write(&[one()]);
    fs::copy(node.log(), node.folder.path().join("audit.log.1")).unwrap();
    node.writer().set_len(0).unwrap();
    node.write(&[one()]);
    node.counted(&daemon, 6);

    // What is written while nobody looks, and rotated away.
    assert!(daemon.stop().unwrap().success);
    node.write(&[one(), one(), one()]);
    fs::rename(node.log(), node.folder.path().join("audit-2026-11-25T08-00-00.000.log")).unwrap();
    node.write(&[one()]);
    let daemon = node.start();
    node.counted(&daemon, 4);
    node.write(&[one()]);
    node.counted(&daemon, 5);
    let scrape = daemon.metrics().unwrap();
    assert_eq!(scrape.value("api_exposure_audit_malformed_lines_total"), Some(0.0));
    assert_eq!(scrape.sum("api_exposure_audit_log_changes_total", &["rest_lost"]), 0);
    let ended = daemon.stop().unwrap();
    assert!(ended.success && ended.log.contains("from where an earlier process left off"), "{}", ended.log);
}

#[test]
#[ignore = "needs root"]
fn what_it_tells_of_nodes_and_of_refusals() {
    let node = Node::new();
    node.writer();
    let daemon = node.start();
    wait(|| Ok(daemon.metrics()?.value("api_exposure_audit_log_readable").filter(|value| *value == 1.0))).unwrap();
    let events = events(&node.namespace);

    let patch = |decision, message| Request {
        user: json!({"username": "system:node:worker-7"}),
        verb: "patch",
        decision: Some(decision),
        message,
        ..Request::anonymous("/api/v1/nodes/other", "192.0.2.8", 403)
    };
    node.write(&[
        patch("allow", r#"nodes "other" is forbidden: node "worker-7" is not allowed to modify node "other""#),
        patch("forbid", r#"nodes "other" is forbidden: User "system:node:worker-7" cannot patch resource "nodes""#),
        Request { user: json!({"username": "jane"}), ..Request::anonymous("/api/v1/nodes", "192.0.2.9", 200) },
        Request { user: json!({"username": "system:unsecured"}), ..Request::anonymous("/api", "198.51.100.8", 200) },
    ]);
    let refused: Vec<Request> = (0..25).map(|_| Request::refused("198.51.100.66")).collect();
    node.write(&refused);
    let source = r#"{reason="unknown",source="public"}"#;
    let responses = format!("api_exposure_unauthenticated_responses_total{source}");
    wait(|| Ok(daemon.metrics()?.value(&responses).filter(|value| *value == 25.0))).unwrap();

    let scrape = daemon.metrics().unwrap();
    let restriction = r#"api_exposure_node_restriction_refused_total{reason="other_node",resource="nodes"}"#;
    assert_eq!(scrape.value(restriction), Some(1.0));
    assert_eq!(scrape.sum("api_exposure_node_restriction_refused_total", &[]), 1);
    for (kind, count) in [("node_restriction", 1.0), ("node_refused", 1.0), ("other", 1.0), ("unsecured", 1.0)] {
        let series = format!("api_exposure_audit_events_total{{kind=\"{kind}\"}}");
        assert_eq!(scrape.value(&series), Some(count), "{kind}");
    }
    let exposed = |kind: &str| scrape.sum("api_exposure_exposures_total", &[&format!("kind=\"{kind}\""), "public"]);
    assert_eq!((exposed("anonymous_probing"), exposed("plaintext_api"), exposed("anonymous_request")), (1, 1, 0));
    for name in ["worker-7", "jane"] {
        assert!(!scrape.0.contains(name), "{name}");
    }

    assert!(daemon.stop().unwrap().success);
    let events = events.join().unwrap();
    let probing: Vec<&Value> = events.iter().filter(|event| event["kind"] == "anonymous_probing").collect();
    let [probing] = probing[..] else { panic!("{events:?}") };
    assert_eq!(probing["source"], json!({"ip": "198.51.100.66", "port": null, "class": "public"}));
    assert_eq!((&probing["evidence"], &probing["refusals"]), (&json!("audit"), &json!(20)));
    let text = format!("{events:?}");
    assert!(!text.contains("worker-7") && !text.contains("jane"), "{text}");
}

#[test]
#[ignore = "needs root"]
fn its_requests_are_joined_with_connections() {
    let node = Node::new();
    node.writer();
    let daemon = node.start();
    let events = events(&node.namespace);
    node.namespace.run(|| {
        let listener = TcpListener::bind("127.0.0.1:6443").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(b"\x16\x03\x01").unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.read_exact(&mut [0; 3]).unwrap();
    });
    wait(|| Ok((daemon.metrics()?.sum("api_exposure_connections_total", &["loopback"]) == 1).then_some(()))).unwrap();
    let seen = || {
        let since = std::time::SystemTime::now();
        monitor::export::time::Timestamp(since).to_string()
    };
    let line = |node: &Node| {
        let lines = node.events(&Request::anonymous("/api/v1/secrets?continue=secretword", "127.0.0.1", 200));
        lines.replace("2026-11-25T07:15:01.954733Z", &seen())
    };
    let lines = line(&node);
    node.writer().write_all(lines.as_bytes()).unwrap();
    node.counted(&daemon, 1);
    assert!(daemon.stop().unwrap().success);
    let events = events.join().unwrap();
    let of_type =
        |kind: &str| events.iter().find(|event| event["type"] == kind).unwrap_or_else(|| panic!("{events:?}"));
    let (connection, request) = (of_type("connection"), of_type("anonymous_request"));
    assert_eq!(request["destination"], connection["destination"]);
    assert_eq!((&request["source"]["class"], &request["interface"]), (&json!("loopback"), &json!("lo")));
    assert_eq!((&request["path"], &request["decision"]), (&json!("/api/v1/secrets"), &json!("allowed")));
    assert_eq!(request["exposures"], json!(["anonymous_request"]));
    assert!(!format!("{events:?}").contains("secretword"), "a query is kept nowhere");
}

#[test]
#[ignore = "needs root"]
fn what_cannot_be_followed_is_told_and_the_daemon_goes_on() {
    let node = Node::new();
    fs::create_dir(node.log()).unwrap();
    let words = node.words();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (_, findings) = check(BINARY, &node.namespace, &words).unwrap();
    let finding = findings.as_array().unwrap().iter().find(|finding| finding["check"] == "audit log").unwrap();
    assert_eq!(finding["status"], "limited", "{finding}");

    let daemon = node.start();
    let tier = |reason: &str| format!(r#"api_exposure_detection_tier{{reason="{reason}",tier="audit"}}"#);
    let stands = |reason: &str| wait(|| Ok(daemon.metrics()?.value(&tier(reason)))).expect("the tier is told");
    stands("failed");
    assert_eq!(
        daemon.metrics().unwrap().value(r#"api_exposure_detection_tier{reason="working",tier="plaintext"}"#),
        Some(1.0)
    );
    fs::remove_dir(node.log()).unwrap();
    stands("not_seen");
    node.writer().write_all(&[&vec![b'x'; 11 << 20][..], b"\n"].concat()).unwrap();
    node.write(&[Request::anonymous("/api", "192.0.2.7", 403)]);
    node.counted(&daemon, 1);
    stands("working");
    assert_eq!(daemon.metrics().unwrap().value("api_exposure_audit_malformed_lines_total"), Some(1.0));
    fs::remove_file(node.log()).unwrap();
    stands("not_seen");
    let ended = daemon.stop().unwrap();
    assert!(ended.success);
    for words in ["it is no file", "there is no such file", "it can be read again"] {
        assert!(ended.log.contains(words), "{words}: {}", ended.log);
    }
}

/// Reads `/events` until it ends.
fn events(namespace: &Namespace) -> std::thread::JoinHandle<Vec<Value>> {
    let mut stream = namespace.run(|| TcpStream::connect(ADDRESS).unwrap());
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /events HTTP/1.0\r\nHost: {ADDRESS}\r\n\r\n").unwrap();
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while head.is_empty() || !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
    }
    assert!(head.contains(" 200 "), "{head}");
    std::thread::spawn(move || {
        let lines = reader.lines().map_while(Result::ok);
        lines.filter_map(|line| serde_json::from_str(&line).ok()).collect()
    })
}
