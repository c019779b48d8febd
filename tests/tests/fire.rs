//! Under fire: floods, fragments, tiny and overlapping segments, a full ring, a full flow table, interfaces that come
//! and go, and honest connections in between. Those are reported right; what is lost is counted.
//!
//! It takes some twenty seconds; `API_EXPOSURE_TEST_FIRE=60` makes it a minute.
#![expect(clippy::unwrap_used, reason = "what a test cannot do without fails it")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use aya::programs::TcAttachType;
use monitor::attach::traffic_control::tcx_programs;
use monitor_common::{FlowKey, Side, flow::mapped, limits};
use monitor_tests::daemon::{ADDRESS, Daemon, PATIENCE, Scrape, wait};
use monitor_tests::frame::{Tcp, ether_type, ethernet, flag, ipv4_between, protocol, with};
use monitor_tests::namespace::Namespace;
use monitor_tests::random::Random;
use monitor_tests::require_root;
use monitor_tests::sender::Sender;
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_monitor");
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Payload of the segments that fill the ring.
const SEGMENT: usize = 1_400;
/// Frames between two looks at whether the reader has kept up.
const BATCH: usize = 4_000;
/// The longest log that is quiet: the start, what may be said of interfaces in two minutes, the end.
const QUIET: usize = 90;

#[test]
#[ignore = "needs root"]
fn honest_connections_are_reported_right_and_losses_are_counted() {
    require_root();
    let seconds = std::env::var("API_EXPOSURE_TEST_FIRE").ok().map_or(20, |words| words.parse().unwrap());
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let kernel_log = kernel_log();
    let (server, client) = wire();
    let daemon = Daemon::start(BINARY, &server, &["--interface", "eth0,churn*"]).unwrap();
    let events = Events::read(&server);
    let ending = Arc::new(AtomicBool::new(false));
    let stops = Mutex::new(Vec::new());
    let mut fire = Fire::new(&client, &daemon);
    let mut resident = Vec::new();

    let honest = thread::scope(|scope| {
        let churn = scope.spawn(|| churn(&server, &ending));
        let honest = scope.spawn(|| honest(&server, &client, &ending));
        let fires = std::panic::AssertUnwindSafe(|| {
            while resident.len() < 3 || Instant::now() < deadline {
                fire.syn_flood(20_000);
                fire.fragments(1_000);
                fire.tiny_segments(40, 50);
                fire.overlapping(40, 40);
                fire.flow_table(limits::FLOWS as usize + 5_000);
                stops.lock().unwrap().push(fire.full_ring());
                resident.push(resident_bytes(daemon.process()));
            }
        });
        let outcome = std::panic::catch_unwind(fires);
        ending.store(true, Ordering::Release);
        let made = churn.join().unwrap();
        let honest = honest.join().unwrap();
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        eprintln!("{made} interfaces came and went");
        assert!(made > seconds * 4);
        honest
    });

    let last = fire.over();
    accounts(&last, &fire);
    eprintln!("resident bytes after each round: {resident:?}; {} frames", fire.sender.sent);
    let (first, most) = (resident[0], *resident.iter().max().unwrap());
    assert!(most < first + first / 4 + (8 << 20), "memory is flat: {resident:?}");

    let ended = daemon.stop().unwrap();
    assert!(ended.success, "{}", ended.log);
    let lines: Vec<&str> = ended.log.lines().collect();
    assert!(lines.len() <= QUIET, "{} lines: {}", lines.len(), ended.log);
    assert!(!lines.iter().any(|line| line.contains("WARN") || line.contains("ERROR")), "{}", ended.log);
    for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
        let left = server.run(|| tcx_programs(server.index("eth0").unwrap(), direction)).unwrap();
        assert!(left.is_empty(), "{left:?}");
    }
    if let (Some(before), Some(after)) = (kernel_log, self::kernel_log()) {
        let new: Vec<&String> = after.iter().filter(|line| !before.contains(line)).collect();
        let loud = ["BUG", "WARNING", "Oops", "Call Trace"];
        assert!(!new.iter().any(|line| loud.iter().any(|word| line.contains(word))), "{new:#?}");
    }
    check_honest(&honest, &stops.into_inner().unwrap(), &events.join().unwrap());
}

