//! The cost of a run of each program, beside an empty one and xdp-filter's.

use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::{Context as _, Result};
use monitor::attach::object::KernelHalf;
use monitor::attach::object::program::{EGRESS, INGRESS, XDP};
use monitor::watch::Watch;
use monitor_common::{Decision, FlowKey, Role, Side, SourceClass, Verdict, flow::mapped};
use monitor_tests::frame::{self, Tcp, flag};
use monitor_tests::kernel::Kernel;
use serde_json::{Map, Value};

use super::peers;
use super::program::{self, best, best_in_turn, empty, in_turn, run};

/// Flows that are known, and prefixes that are loaded.
const FLOWS: u32 = 10_000;
const PREFIXES: u32 = 1_000;
/// Clients that send one SYN each.
const FLOOD: u32 = 1_000_000;
/// Runs over one flow's packet before the next flow's; of an XDP program more, over fewer flows: the kernel rewrites its
/// dispatcher for each measurement (`bpf_prog_test_run_xdp` in net/bpf/test_run.c, 6.18), which takes milliseconds.
const EACH: u32 = 200;
const EACH_XDP: u32 = 20_000;
const STEP_XDP: usize = 250;
/// XDP_PASS and TC_ACT_UNSPEC.
const PASS: i32 = 2;
const NEXT: i32 = -1;

/// Measures all and prints it.
pub fn measure() -> Result<()> {
    monitor_tests::require_root();
    peers::mount_pins()?;
    require_no_statistics()?;
    let mut figures = Map::new();
    let mut put = |name: &str, nanoseconds: f64| {
        eprintln!("{nanoseconds:8.1} ns {name}");
        figures.insert(name.to_owned(), nanoseconds.into());
    };
    let prefixes = (0..PREFIXES).flat_map(|index| {
        let [_, _, c, d] = index.to_be_bytes();
        let ipv4 = format!("10.{c}.{d}.0/24").parse();
        let ipv6 = format!("2001:db8:{index:x}::/48").parse();
        [ipv4, ipv6].into_iter().flatten().map(|prefix| (prefix, SourceClass::Pod))
    });
    let watch = Watch::of([(frame::SERVER_PORT, Role::Secure)], prefixes);
    let mut kernel = Kernel::new(&watch)?;
    let mut blind = Kernel::of(KernelHalf::load_with(false)?, &watch)?;
    let udp =
        frame::ethernet(frame::ether_type::IPV4, &frame::ipv4(frame::protocol::UDP, &frame::udp(5_000, &[0; 64])));
    let other_port = FlowKey { server_port: 443, ..frame::key_ipv4() };
    let other = Tcp { key: other_port, ..Tcp::new(Side::Client, flag::ACK, &[0; 64]) }.frame();
    let data = |version: u32, index: u32, side: Side| {
        Tcp { key: key(version, index), ..Tcp::new(side, flag::ACK, &hello()) }.frame()
    };
    let frames = |version: u32, side: Side| (0..FLOWS).map(|index| data(version, index, side)).collect::<Vec<_>>();

    let nothing = empty(program::XDP, PASS)?;
    let ours = kernel.half.xdp(XDP)?.fd()?.as_fd().try_clone_to_owned()?;
    put("xdp empty", best(nothing.as_fd(), &other)?);
    put("xdp udp", best(ours.as_fd(), &udp)?);
    put("xdp other port", best(ours.as_fd(), &other)?);
    let some = |version: u32| frames(version, Side::Client).into_iter().step_by(STEP_XDP).collect::<Vec<_>>();
    put("xdp established ipv4", best_in_turn(ours.as_fd(), &some(4), EACH_XDP)?);
    put("xdp established ipv6", best_in_turn(ours.as_fd(), &some(6), EACH_XDP)?);
    let syn = (0..FLOWS).step_by(STEP_XDP);
    let syn = syn.map(|index| Tcp { key: key(4, index), ..Tcp::new(Side::Client, flag::SYN, &[]) }.frame());
    put("xdp syn", best_in_turn(ours.as_fd(), &syn.collect::<Vec<_>>(), EACH_XDP)?);
    if let Some(peer) = peers::xdp_filter("alw_tcp")? {
        put("xdp-filter alw_tcp other port", best(peer.program.as_fd(), &other)?);
        put("xdp-filter alw_tcp udp", best(peer.program.as_fd(), &udp)?);
    }
    if let Some(peer) = peers::xdp_filter("dny_all")? {
        put("xdp-filter dny_all ipv4", best_in_turn(peer.program.as_fd(), &some(4), EACH_XDP)?);
        put("xdp-filter dny_all ipv6", best_in_turn(peer.program.as_fd(), &some(6), EACH_XDP)?);
    }

    let nothing = empty(program::TC, NEXT)?;
    put("tc empty", best(nothing.as_fd(), &other)?);
    for (name, direction, side) in [(INGRESS, "ingress", Side::Client), (EGRESS, "egress", Side::Server)] {
        let ours = kernel.half.classifier(name)?.fd()?.as_fd().try_clone_to_owned()?;
        let other = Tcp { key: other_port, ..Tcp::new(side, flag::ACK, &[0; 64]) }.frame();
        put(&format!("tc {direction} udp"), best(ours.as_fd(), &udp)?);
        put(&format!("tc {direction} other port"), best(ours.as_fd(), &other)?);
        let without = blind.half.classifier(name)?.fd()?.as_fd().try_clone_to_owned()?;
        put(&format!("tc {direction} other port, no discovery"), best(without.as_fd(), &other)?);
        // Each flow's first payload, once; between two measurements everything is forgotten.
        let frames = frames(4, side);
        let (mut first, mut empty_once) = (f64::MAX, f64::MAX);
        for _ in 0..5 {
            kernel.forget_all()?;
            let (mut sum, mut records) = (0.0, 0);
            // The ring has room for some thousands: nothing is lost.
            for frames in frames.chunks(2_000) {
                for frame in frames {
                    sum += f64::from(run(ours.as_fd(), frame, 1)?);
                }
                records += kernel.drain().len();
            }
            anyhow::ensure!(records == frames.len(), "{records} records of {} flows", frames.len());
            first = first.min(sum / f64::from(FLOWS));
            empty_once = empty_once.min(in_turn(nothing.as_fd(), &frames, 1)?);
        }
        put(&format!("tc {direction} first payload"), first);
        put(&format!("tc {direction} empty, once"), empty_once);
        for index in 0..FLOWS {
            let key = key(4, index);
            let born = kernel.flow(&key).context("a flow is not known")?.born;
            kernel.decide(&key, Verdict::new(born, Decision::Enough))?;
            run(ours.as_fd(), &frames[index as usize], 1)?;
        }
        kernel.drain();
        put(&format!("tc {direction} established and done"), best_in_turn(ours.as_fd(), &frames, EACH)?);
        let acknowledgements: Vec<Vec<u8>> =
            (0..FLOWS).map(|index| Tcp { key: key(4, index), ..Tcp::new(side, flag::ACK, &[]) }.frame()).collect();
        put(&format!("tc {direction} acknowledgement"), best_in_turn(ours.as_fd(), &acknowledgements, EACH)?);
        anyhow::ensure!(kernel.drain().is_empty(), "a flow that is done was handed on");
        if side == Side::Client {
            let thousands = frames.chunks(1_000).map(|frames| in_turn(ours.as_fd(), frames, 1));
            let thousands = thousands.collect::<Result<Vec<f64>>>()?;
            put("tc ingress established and done, once", thousands.into_iter().fold(f64::MAX, f64::min));
            put("tc ingress syn flood", flood(&mut kernel, ours.as_fd())?);
        }
    }
    println!("{}", Value::Object(figures));
    Ok(())
}

