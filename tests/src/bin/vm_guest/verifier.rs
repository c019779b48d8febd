//! How many instructions the verifier follows for each program. The kernel tells it of a loaded program from 5.16 on
//! only (`verified_insns` of bpf_prog_info); its log of a load says it since 5.2: so each is loaded once more, by hand.

use std::ffi::CStr;
use std::os::fd::{AsFd as _, AsRawFd as _};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::util::KernelVersion;
use aya_obj::generated::{bpf_attach_type, bpf_cmd, bpf_insn, bpf_prog_type};
use aya_obj::{Object, ProgramSection};
use monitor::attach::object::{KernelHalf, OBJECT, program};

use crate::report::{Outcome, Report};

/// BPF_LOG_STATS (include/linux/bpf_verifier.h).
const LOG_STATISTICS: u32 = 4;
/// BPF_F_XDP_HAS_FRAGS (include/uapi/linux/bpf.h).
const XDP_HAS_FRAGS: u32 = 1 << 5;
/// The release in which XDP learned packets in several buffers.
const XDP_FRAGS: KernelVersion = KernelVersion::new(5, 18, 0);

/// A row for each program, with the count.
pub fn rows(report: &mut Report) -> Result<()> {
    let mut loaded = None;
    report.row("loads", || {
        loaded = Some(KernelHalf::load()?);
        Outcome::works()
    })?;
    for name in program::TC.iter().chain(&[program::XDP_LINEAR, program::XDP]) {
        report.row(&format!("verifier: {name}"), || {
            let _maps = loaded.as_ref().context("the maps are not there")?;
            let frags = *name == program::XDP;
            match count(name) {
                Ok(count) => Ok(Outcome::Works(count.to_string())),
                Err(_) if frags && KernelVersion::current()? < XDP_FRAGS => Ok(Outcome::Absent("from 5.18")),
                Err(error) => Err(error),
            }
        })?;
    }
    Ok(())
}

/// Attributes of BPF_PROG_LOAD as 5.10 has them; later kernels take the rest for zero.
#[derive(Default)]
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

fn count(name: &str) -> Result<u64> {
    let mut object = Object::parse(OBJECT).context("parsing the kernel object")?;
    let maps = object.maps.clone();
    let descriptors = maps.keys().map(|name| Ok((name.clone(), descriptor(name)?))).collect::<Result<Vec<_>>>()?;
    let sections = object.functions.keys().map(|(section, _)| *section).collect();
    let places = descriptors.iter().map(|(name, fd)| (name.as_str(), fd.as_fd().as_raw_fd(), &maps[name]));
    object.relocate_maps(places, &sections).context("relocating maps")?;
    object.relocate_calls(&sections).context("relocating calls")?;
    let program = object.programs.get(name).with_context(|| format!("no program {name}"))?;
    let instructions = &object.functions[&program.function_key()].instructions;
    let (kind, attach_type, flags) = match program.section {
        ProgramSection::Xdp { frags, .. } => {
            (bpf_prog_type::BPF_PROG_TYPE_XDP, bpf_attach_type::BPF_XDP as u32, if frags { XDP_HAS_FRAGS } else { 0 })
        }
        _ => (bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, 0, 0),
    };
    load(instructions, kind as u32, attach_type, flags, &program.license)
}

/// A map of the loaded kernel half; the kernel keeps 15 bytes of a name, and none of ours is longer.
fn descriptor(name: &str) -> Result<aya::maps::MapFd> {
    for map in aya::maps::loaded_maps() {
        let map = map.context("listing the maps")?;
        if map.name() == name.as_bytes() {
            return map.fd().with_context(|| format!("opening map {name}"));
        }
    }
    Err(anyhow!("no map {name} is loaded"))
}

fn load(instructions: &[bpf_insn], kind: u32, attach_type: u32, flags: u32, license: &CStr) -> Result<u64> {
    let mut log = vec![0_u8; 64 << 10];
    let attributes = Load {
        kind,
        count: u32::try_from(instructions.len())?,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: LOG_STATISTICS,
        log_size: u32::try_from(log.len())?,
        log: log.as_mut_ptr() as u64,
        flags,
        attach_type,
        ..Load::default()
    };
    // SAFETY: the attributes are those of this command, and what they point to lives until it returns.
    let outcome =
        unsafe { libc::syscall(libc::SYS_bpf, bpf_cmd::BPF_PROG_LOAD, &raw const attributes, size_of::<Load>()) };
    let error = std::io::Error::last_os_error();
    let words = log.split(|byte| *byte == 0).next().unwrap_or_default();
    let words = String::from_utf8_lossy(words);
    if outcome < 0 {
        bail!("{error}: {}", words.trim());
    }
    // SAFETY: the descriptor was just made, and nobody else has it.
    drop(unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(outcome as i32) });
    let number = words.split("processed ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    number.with_context(|| format!("the verifier's log has no count: {}", words.trim()))
}