/// Whatever came by is in exactly one counter.
fn accounts(scrape: &Scrape, fire: &Fire<'_>) {
    assert_eq!(scrape.sum("api_exposure_packets_total", &["source=\"public\""]), fire.tcp, "every frame was seen");
    assert_eq!(
        scrape.sum("api_exposure_tcp_handshake_packets_total", &["source=\"public\"", "step=\"syn\""]),
        fire.syns
    );
    let skipped = |reason: &str| {
        scrape.sum("api_exposure_skipped_packets_total", &["hook=\"tc\"", &format!("reason=\"{reason}\"")])
    };
    assert_eq!(skipped("later_fragment"), fire.later_fragments);
    assert_eq!(skipped("malformed") + skipped("truncated"), fire.broken);
    let sent = scrape.sum("api_exposure_records_sent_total", &[]);
    let lost = scrape.sum("api_exposure_records_lost_total", &[]);
    assert_eq!(sent, scrape.sum("api_exposure_records_received_total", &[]), "what was sent was received");
    assert_eq!(lost, skipped("ring_full"));
    assert!(lost > 1_000, "the ring was full");
    let of_watched = ["no_payload", "syn_payload", "enough", "duplicate", "budget", "table_full", "ring_full"];
    let left_alone: u64 = of_watched.iter().map(|reason| skipped(reason)).sum();
    let packets = scrape.sum("api_exposure_packets_total", &[]);
    assert_eq!(packets, sent + left_alone, "seen is handed over, or left alone for a reason");
    assert_eq!(scrape.sum("api_exposure_records_malformed_total", &[]), 0);
    let tracked = scrape.sum("api_exposure_flows_tracked", &[]);
    assert!(tracked <= u64::from(limits::FLOWS), "{tracked}");
    let begun = scrape.sum("api_exposure_flows_begun_total", &[]);
    let evicted = scrape.sum("api_exposure_flows_evicted_total", &[]);
    assert!(evicted > 0 && begun > u64::from(limits::FLOWS), "the table was full: {begun} begun, {evicted} evicted");
    assert!(scrape.sum("api_exposure_reassembly_conflicting_bytes_total", &[]) > 0);
    assert!(scrape.sum("api_exposure_reassembly_out_of_order_total", &[]) > 0);
}

fn wire() -> (Namespace, Namespace) {
    let (server, client) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    server.ip("link add eth0 type veth peer name peer").unwrap();
    server.give("peer", &client).unwrap();
    for (namespace, interface, address) in [(&server, "eth0", SERVER), (&client, "peer", CLIENT)] {
        namespace.ip(&format!("address add {address}/24 dev {interface}")).unwrap();
        namespace.ip(&format!("link set {interface} up")).unwrap();
    }
    (server, client)
}

/// What is thrown at the monitor, and how much it was.
struct Fire<'a> {
    sender: Sender,
    daemon: &'a Daemon<'a>,
    random: Random,
    /// Frames with a whole TCP header towards a watched port.
    tcp: u64,
    syns: u64,
    later_fragments: u64,
    broken: u64,
    /// Connections so far: each has its own key.
    flows: u32,
}

impl<'a> Fire<'a> {
    fn new(client: &Namespace, daemon: &'a Daemon<'a>) -> Self {
        let sender = Sender::new(client, "peer").unwrap();
        Self { sender, daemon, random: Random::new(7), tcp: 0, syns: 0, later_fragments: 0, broken: 0, flows: 0 }
    }

    /// A key that no other connection has, of a source that is nobody's.
    fn key(&mut self, port: u16) -> FlowKey {
        self.flows += 1;
        let low = (self.flows / 50_000) as u8;
        let client_port = 10_000 + (self.flows % 50_000) as u16;
        FlowKey { client: mapped([198, 51, 100, low]), server: mapped(SERVER.octets()), client_port, server_port: port }
    }

