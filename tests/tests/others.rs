//! Beside others: a program that was on a hook before us, or comes later, goes on as if we were not there; what can be
//! seen is still seen, and what cannot is said.
#![expect(clippy::unwrap_used, reason = "what a test cannot do without fails it")]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use aya::programs::tc::{NlOptions, TcAttachOptions, TcHandle, qdisc_add_clsact};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use monitor::attach::traffic_control::{filters, tcx_programs};
use monitor_tests::daemon::{self, Daemon, PATIENCE, Scrape, wait};
use monitor_tests::foreign::{Foreign, Kind};
use monitor_tests::namespace::Namespace;
use monitor_tests::require_root;

const BINARY: &str = env!("CARGO_BIN_EXE_monitor");
const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 77, 0, 1)), 8080);
/// XDP_PASS, TC_ACT_OK (which ends the chain, as TCX_PASS does) and TC_ACT_UNSPEC.
const XDP_PASS: i32 = 2;
const OK: i32 = 0;
const NEXT: i32 = -1;
const REQUESTS: &str = "api_exposure_plaintext_requests_total";

/// A server and a client in namespaces of their own, and a wire between.
struct Wire {
    server: Namespace,
    client: Namespace,
    interface: u32,
    listener: TcpListener,
}

impl Wire {
    fn new() -> Self {
        require_root();
        let (server, client) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        server.ip("link add eth0 type veth peer name peer").unwrap();
        server.give("peer", &client).unwrap();
        for (namespace, interface, address) in [(&server, "eth0", "10.77.0.1/24"), (&client, "peer", "10.77.0.2/24")] {
            namespace.ip(&format!("address add {address} dev {interface}")).unwrap();
            namespace.ip(&format!("link set {interface} up")).unwrap();
        }
        let interface = server.index("eth0").unwrap();
        let listener = server.run(|| TcpListener::bind(SERVER)).unwrap();
        Self { server, client, interface, listener }
    }

