//! Packets a second that `replay` reads, beside suricata on the same file.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::handshakes::Traffic;
use super::row::{Goal, Peer, Row};
use super::{directory, handshakes, measure};
use crate::{interrupt, workspace};

/// Packets a second that are to be reached.
const GOAL: f64 = 2_000_000.0;
/// How many times as many packets a second as suricata.
const TIMES_SURICATA: f64 = 10.0;

/// Logs TLS and HTTP, detects nothing else, has no rules; room enough that it leaves no connection unread, which would
/// make it fast.
pub const SURICATA: &str = "%YAML 1.1
---
outputs:
  - eve-log:
      enabled: yes
      filetype: regular
      filename: eve.json
      types: [tls, http]
stats:
  enabled: no
logging:
  default-log-level: error
  outputs:
    - console:
        enabled: yes
unix-command:
  enabled: no
flow:
  memcap: 1gb
  prealloc: 10000
stream:
  memcap: 1gb
  reassembly:
    memcap: 2gb
app-layer:
  protocols:
    tls:
      enabled: yes
    http:
      enabled: yes
";

/// Measures.
pub fn measure(packets: u64, runs: u32, keep: bool) -> Result<Vec<Row>> {
    let directory = directory()?;
    eprintln!("writing a capture of {packets} packets");
    let capture = handshakes::write(&directory, "handshakes.pcap", Traffic::Packets(packets))?;
    eprintln!("{} packets, {} bytes", capture.packets, capture.bytes);
    let suricata = workspace::has_program("suricata");
    let (mut metrics, mut json, mut peer) = (Best::default(), Best::default(), Best::default());
    let log = directory.join("suricata");
    for _ in 0..runs {
        interrupt::check()?;
        metrics.take(&mut ours(&["--output", "metrics"], &capture.path))?;
        json.take(&mut ours(&["--output", "json"], &capture.path))?;
        if suricata {
            peer.take(&mut suricata_over(&capture.path, &log)?)?;
        }
    }
    let lines = suricata.then(|| logged(&log.join("eve.json"))).transpose()?;
    if !keep {
        fs::remove_file(&capture.path).with_context(|| format!("cannot remove {}", capture.path.display()))?;
    }
    let rate = |best: &Best| best.0.map(|seconds| capture.packets as f64 / seconds);
    let suricata = match (rate(&peer), lines) {
        (Some(rate), Some(lines)) => {
            Peer::measured(&format!("suricata, which logged {lines} handshakes and requests"), rate)
        }
        _ => Peer::Missing("suricata is not installed"),
    };
    Ok(vec![
        Row::new("replay --output metrics, TLS and HTTP handshakes", "packets/s of one core", rate(&metrics))
            .peer(suricata.clone())
            .goal(Goal::AtLeast(GOAL)),
        Row::new("replay --output json, TLS and HTTP handshakes", "packets/s of one core", rate(&json))
            .peer(suricata)
            .goal(Goal::TimesPeer(TIMES_SURICATA)),
    ])
}

/// Seconds of processor time of the best run.
#[derive(Default)]
struct Best(Option<f64>);

impl Best {
    fn take(&mut self, command: &mut Command) -> Result<()> {
        let took = measure::run(command)?;
        eprintln!(
            "{:.3} s of processor time, {:.3} s by the clock: {command:?}",
            took.processor.as_secs_f64(),
            took.clock.as_secs_f64()
        );
        let seconds = took.processor.as_secs_f64();
        self.0 = Some(self.0.map_or(seconds, |best| best.min(seconds)));
        Ok(())
    }
}

fn ours(words: &[&str], capture: &Path) -> Command {
    let mut command = Command::new(workspace::binary());
    command.arg("replay").args(words).arg(capture);
    command
}

fn suricata_over(capture: &Path, log: &Path) -> Result<Command> {
    if log.exists() {
        fs::remove_dir_all(log).with_context(|| format!("cannot empty {}", log.display()))?;
    }
    fs::create_dir_all(log).with_context(|| format!("cannot create {}", log.display()))?;
    let configuration = log.join("suricata.yaml");
    fs::write(&configuration, SURICATA).with_context(|| format!("cannot write {}", configuration.display()))?;
    let mut command = Command::new("suricata");
    command.args(["--runmode", "single", "-k", "none", "-S", "/dev/null", "-c"]).arg(&configuration);
    command.arg("-l").arg(log).arg("-r").arg(capture);
    Ok(command)
}

/// Lines of suricata's log; it must have done its work.
fn logged(path: &Path) -> Result<usize> {
    let lines = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines = lines.iter().filter(|byte| **byte == b'\n').count();
    if lines == 0 {
        bail!("suricata has logged nothing");
    }
    Ok(lines)
}
