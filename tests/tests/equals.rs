//! The kernel half on a real interface says what `replay` says.
//!
//! The frames of a capture are sent over a pair of interfaces, in order and as they are: a client's come in at the
//! watched end, a server's go out. Records come through the kernel's programs and its ring buffer, decisions go back
//! through its table; the pipeline is the same. So the lines and every counter must be the same, whichever hooks are
//! attached. Where they differ, one of the two halves lies.

#[path = "equals/live.rs"]
mod live;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use live::{Hooks, Live, Pace, without_time};
use monitor::attach::Policy;
use monitor::config::Settings;
use monitor::export::{Health, Metrics};
use monitor::pipeline::Event;
use monitor::replay::Capture;
use monitor_ebpf::parse::{parse_ethernet, parse_network, parse_received};
use monitor_tests::captures::{self, Labelled, line, replayed};
use monitor_tests::namespace::Namespace;
use monitor_tests::require_root;
use monitor_tests::wire::{WATCHED, Wire};

/// With this environment variable every capture is sent, otherwise one of each group.
const ALL: &str = "API_EXPOSURE_ALL_CAPTURES";

/// Differences that a failure names at the most: a broken hook differs in every capture.
const SHOWN: usize = 60;

fn chosen() -> Vec<Labelled> {
    let mut captures = captures::all().expect("the labelled captures");
    if std::env::var_os(ALL).is_none() {
        let mut seen = BTreeSet::new();
        captures.retain(|capture| seen.insert(capture.group().to_owned()));
    }
    captures
}

fn equal(hooks: Hooks, pace: Pace) {
    require_root();
    let begun = Instant::now();
    let captures = chosen();
    let mut live = Live::new(hooks).expect("the kernel half on an interface");
    let mut wrong = Vec::new();
    for capture in &captures {
        let differences = live.compare(capture, pace).unwrap_or_else(|error| vec![format!("{error:#}")]);
        wrong.extend(differences.iter().map(|difference| format!("{}: {difference}", capture.name)));
    }
    println!("{hooks:?}, {pace:?}: {} captures, {} frames, {:?}", captures.len(), live.frames, begun.elapsed());
    let some: Vec<&str> = wrong.iter().take(SHOWN).map(String::as_str).collect();
    assert!(wrong.is_empty(), "{} differences ({hooks:?}, {pace:?}):\n{}", wrong.len(), some.join("\n"));
}

#[test]
#[ignore = "needs root"]
fn xdp_native_and_tcx() {
    equal(Hooks::XdpNativeTcx, Pace::EachFrame);
}

#[test]
#[ignore = "needs root"]
fn xdp_native_and_clsact() {
    equal(Hooks::XdpNativeClsact, Pace::EachFrame);
}

#[test]
#[ignore = "needs root"]
fn xdp_generic_and_tcx() {
    equal(Hooks::XdpGenericTcx, Pace::EachFrame);
}

#[test]
#[ignore = "needs root"]
fn tcx_alone() {
    equal(Hooks::TcxAlone, Pace::EachFrame);
}

#[test]
#[ignore = "needs root"]
fn clsact_alone() {
    equal(Hooks::ClsactAlone, Pace::EachFrame);
}

/// Behind generic XDP packets come without their Ethernet header; with it they are read as ever.
#[test]
fn a_missing_ethernet_header_is_noticed() {
    let mut without = 0;
    for capture in chosen() {
        let mut file = Capture::open(&capture.path).unwrap();
        while let Some(frame) = file.next_frame().unwrap() {
            let protocol = u16::from_be_bytes([frame.bytes[12], frame.bytes[13]]);
            assert_eq!(parse_received(frame.bytes, protocol), parse_ethernet(frame.bytes), "{}", capture.name);
            if matches!(protocol, 0x0800 | 0x86dd) {
                let bare = &frame.bytes[14..];
                assert_eq!(parse_received(bare, protocol), parse_network(bare, 0, protocol), "{}", capture.name);
                without += usize::from(parse_received(bare, protocol).is_ok());
            }
        }
    }
    assert!(without > 1_000, "{without}");
}

/// Decisions come as late as can be: not at all while the connections last.
#[test]
#[ignore = "needs root"]
fn late_decisions_change_no_line() {
    equal(Hooks::XdpNativeTcx, Pace::Whole);
}

/// The whole user side, as the daemon runs it, over captures with many connections and many requests.
#[test]
#[ignore = "needs root"]
fn the_daemons_own_way() {
    let names = ["1.20/burst", "1.37/multiplexing", "1.19/plaintext", "1.20/resumption", "1.20/ipv6"];
    daemon_equals(&names, Labelled::settings);
}

/// The same where nobody said that the plaintext ports are to be watched.
#[test]
#[ignore = "needs root"]
fn the_daemon_discovers_what_replay_discovers() {
    let discovered = ["1.19/plaintext", "1.19/plaintext-shapes", "1.20/plaintext", "1.37/plaintext", "1.20/watch"];
    daemon_equals(&discovered, |capture| Settings { insecure_port: Vec::new(), ..capture.settings() });
}

/// Sends the first capture of each of these releases' groups to `live::run`.
fn daemon_equals(names: &[&str], settings: impl Fn(&Labelled) -> Settings) {
    require_root();
    let namespace = Namespace::new().expect("a namespace");
    let mut wire = Wire::new(&namespace).expect("a wire");
    let captures = captures::all().expect("the labelled captures");
    for name in names {
        let (release, group) = name.split_once('/').expect("release and group");
        let fits = |capture: &&Labelled| capture.name.starts_with(release) && capture.group() == group;
        let capture = captures.iter().find(fits).unwrap_or_else(|| panic!("no capture {name}"));
        let settings = Settings { interface: vec![WATCHED.to_owned()], ..settings(capture) };
        let mut got = daemon_lines(&namespace, &mut wire, capture, &settings);
        let native = replayed(&[&capture.path], &settings).expect("a capture");
        let mut expected: Vec<String> = native.events.iter().map(|line| without_time(line)).collect();
        got.sort();
        expected.sort();
        assert!(!expected.is_empty());
        assert_eq!(got, expected, "{}", capture.name);
    }
}

/// What `live::run` says of a capture, from its start to its end.
fn daemon_lines(namespace: &Namespace, wire: &mut Wire, capture: &Labelled, settings: &Settings) -> Vec<String> {
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let (sink, metrics, health) = (Arc::clone(&lines), Arc::new(Metrics::new()), Arc::new(Health::new()));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let policy = Policy { xdp_generic: false, tcx: true };
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            namespace.run(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                let sink = move |event: Event<'_>| sink.lock().expect("no panic").push(without_time(&line(&event)));
                runtime.block_on(monitor::live::run(settings, policy, metrics, Arc::clone(&health), sink, stopped))
            })
        });
        let deadline = Instant::now() + Duration::from_secs(30);
        while health.ready().is_err() {
            assert!(!running.is_finished(), "{:?}", running.join());
            assert!(Instant::now() < deadline, "not ready");
            std::thread::yield_now();
        }
        live::send(wire, capture).expect("frames on the wire");
        stop.send_replace(true);
        running.join().expect("no panic").expect("no error");
    });
    let lines = lines.lock().expect("no panic");
    lines.clone()
}