/// SYNs of a million clients, each once: of the nanoseconds of a thousand the best, since the machine has other work.
/// Not one flow more is remembered, and nothing is handed on.
fn flood(kernel: &mut Kernel, program: BorrowedFd<'_>) -> Result<f64> {
    let (before, mut best) = (kernel.flows(), Vec::new());
    for thousand in 0..FLOOD / 1_000 {
        let mut sum = 0.0;
        for index in 0..1_000 {
            let [_, b, c, d] = (thousand * 1_000 + index).to_be_bytes();
            let key = FlowKey { client: mapped([11, b, c, d]), ..frame::key_ipv4() };
            sum += f64::from(run(program, &Tcp { key, ..Tcp::new(Side::Client, flag::SYN, &[]) }.frame(), 1)?);
        }
        best.push(sum / 1_000.0);
    }
    let records = kernel.drain().len();
    anyhow::ensure!(kernel.flows() == before && records == 0, "a SYN left {records} records, or a flow");
    best.sort_by(f64::total_cmp);
    best.first().copied().context("no SYN was sent")
}

/// While the kernel counts what programs take, that is most of what they take.
fn require_no_statistics() -> Result<()> {
    let enabled =
        std::fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled").context("reading kernel.bpf_stats_enabled")?;
    anyhow::ensure!(
        enabled.trim() == "0",
        "the kernel counts what programs take: `sysctl kernel.bpf_stats_enabled=0`, then try again"
    );
    Ok(())
}

/// The key of a flow: clients all over the prefixes and outside of them.
fn key(version: u32, index: u32) -> FlowKey {
    let [_, _, c, d] = index.to_be_bytes();
    let mut key = if version == 4 { frame::key_ipv4() } else { frame::key_ipv6() };
    key.client = match version {
        4 => mapped([10, c, d, 7]),
        _ => {
            let mut client = frame::CLIENT_IPV6;
            client[4..8].copy_from_slice(&index.rotate_left(16).to_be_bytes());
            client
        }
    };
    key.client_port = 20_000 + (index % 40_000) as u16;
    key
}

/// Payload of the size of a TLS hello: a record that begins a handshake.
pub fn hello() -> Vec<u8> {
    let mut hello = vec![22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    hello.resize(517, 0x5a);
    hello
}
