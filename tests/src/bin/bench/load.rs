//! Processor time for the same traffic on the same interface, of the monitor and of suricata.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use monitor_common::{FlowKey, Side, flow::mapped};
use monitor_tests::frame::{Tcp, flag};
use monitor_tests::namespace::Namespace;
use monitor_tests::sender::Sender;
use serde_json::{Value, json};

use super::daemon::{self, Daemon};

/// Frames between two rests, and how long these are: fifty thousand frames a second at the most.
const BURST: u64 = 50;
const REST: Duration = Duration::from_millis(1);
/// How long suricata may take to start, and either to come to rest afterwards.
const PATIENCE: Duration = Duration::from_secs(60);
/// Requests of a connection in the clear.
const REQUESTS: u32 = 100;
const FILE_HEADER: usize = 24;
const PACKET_HEADER: usize = 16;

/// Sends the capture, or else `count` requests in the clear, to a node with the monitor, then to one with suricata
/// (`configuration`), and prints what each took.
pub fn measure(monitor: &str, configuration: &str, traffic: &str) -> Result<()> {
    let traffic = match traffic.parse() {
        Ok(requests) => Traffic::Requests(requests),
        Err(_) => Traffic::Capture(fs::read(traffic).with_context(|| format!("reading {traffic}"))?),
    };
    let statistics = statistics()?;
    let (ours, kernel, lost, seen, frames) = with_monitor(monitor, &traffic)?;
    drop(statistics);
    let peer = if configuration.is_empty() { Value::Null } else { with_suricata(configuration, &traffic)? };
    println!(
        "{}",
        json!({ "frames": frames, "monitor": ours, "programs": kernel, "lost": lost, "connections": seen, "suricata": peer })
    );
    Ok(())
}

enum Traffic {
    Capture(Vec<u8>),
    Requests(u32),
}

fn wire() -> Result<(Namespace, Namespace)> {
    let (outside, node) = (Namespace::new()?, Namespace::new()?);
    outside.veth("wire", "eth0")?;
    outside.give("eth0", &node)?;
    node.ip("link set eth0 up")?;
    outside.ip("link set wire up")?;
    Ok((outside, node))
}

/// Seconds of the monitor and of its programs, records lost, connections seen, frames sent.
fn with_monitor(monitor: &str, traffic: &Traffic) -> Result<(f64, f64, f64, f64, u64)> {
    let (outside, node) = wire()?;
    let daemon = Daemon::start(&node, monitor)?;
    let before = processor(daemon.id())?;
    let frames = traffic.send(&outside)?;
    let after = at_rest(daemon.id())?;
    let text = node.run(daemon::scrape)?;
    let sum = |name: &str| daemon::sum(&text, name);
    Ok((
        after - before,
        sum("api_exposure_kernel_program_run_seconds_total"),
        sum("api_exposure_records_lost_total"),
        sum("api_exposure_flows_begun_total"),
        frames,
    ))
}