    /// One request and its answer.
    fn talk(&self) {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = self.listener.accept().unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut request = [0; 256];
                assert!(stream.read(&mut request).unwrap() > 0);
                stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").unwrap();
                assert_eq!(stream.read(&mut request).unwrap(), 0);
            });
            self.client.run(|| {
                let mut stream = TcpStream::connect_timeout(&SERVER, PATIENCE).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.write_all(b"GET /api/v1/secrets HTTP/1.1\r\nHost: api\r\n\r\n").unwrap();
                assert!(stream.read(&mut [0; 256]).unwrap() > 0);
                stream.shutdown(Shutdown::Write).unwrap();
                assert_eq!(stream.read(&mut [0; 256]).unwrap(), 0);
            });
        });
    }

    fn daemon(&self, words: &[&str]) -> Daemon<'_> {
        Daemon::start(BINARY, &self.server, &[&["--interface", "eth0"], words].concat()).unwrap()
    }

    /// Id of the XDP program on the server's interface.
    fn xdp(&self) -> Option<u64> {
        let links: serde_json::Value = serde_json::from_str(&self.say("ip", "-j link show eth0")).unwrap();
        links[0]["xdp"]["prog"]["id"].as_u64()
    }

    fn say(&self, program: &str, words: &str) -> String {
        let output = self.server.run(|| Command::new(program).args(words.split_whitespace()).output()).unwrap();
        assert!(output.status.success(), "{program} {words}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// All that is on the TC hooks of the server's interface, as the kernel says it.
    fn traffic_control(&self) -> String {
        let chains = [TcAttachType::Ingress, TcAttachType::Egress]
            .map(|direction| self.server.run(|| tcx_programs(self.interface, direction)).unwrap());
        let words = ["qdisc show dev eth0", "filter show dev eth0 ingress", "filter show dev eth0 egress"];
        format!("{chains:?}\n{}", words.map(|words| self.say("tc", words)).join("\n"))
    }

    /// What `check` says of this.
    fn check(&self, words: &[&str], what: &str) -> (String, String) {
        let words = [&["--interface", "eth0"], words].concat();
        let (_, findings) = daemon::check(BINARY, &self.server, &words).unwrap();
        let findings = findings.as_array().unwrap();
        let finding =
            findings.iter().find(|finding| finding["check"] == what).unwrap_or_else(|| panic!("{findings:?}"));
        (finding["status"].as_str().unwrap().to_owned(), finding["found"].as_str().unwrap().to_owned())
    }
}

/// Waits until a scrape is as wanted.
fn scrape(daemon: &Daemon<'_>, what: &str, wanted: impl Fn(&Scrape) -> bool) -> Scrape {
    let mut last = String::new();
    let scraped = wait(|| {
        let scrape = daemon.metrics()?;
        last.clone_from(&scrape.0);
        Ok(wanted(&scrape).then_some(scrape))
    });
    scraped.unwrap_or_else(|error| panic!("{what}: {error}\n{last}"))
}

fn syns(scrape: &Scrape) -> u64 {
    scrape.sum("api_exposure_tcp_handshake_packets_total", &["step=\"syn\""])
}

#[test]
#[ignore = "needs root"]
fn an_xdp_program_stays_and_tc_counts_until_it_goes() {
    let wire = Wire::new();
    let foreign = Foreign::new(Kind::Xdp, "foreign_xdp", XDP_PASS).unwrap();
    let attached = wire.server.run(|| foreign.attach_xdp(wire.interface)).unwrap();
    let (status, found) = wire.check(&[], "eth0 XDP");
    assert_eq!(status, "limited");
    assert!(found.contains(&format!("id {}", foreign.id)), "{found}");

    let monitor = wire.daemon(&[]);
    let before = foreign.packets().unwrap();
    (0..5).for_each(|_| wire.talk());
    let seen = scrape(&monitor, "five requests", |scrape| scrape.sum(REQUESTS, &[]) == 5);
    assert_eq!(seen.sum("api_exposure_not_attached", &["eth0", "xdp", "taken"]), 1);
    assert_eq!(seen.sum("api_exposure_attached", &["eth0", "tc"]), 1);
    assert_eq!(syns(&seen), 5, "TC counts");
    assert!(foreign.packets().unwrap() >= before + 5 * 4, "the other's counter goes on");
    assert_eq!(wire.xdp(), Some(foreign.id.into()));
    assert!(monitor.stop().unwrap().success);
    assert_eq!(wire.xdp(), Some(foreign.id.into()), "it is there when we have gone");
    let before = foreign.packets().unwrap();
    wire.talk();
    assert!(foreign.packets().unwrap() > before);

    // What is there at first may be a predecessor's, just ending.
    let monitor = wire.daemon(&[]);
    (0..3).for_each(|_| wire.talk());
    drop(attached);
    let changed = scrape(&monitor, "XDP", |scrape| scrape.sum("api_exposure_attached", &["eth0", "xdp"]) == 1);
    assert_eq!(changed.sum("api_exposure_not_attached", &["eth0"]), 0);
    (0..4).for_each(|_| wire.talk());
    let seen = scrape(&monitor, "seven requests", |scrape| scrape.sum(REQUESTS, &[]) == 7);
    assert_eq!(syns(&seen), 7, "each counts once, whichever counts");
    assert!(monitor.stop().unwrap().success);
    assert_eq!(wire.xdp(), None);
}

#[test]
#[ignore = "needs root"]
fn a_tcx_program_that_ends_the_chain_goes_on_behind_us() {
    let wire = Wire::new();
    let foreign = Foreign::new(Kind::Classifier, "foreign_tcx", OK).unwrap();
    let mut classifier = foreign.classifier().unwrap();
    if !tcx(&wire, &mut classifier) {
        eprintln!("skipped: this kernel has no tcx");
        return;
    }
    let before = wire.traffic_control();
    let (status, found) = wire.check(&[], "eth0 TC ingress");
    assert_eq!((status.as_str(), found.as_str()), ("ok", "shared with foreign_tcx; we go first"));
    let (status, found) = wire.check(&["--tcx=false"], "eth0 TC ingress");
    assert_eq!(status, "limited", "clsact comes behind tcx");
    assert!(found.starts_with("foreign_tcx go first"), "{found}");

    let monitor = wire.daemon(&[]);
    let packets = foreign.packets().unwrap();
    wire.talk();
    let seen = scrape(&monitor, "a request", |scrape| scrape.sum(REQUESTS, &["4xx"]) == 1);
    assert_eq!(seen.sum("api_exposure_behind_others", &[]), 0);
    assert!(foreign.packets().unwrap() >= packets + 4);

    // Another one comes later, and before us.
    let late = Foreign::new(Kind::Classifier, "foreign_late", OK).unwrap();
    let mut late_classifier = late.classifier().unwrap();
    assert!(tcx(&wire, &mut late_classifier));
    scrape(&monitor, "behind", |scrape| scrape.sum("api_exposure_behind_others", &["eth0", "tc"]) == 1);
    let packets = late.packets().unwrap();
    wire.talk();
    assert!(late.packets().unwrap() >= packets + 4);
    let ended = monitor.stop().unwrap();
    assert!(ended.success);
    assert!(ended.log.contains("others=foreign_late"), "{}", ended.log);
    drop(late_classifier);
    assert_eq!(wire.traffic_control(), before);
    let packets = foreign.packets().unwrap();
    wire.talk();
    assert!(foreign.packets().unwrap() > packets);
}

/// Attaches first in the chain; false where the kernel has none.
fn tcx(wire: &Wire, classifier: &mut SchedClassifier) -> bool {
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    wire.server.run(|| classifier.attach_with_options("eth0", TcAttachType::Ingress, options)).is_ok()
}

/// Attaches at priority 1 with handle 1, as Cilium does, in a clsact qdisc of its own.
fn as_cilium(wire: &Wire, foreign: &Foreign) -> SchedClassifier {
    let mut classifier = foreign.classifier().unwrap();
    wire.server.run(|| {
        let _ = qdisc_add_clsact("eth0");
        let options = NlOptions { priority: 1, handle: TcHandle::new(0, 1), classid: None };
        classifier.attach_with_options("eth0", TcAttachType::Ingress, TcAttachOptions::Netlink(options)).unwrap();
    });
    classifier
}

#[test]
#[ignore = "needs root"]
fn behind_a_filter_that_ends_the_chain_nothing_is_seen_and_that_is_said() {
    let wire = Wire::new();
    let foreign = Foreign::new(Kind::Classifier, "foreign_filter", OK).unwrap();
    let _filter = as_cilium(&wire, &foreign);
    let before = wire.traffic_control();
    let (status, found) = wire.check(&["--tcx=false"], "eth0 TC ingress");
    assert_eq!(status, "limited");
    assert!(found.starts_with("filter foreign of priority 1 go first"), "{found}");
    assert_eq!(wire.check(&["--tcx=false"], "eth0 TC egress").0, "ok");

    let monitor = wire.daemon(&["--tcx=false"]);
    let packets = foreign.packets().unwrap();
    wire.talk();
    let seen = scrape(&monitor, "behind", |scrape| scrape.sum("api_exposure_behind_others", &["eth0", "tc"]) == 1);
    assert_eq!(seen.sum("api_exposure_attached", &["eth0", "clsact"]), 1);
    assert_eq!(seen.sum("api_exposure_attached", &["eth0", "native"]), 1);
    assert_eq!(syns(&seen), 1, "XDP counts what TC does not see");
    assert_eq!(seen.sum(REQUESTS, &[]), 0, "a request on its way in is not seen");
    assert!(foreign.packets().unwrap() >= packets + 4);
    let ended = monitor.stop().unwrap();
    assert!(ended.success);
    assert!(ended.log.contains("others=foreign"), "{}", ended.log);
    assert_eq!(wire.traffic_control(), before, "filter and qdisc are as they were");
    let packets = foreign.packets().unwrap();
    wire.talk();
    assert!(foreign.packets().unwrap() > packets);

    // By tcx we are before every filter.
    let monitor = wire.daemon(&[]);
    wire.talk();
    let seen = scrape(&monitor, "a request", |scrape| scrape.sum(REQUESTS, &["4xx"]) == 1);
    if seen.sum("api_exposure_attached", &["eth0", "tcx"]) == 1 {
        assert_eq!(seen.sum("api_exposure_behind_others", &[]), 0);
    }
    assert!(monitor.stop().unwrap().success);
    assert_eq!(wire.traffic_control(), before);
}

#[test]
#[ignore = "needs root"]
fn a_qdisc_of_ours_goes_with_us_unless_somebody_uses_it() {
    let wire = Wire::new();
    let clean = wire.traffic_control();
    assert!(!clean.contains("clsact"));
    let monitor = wire.daemon(&["--tcx=false"]);
    assert!(wire.traffic_control().contains("clsact"));
    wire.talk();
    scrape(&monitor, "a request", |scrape| scrape.sum(REQUESTS, &["4xx"]) == 1);
    assert!(monitor.stop().unwrap().success);
    assert_eq!(wire.traffic_control(), clean);

    // Somebody else comes to use it.
    let foreign = Foreign::new(Kind::Classifier, "foreign_filter", NEXT).unwrap();
    let monitor = wire.daemon(&["--tcx=false"]);
    let filter = as_cilium(&wire, &foreign);
    wire.talk();
    scrape(&monitor, "a request", |scrape| scrape.sum(REQUESTS, &["4xx"]) == 1);
    assert!(monitor.stop().unwrap().success);
    let there = wire.server.run(|| filters(wire.interface, TcAttachType::Ingress)).unwrap();
    assert_eq!(there.iter().map(|filter| (filter.priority, filter.handle)).collect::<Vec<_>>(), [(1, 1)]);
    let packets = foreign.packets().unwrap();
    wire.talk();
    assert!(foreign.packets().unwrap() >= packets + 4);

    // A qdisc that was there without a filter is not ours.
    wire.server.run(|| drop(filter));
    assert!(wire.server.run(|| filters(wire.interface, TcAttachType::Ingress)).unwrap().is_empty());
    let empty = wire.traffic_control();
    assert!(empty.contains("clsact"));
    assert!(wire.daemon(&["--tcx=false"]).stop().unwrap().success);
    assert_eq!(wire.traffic_control(), empty);
}

#[test]
#[ignore = "needs root"]
fn programs_that_somebody_removed_come_again_and_a_new_qdisc_is_left_alone() {
    let wire = Wire::new();
    let monitor = wire.daemon(&["--tcx=false"]);
    // As a program does that wants the hook for itself.
    wire.say("tc", "qdisc del dev eth0 clsact");
    wire.say("tc", "qdisc add dev eth0 clsact");
    let replaced = wire.traffic_control();
    wait(|| {
        let there = wire.server.run(|| filters(wire.interface, TcAttachType::Ingress))?;
        Ok((!there.is_empty()).then_some(()))
    })
    .unwrap();
    wire.talk();
    scrape(&monitor, "a request", |scrape| scrape.sum(REQUESTS, &["4xx"]) == 1);
    let ended = monitor.stop().unwrap();
    assert!(ended.success);
    assert!(ended.log.contains("somebody removed our TC programs"), "{}", ended.log);
    assert_eq!(wire.traffic_control(), replaced);
}

#[test]
#[ignore = "needs root"]
fn programs_of_libxdp_and_their_pins_stay() {
    for (program, load, unload) in [
        ("xdp-filter", "load eth0 --mode native --features tcp", "unload eth0"),
        ("xdp-loader", "load --mode native eth0 /usr/lib/x86_64-linux-gnu/bpf/xdp-dispatcher.o", "unload --all eth0"),
    ] {
        if !daemon::installed(program) {
            eprintln!("skipped: {program} is not installed (`cargo xtask setup bench` installs it)");
            continue;
        }
        let wire = Wire::new();
        wire.server.run(|| {
            own_bpf_filesystem();
            wire.say(program, load);
            let (id, pins) = (wire.xdp(), pins());
            assert!(id.is_some(), "{program} has attached");
            let monitor = wire.daemon(&[]);
            wire.talk();
            let seen = scrape(&monitor, "a request", |scrape| scrape.sum(REQUESTS, &["4xx"]) == 1);
            assert_eq!(seen.sum("api_exposure_not_attached", &["eth0", "xdp", "taken"]), 1);
            assert_eq!(syns(&seen), 1);
            assert!(monitor.stop().unwrap().success);
            assert_eq!((wire.xdp(), self::pins()), (id, pins), "{program}");
            if program == "xdp-filter" {
                // It says what it has to say, and fails all the same.
                let status = wire.server.run(|| Command::new(program).arg("status").output()).unwrap();
                let status = String::from_utf8(status.stdout).unwrap();
                let passed = status.lines().find_map(|line| line.trim().strip_prefix("XDP_PASS")).unwrap().trim();
                let packets: u64 = passed.split_whitespace().next().unwrap().parse().unwrap();
                assert!(packets >= 4, "{status}");
            }
            wire.say(program, unload);
            assert_eq!(wire.xdp(), None);
        });
    }
}

/// Gives this thread a mount namespace with an empty bpf filesystem at its usual place.
fn own_bpf_filesystem() {
    let mount = |kind: Option<&std::ffi::CStr>, place: &std::ffi::CStr, flags| {
        let kind = kind.map_or(std::ptr::null(), std::ffi::CStr::as_ptr);
        // SAFETY: strings that end with zero and live until the call returns; the kernel takes a null for the rest.
        let outcome = unsafe { libc::mount(kind, place.as_ptr(), kind, flags, std::ptr::null()) };
        assert_eq!(outcome, 0, "mounting: {}", std::io::Error::last_os_error());
    };
    // SAFETY: a plain system call; it changes the mounts of this thread, which ends with the test.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0, "{}", std::io::Error::last_os_error());
    mount(None, c"/", libc::MS_REC | libc::MS_PRIVATE);
    mount(Some(c"bpf"), c"/sys/fs/bpf", 0);
}

/// Everything that is pinned.
fn pins() -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![std::path::PathBuf::from("/sys/fs/bpf")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            found.push(entry.path().display().to_string());
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            }
        }
    }
    found.sort();
    found
}
