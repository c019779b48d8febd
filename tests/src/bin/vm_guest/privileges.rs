//! With fewer privileges: what is said to suffice suffices, and what is missing is named.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use aya::util::KernelVersion;
use monitor::attach::interfaces::{self, Patterns};
use monitor::attach::object::KernelHalf;
use monitor::attach::{Attacher, Policy};

use crate::network::{OURS, with_netlink};
use crate::report::{Outcome, Report};

/// Flag of [`child`].
pub const WITHOUT: &str = "--without";

/// Capabilities that the daemon says it needs (include/uapi/linux/capability.h).
const NEEDED: [(&str, u32); 3] = [("CAP_BPF", 39), ("CAP_NET_ADMIN", 12), ("CAP_PERFMON", 38)];

/// Word for [`child`]: all of [`NEEDED`] are there.
const NOTHING: &str = "nothing";
/// Word for [`child`]: all of [`NEEDED`] are there, and little locked memory.
const LOCKED_MEMORY: &str = "locked-memory";

/// From this release on locked memory is no matter (kernel/bpf/memalloc and syscall.c, 5.11).
const NO_LOCKED_MEMORY: KernelVersion = KernelVersion::new(5, 11, 0);

/// A row for each.
pub fn rows(report: &mut Report) -> Result<()> {
    report.row("CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON suffice", || {
        let words = without(NOTHING)?;
        ensure!(words == "attached", "{words}");
        Outcome::works()
    })?;
    for (name, _) in NEEDED {
        report.row(&format!("without {name}: it is named"), || {
            let words = without(name)?;
            ensure!(words.starts_with("error: ") && words.contains(&format!("lacks {name}")), "{words}");
            Outcome::works()
        })?;
    }
    report.row("little locked memory: it is named", || {
        let words = without(LOCKED_MEMORY)?;
        if KernelVersion::current()? >= NO_LOCKED_MEMORY {
            ensure!(words == "attached", "{words}");
            return Ok(Outcome::Absent("until 5.10"));
        }
        ensure!(words.contains("CAP_SYS_RESOURCE, which this process lacks"), "{words}");
        Outcome::works()
    })
}

/// What a process without this says.
fn without(what: &str) -> Result<String> {
    let output = Command::new("/proc/self/exe").args([WITHOUT, what]).output().context("starting a process")?;
    let words = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if words.is_empty() {
        bail!("it said nothing: {}, {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(words)
}

/// The process without something: tries to load and attach, and says how that went.
pub fn child(what: &str) -> ExitCode {
    match give_up_all_but(what).and_then(|()| attach()) {
        Ok(()) => println!("attached"),
        Err(error) => println!("error: {error:#}"),
    }
    ExitCode::SUCCESS
}

fn attach() -> Result<()> {
    let (kernel, _reading, _counters) = KernelHalf::load()?;
    let policy = Policy { xdp_generic: false, tcx: true };
    let mut attacher = Attacher::new(kernel, Patterns(vec![OURS.to_owned()]), policy);
    let there = with_netlink(async |handle| interfaces::list(&handle).await)?;
    let changes = attacher.reconcile(&there);
    attacher.require_one()?;
    ensure!(matches!(changes.as_slice(), [monitor::attach::Change::Attached(_, _, Ok(_))]), "no XDP: {changes:?}");
    Ok(())
}

/// Keeps [`NEEDED`] but for the one that is named.
fn give_up_all_but(what: &str) -> Result<()> {
    if what == LOCKED_MEMORY {
        let little = libc::rlimit { rlim_cur: 64 << 10, rlim_max: 64 << 10 };
        // SAFETY: the pointer is to one `rlimit`.
        let outcome = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const little) };
        ensure!(outcome == 0, "limiting locked memory: {}", std::io::Error::last_os_error());
    }
    let kept = NEEDED.iter().filter(|(name, _)| *name != what).fold(0, |set, (_, number)| set | 1_u64 << number);
    let halves = [kept as u32, (kept >> 32) as u32];
    // Version 3: two sets of 32 bits each, of effective, permitted and inheritable.
    let header: [u32; 2] = [0x2008_0522, 0];
    let sets: [[u32; 3]; 2] = halves.map(|half| [half, half, 0]);
    // SAFETY: the pointers are to what version 3 of this call reads.
    let outcome = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    ensure!(outcome == 0, "giving up capabilities: {}", std::io::Error::last_os_error());
    Ok(())
}
