//! A loaded program, run over one frame a million times (BPF_PROG_TEST_RUN).

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};

/// Runs of one measurement; the kernel gives their average in whole nanoseconds.
const REPEAT: u32 = 1_000_000;
/// Measurements of which the best counts: the others were disturbed.
const BEST_OF: usize = 9;
const BEST_OF_IN_TURN: usize = 3;

/// Commands of bpf(2), program types and fields of its attribute (include/uapi/linux/bpf.h, 6.18).
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
/// BPF_PROG_TYPE_XDP.
pub const XDP: u32 = 6;
/// BPF_PROG_TYPE_SCHED_CLS.
pub const TC: u32 = 3;

#[repr(C)]
#[derive(Default)]
struct Load {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
}

#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    verdict: u32,
    data_in_size: u32,
    data_out_size: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_in_size: u32,
    context_out_size: u32,
    context_in: u64,
    context_out: u64,
}

/// Loads a program that only returns `verdict`.
pub fn empty(kind: u32, verdict: i32) -> Result<OwnedFd> {
    // r0 = verdict; exit
    let instructions = [0xb7_u64 | (verdict as u32 as u64) << 32, 0x95];
    let license = c"GPL";
    let mut load = Load {
        program_type: kind,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..Load::default()
    };
    let fd = bpf(BPF_PROG_LOAD, &mut load).context("loading an empty program")?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Nanoseconds of a run over `frame`: the best of several averages over a million.
pub fn best(program: BorrowedFd<'_>, frame: &[u8]) -> Result<f64> {
    // Once before, so that caches and branch predictors know it.
    run(program, frame, REPEAT / 10)?;
    let mut best = u32::MAX;
    for _ in 0..BEST_OF {
        best = best.min(run(program, frame, REPEAT)?);
    }
    Ok(f64::from(best))
}

/// Nanoseconds of a run, on average over these frames, each `repeat` times before the next: of each the best of several.
pub fn best_in_turn(program: BorrowedFd<'_>, frames: &[Vec<u8>], repeat: u32) -> Result<f64> {
    let mut best = vec![u32::MAX; frames.len()];
    for _ in 0..BEST_OF_IN_TURN {
        for (frame, best) in frames.iter().zip(&mut best) {
            *best = (*best).min(run(program, frame, repeat)?);
        }
    }
    Ok(best.iter().map(|best| f64::from(*best)).sum::<f64>() / frames.len() as f64)
}

/// As [`best_in_turn`], measured once.
pub fn in_turn(program: BorrowedFd<'_>, frames: &[Vec<u8>], repeat: u32) -> Result<f64> {
    let mut sum = 0.0;
    for frame in frames {
        sum += f64::from(run(program, frame, repeat)?);
    }
    Ok(sum / frames.len() as f64)
}

/// Runs a program, and gives the average time of a run in nanoseconds.
pub fn run(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> Result<u32> {
    let mut test = TestRun {
        program: program.as_raw_fd() as u32,
        data_in_size: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat,
        ..TestRun::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut test).context("running a program")?;
    Ok(test.duration)
}

fn bpf<T>(command: libc::c_long, attribute: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the attribute is a plain structure as the kernel defines it for this command; what it points to lives
    // until the call returns.
    let outcome =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attribute), std::mem::size_of::<T>()) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(outcome) }
}
