//! The API in the clear on ports that nobody named: in a capture, in the kernel half, and live.
#![expect(clippy::unwrap_used, reason = "what a test cannot do without fails it")]

mod discovery {
    pub mod node;
}

use std::collections::BTreeSet;
use std::sync::Arc;

use discovery::node::{API_REPLY, Node, PAGE_REPLY};
use monitor::attach::object::program;
use monitor::classify::ExposureKind;
use monitor::config::{OnOff, Settings};
use monitor::discover::{Forget, PortState};
use monitor::export::{KernelCounts, Metrics};
use monitor::pipeline::Event;
use monitor::replay::native::NativeKernel;
use monitor::replay::{Capture, Start, replay};
use monitor::watch::Watch;
use monitor_common::{FlowKey, Hook, RecordFlags, Role, Side, Skip};
use monitor_tests::frame::{Tcp, ether_type, ethernet, flag, key_ipv4, key_ipv6, tag};
use monitor_tests::kernel::{Kernel, Record};
use monitor_tests::namespace::Namespace;
use monitor_tests::require_root;

use flag::{ACK, FIN, PSH, SYN};

const API: u16 = 31_234;
const PAGE: u16 = 9_000;

/// A capture in the format of pcap, with times in microseconds.
#[derive(Default)]
struct Written {
    bytes: Vec<u8>,
    /// Milliseconds.
    time: u32,
}

impl Written {
    fn frame(&mut self, frame: &[u8]) {
        if self.bytes.is_empty() {
            for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 262_144, 1_u32] {
                self.bytes.extend(word.to_le_bytes());
            }
        }
        self.time += 1;
        let length = frame.len() as u32;
        for word in [self.time / 1_000, self.time % 1_000 * 1_000, length, length] {
            self.bytes.extend(word.to_le_bytes());
        }
        self.bytes.extend(frame);
    }

    /// A connection from `client_port` to `server_port` with these requests and replies in turn.
    fn connection(&mut self, client_port: u16, server_port: u16, talk: &[(&str, &str)]) {
        let key = FlowKey { client_port, server_port, ..key_ipv4() };
        let (mut client, mut server) = (1_000_u32, 70_000_u32);
        let segment = |side, sequence, acknowledgement, flags, payload: &str| {
            Tcp { key, sequence, acknowledgement, ..Tcp::new(side, flags, payload.as_bytes()) }.frame()
        };
        self.frame(&segment(Side::Client, client, 0, SYN, ""));
        self.frame(&segment(Side::Server, server, client + 1, SYN | ACK, ""));
        (client, server) = (client + 1, server + 1);
        self.frame(&segment(Side::Client, client, server, ACK, ""));
        for (request, reply) in talk {
            self.frame(&segment(Side::Client, client, server, ACK | PSH, request));
            client += request.len() as u32;
            self.frame(&segment(Side::Server, server, client, ACK | PSH, reply));
            server += reply.len() as u32;
        }
        self.frame(&segment(Side::Client, client, server, ACK | FIN, ""));
        self.frame(&segment(Side::Server, server, client + 1, ACK | FIN, ""));
        self.frame(&segment(Side::Client, client + 1, server + 1, ACK, ""));
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n")
}

/// What is told of a capture: of each connection its port, its paths and exposures; of ports what is new; the scrape.
#[derive(Debug, Default)]
struct Told {
    connections: Vec<(u16, Vec<String>, Vec<ExposureKind>)>,
    exposures: usize,
    ports: Vec<(u16, PortState)>,
    scrape: String,
}

fn replayed(capture: &Written, settings: &Settings) -> Told {
    let mut told = Told::default();
    let metrics = Arc::new(Metrics::new());
    let bytes = std::io::Cursor::new(capture.bytes.clone());
    let mut opened = Capture::from_reader("test", Box::new(bytes), None).unwrap();
    let mut counts = KernelCounts::default();
    replay(&mut opened, settings, &metrics, &mut counts, |event| match event {
        Event::Connection(connection) => {
            let paths = connection.observation.requests.iter().map(|request| request.path.clone()).collect();
            assert_eq!(connection.destination.role, Role::Discovered);
            told.connections.push((connection.destination.port, paths, connection.exposures.clone()));
        }
        Event::Exposure(..) => told.exposures += 1,
        Event::Request(..) | Event::Anonymous(_) | Event::Probing(_) | Event::Finding(_) => {}
        Event::Port(change) => told.ports.push((change.port, change.state)),
    })
    .unwrap();
    told.scrape = metrics.encode();
    told
}

