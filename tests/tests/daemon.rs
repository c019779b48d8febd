//! The program as people and systemd run it: it starts, follows the interfaces, and leaves nothing behind.

#[path = "daemon/process.rs"]
mod process;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use aya::programs::XdpMode;
use monitor::attach::object::program;
use monitor::watch::Watch;
use monitor_common::Side;
use monitor_tests::frame::{Tcp, flag};
use monitor_tests::kernel::Kernel;
use monitor_tests::namespace::Namespace;
use monitor_tests::require_root;
use monitor_tests::wire::{WATCHED, Wire};
use process::{Hooked, PATIENCE, Process};

/// With what it is started: by the newer way to TC, and by the older.
const WAYS: [&str; 2] = ["--interface watched", "--interface watched --tcx=false"];

/// A namespace with an interface to watch.
fn with_interface() -> Namespace {
    require_root();
    let namespace = Namespace::new().expect("a namespace");
    namespace.veth(WATCHED, "other").expect("a pair of interfaces");
    namespace
}

/// Something is attached, XDP and both directions of TC.
fn assert_attached(namespace: &Namespace) -> Hooked {
    let hooked = Hooked::of(namespace, WATCHED);
    assert!(hooked.xdp.is_some(), "{hooked:?}");
    assert_eq!(hooked.tcx.len() + hooked.filters.len(), 2, "{hooked:?}");
    hooked
}

#[test]
#[ignore = "needs root"]
fn asked_to_end_it_takes_everything_away() {
    let namespace = with_interface();
    for (way, signal) in WAYS.into_iter().zip([libc::SIGTERM, libc::SIGINT]) {
        let process = Process::ready(&namespace, way);
        let hooked = assert_attached(&namespace);
        assert_eq!(way.contains("tcx"), hooked.tcx.is_empty(), "{way}: {hooked:?}");
        process.signal(signal);
        process.ends_well();
        Hooked::nothing_on(&namespace, WATCHED);
    }
}

/// Killed it cannot tidy up. Links go with it; a filter of clsact stays, and the next start replaces it.
#[test]
#[ignore = "needs root"]
fn killed_it_leaves_nothing_that_the_next_start_does_not_take_away() {
    let namespace = with_interface();
    for way in WAYS {
        let process = Process::ready(&namespace, way);
        assert_attached(&namespace);
        process.killed();
        if way.contains("tcx") {
            assert_eq!(Hooked::of(&namespace, WATCHED).filters.len(), 2, "filters outlive their process");
        } else {
            Hooked::nothing_on(&namespace, WATCHED);
        }
        let next = Process::ready(&namespace, way);
        assert_attached(&namespace);
        next.signal(libc::SIGTERM);
        next.ends_well();
        Hooked::nothing_on(&namespace, WATCHED);
    }
}

#[test]
#[ignore = "needs root"]
fn observe_ends_when_its_reader_leaves() {
    let namespace = with_interface();
    let mut process = Process::start(&namespace, "observe --interface watched");
    let deadline = Instant::now() + PATIENCE;
    while Hooked::of(&namespace, WATCHED).xdp.is_none() {
        assert!(Instant::now() < deadline, "not attached: {}", process.fails());
        std::thread::sleep(Duration::from_millis(20));
    }
    process.close_its_output();
    process.ends_well();
    Hooked::nothing_on(&namespace, WATCHED);
}