    fn tcp(&mut self, key: FlowKey, sequence: u32, flags: u8, payload: &[u8]) {
        let segment = Tcp { key, sequence, ..Tcp::new(Side::Client, flags, payload) };
        self.sender.send(&segment.frame()).unwrap();
        self.tcp += 1;
    }

    /// SYNs from addresses that look random.
    fn syn_flood(&mut self, count: usize) {
        for _ in 0..count {
            // 11.0.0.0/8 is public.
            let [b, c, d, ..] = self.random.next().to_be_bytes();
            let key = FlowKey {
                client: mapped([11, b, c, d]),
                server: mapped(SERVER.octets()),
                client_port: 10_000 + self.random.below(50_000) as u16,
                server_port: self.random.pick(&[6443, 8080]),
            };
            let sequence = self.random.next() as u32;
            self.tcp(key, sequence, flag::SYN, b"");
            self.syns += 1;
        }
        self.kept_up();
    }

    /// Fragments: later ones, and first ones that end within the TCP header.
    fn fragments(&mut self, count: usize) {
        for number in 0..count {
            let key = self.key(8080);
            let segment = Tcp { key, ..Tcp::new(Side::Client, flag::ACK, b"GET /api") }.segment();
            let later = number % 2 == 0;
            let payload = if later { &segment[8..] } else { &segment[..8] };
            let packet = ipv4_between([198, 51, 100, 250], SERVER.octets(), protocol::TCP, &[], payload);
            // Offset in units of eight bytes, and "more fragments".
            let fragment = if later { [0x00, 0x01] } else { [0x20, 0x00] };
            self.sender.send(&ethernet(ether_type::IPV4, &with(packet, 6, &fragment))).unwrap();
            if later { self.later_fragments += 1 } else { self.broken += 1 }
        }
        self.kept_up();
    }

    /// Requests a byte at a time.
    fn tiny_segments(&mut self, flows: usize, segments: u32) {
        for _ in 0..flows {
            let key = self.key(8080);
            for (byte, at) in b"GET /api/v1/secrets HTTP/1.1\r\nX: ".iter().cycle().zip(0..segments) {
                self.tcp(key, 1_000 + at, flag::ACK, &[*byte]);
            }
        }
        self.kept_up();
    }

    /// Segments in no order that overlap and contradict each other.
    fn overlapping(&mut self, flows: usize, segments: usize) {
        for _ in 0..flows {
            let key = self.key(8080);
            self.tcp(key, 1_000, flag::ACK, b"GET /api/v1 HTTP/1.1\r\n");
            for _ in 0..segments {
                // A hole behind the first segment is never filled.
                let sequence = 1_100 + self.random.below(4_000) as u32;
                let length = 1 + self.random.below(200);
                let payload = self.random.bytes(length);
                self.tcp(key, sequence, flag::ACK, &payload);
            }
        }
        self.kept_up();
    }

