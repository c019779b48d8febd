//! Resident memory of the daemon while it follows many connections, and how long it takes for a scrape then.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use monitor_common::{FlowKey, Side, flow::mapped, limits};
use monitor_tests::frame::{Tcp, flag};
use monitor_tests::namespace::Namespace;
use serde_json::json;

use super::daemon::{self, Daemon};

/// How often all is sent at the most.
const ROUNDS: u32 = 5;
/// Scrapes whose times are taken.
const SCRAPES: usize = 500;

/// Starts the monitor in a namespace, opens `count` connections in the clear that stay in the middle of a request, and
/// prints what the daemon then takes.
pub fn measure(monitor: &str, count: u32) -> Result<()> {
    let (outside, node) = (Namespace::new()?, Namespace::new()?);
    outside.veth("wire", "eth0")?;
    outside.give("eth0", &node)?;
    node.ip("link set eth0 up")?;
    outside.ip("link set wire up")?;
    let index = outside.index("wire")?;
    let mut daemon = Daemon::start(&node, monitor)?;
    let before = daemon.resident()?;
    // A full queue between the two drops frames; what was dropped comes again, the rest is retransmitted.
    for left in (0..ROUNDS).rev() {
        outside.run(|| send(index, count))?;
        match daemon.await_metric(&node, "api_exposure_flows_tracked", u64::from(count.min(limits::FLOWS))) {
            Err(error) if left == 0 => return Err(error),
            Err(_) => {}
            Ok(()) => break,
        }
    }
    let resident = daemon.resident()?;
    let (kernel, maps) = daemon.maps()?;
    let (median, worst, series) = scrapes(&node)?;
    println!(
        "{}",
        json!({
            "flows": count, "resident before": before, "resident": resident, "maps": maps, "kernel": kernel,
            "scrape median": median, "scrape p99": worst, "series": series,
        })
    );
    Ok(())
}

/// Milliseconds of a scrape, as its client sees it: the median, and the 99th percentile; and how many series it has.
fn scrapes(node: &Namespace) -> Result<(f64, f64, usize)> {
    node.run(|| {
        let (mut times, mut series) = (Vec::new(), 0);
        for _ in 0..SCRAPES {
            let began = Instant::now();
            let text = daemon::scrape()?;
            times.push(began.elapsed().as_secs_f64() * 1_000.0);
            series = text.lines().filter(|line| line.starts_with("api_exposure_")).count();
        }
        times.sort_by(f64::total_cmp);
        let at = |part: f64| times.get((times.len() as f64 * part) as usize).copied().unwrap_or(f64::NAN);
        Ok((at(0.5), at(0.99), series))
    })
}

/// Sends the handshake and the first half of a request of each connection.
fn send(interface: u32, count: u32) -> Result<()> {
    // SAFETY: a plain system call; the descriptor is checked.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(std::io::Error::last_os_error()).context("opening a packet socket");
    }
    // SAFETY: the descriptor was just made and is nobody else's.
    let socket = unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(socket) };
    let request = b"GET /api/v1/namespaces/kube-system/pods?limit=500 HTTP/1.1\r\nHost: 192.168.56.10:8080\r\nUser-Agent: kubectl/v1.19.16\r\nAccept: application/json\r\n";
    for index in 0..count {
        let [_, b, c, d] = index.to_be_bytes();
        let key = FlowKey {
            client: mapped([10, b, c, d]),
            server: mapped([192, 168, 56, 10]),
            client_port: 40_000,
            server_port: 8080,
        };
        let syn = Tcp { key, sequence: 1_000, ..Tcp::new(Side::Client, flag::SYN, &[]) };
        let answer =
            Tcp { key, sequence: 5_000, acknowledgement: 1_001, ..Tcp::new(Side::Server, flag::SYN | flag::ACK, &[]) };
        let data = Tcp { key, sequence: 1_001, acknowledgement: 5_001, ..Tcp::new(Side::Client, flag::ACK, request) };
        for segment in [syn, answer, data] {
            send_frame(&socket, interface, &segment.frame())?;
        }
        // The daemon shares the processors with us: it is its memory that is measured, not its speed.
        if index % 32 == 31 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

fn send_frame(socket: &std::os::fd::OwnedFd, interface: u32, frame: &[u8]) -> Result<()> {
    use std::os::fd::AsRawFd as _;
    // SAFETY: zero is a valid value of each field of this plain C structure.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = interface as i32;
    // SAFETY: both pointers are to what their lengths say, and live until the call returns.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const address).cast(),
            std::mem::size_of::<libc::sockaddr_ll>() as u32,
        )
    };
    if sent < 0 { Err(std::io::Error::last_os_error()).context("sending a frame") } else { Ok(()) }
}