#[test]
#[ignore = "needs root"]
fn interfaces_that_come_and_go_are_followed() {
    let namespace = with_interface();
    let mut process = Process::ready(&namespace, "--interface watched,late*");
    let attached = r#"api_exposure_attached{hook="tc",interface="late0""#;
    assert!(!process.get("/metrics").unwrap().contains(attached));
    for _ in 0..2 {
        namespace.veth("late0", "peer").unwrap();
        let came = Instant::now();
        process.wait_for("/metrics", |scrape| scrape.contains(attached));
        println!("attached after {:?}", came.elapsed());
        let hooked = Hooked::of(&namespace, "late0");
        assert!(hooked.xdp.is_some() && hooked.tcx.len() + hooked.filters.len() == 2, "{hooked:?}");
        assert_eq!(Hooked::of(&namespace, "peer"), Hooked::default(), "its name fits no pattern");
        namespace.ip("link delete late0").unwrap();
        process.wait_for("/metrics", |scrape| !scrape.contains(attached));
    }
    // Down is as good as gone, and up again it is watched again.
    namespace.ip("link set watched down").unwrap();
    process.wait_for("/metrics", |scrape| !scrape.contains(r#"api_exposure_attached{hook="tc""#));
    namespace.ip("link set watched up").unwrap();
    process.wait_for("/metrics", |scrape| scrape.contains(r#"api_exposure_attached{hook="tc",interface="watched""#));
    process.signal(libc::SIGTERM);
    process.ends_well();
    Hooked::nothing_on(&namespace, WATCHED);
}

#[test]
#[ignore = "needs root"]
fn what_cannot_be_is_said_in_one_line() {
    let namespace = with_interface();
    let absent = Process::start(&namespace, "run --interface eth9").fails();
    for word in ["--interface eth9", "no such interface", "lo", "watched"] {
        assert!(absent.contains(word), "{word}: {absent}");
    }
    let unmatched = Process::start(&namespace, "run --interface eth*").fails();
    assert!(unmatched.contains("--interface"), "{unmatched}");
    let listener = namespace.run(|| TcpListener::bind("127.0.0.1:9464")).unwrap();
    let taken = Process::start(&namespace, "run --interface watched").fails();
    assert!(taken.contains("127.0.0.1:9464") && taken.contains("--listen"), "{taken}");
    drop(listener);
    Hooked::nothing_on(&namespace, WATCHED);
}

/// Somebody else's XDP program stays where it is; TC counts in its place.
#[test]
#[ignore = "needs root"]
fn somebody_elses_xdp_stays_and_tc_counts() {
    require_root();
    let namespace = Namespace::new().unwrap();
    let mut wire = Wire::new(&namespace).unwrap();
    let mut somebody = Kernel::new(&Watch::default()).unwrap();
    let index = wire.interface.index;
    let xdp = somebody.half.xdp(program::XDP).unwrap();
    let link = namespace.run(|| xdp.attach_to_if_index(index, XdpMode::Driver)).unwrap();
    let theirs = Hooked::of(&namespace, WATCHED);
    assert!(theirs.xdp.is_some());
    for way in WAYS {
        let mut process = Process::ready(&namespace, way);
        let scrape = process.get("/metrics").unwrap();
        for series in [
            r#"api_exposure_not_attached{hook="xdp",interface="watched",reason="taken"} 1"#,
            r#"api_exposure_attached{hook="tc",interface="watched""#,
        ] {
            assert!(scrape.contains(series), "{series}: {scrape}");
        }
        assert_eq!(Hooked::of(&namespace, WATCHED).xdp, theirs.xdp);
        for _ in 0..7 {
            wire.send(Side::Client, &Tcp::new(Side::Client, flag::SYN, b"").frame()).unwrap();
        }
        wire.settle().unwrap();
        process.wait_for("/metrics", |scrape| {
            scrape.contains(r#"api_exposure_tcp_handshake_packets_total{role="secure",source="public",step="syn"} 7"#)
        });
        process.signal(libc::SIGTERM);
        process.ends_well();
        assert_eq!(Hooked::of(&namespace, WATCHED), theirs, "{way}");
    }
    // Once they leave, XDP counts.
    let mut process = Process::ready(&namespace, WAYS[0]);
    somebody.half.xdp(program::XDP).unwrap().detach(link).unwrap();
    process.wait_for("/metrics", |scrape| scrape.contains(r#"api_exposure_attached{hook="xdp",interface="watched""#));
    let ours = assert_attached(&namespace);
    assert_ne!(ours.xdp, theirs.xdp);
    process.signal(libc::SIGTERM);
    process.ends_well();
    Hooked::nothing_on(&namespace, WATCHED);
}
