//! How the cost of a packet grows: with the flows that were seen, with the prefixes that are loaded, with the processors
//! that packets come by.

use std::os::fd::AsFd as _;
use std::thread;

use anyhow::{Context as _, Result};
use monitor::attach::object::program::{EGRESS, INGRESS};
use monitor::watch::Watch;
use monitor_common::{Decision, FlowKey, Role, Side, SourceClass, Verdict, flow::mapped};
use monitor_tests::frame::{self, Tcp, flag};
use monitor_tests::kernel::Kernel;
use serde_json::{Value, json};

use super::program::{best_in_turn, in_turn, run};
use super::programs::hello;

const FLOWS: [u32; 6] = [1_000, 4_000, 16_000, 64_000, 256_000, 1_000_000];
const PREFIXES: [u32; 5] = [10, 100, 1_000, 4_000, 16_000];
/// Of so many flows the packets are measured, the last ones: the others are only there, as far as there is room.
const MEASURED: u32 = 1_000;
/// Runs over one flow's packet before the next flow's.
const EACH: u32 = 200;
/// Clients whose class is asked for in turn: many more than are remembered.
const CLIENTS: u32 = 10_000;
/// Records that the ring has room for with certainty.
const DRAIN_AFTER: u32 = 2_000;
/// Measurements of which the best counts.
const BEST_OF: usize = 5;

/// Measures all curves and prints them: lists of a number and nanoseconds a packet.
pub fn measure() -> Result<()> {
    monitor_tests::require_root();
    let curves = json!({ "flows": flows()?, "prefixes": prefixes()?, "processors": processors()? });
    println!("{curves}");
    Ok(())
}

fn point(name: &str, number: u32, nanoseconds: f64) -> Value {
    eprintln!("{nanoseconds:8.1} ns with {number} {name}");
    json!([number, nanoseconds])
}

/// A packet of a connection that is established and done, by flows that were seen.
fn flows() -> Result<Vec<Value>> {
    let mut points = Vec::new();
    for count in FLOWS {
        let mut kernel = Kernel::new(&Watch::of([(frame::SERVER_PORT, Role::Secure)], []))?;
        let frames = done(&mut kernel, count)?;
        let program = kernel.half.classifier(INGRESS)?.fd()?.as_fd().try_clone_to_owned()?;
        points.push(point("flows", count, best_in_turn(program.as_fd(), &frames, EACH)?));
    }
    Ok(points)
}

/// Makes so many flows, and gives frames of the last ones, of which nothing more is wanted.
fn done(kernel: &mut Kernel, count: u32) -> Result<Vec<Vec<u8>>> {
    let program = kernel.half.classifier(INGRESS)?.fd()?.as_fd().try_clone_to_owned()?;
    let mut frames = Vec::new();
    for index in 0..count {
        let key = key(index);
        let frame = data(key);
        run(program.as_fd(), &frame, 1)?;
        if index % DRAIN_AFTER == 0 {
            kernel.drain();
        }
        if count - index <= MEASURED {
            let born = kernel.flow(&key).context("a flow is not known")?.born;
            kernel.decide(&key, Verdict::new(born, Decision::Enough))?;
            run(program.as_fd(), &frame, 1)?;
            frames.push(frame);
        }
    }
    kernel.drain();
    Ok(frames)
}

/// An acknowledgement to a client whose class is not remembered, by prefixes; each packet once, so with the cost of a
/// measurement in it.
fn prefixes() -> Result<Vec<Value>> {
    let mut points = Vec::new();
    let frames: Vec<Vec<u8>> =
        (0..CLIENTS).map(|index| Tcp { key: key(index), ..Tcp::new(Side::Server, flag::ACK, &[]) }.frame()).collect();
    for count in PREFIXES {
        let loaded = (0..count).filter_map(|index| {
            let [_, _, c, d] = index.to_be_bytes();
            Some((format!("10.{c}.{d}.0/24").parse().ok()?, SourceClass::Pod))
        });
        let mut kernel = Kernel::new(&Watch::of([(frame::SERVER_PORT, Role::Secure)], loaded))?;
        let program = kernel.half.classifier(EGRESS)?.fd()?.as_fd().try_clone_to_owned()?;
        let mut best = f64::MAX;
        for _ in 0..BEST_OF {
            best = best.min(in_turn(program.as_fd(), &frames, 1)?);
        }
        points.push(point("prefixes", count, best));
    }
    Ok(points)
}

/// A packet of a connection that is established and done, by processors at the same time: nanoseconds of each.
fn processors() -> Result<Vec<Value>> {
    let mut kernel = Kernel::new(&Watch::of([(frame::SERVER_PORT, Role::Secure)], []))?;
    let frames = done(&mut kernel, 2 * MEASURED)?;
    let program = kernel.half.classifier(INGRESS)?.fd()?.as_fd().try_clone_to_owned()?;
    let available = thread::available_parallelism().map_or(1, usize::from);
    let mut points = Vec::new();
    for count in 1..=available.min(2) {
        let share = frames.len() / count;
        let each = thread::scope(|scope| {
            let threads: Vec<_> = frames
                .chunks(share)
                .take(count)
                .enumerate()
                .map(|(processor, frames)| {
                    let program = program.as_fd();
                    scope.spawn(move || {
                        pin(processor)?;
                        best_in_turn(program, frames, EACH)
                    })
                })
                .collect();
            let joined = threads
                .into_iter()
                .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread that measures ended"))?);
            joined.collect::<Result<Vec<f64>>>()
        })?;
        points.push(point("processors", count as u32, each.iter().sum::<f64>() / count as f64));
    }
    Ok(points)
}

/// Keeps this thread on one processor.
fn pin(processor: usize) -> Result<()> {
    // SAFETY: zero is a valid value of this plain structure, the macro's function sets one bit of it, and the call reads
    // as much as it is large.
    let outcome = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(processor, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if outcome == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()).context("keeping to a processor") }
}

fn key(index: u32) -> FlowKey {
    let [_, b, c, d] = index.to_be_bytes();
    FlowKey { client: mapped([10, b, c, d]), client_port: 40_000, ..frame::key_ipv4() }
}

fn data(key: FlowKey) -> Vec<u8> {
    Tcp { key, ..Tcp::new(Side::Client, flag::ACK, &hello()) }.frame()
}