/// The value of this series in a scrape.
#[track_caller]
fn value(scrape: &str, series: &str) -> u64 {
    let line = scrape.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series}")).parse().unwrap()
}

fn candidates(scrape: &str, outcome: &str) -> u64 {
    value(scrape, &format!("api_exposure_discovery_candidates_total{{outcome=\"{outcome}\"}}"))
}

#[test]
fn a_capture_shows_the_api_from_its_first_request_on_and_nothing_of_a_web_server() {
    let mut capture = Written::default();
    capture.connection(40_000, PAGE, &[(&get("/api/things"), PAGE_REPLY)]);
    capture.connection(40_001, API, &[(&get("/api/v1/secrets"), API_REPLY), (&get("/version"), API_REPLY)]);
    capture.connection(40_002, API, &[(&get("/healthz"), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")]);
    capture.connection(40_003, PAGE, &[(&get("/api/things"), PAGE_REPLY), (&get("/api/v1/secrets"), API_REPLY)]);
    capture.connection(40_004, 9_001, &[(&get("/"), API_REPLY)]);
    let told = replayed(&capture, &Settings::default());
    let all = vec![ExposureKind::PlaintextApi, ExposureKind::AnonymousRequest, ExposureKind::ExternalSource];
    assert_eq!(
        told.connections,
        [
            (API, vec!["/api/v1/secrets".to_owned(), "/version".to_owned()], all),
            (API, vec!["/healthz".to_owned()], vec![ExposureKind::ExternalSource]),
        ]
    );
    assert_eq!((told.exposures, &told.ports[..]), (4, &[(API, PortState::Found)][..]));
    assert_eq!(value(&told.scrape, "api_exposure_discovered_ports"), 1);
    let outcomes = ["kubernetes", "other", "no_reply", "too_many"].map(|outcome| candidates(&told.scrape, outcome));
    assert_eq!(outcomes, [1, 1, 0, 0]);

    let off = Settings { discover_plaintext: OnOff::Off, ..Settings::default() };
    let told = replayed(&capture, &off);
    assert_eq!((told.connections.len(), told.ports.len(), candidates(&told.scrape, "kubernetes")), (0, 0, 0));
}

/// What is left alone is so for a while, and for what was asked of it.
#[test]
fn a_forgotten_port_is_a_candidate_again_after_a_while_or_for_another_path() {
    let health = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let mut capture = Written::default();
    capture.connection(40_000, API, &[(&get("/healthz"), health), (&get("/livez"), health)]);
    capture.connection(40_001, API, &[(&get("/readyz"), health), (&get("/api/v1/nodes"), API_REPLY)]);
    let told = replayed(&capture, &Settings::default());
    assert_eq!(told.connections.len(), 1);
    assert_eq!(told.connections[0].1, ["/api/v1/nodes"], "health says nothing about the other paths");
    assert_eq!((candidates(&told.scrape, "other"), candidates(&told.scrape, "kubernetes")), (1, 1));

    let mut capture = Written::default();
    for (client, minutes) in [(40_000, 0), (40_001, 9), (40_002, 11)] {
        capture.time = minutes * 60_000;
        capture.connection(client, PAGE, &[(&get("/api"), PAGE_REPLY)]);
    }
    let told = replayed(&capture, &Settings::default());
    assert_eq!((told.connections.len(), candidates(&told.scrape, "other")), (0, 2));

    // No reply: a segment that nobody answers, and later another connection.
    let mut capture = Written::default();
    let key = FlowKey { client_port: 40_000, server_port: PAGE, ..key_ipv4() };
    capture.frame(&Tcp { key, ..Tcp::new(Side::Client, ACK, get("/api").as_bytes()) }.frame());
    capture.time += 6_000;
    capture.connection(40_001, 9_001, &[(&get("/"), PAGE_REPLY)]);
    let told = replayed(&capture, &Settings::default());
    assert_eq!((told.connections.len(), candidates(&told.scrape, "no_reply")), (0, 1));
}

/// Frames to a port that nobody named, each with whether the kernel half and the native one discover the port by it.
#[test]
#[ignore = "needs root"]
fn both_halves_discover_by_the_same_frames() {
    require_root();
    let watched = Watch::of([(6443, Role::Secure)], []);
    let namespace = Namespace::new().unwrap();
    let lo = namespace.index("lo").unwrap();
    let mut kernel = Kernel::new(&watched).unwrap();
    let request = get("/api/v1/secrets");
    let mut port = 20_000;
    for (payload, family, options, expected) in [
        (request.as_str(), key_ipv4(), 0, true),
        (&request, key_ipv4(), 40, true),
        (&request, key_ipv6(), 0, true),
        (&request, key_ipv6(), 12, true),
        ("GET /api HTTP/1.0\n", key_ipv4(), 0, true),
        ("GET /api HTTP/1.0", key_ipv4(), 0, false),
        ("OPTIONS /apis/apps/v1 HTTP/1.1\r\n\r\n", key_ipv6(), 0, true),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", key_ipv4(), 0, false),
        ("PAST /api HTTP/1.1\r\n\r\n", key_ipv4(), 0, false),
        ("\u{16}\u{3}\u{1}\u{2}GET /api HTTP/1.1\r\n", key_ipv6(), 0, false),
        ("", key_ipv4(), 0, false),
    ] {
        for (framed, what) in [(Tcp::frame as fn(&Tcp) -> Vec<u8>, "plain"), (tagged, "with a VLAN tag")] {
            port += 1;
            let key = FlowKey { server_port: port, ..family };
            let tcp = Tcp { key, options: vec![1; options], ..Tcp::new(Side::Client, ACK | PSH, payload.as_bytes()) };
            let frame = framed(&tcp);
            let mut natively = NativeKernel::new(watched.clone());
            let outcome = namespace.run(|| kernel.run(program::INGRESS_COUNT, &frame, lo)).unwrap();
            let mut records: Vec<Record> = Vec::new();
            natively.frame(Start::Ethernet, 1, 1, &frame, |record| records.push(record.into()));
            let discovered = |records: &[Record]| {
                let [record] = records else { return false };
                assert_eq!((record.header.role, record.header.key), (Role::Discovered as u8, key));
                assert_eq!(record.bytes, payload.as_bytes());
                record.header.flags & RecordFlags::CANDIDATE != 0
            };
            assert_eq!(discovered(&outcome.records), expected, "{what}: {payload:?} {outcome:?}");
            assert_eq!(discovered(&records), expected, "natively, {what}: {payload:?}");
            // Watched from now on; forgotten, it is left alone for what is said and for as long as is said.
            let answer = Tcp { key, ..Tcp::new(Side::Server, ACK, b"HTTP/1.1 200 OK\r\n\r\n") }.frame();
            let answers = namespace.run(|| kernel.run(program::EGRESS, &answer, lo)).unwrap().records.len();
            assert_eq!(answers, usize::from(expected), "{payload:?}");
            let forget = |until| Forget { port, quiet_until: [until; 2] };
            kernel.discovered().forget(&forget(u64::MAX)).unwrap();
            natively.forget(&forget(2));
            let outcome = namespace.run(|| kernel.run(program::INGRESS_COUNT, &frame, lo)).unwrap();
            assert!(outcome.records.is_empty(), "left alone: {payload:?}");
            natively.frame(Start::Ethernet, 1, 1, &frame, |_| panic!("left alone: {payload:?}"));
        }
    }
    // XDP only counts.
    let tcp =
        Tcp { key: FlowKey { server_port: 20_100, ..key_ipv4() }, ..Tcp::new(Side::Client, ACK, request.as_bytes()) };
    let outcome = kernel.run(program::XDP_LINEAR, &tcp.frame(), 0).unwrap();
    assert_eq!(outcome.counts.skipped(Hook::Xdp), [(Skip::NotWatched, 1)]);
    let answer = Tcp { side: Side::Server, payload: PAGE_REPLY.into(), ..tcp }.frame();
    assert!(namespace.run(|| kernel.run(program::EGRESS, &answer, lo)).unwrap().records.is_empty());
}

fn tagged(tcp: &Tcp) -> Vec<u8> {
    let packet = tcp.packet();
    let kind = if packet[0] >> 4 == 4 { ether_type::IPV4 } else { ether_type::IPV6 };
    ethernet(ether_type::VLAN, &tag(kind, &packet))
}

/// A real `kubectl proxy` on a random port of `lo` and on one of an outside address, and what it stands before, beside a
/// web server that answers everything.
#[test]
#[ignore = "needs root"]
fn the_api_in_the_clear_is_found_live_and_a_web_server_is_left_alone() {
    require_root();
    let mut node = Node::start(&Settings::default());
    let (inside, outside) = (node.proxy("127.0.0.1"), node.proxy(Node::ADDRESS));
    let page = node.page;
    assert!(node.ask_inside("127.0.0.1", page, "/api/v1/secrets").starts_with("HTTP/1.1 200"));
    assert!(node.ask_inside("127.0.0.1", inside, "/api/v1/secrets").contains("SecretList"));
    assert!(node.ask_outside(page, "/api/v1/secrets").contains("welcome"));
    assert!(node.ask_outside(outside, "/api/v1/namespaces").contains("NamespaceList"));
    let wanted: BTreeSet<u16> = [inside, outside].into();
    node.wait("both proxies are found", |seen| wanted.is_subset(&seen.found));
    let scrape = node.metrics.encode();
    assert_eq!(candidates(&scrape, "other"), 1, "the web server was a candidate once");

    // What was asked first was seen, from its first byte on.
    node.wait("the first requests are told", |seen| {
        [(inside, "loopback", "/api/v1/secrets"), (outside, "public", "/api/v1/namespaces")].iter().all(
            |(port, source, path)| seen.requests.contains(&(*port, source.to_string(), path.to_string(), Some(200))),
        )
    });
    node.wait("their exposures are told", |seen| {
        let told = |port, kind| seen.exposures.contains(&(port, kind));
        told(inside, ExposureKind::PlaintextApi)
            && told(outside, ExposureKind::PlaintextApi)
            && told(outside, ExposureKind::ExternalSource)
            && !told(inside, ExposureKind::ExternalSource)
    });

    // A web server that was looked at costs nothing more.
    let before = value(&node.metrics.encode(), "api_exposure_records_sent_total");
    for _ in 0..50 {
        assert!(node.ask_outside(page, "/api/v1/secrets").contains("welcome"));
        assert!(node.ask_inside("127.0.0.1", page, "/apis").contains("welcome"));
    }
    assert_eq!(value(&node.metrics.encode(), "api_exposure_records_sent_total"), before);
    assert!(node.ask_outside(outside, "/version").contains("gitVersion"));
    node.wait("the next request is told", |seen| {
        seen.requests.contains(&(outside, "public".into(), "/version".into(), Some(200)))
    });
    let seen = node.stop();
    assert!(seen.ports_told.iter().all(|port| *port != page), "nothing is told of the web server");
}

/// Switched off, nothing is found.
#[test]
#[ignore = "needs root"]
fn switched_off_nothing_is_found_live() {
    require_root();
    let node = Node::start(&Settings { discover_plaintext: OnOff::Off, ..Settings::default() });
    assert!(node.ask_outside(node.api, "/api/v1/secrets").contains("SecretList"));
    let scrape = node.metrics.encode();
    assert_eq!(value(&scrape, "api_exposure_records_sent_total"), 0);
    let seen = node.stop();
    assert!(seen.ports_told.is_empty() && seen.found.is_empty(), "{seen:?}");
}
