//! Resident memory of the daemon while it follows many connections.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use monitor_common::{FlowKey, Side, flow::mapped};
use monitor_tests::frame::{Tcp, flag};
use monitor_tests::namespace::Namespace;
use serde_json::json;

/// How long the daemon may take for what is awaited of it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often all is sent at the most.
const ROUNDS: u32 = 5;
/// Where it serves its metrics, in a namespace of its own.
const LISTEN: &str = "127.0.0.1:9464";

/// Starts the monitor in a namespace, opens `count` connections in the clear that stay in the middle of a request, and
/// prints what the daemon then takes.
pub fn measure(monitor: &str, count: u32) -> Result<()> {
    let (outside, node) = (Namespace::new()?, Namespace::new()?);
    outside.veth("wire", "eth0")?;
    outside.give("eth0", &node)?;
    node.ip("link set eth0 up")?;
    outside.ip("link set wire up")?;
    let index = outside.index("wire")?;
    let child = node.run(|| {
        Command::new(monitor)
            .args(["run", "--interface", "eth0", "--listen", LISTEN, "--log-level", "warn"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
    });
    let mut daemon = Daemon(child.with_context(|| format!("starting {monitor}"))?);
    await_metric(&node, &mut daemon, "api_exposure_flows_tracked", 0)?;
    let before = daemon.resident()?;
    // A full queue between the two drops frames; what was dropped comes again, the rest is retransmitted.
    for left in (0..ROUNDS).rev() {
        outside.run(|| send(index, count))?;
        match await_metric(&node, &mut daemon, "api_exposure_flows_tracked", u64::from(count)) {
            Err(error) if left == 0 => return Err(error),
            Err(_) => {}
            Ok(()) => break,
        }
    }
    let resident = daemon.resident()?;
    let (kernel, maps) = daemon.maps()?;
    println!(
        "{}",
        json!({ "flows": count, "resident before": before, "resident": resident, "maps": maps, "kernel": kernel })
    );
    Ok(())
}

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // It is ours, and nothing of it is wanted any more.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Daemon {
    /// Bytes of resident memory.
    fn resident(&self) -> Result<u64> {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.0.id())).context("reading the daemon's status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS")?;
        Ok(kilobytes * 1024)
    }

    /// Bytes of the kernel's maps that the daemon holds, and how many they are.
    fn maps(&self) -> Result<(u64, usize)> {
        let mut seen = std::collections::BTreeMap::new();
        for entry in
            fs::read_dir(format!("/proc/{}/fdinfo", self.0.id())).context("reading the daemon's descriptors")?
        {
            let text = fs::read_to_string(entry?.path()).unwrap_or_default();
            let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
            if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) {
                seen.insert(id, bytes);
            }
        }
        Ok((seen.values().sum(), seen.len()))
    }
}

/// Waits until a metric without labels has this value.
fn await_metric(node: &Namespace, daemon: &mut Daemon, name: &str, wanted: u64) -> Result<()> {
    let began = Instant::now();
    let mut last = String::new();
    while began.elapsed() < PATIENCE {
        if let Some(status) = daemon.0.try_wait()? {
            bail!("the daemon ended: {status}");
        }
        if let Ok(text) = node.run(scrape) {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            if value.and_then(|value| value.parse::<f64>().ok()) == Some(wanted as f64) {
                return Ok(());
            }
            last = text
                .lines()
                .filter(|line| line.starts_with("api_exposure_") && !line.ends_with(" 0"))
                .collect::<Vec<_>>()
                .join("\n");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("{name} was not {wanted} within {} s; the last scrape:\n{last}", PATIENCE.as_secs())
}

fn scrape() -> Result<String> {
    let mut stream = TcpStream::connect(LISTEN)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    let mut reader = BufReader::new(stream);
    while reader.read_line(&mut text)? > 0 {}
    Ok(text)
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
