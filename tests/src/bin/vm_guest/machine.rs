//! The machine around the tests: file systems, modules, its end.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, bail};
use monitor::attach::object::KernelHalf;

use crate::report::Outcome;

/// Where `cargo xtask vm` puts the kernel's modules, named so that their order is that of their dependencies.
const MODULES: &str = "/modules";

/// Mounts what the kernel offers as files.
pub fn set_up() -> Result<()> {
    for (kind, target) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("bpf", "/sys/fs/bpf"),
        ("securityfs", "/sys/kernel/security"),
    ] {
        // Those in /sys are there already.
        let _ = fs::create_dir(target);
        mount(kind, target)?;
    }
    Ok(())
}

/// What the kernel calls itself.
pub fn release() -> Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").context("asking for the kernel's release")?;
    Ok(text.trim().to_owned())
}

/// Loads the modules that are not part of the kernel itself.
pub fn load_modules() -> Result<Outcome> {
    let mut names: Vec<_> =
        fs::read_dir(MODULES).context("listing the modules")?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    names.sort();
    for path in &names {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        // SAFETY: the descriptor is open, the parameters are an empty C string.
        let outcome = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
        let error = std::io::Error::last_os_error();
        if outcome != 0 && error.raw_os_error() != Some(libc::EEXIST) {
            return Err(error).with_context(|| format!("loading {}", path.display()));
        }
    }
    Ok(Outcome::Works(names.len().to_string()))
}

/// A kernel without CONFIG_DEBUG_INFO_BTF has no folder of BTF: here it is covered up.
pub fn loads_without_btf() -> Result<Outcome> {
    const FOLDER: &str = "/sys/kernel/btf";
    mount("tmpfs", FOLDER)?;
    let loaded = KernelHalf::load();
    let target = CString::new(FOLDER)?;
    // SAFETY: the pointer is to a C string.
    if unsafe { libc::umount(target.as_ptr()) } != 0 {
        return Err(std::io::Error::last_os_error()).context("uncovering the BTF");
    }
    loaded.map(drop)?;
    Outcome::works()
}

/// Locks the kernel down as far as it goes; there is no way back, so this test is the last.
pub fn loads_under_lockdown() -> Result<Outcome> {
    const FILE: &str = "/sys/kernel/security/lockdown";
    if !fs::exists(FILE).context("looking for lockdown")? {
        return Ok(Outcome::Absent("no lockdown"));
    }
    fs::write(FILE, "confidentiality").context("locking the kernel down")?;
    let state = fs::read_to_string(FILE).context("reading the lockdown")?;
    if !state.contains("[confidentiality]") {
        bail!("not locked down: {state}");
    }
    let (mut kernel, _reading, _counters) = KernelHalf::load()?;
    crate::frames::any_xdp(&mut kernel)?;
    Outcome::works()
}

/// Ends the machine: qemu leaves instead of restarting it.
pub fn restart() -> ! {
    // SAFETY: takes a number only. It does not return when it succeeds.
    unsafe { libc::reboot(libc::RB_AUTOBOOT) };
    // The first process may not end: the kernel would panic, which says as much.
    std::process::exit(1)
}

fn mount(kind: &str, target: &str) -> Result<()> {
    let (kind_word, target_word) = (CString::new(kind)?, CString::new(target)?);
    // SAFETY: the pointers are to C strings; these file systems take no data.
    let outcome =
        unsafe { libc::mount(kind_word.as_ptr(), target_word.as_ptr(), kind_word.as_ptr(), 0, std::ptr::null()) };
    let error = std::io::Error::last_os_error();
    if outcome != 0 && error.raw_os_error() != Some(libc::EBUSY) {
        return Err(error).with_context(|| format!("mounting {kind} on {target}"));
    }
    Ok(())
}
