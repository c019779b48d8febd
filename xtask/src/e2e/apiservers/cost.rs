//! What the probe costs the API server: the same requests with it and without it, in turn.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::e2e::binaries::CURRENT;
use crate::e2e::control_plane::{ControlPlane, SECURE, Server};
use crate::e2e::monitor::Monitor;
use crate::lab::Host;
use crate::lab::network::CONTROL_PLANE;

use super::exact;

/// Runs with the probe, and as many without.
const PAIRS: usize = 5;
/// Anonymous requests a second.
const RATE: f64 = 1_000.0;
/// How long a run is.
const SECONDS: u32 = 4;
/// Counts how long eBPF programs run.
const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// `BPF_PROG_TYPE_KPROBE`, which uprobes have too (include/uapi/linux/bpf.h).
const UPROBE: f64 = 2.0;

/// One run.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Requests a second that were answered.
    rate: f64,
    /// Microseconds until the answer: half of them were faster.
    median: f64,
    /// The API server's processor time, microseconds a request.
    processor: f64,
}

/// Measures, and prints the figures.
pub fn measure(control: &mut ControlPlane, binary: &Path) -> Result<()> {
    let process = control.start(&Server { version: CURRENT, flags: &[] })?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    let mut hit = Vec::new();
    // The first runs warm the server up.
    load(control, process)?;
    for _ in 0..PAIRS {
        for (probe, runs) in [("off", &mut without), ("on", &mut with)] {
            let flags = ["--discovery", "none", "--probe", probe].map(str::to_owned);
            let monitor = Monitor::start(&mut control.lab, binary, &flags)?;
            if probe == "on" {
                exact::wait_until_at_work(&control.lab)?;
            }
            let before = programs(monitor.process)?;
            let statistics = Statistics::on();
            runs.push(load(control, process)?);
            drop(statistics);
            let after = programs(monitor.process)?;
            hit.extend((probe == "on").then(|| (after.0 - before.0) / (after.1 - before.1).max(1.0) * 1e6));
            monitor.stop(&mut control.lab)?;
        }
    }
    control.stop()?;
    println!("\nthe API server at {RATE} anonymous requests a second, {PAIRS} pairs of {SECONDS} s in turn:");
    for (name, runs) in [("without the probe", &without), ("with the probe", &with)] {
        let middle = |of: fn(&Run) -> f64| median(runs.iter().map(of).collect());
        println!(
            "  {name:18} {:7.1} answered a second, median {:5.0} us, {:6.1} us of processor time each",
            middle(|run| run.rate),
            middle(|run| run.median),
            middle(|run| run.processor)
        );
    }
    let pairs: Vec<f64> = without.iter().zip(&with).map(|(off, on)| on.processor - off.processor).collect();
    println!(
        "  the probe's program runs {:.2} us a hit; with the trap a request takes {:.1} us more (median of the pairs)",
        median(hit),
        median(pairs)
    );
    let (slow, fast) =
        (median(with.iter().map(|run| run.rate).collect()), median(without.iter().map(|run| run.rate).collect()));
    // Both runs are asked for the same rate, so anything but equal is a loss.
    if slow < fast * 0.98 {
        bail!("with the probe {slow:.1} requests a second were answered, without it {fast:.1}");
    }
    Ok(())
}

/// Seconds and runs of the programs that a process has for uprobes. The kernel tells of them with its descriptors.
fn programs(process: u32) -> Result<(f64, f64)> {
    let folder = format!("/proc/{process}/fdinfo");
    let mut sum = (0.0, 0.0);
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {folder}"))?.flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        if number(&text, "prog_type") == Some(UPROBE) {
            sum.0 += number(&text, "run_time_ns").unwrap_or(0.0) / 1e9;
            sum.1 += number(&text, "run_cnt").unwrap_or(0.0);
        }
    }
    Ok(sum)
}

fn number(fdinfo: &str, name: &str) -> Option<f64> {
    let line = fdinfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line?.trim().parse().ok()
}

fn load(control: &ControlPlane, process: u32) -> Result<Run> {
    let mut node = control.lab.command(Host::Worker, "timeout");
    node.args(["--foreground", "60", "node", "rate.mjs", &format!("https://{CONTROL_PLANE}:{SECURE}/livez")]);
    node.args([RATE.to_string(), SECONDS.to_string(), "16".to_owned()]);
    let before = processor_time(process)?;
    let output = node.output().context("cannot start node")?;
    if !output.status.success() {
        bail!("the load failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let used = processor_time(process)? - before;
    let said: Value = serde_json::from_slice(&output.stdout).context("the load says no JSON")?;
    let number = |name: &str| said.get(name).and_then(Value::as_f64).context("the load leaves a number out");
    let (answered, seconds) = (number("answered")?, number("seconds")?);
    Ok(Run { rate: answered / seconds, median: number("median")?, processor: used * 1e6 / answered.max(1.0) })
}

/// Seconds that a process has run (proc(5): utime and stime, in hundredths).
fn processor_time(process: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).context("the API server is gone")?;
    let (_, fields) = stat.rsplit_once(')').context("a line of /proc that is none")?;
    let ticks = |at: usize| fields.split_whitespace().nth(at).and_then(|field| field.parse::<f64>().ok());
    Ok((ticks(11).context("no utime")? + ticks(12).context("no stime")?) / 100.0)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The kernel counts how long programs run while this lives.
struct Statistics(Option<String>);

impl Statistics {
    fn on() -> Self {
        let before = fs::read_to_string(STATISTICS).ok();
        // Where it cannot be switched on the figure is missing, and nothing else.
        Self(before.filter(|_| fs::write(STATISTICS, "1").is_ok()))
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        if let Some(before) = &self.0
            && let Err(error) = fs::write(STATISTICS, before.trim())
        {
            eprintln!("warning: cannot set {STATISTICS} back: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_values() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn the_kernel_tells_of_a_program() {
        let text = "pos:\t0\nprog_type:\t2\nrun_time_ns:\t1500\nrun_cnt:\t3\n";
        assert_eq!((number(text, "prog_type"), number(text, "run_cnt")), (Some(UPROBE), Some(3.0)));
        assert_eq!(number(text, "run"), None);
    }

    #[test]
    fn a_process_has_run() {
        assert!(processor_time(std::process::id()).unwrap() >= 0.0);
        assert!(processor_time(u32::MAX).is_err());
    }
}