    /// More connections with payload than either half remembers, all of them silent afterwards.
    fn flow_table(&mut self, flows: usize) {
        for number in 0..flows {
            let key = self.key(6443);
            self.tcp(key, 1_000, flag::ACK, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
            if number % BATCH == 0 {
                self.kept_up();
            }
        }
        self.kept_up();
    }

    /// More than the ring holds, while nobody reads it; says how long that was so.
    fn full_ring(&mut self) -> (Instant, Instant) {
        let from = Instant::now();
        self.daemon.signal(libc::SIGSTOP).unwrap();
        let key = self.key(8080);
        let mut payload = b"POST /api HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n".to_vec();
        payload.resize(SEGMENT, b'x');
        for at in 0..(limits::RING_BYTES as usize / SEGMENT + 2_000) as u32 {
            self.tcp(key, at * SEGMENT as u32, flag::ACK, &payload);
        }
        self.daemon.signal(libc::SIGCONT).unwrap();
        self.kept_up();
        (from, Instant::now())
    }

    /// Waits until the last frame has come through the wire, and the reader has everything.
    fn over(&self) -> Scrape {
        wait(|| {
            let seen = self.daemon.metrics()?.sum("api_exposure_packets_total", &["source=\"public\""]);
            Ok((seen >= self.tcp).then_some(()))
        })
        .unwrap();
        self.kept_up()
    }

    /// Waits until the reader has everything that was sent.
    fn kept_up(&self) -> Scrape {
        wait(|| {
            let scrape = self.daemon.metrics()?;
            // Received first: it grows while the scrape is made.
            let received = scrape.sum("api_exposure_records_received_total", &[]);
            Ok((received >= scrape.sum("api_exposure_records_sent_total", &[])).then_some(scrape))
        })
        .unwrap()
    }
}

/// An honest connection: what it was, and when.
struct Honest {
    port: u16,
    /// The path of its request, or the name that it asked for over TLS.
    words: String,
    tls: bool,
    from: Instant,
    to: Instant,
}

/// Honest connections, one after the other, until the end.
fn honest(server: &Namespace, client: &Namespace, ending: &AtomicBool) -> Vec<Honest> {
    let ports = [8080, 6443];
    let listeners = ports.map(|port| server.run(|| TcpListener::bind((SERVER, port))).unwrap());
    let mut made = Vec::new();
    while !ending.load(Ordering::Acquire) {
        for (tls, listener) in listeners.iter().enumerate() {
            made.push(talk(client, listener, ports[tls], tls == 1, made.len()));
        }
        thread::sleep(Duration::from_millis(5));
    }
    made
}

fn talk(client: &Namespace, listener: &TcpListener, server_port: u16, tls: bool, number: usize) -> Honest {
    let from = Instant::now();
    let words = if tls { format!("honest-{number}.example") } else { format!("/api/v1/namespaces/n{number}/secrets") };
    let request =
        if tls { client_hello(&words) } else { format!("GET {words} HTTP/1.1\r\nHost: api\r\n\r\n").into_bytes() };
    let reply: &[u8] = if tls {
        b"\x15\x03\x03\x00\x02\x02\x28"
    } else {
        b"HTTP/1.1 403 Forbidden\r\nAudit-Id: 1\r\nContent-Length: 0\r\n\r\n"
    };
    let port = thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut read = vec![0; request.len()];
            stream.read_exact(&mut read).unwrap();
            stream.write_all(reply).unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        });
        client.run(|| {
            let mut stream = TcpStream::connect_timeout(&SocketAddr::from((SERVER, server_port)), PATIENCE).unwrap();
            let port = stream.local_addr().unwrap().port();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(&request).unwrap();
            stream.read_exact(&mut vec![0; reply.len()]).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
            port
        })
    });
    Honest { port, words, tls, from, to: Instant::now() }
}

/// A ClientHello of TLS 1.2 that asks for this name (RFC 5246 section 7.4.1.2, RFC 6066 section 3).
fn client_hello(name: &str) -> Vec<u8> {
    let sized = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let names = sized(&[&[0][..], &sized(name.as_bytes())].concat());
    let extensions = sized(&[&[0, 0][..], &sized(&names)].concat());
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0xc0, 0x2f, 1, 0], &extensions].concat();
    let message = [&[1, 0][..], &sized(&body)].concat();
    [&[0x16, 3, 1][..], &sized(&message)].concat()
}

/// Lines of `/events` about private sources, until the monitor ends.
struct Events(JoinHandle<Vec<Value>>);

impl Events {
    fn read(server: &Namespace) -> Self {
        let mut stream = server.run(|| TcpStream::connect(ADDRESS)).unwrap();
        write!(stream, "GET /events?source=private HTTP/1.1\r\nHost: {ADDRESS}\r\n\r\n").unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 200"), "{line}");
        Self(thread::spawn(move || {
            let lines = reader.split(b'\n').map_while(Result::ok);
            // Heads and the sizes of HTTP's chunks are no JSON objects.
            lines.filter(|line| line.starts_with(b"{")).map(|line| serde_json::from_slice(&line).unwrap()).collect()
        }))
    }

