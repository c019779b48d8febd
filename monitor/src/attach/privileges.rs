//! What the kernel asks of a process that loads and attaches, and what this one lacks.

use std::fs;

use aya::util::KernelVersion;

/// Capabilities that loading and attaching need (include/uapi/linux/capability.h), and whether CAP_SYS_ADMIN stands in
/// for them (bpf_capable and perfmon_capable in include/linux/capability.h).
const NEEDED: [(&str, u32, bool); 3] = [("CAP_BPF", 39, true), ("CAP_NET_ADMIN", 12, false), ("CAP_PERFMON", 38, true)];

const CAP_SYS_ADMIN: u32 = 21;

/// Before this release maps and programs count against RLIMIT_MEMLOCK; from then on against the memory cgroup.
const NO_LOCKED_MEMORY: KernelVersion = KernelVersion::new(5, 11, 0);

/// The way out where the kernel says no: what is needed, and what of it this process lacks.
pub fn way_out() -> String {
    let needed = "run it as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON";
    let missing = missing();
    if !missing.is_empty() {
        return format!("{needed}; this process lacks {}", missing.join(" and "));
    }
    if locked_memory_is_short() {
        return "before 5.11 the kernel counts eBPF as locked memory: raise the limit (ulimit -l unlimited, \
                LimitMEMLOCK=infinity), or add CAP_SYS_RESOURCE, which this process lacks"
            .to_owned();
    }
    "this process has the capabilities, so a security module, seccomp or lockdown refuses".to_owned()
}

/// The needed capabilities that this process lacks.
pub fn missing() -> Vec<&'static str> {
    effective().map(missing_of).unwrap_or_default()
}

fn missing_of(effective: u64) -> Vec<&'static str> {
    let has = |capability: u32| effective >> capability & 1 != 0;
    let lacks = |(_, capability, by_admin): &&(&str, u32, bool)| !(has(*capability) || *by_admin && has(CAP_SYS_ADMIN));
    NEEDED.iter().filter(lacks).map(|(name, ..)| *name).collect()
}

/// `CapEff` of /proc/self/status; `None` where /proc is not there.
fn effective() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let word = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(word.trim(), 16).ok()
}

/// Raises the limit of locked memory where the kernel still counts maps against it.
pub fn raise_locked_memory() {
    if !counts_locked_memory() {
        return;
    }
    let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the pointer is to one `rlimit`.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) } == 0 {
        return;
    }
    tracing::debug!(
        error = %std::io::Error::last_os_error(),
        "the limit of locked memory stays as it is: raising it needs CAP_SYS_RESOURCE"
    );
    let mut limit = unlimited;
    // SAFETY: as above.
    if unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) } == 0 {
        limit.rlim_cur = limit.rlim_max;
        // As far as it goes; loading says when that is not far enough.
        // SAFETY: as above.
        let _ = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
    }
}

fn counts_locked_memory() -> bool {
    KernelVersion::current().is_ok_and(|version| version < NO_LOCKED_MEMORY)
}

fn locked_memory_is_short() -> bool {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to one `rlimit`.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) } == 0;
    counts_locked_memory() && known && limit.rlim_cur != libc::RLIM_INFINITY
}

#[cfg(test)]
mod tests {
    use super::missing_of;

    #[test]
    fn what_is_missing_is_named() {
        let bits = |capabilities: &[u32]| capabilities.iter().fold(0, |set, capability| set | 1_u64 << capability);
        for (has, missing) in [
            (&[39, 12, 38][..], &[][..]),
            (&[39, 12], &["CAP_PERFMON"]),
            (&[12, 38], &["CAP_BPF"]),
            (&[21], &["CAP_NET_ADMIN"]),
            (&[], &["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]),
        ] {
            assert_eq!(missing_of(bits(has)), missing, "{has:?}");
        }
    }
}
