//! The system calls that the probe needs and that aya has no call for: bpf(2) with an attach type for uprobes and with
//! a link that holds several of them, and perf_event_open(2).

use std::ffi::{CString, c_void};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use aya_obj::generated::bpf_insn;

/// Commands, types and bits of include/uapi/linux/bpf.h (6.18).
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_KPROBE: u32 = 2;
const BPF_TRACE_UPROBE_MULTI: u32 = 48;

/// include/uapi/linux/perf_event.h (6.18).
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
const PERF_EVENT_IOC_ENABLE: libc::c_ulong = 0x2400;
const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;

/// Number of the kernel's uprobe events.
const UPROBE_TYPE: &str = "/sys/bus/event_source/devices/uprobe/type";

/// Bytes of what the verifier may say.
const VERIFIER_LOG: usize = 64 << 10;

/// `union bpf_attr` as BPF_PROG_LOAD reads it, up to the field that aya leaves zero.
#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
}

/// `union bpf_attr` as BPF_LINK_CREATE reads it for BPF_TRACE_UPROBE_MULTI.
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    path: u64,
    offsets: u64,
    reference_counters: u64,
    cookies: u64,
    count: u32,
    multi_flags: u32,
    process: u32,
    end: u32,
}

/// `struct perf_event_attr`, as far as uprobes need it (PERF_ATTR_SIZE_VER1).
#[repr(C)]
#[derive(Default)]
struct PerfEvent {
    event_type: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    breakpoint_type: u32,
    /// config1: address of the path.
    path: u64,
    /// config2: offset in the file.
    offset: u64,
}

/// Loads a uprobe program; `multi`: for [`link`].
///
/// # Errors
/// The kernel refuses it; with what its verifier said last.
pub fn load_program(name: &str, instructions: &[bpf_insn], license: &CString, multi: bool) -> Result<OwnedFd> {
    let mut attributes = ProgramLoad {
        program_type: BPF_PROG_TYPE_KPROBE,
        instruction_count: u32::try_from(instructions.len()).context("the program is too long")?,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        expected_attach_type: if multi { BPF_TRACE_UPROBE_MULTI } else { 0 },
        ..ProgramLoad::default()
    };
    // The kernel keeps 15 characters and a zero.
    for (to, from) in attributes.name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    let refused = match bpf(BPF_PROG_LOAD, &attributes) {
        Ok(program) => return Ok(program),
        Err(error) => error,
    };
    // Once more, for the verifier's words.
    let mut log = vec![0_u8; VERIFIER_LOG];
    attributes.log_level = 1;
    attributes.log_size = VERIFIER_LOG as u32;
    attributes.log = log.as_mut_ptr() as u64;
    if let Ok(program) = bpf(BPF_PROG_LOAD, &attributes) {
        return Ok(program);
    }
    let log = String::from_utf8_lossy(&log);
    let log = log.trim_end_matches('\0');
    if !log.is_empty() {
        tracing::debug!(program = name, %log, "what the kernel's verifier said");
    }
    Err(explain(&format!("loading program {name}"), refused))
}

/// Attaches a program to places in a file, for all processes that run it (kernel 6.6 and later). The descriptor holds
/// the attachment.
///
/// # Errors
/// The kernel refuses.
pub fn link(program: &OwnedFd, path: &Path, offsets: &[u64]) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let attributes = LinkCreate {
        program: program.as_raw_fd() as u32,
        attach_type: BPF_TRACE_UPROBE_MULTI,
        path: path.as_ptr() as u64,
        offsets: offsets.as_ptr() as u64,
        count: offsets.len() as u32,
        ..LinkCreate::default()
    };
    bpf(BPF_LINK_CREATE, &attributes)
}

/// Attaches a program to one place in a file, for all processes that run it. The descriptor holds the attachment.
///
/// # Errors
/// The kernel refuses, or has no uprobe events.
pub fn perf_event(program: &OwnedFd, path: &Path, offset: u64) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let event_type = std::fs::read_to_string(UPROBE_TYPE)?;
    let event_type = event_type.trim().parse().map_err(io::Error::other)?;
    let attributes = PerfEvent {
        event_type,
        size: size_of::<PerfEvent>() as u32,
        path: path.as_ptr() as u64,
        offset,
        ..PerfEvent::default()
    };
    // The CPU says nothing here: the event has no samples of its own, and the breakpoint is the same on all.
    let (everyone, first_cpu, no_group) = (-1, 0, -1);
    // SAFETY: the attributes have the size that they say, and the path that they point to outlives the call.
    let descriptor = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            everyone,
            first_cpu,
            no_group,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    let event = owned(descriptor)?;
    // SAFETY: both descriptors are open; neither request reads memory.
    let outcome = unsafe {
        match libc::ioctl(event.as_raw_fd(), PERF_EVENT_IOC_SET_BPF as _, program.as_raw_fd()) {
            0 => libc::ioctl(event.as_raw_fd(), PERF_EVENT_IOC_ENABLE as _, 0),
            refused => refused,
        }
    };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(event) }
}

/// The kernel says that this process may not; with what was tried.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0}: the kernel does not permit it; the probe needs CAP_BPF and CAP_PERFMON, before kernel 6.6 CAP_SYS_ADMIN too"
)]
pub struct NotPermitted(String);

/// What was tried, and why it did not work, in one line with the way out where privileges are missing.
pub fn explain(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> anyhow::Error {
    if crate::attach::object::permission_denied(&error) {
        return NotPermitted(what.to_owned()).into();
    }
    anyhow!("{what}: {}", crate::attach::object::one_line(&error))
}

/// bpf(2).
fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the attributes have the size that is given; what they point to outlives the call, as callers see to.
    owned(unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes).cast::<c_void>(), size_of::<T>())
    })
}

fn owned(descriptor: libc::c_long) -> io::Result<OwnedFd> {
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for this caller.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as libc::c_int) })
}

fn c_path(path: &Path) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt as _;
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_have_the_sizes_of_the_kernel() {
        assert_eq!(size_of::<ProgramLoad>(), 72);
        assert_eq!(std::mem::offset_of!(ProgramLoad, expected_attach_type), 68);
        assert_eq!(std::mem::offset_of!(LinkCreate, path), 16);
        assert_eq!(std::mem::offset_of!(LinkCreate, process), 56);
        assert_eq!(size_of::<PerfEvent>(), 72);
    }

    #[test]
    fn missing_privileges_are_said_with_the_way_out() {
        let error = explain("creating a map", io::Error::from_raw_os_error(libc::EPERM)).to_string();
        assert!(error.contains("CAP_PERFMON") && !error.contains('\n'), "{error}");
        let error = explain("creating a map", io::Error::from_raw_os_error(libc::EINVAL)).to_string();
        assert!(!error.contains("CAP_"), "{error}");
    }
}
