//! The daemon at work in a namespace, and what it says of itself.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use monitor_tests::namespace::Namespace;

/// How long the daemon may take for what is awaited of it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to attach: the kernel verifies all programs first.
const PATIENCE_AT_START: Duration = Duration::from_secs(60);
/// Where it serves its metrics, in a namespace of its own.
const LISTEN: &str = "127.0.0.1:9464";

/// A daemon, ended with this.
pub struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // It is ours, and nothing of it is wanted any more.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Daemon {
    /// Starts it on `eth0` of a namespace, and waits until its programs are attached there.
    pub fn start(node: &Namespace, monitor: &str) -> Result<Self> {
        let child = node.run(|| {
            Command::new(monitor)
                .args(["run", "--interface", "eth0", "--listen", LISTEN, "--log-level", "warn"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
        });
        let mut daemon = Self(child.with_context(|| format!("starting {monitor}"))?);
        let began = Instant::now();
        while node.run(scrape).map_or(0.0, |text| sum(&text, "api_exposure_attached")) < 2.0 {
            if let Some(status) = daemon.0.try_wait()? {
                bail!("the daemon ended: {status}");
            }
            if began.elapsed() > PATIENCE_AT_START {
                bail!("the daemon attached nothing within {} s", PATIENCE_AT_START.as_secs());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(daemon)
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Bytes of resident memory.
    pub fn resident(&self) -> Result<u64> {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.0.id())).context("reading the daemon's status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS")?;
        Ok(kilobytes * 1024)
    }

    /// Bytes of the kernel's maps that the daemon holds, and how many they are.
    pub fn maps(&self) -> Result<(u64, usize)> {
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

    /// Waits until a metric without labels has this value.
    pub fn await_metric(&mut self, node: &Namespace, name: &str, wanted: u64) -> Result<()> {
        let began = Instant::now();
        let mut last = String::new();
        while began.elapsed() < PATIENCE {
            if let Some(status) = self.0.try_wait()? {
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
}

/// What it serves; to be run in its namespace.
pub fn scrape() -> Result<String> {
    let mut stream = TcpStream::connect(LISTEN)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// The sum of a metric's series.
pub fn sum(text: &str, name: &str) -> f64 {
    let lines = text.lines().filter_map(|line| line.strip_prefix(name));
    let values = lines.filter(|rest| rest.starts_with([' ', '{'])).filter_map(|rest| rest.rsplit(' ').next());
    values.filter_map(|value| value.parse::<f64>().ok()).sum()
}