/// Seconds of suricata, and lines that it logged.
fn with_suricata(configuration: &str, traffic: &Traffic) -> Result<Value> {
    let (outside, node) = wire()?;
    let folder = tempfile::tempdir().context("making a folder")?;
    let mut command = Command::new("suricata");
    command.args(["--af-packet=eth0", "-k", "none", "-S", "/dev/null", "-c", configuration, "-l"]).arg(folder.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut suricata = Ended(node.run(|| command.spawn()).context("starting suricata")?);
    let began = Instant::now();
    // Its packet socket is there, and it has nothing more to do.
    while node.run(|| fs::read_to_string("/proc/thread-self/net/packet")).map_or(0, |text| text.lines().count()) < 2 {
        if let Some(status) = suricata.0.try_wait()? {
            bail!("suricata ended: {status}");
        }
        if began.elapsed() > PATIENCE {
            bail!("suricata does not listen");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let before = at_rest(suricata.0.id())?;
    traffic.send(&outside)?;
    let after = at_rest(suricata.0.id())?;
    let lines = lines(&folder.path().join("eve.json"));
    Ok(json!({ "seconds": after - before, "lines": lines }))
}

fn lines(path: &Path) -> usize {
    fs::read(path).map_or(0, |text| text.iter().filter(|byte| **byte == b'\n').count())
}

/// A process that ends with this.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Seconds that all threads of a process have taken, in user space and in the kernel (proc_pid_stat(5)).
fn processor(id: u32) -> Result<f64> {
    let path = format!("/proc/{id}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields.get(11..13).context("no times")?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    // SAFETY: a plain library call.
    Ok(ticks as f64 / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64)
}

/// As [`processor`], once it takes next to nothing any more.
fn at_rest(id: u32) -> Result<f64> {
    let began = Instant::now();
    let mut last = processor(id)?;
    while began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(500));
        let now = processor(id)?;
        if now - last <= 0.02 {
            return Ok(now);
        }
        last = now;
    }
    bail!("the process does not come to rest")
}

impl Traffic {
    /// Sends it by `wire`; how many frames it is.
    fn send(&self, outside: &Namespace) -> Result<u64> {
        let mut paced = Paced(Sender::new(outside, "wire")?);
        match self {
            Self::Capture(bytes) => {
                let mut rest = bytes.get(FILE_HEADER..).unwrap_or_default();
                while let Some((header, behind)) = rest.split_first_chunk::<PACKET_HEADER>() {
                    let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
                    let (frame, behind) = behind.split_at_checked(length).context("the capture is cut short")?;
                    paced.send(frame)?;
                    rest = behind;
                }
            }
            Self::Requests(count) => {
                for connection in 0..count.div_ceil(REQUESTS) {
                    requests(&mut paced, connection)?;
                }
            }
        }
        Ok(paced.0.sent)
    }
}

struct Paced(Sender);

impl Paced {
    fn send(&mut self, frame: &[u8]) -> Result<()> {
        self.0.send(frame)?;
        if self.0.sent.is_multiple_of(BURST) {
            std::thread::sleep(REST);
        }
        Ok(())
    }
}

/// A connection with [`REQUESTS`] requests and their answers.
fn requests(paced: &mut Paced, connection: u32) -> Result<()> {
    const REQUEST: &[u8] = b"GET /api/v1/namespaces/default/pods HTTP/1.1\r\nHost: 10.93.0.1:8080\r\nUser-Agent: kubectl/v1.30.0\r\nAccept: application/json\r\n\r\n";
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 36\r\n\r\n{\"kind\":\"PodList\",\"apiVersion\":\"v1\"}";
    let [_, b, c, d] = connection.to_be_bytes();
    let key = FlowKey {
        client: mapped([10, b, c, d]),
        server: mapped([192, 168, 56, 10]),
        client_port: 40_000,
        server_port: 8080,
    };
    let (mut client, mut server) = (1_000_u32, 5_000_u32);
    let mut send = |side: Side, flags: u8, payload: &[u8]| {
        let (own, other) = if side == Side::Client { (&mut client, &server) } else { (&mut server, &client) };
        let frame = Tcp { key, sequence: *own, acknowledgement: *other, ..Tcp::new(side, flags, payload) }.frame();
        let length = payload.len() as u32 + u32::from(flags & (flag::SYN | flag::FIN) != 0);
        *own = own.wrapping_add(length);
        paced.send(&frame)
    };
    send(Side::Client, flag::SYN, &[])?;
    send(Side::Server, flag::SYN | flag::ACK, &[])?;
    send(Side::Client, flag::ACK, &[])?;
    for _ in 0..REQUESTS {
        send(Side::Client, flag::ACK, REQUEST)?;
        send(Side::Server, flag::ACK, ANSWER)?;
    }
    send(Side::Client, flag::FIN | flag::ACK, &[])?;
    send(Side::Server, flag::FIN | flag::ACK, &[])?;
    send(Side::Client, flag::ACK, &[])
}

/// The kernel counts what programs take until this is dropped (BPF_ENABLE_STATS of bpf(2), kernel 5.8 and later).
fn statistics() -> Result<std::os::fd::OwnedFd> {
    const BPF_ENABLE_STATS: libc::c_long = 32;
    // BPF_STATS_RUN_TIME
    let kind = 0_u32;
    // SAFETY: the attribute of this command is one word.
    let descriptor = unsafe { libc::syscall(libc::SYS_bpf, BPF_ENABLE_STATS, &raw const kind, size_of::<u32>()) };
    if descriptor < 0 {
        return Err(std::io::Error::last_os_error()).context("having the kernel count what programs take");
    }
    // SAFETY: the kernel has just given this descriptor to us alone.
    Ok(unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(descriptor as i32) })
}
