//! A process, measured: its processor time, and the time that went by.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::workspace;

/// What one run of a program took.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    /// Processor time of all its threads, in user space and in the kernel. On a machine with other work it tells more
    /// than the clock.
    pub processor: Duration,
    /// By the clock.
    pub clock: Duration,
}

/// Runs a command to its end on one processor.
pub fn run(command: &mut Command) -> Result<Took> {
    let mut pinned = Command::new("taskset");
    pinned.args(["-c", &last_processor().to_string()]);
    let command = if workspace::has_program("taskset") {
        pinned.arg(command.get_program()).args(command.get_args());
        &mut pinned
    } else {
        command
    };
    let before = children_time()?;
    let started = Instant::now();
    let output = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output();
    let output = output.with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let clock = started.elapsed();
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(Took { processor: children_time()? - before, clock })
}

fn last_processor() -> usize {
    std::thread::available_parallelism().map_or(0, |count| count.get() - 1)
}

/// Processor time of all children that were waited for.
fn children_time() -> Result<Duration> {
    // SAFETY: zero is a valid value of each field of this plain C structure, and the call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        if libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) != 0 {
            return Err(std::io::Error::last_os_error()).context("getrusage");
        }
        usage
    };
    let time = |value: libc::timeval| Duration::new(value.tv_sec as u64, value.tv_usec as u32 * 1_000);
    Ok(time(usage.ru_utime) + time(usage.ru_stime))
}