    fn join(self) -> thread::Result<Vec<Value>> {
        self.0.join()
    }
}

/// Every honest connection that had room is reported once and right; one that had none is not reported wrong.
fn check_honest(honest: &[Honest], stops: &[(Instant, Instant)], events: &[Value]) {
    assert!(events.iter().all(|event| event["type"] != "lost"));
    let mut reported: BTreeMap<u64, Vec<&Value>> = BTreeMap::new();
    for event in events.iter().filter(|event| event["type"] == "connection") {
        assert_eq!(event["source"]["ip"], CLIENT.to_string());
        reported.entry(event["source"]["port"].as_u64().unwrap()).or_default().push(event);
    }
    let mut had_room = 0;
    for one in honest {
        let of_port = reported.get(&one.port.into()).map_or(&[][..], Vec::as_slice);
        let role = if one.tls { "secure" } else { "insecure" };
        let said = |event: &&&Value| {
            let words = if one.tls { &event["tls"]["sni"] } else { &event["requests"][0]["path"] };
            event["destination"]["role"] == role && *words == one.words.as_str()
        };
        let right: Vec<_> = of_port.iter().filter(said).collect();
        let room = stops.iter().all(|(from, to)| one.to < *from || one.from > *to);
        had_room += usize::from(room);
        assert!(right.len() <= 1, "{} is reported once: {right:?}", one.words);
        let Some(event) = right.first() else {
            assert!(!room, "{} had room and is not reported; from its port: {of_port:?}", one.words);
            // What was lost of it is said of all that is left of it.
            for rest in of_port.iter().filter(|event| event["destination"]["role"] == role) {
                let other = honest.iter().any(|other| other.port == one.port && other.words != one.words);
                assert!(other || !rest["unclassified"].is_null() || rest["requests"] == Value::Array(vec![]), "{rest}");
            }
            continue;
        };
        assert_eq!(event["protocol"], if one.tls { "tls" } else { "http1" }, "{event}");
        if !one.tls {
            let request = &event["requests"][0];
            assert!(request["anonymous"] == "yes", "{event}");
            assert!(request["status"] == 403 || (!room && request["status"].is_null()), "{event}");
            assert!(event["kubernetes"] == true || !room, "{event}");
        }
        assert!(event["unclassified"].is_null() || !room, "{event}");
    }
    assert!(had_room > 100, "{had_room} of {} honest connections had room", honest.len());
}

/// Makes interfaces and takes them away, ten a second; how many. Each is there for half a second, so that the monitor
/// has begun to attach to it, or has just done so, when it goes.
fn churn(namespace: &Namespace, ending: &AtomicBool) -> u64 {
    let mut made = 0;
    while !ending.load(Ordering::Acquire) {
        let next = Instant::now() + Duration::from_millis(500);
        let mut words = String::new();
        for number in made..made + 5 {
            words += &format!("link add churn{number} type veth peer name nruhc{number}\nlink set churn{number} up\n");
            if number >= 5 {
                words += &format!("link del churn{}\n", number - 5);
            }
        }
        namespace.run(|| {
            let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
            ip.stdin.take().unwrap().write_all(words.as_bytes()).unwrap();
            assert!(ip.wait().unwrap().success());
        });
        made += 5;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    made
}

/// Resident memory of a process.
fn resident_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Lines of the kernel's log; `None` where it may not be read.
fn kernel_log() -> Option<Vec<String>> {
    /// SYSLOG_ACTION_READ_ALL (syslog(2)).
    const READ_ALL: libc::c_int = 3;
    let mut bytes = vec![0_u8; 1 << 20];
    // SAFETY: the pointer and the length are those of `bytes`.
    let length = unsafe { libc::klogctl(READ_ALL, bytes.as_mut_ptr().cast(), bytes.len() as libc::c_int) };
    bytes.truncate(usize::try_from(length).ok()?);
    Some(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
}
