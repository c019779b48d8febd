//! The probe: programs that stand in the API server's anonymous authenticator. They read the request's method, path,
//! protocol and remote address, and nothing else of it.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_ktime_get_ns, bpf_probe_read_user},
    },
    macros::uprobe,
    programs::ProbeContext,
};
use monitor_common::{HitHeader, HitKind, HitRecord, LossReason, ProbeLayout, Unread, limits};

use crate::maps::{HIT_LOSSES, HITS, PROBE_LAYOUT};
use crate::programs::count;

/// Where Go keeps arguments, results and the goroutine: offsets in `struct pt_regs`
/// (Go's src/cmd/compile/abi-internal.md, 1.18 and later).
#[cfg(bpf_target_arch = "x86_64")]
mod register {
    /// AX.
    pub const FIRST: usize = 80;
    /// BX.
    pub const SECOND: usize = 40;
    /// R14.
    pub const GOROUTINE: usize = 8;
}

/// As above; `struct user_pt_regs`.
#[cfg(bpf_target_arch = "aarch64")]
mod register {
    /// X0.
    pub const FIRST: usize = 0;
    /// X1.
    pub const SECOND: usize = 8;
    /// X28.
    pub const GOROUTINE: usize = 28 * 8;
}

/// At the function's entry, arguments still in their registers.
#[uprobe]
pub fn api_exposure_probe(context: ProbeContext) -> u32 {
    if let Some(layout) = PROBE_LAYOUT.get(0) {
        entered(&context, layout);
    }
    0
}

/// At one of the function's returns: the second result is whether the request was let in.
#[uprobe]
pub fn api_exposure_probe_answer(context: ProbeContext) -> u32 {
    if let Some(layout) = PROBE_LAYOUT.get(0) {
        answered(&context, layout);
    }
    0
}

#[inline(always)]
fn entered(context: &ProbeContext, layout: &ProbeLayout) {
    let Some(mut entry) = HITS.reserve::<HitRecord>(0) else {
        count(&HIT_LOSSES, LossReason::RingFull as u32, 1);
        return;
    };
    let record = entry.as_mut_ptr();
    let (first, second) = (register::<{ register::FIRST }>(context), register::<{ register::SECOND }>(context));
    let mut header = header(context, layout, HitKind::Entered);
    let request = if layout.method_form == 0 { first } else { second };
    if layout.method_form != 0 {
        // The receiver's only field is the map of paths; a map begins with the number of its entries.
        match read_word(first).and_then(|map| if map == 0 { Some(0) } else { read_word(map) }) {
            Some(paths) => header.conditions = paths as u32,
            None => header.unread |= Unread::CONDITIONS,
        }
    }
    match read_word(request.wrapping_add(u64::from(layout.proto_major))) {
        Some(major) => header.proto_major = major as u8,
        None => header.unread |= Unread::PROTO_MAJOR,
    }
    // SAFETY: the three texts are within the reserved record.
    let (method, path, remote) =
        unsafe { (&raw mut (*record).method, &raw mut (*record).path, &raw mut (*record).remote) };
    match read_text(request.wrapping_add(u64::from(layout.method)), method) {
        Some(length) => header.method_length = length,
        None => header.unread |= Unread::METHOD,
    }
    let url = read_word(request.wrapping_add(u64::from(layout.url)));
    match url.and_then(|url| read_text(url.wrapping_add(u64::from(layout.path)), path)) {
        Some(length) => header.path_length = length,
        None => header.unread |= Unread::PATH,
    }
    match read_text(request.wrapping_add(u64::from(layout.remote)), remote) {
        Some(length) => header.remote_length = length,
        None => header.unread |= Unread::REMOTE,
    }
    if header.unread != 0 {
        count(&HIT_LOSSES, LossReason::Unreadable as u32, 1);
    }
    // SAFETY: as above.
    unsafe { (&raw mut (*record).header).write(header) };
    entry.submit(wakeup());
}

#[inline(always)]
fn answered(context: &ProbeContext, layout: &ProbeLayout) {
    let Some(mut entry) = HITS.reserve::<HitHeader>(0) else {
        count(&HIT_LOSSES, LossReason::RingFull as u32, 1);
        return;
    };
    let mut header = header(context, layout, HitKind::Answered);
    header.accepted = u8::from(register::<{ register::SECOND }>(context) as u8 != 0);
    entry.write(header);
    entry.submit(wakeup());
}

/// Whether user space is told. To wake it costs the API server's thread an interrupt of its own CPU, several times what all
/// else here costs; user space looks by itself often enough for all but a burst.
#[inline(always)]
fn wakeup() -> u64 {
    let pending = HITS.query(u64::from(BPF_RB_AVAIL_DATA));
    let flag = if pending > u64::from(limits::HIT_RING_BYTES) / 4 { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
    u64::from(flag)
}

#[inline(always)]
fn header(context: &ProbeContext, layout: &ProbeLayout, kind: HitKind) -> HitHeader {
    HitHeader {
        // SAFETY: the helper takes nothing and cannot fail.
        time: unsafe { bpf_ktime_get_ns() },
        goroutine: register::<{ register::GOROUTINE }>(context),
        process: (bpf_get_current_pid_tgid() >> 32) as u32,
        attachment: layout.attachment,
        kind: kind as u8,
        ..HitHeader::default()
    }
}

/// The register that stands `OFFSET` bytes into the context.
#[inline(always)]
fn register<const OFFSET: usize>(context: &ProbeContext) -> u64 {
    // SAFETY: the context is a `struct pt_regs`, in which each offset of the module `register` is a whole register.
    unsafe { context.as_ptr().cast::<u8>().add(OFFSET).cast::<u64>().read() }
}

/// The word at an address of the API server.
#[inline(always)]
fn read_word(address: u64) -> Option<u64> {
    let mut word = 0_u64;
    // SAFETY: `word` has the 8 bytes that are asked for; the helper checks the other address.
    let read = unsafe { bpf_probe_read_user((&raw mut word).cast(), 8, address as *const c_void) };
    (read == 0).then_some(word)
}

/// Reads as much of the Go string at an address of the API server as there is room for. `N` is a power of two.
/// Returns the length of the whole.
#[inline(always)]
fn read_text<const N: usize>(address: u64, text: *mut [u8; N]) -> Option<u32> {
    let mut string = MaybeUninit::<[u64; 2]>::uninit();
    // SAFETY: `string` has the 16 bytes that are asked for; the helper checks the other address.
    let read = unsafe { bpf_probe_read_user(string.as_mut_ptr().cast(), 16, address as *const c_void) };
    if read != 0 {
        return None;
    }
    // SAFETY: the helper has written all of it.
    let [bytes, length] = unsafe { string.assume_init() };
    if length == 0 {
        return Some(0);
    }
    let wanted = if length > N as u64 { N as u32 } else { length as u32 };
    // The mask changes nothing, but shows the verifier a range without zero (emit.rs does the same).
    let wanted = (core::hint::black_box(wanted).wrapping_sub(1) & (N as u32 - 1)) + 1;
    // SAFETY: `wanted` is at most the size of `text`; the helper checks the other address.
    let read = unsafe { bpf_probe_read_user(text.cast(), wanted, bytes as *const c_void) };
    (read == 0).then_some(if length > u64::from(u32::MAX) { u32::MAX } else { length as u32 })
}
