//! xdp-filter's programs, as the XDP developers ship them.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use aya::EbpfLoader;
use aya::programs::Xdp;

/// Where the file system is mounted.
const PINS: &std::ffi::CStr = c"/sys/fs/bpf";

/// A loaded program of xdp-filter.
pub struct Peer {
    _ebpf: aya::Ebpf,
    /// The program.
    pub program: OwnedFd,
}

/// Loads xdp-filter's object of this name; `None` where it is not installed.
pub fn xdp_filter(name: &str) -> Result<Option<Peer>> {
    let Some(path) = find(&format!("xdpfilt_{name}.o")) else { return Ok(None) };
    let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let mut loader = EbpfLoader::new();
    // Each object has maps of its own, although their names are the same.
    let pins = Path::new(PINS.to_str()?).join(name);
    std::fs::create_dir(&pins).with_context(|| format!("creating {}", pins.display()))?;
    for map in ["filter_ports", "filter_ipv4", "filter_ipv6", "filter_ethernet", "xdp_stats_map"] {
        loader.map_pin_path(map, pins.join(map));
    }
    let mut ebpf = loader.load(&bytes).with_context(|| format!("loading {}", path.display()))?;
    let (name, program) = ebpf.programs_mut().next().context("it has no program")?;
    let name = name.to_owned();
    let program: &mut Xdp = program.try_into().with_context(|| format!("program {name}"))?;
    program.load().with_context(|| format!("loading {name} of {}", path.display()))?;
    let program = program.fd()?.as_fd().try_clone_to_owned().context("duplicating a descriptor")?;
    Ok(Some(Peer { _ebpf: ebpf, program }))
}

/// A file system for the maps that it wants pinned, which only this process sees and which ends with it. Called while
/// this process has one thread.
pub fn mount_pins() -> Result<()> {
    let kind = c"bpf";
    let check = |outcome: libc::c_int, what: &'static str| {
        if outcome == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()).context(what) }
    };
    // SAFETY: plain system calls; all strings end with zero and live until the calls return.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS), "making a mount namespace")?;
        let private = libc::MS_REC | libc::MS_PRIVATE;
        check(
            libc::mount(kind.as_ptr(), c"/".as_ptr(), kind.as_ptr(), private, std::ptr::null()),
            "keeping mounts to ourselves",
        )?;
        check(
            libc::mount(kind.as_ptr(), PINS.as_ptr(), kind.as_ptr(), 0, std::ptr::null()),
            "mounting a BPF file system",
        )
    }
}

fn find(file: &str) -> Option<PathBuf> {
    let triplet = format!("/usr/lib/{}-linux-gnu/bpf", std::env::consts::ARCH);
    [triplet.as_str(), "/usr/lib64/bpf", "/usr/lib/bpf"]
        .iter()
        .map(|directory| Path::new(directory).join(file))
        .find(|path| path.exists())
}
