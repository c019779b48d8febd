//! The two clocks: the kernel's, which records and hits are stamped with, and the wall's.

use std::time::{Duration, SystemTime};

/// What CLOCK_MONOTONIC, the clock of `bpf_ktime_get_ns`, shows; nanoseconds.
pub fn monotonic() -> u64 {
    clock(libc::CLOCK_MONOTONIC).as_nanos() as u64
}

/// What has to be added to CLOCK_MONOTONIC for the time since 1970.
pub fn offset() -> Duration {
    clock(libc::CLOCK_REALTIME).saturating_sub(clock(libc::CLOCK_MONOTONIC))
}

/// A time of CLOCK_MONOTONIC, in nanoseconds, as one since 1970.
pub fn wall(monotonic: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + offset() + Duration::from_nanos(monotonic)
}

fn clock(id: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to one `timespec`. Both clocks exist on every Linux, so the call cannot fail.
    unsafe { libc::clock_gettime(id, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
