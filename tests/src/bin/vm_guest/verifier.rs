//! How many instructions the verifier follows for each program. The kernel tells it of a loaded program from 5.16 on
//! only (`verified_insns` of bpf_prog_info); its log of a load says it since 5.2: so each is loaded once more, by hand.

use std::ffi::CStr;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, bail};
use aya::EbpfLoader;
use aya::util::KernelVersion;
use aya_obj::generated::{bpf_attach_type, bpf_cmd, bpf_insn, bpf_prog_type};
use aya_obj::{Object, ProgramSection};
use monitor::attach::object::{OBJECT, program};

use crate::report::{Outcome, Report};

/// BPF_LOG_STATS and BPF_LOG_LEVEL1 (include/linux/bpf_verifier.h).
const LOG_STATISTICS: u32 = 4;
const LOG_STEPS: u32 = 1;
/// How much of the steps is shown of a program that was refused.
const LINES_SHOWN: usize = 150;
/// BPF_F_XDP_HAS_FRAGS (include/uapi/linux/bpf.h).
const XDP_HAS_FRAGS: u32 = 1 << 5;
/// The release in which XDP learned packets in several buffers.
const XDP_FRAGS: KernelVersion = KernelVersion::new(5, 18, 0);

/// A row for each program, with the count.
pub fn rows(report: &mut Report) -> Result<()> {
    // Makes the maps and loads no program: one that is refused does not hide the others' counts.
    let _maps = EbpfLoader::new().load(OBJECT).context("making the maps")?;
    for name in program::TC.iter().chain(&[program::XDP_LINEAR, program::XDP]) {
        report.row(&format!("verifier: {name}"), || {
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
#[derive(Clone, Copy, Default)]
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

/// The newest map of that name; the kernel keeps 15 bytes of a name, and none of ours is longer.
fn descriptor(name: &str) -> Result<aya::maps::MapFd> {
    let mut newest = None;
    for map in aya::maps::loaded_maps() {
        let map = map.context("listing the maps")?;
        if map.name() == name.as_bytes() {
            newest = Some(map);
        }
    }
    newest.with_context(|| format!("no map {name} is loaded"))?.fd().with_context(|| format!("opening map {name}"))
}

/// Loads the instructions, and gives the count.
fn load(instructions: &[bpf_insn], kind: u32, attach_type: u32, flags: u32, license: &CStr) -> Result<u64> {
    let attributes = Load {
        kind,
        count: u32::try_from(instructions.len())?,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        flags,
        attach_type,
        ..Load::default()
    };
    let (outcome, words) = load_with_log(&attributes, LOG_STATISTICS, 64 << 10)?;
    if let Err(error) = outcome {
        // The way to the refusal, on the console: all of them are too much.
        let (_, steps) = load_with_log(&attributes, LOG_STEPS, 16 << 20)?;
        let lines: Vec<&str> = steps.lines().collect();
        let last = lines.get(lines.len().saturating_sub(LINES_SHOWN)..).unwrap_or_default();
        println!("{}", last.join("\n"));
        bail!("{error}: {}", lines.iter().rev().take(4).rev().copied().collect::<Vec<_>>().join("; "));
    }
    // Its last line, since 5.2: `processed N insns (limit 1000000) ...`; 7.2 has others before it that begin so.
    let line = words.lines().rev().find_map(|line| line.strip_prefix("processed "));
    let number = line.and_then(|rest| rest.split(' ').next()?.parse().ok());
    number.with_context(|| format!("the verifier's log has no count: {}", words.trim()))
}

fn load_with_log(attributes: &Load, log_level: u32, size: usize) -> Result<(std::io::Result<()>, String)> {
    let mut log = vec![0_u8; size];
    let attributes = Load { log_level, log_size: u32::try_from(size)?, log: log.as_mut_ptr() as u64, ..*attributes };
    // SAFETY: the attributes are those of this command, and what they point to lives until it returns.
    let outcome =
        unsafe { libc::syscall(libc::SYS_bpf, bpf_cmd::BPF_PROG_LOAD, &raw const attributes, size_of::<Load>()) };
    let outcome = match outcome {
        descriptor if descriptor >= 0 => {
            // SAFETY: the descriptor was just made, and nobody else has it.
            drop(unsafe { OwnedFd::from_raw_fd(descriptor as i32) });
            Ok(())
        }
        _ => Err(std::io::Error::last_os_error()),
    };
    let words = log.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok((outcome, String::from_utf8_lossy(words).into_owned()))
}
