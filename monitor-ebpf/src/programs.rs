//! The programs: a bounded view of the packet, one call, the outcome counted. Every packet goes on, whatever happens.

use core::ptr::NonNull;

use aya_ebpf::{
    bindings::{__sk_buff, xdp_action, xdp_md},
    helpers,
    macros::{classifier, xdp},
    maps::{PerCpuArray, lpm_trie::Key},
    programs::{TcContext, XdpContext},
};
use monitor_common::{
    Asked, FlowKey, FlowState, Handshake, Hook, KernelEvent, PacketCount, RecordHeader, Role, Skip, SourceClass,
    Verdict,
};
use monitor_ebpf::{
    bounds::{FURTHEST_HEADER, Frame},
    parse::{Segment, parse_ethernet, parse_network, parse_received},
    select::{Watched, locate, read_headers, select},
    tables::{Located, Tables},
    track::track,
};

use crate::emit::emit;
use crate::maps::{
    CachedSource, DISCOVER, EVENTS, FLOWS, GENERATION, HANDSHAKES, PACKETS, PORTS, PREFIXES_IPV4, PREFIXES_IPV6, QUIET,
    SCRATCH, SKIPS, SOURCES, VERDICTS,
};

/// TCX_NEXT and TC_ACT_UNSPEC (include/uapi/linux/bpf.h and pkt_cls.h, 6.18): other programs on the hook still run.
const NEXT: i32 = -1;

/// XDP, also for packets in several buffers (kernel 5.18 and later).
#[xdp(frags)]
#[inline(always)]
pub fn api_exposure_xdp(context: XdpContext) -> u32 {
    xdp(&context)
}

/// XDP for kernels and drivers that know no packets in several buffers.
#[xdp]
#[inline(always)]
pub fn api_exposure_xdp_linear(context: XdpContext) -> u32 {
    xdp(&context)
}

/// TC ingress where XDP counts.
#[classifier]
#[inline(always)]
pub fn api_exposure_ingress(context: TcContext) -> i32 {
    tc::<Ingress>(&context)
}

/// TC ingress where nothing else counts.
#[classifier]
#[inline(always)]
pub fn api_exposure_ingress_count(context: TcContext) -> i32 {
    tc::<IngressCounted>(&context)
}

/// TC egress.
#[classifier]
#[inline(always)]
pub fn api_exposure_egress(context: TcContext) -> i32 {
    tc::<Egress>(&context)
}

/// TC ingress on an interface without Ethernet header (tun, ipip, WireGuard).
#[classifier]
#[inline(always)]
pub fn api_exposure_ingress_ip(context: TcContext) -> i32 {
    tc::<IngressIp>(&context)
}

/// TC egress on an interface without Ethernet header.
#[classifier]
#[inline(always)]
pub fn api_exposure_egress_ip(context: TcContext) -> i32 {
    tc::<EgressIp>(&context)
}

/// Where a TC program stands.
trait Place {
    /// On the way out.
    const EGRESS: bool;
    /// Counts packets towards the API here; on the way out it counts those that come back.
    const COUNTS: bool;
    /// Frames begin with an Ethernet header.
    const ETHERNET: bool;
}

macro_rules! place {
    ($name:ident: egress $egress:literal, counts $counts:literal, ethernet $ethernet:literal) => {
        struct $name;
        impl Place for $name {
            const EGRESS: bool = $egress;
            const COUNTS: bool = $counts;
            const ETHERNET: bool = $ethernet;
        }
    };
}

place!(Ingress: egress false, counts false, ethernet true);
place!(IngressCounted: egress false, counts true, ethernet true);
place!(Egress: egress true, counts true, ethernet true);
place!(IngressIp: egress false, counts true, ethernet false);
place!(EgressIp: egress true, counts true, ethernet false);

/// On the stack words have to be aligned, and addresses are read as words.
#[repr(C, align(8))]
struct Aligned(FlowKey);

#[inline(always)]
fn xdp(context: &XdpContext) -> u32 {
    let frame = Linear::of_xdp(context.ctx);
    let mut key = Aligned(FlowKey { client: [0; 16], server: [0; 16], client_port: 0, server_port: 0 });
    let outcome = parse_ethernet(&frame)
        .and_then(|segment| select(&frame, &segment, &mut Maps::<false>, &mut key.0))
        .map(|watched| {
            if watched.side == monitor_common::Side::Client {
                count_packet(&watched);
            }
        });
    if let Err(skip) = outcome {
        count_skip(Hook::Xdp, skip);
    }
    xdp_action::XDP_PASS
}

#[inline(always)]
fn tc<P: Place>(context: &TcContext) -> i32 {
    let skb = context.skb.skb;
    if let Err(skip) = read::<P>(skb) {
        count_skip(Hook::Tc, skip);
    }
    NEXT
}

#[inline(always)]
fn read<P: Place>(skb: *mut __sk_buff) -> Result<(), Skip> {
    let frame = Buffer::of(skb);
    let segment = segment_of::<P>(&frame)?;
    let scratch = SCRATCH.get_ptr_mut(0).ok_or(Skip::TableFull)?;
    // SAFETY: no other program uses this CPU's scratch space while this one runs: TC programs run with bottom halves
    // disabled and do not nest. Each field of it is borrowed once: these two here, `state` in `Maps::room`.
    let (key, record) = unsafe { (&mut (*scratch).key, &mut (*scratch).record) };
    let located = locate(&frame, &segment, &mut Maps::<true>, key)?;
    // Packet pointers are read anew: the verifier tells apart for how many bytes the old ones were compared on each way
    // to here, and would follow all that comes for each way.
    let frame = Buffer::of(skb);
    let watched = read_headers(&frame, &located, key)?;
    if P::COUNTS && P::EGRESS == (watched.side == monitor_common::Side::Server) {
        count_packet(&watched);
    }
    // SAFETY: reading a field of the context is always allowed.
    let interface = unsafe { (*skb).ifindex };
    let tap = if P::EGRESS { interface | RecordHeader::EGRESS } else { interface };
    let wanted = track(&frame, &watched, &mut Maps::<true>, tap, &mut record.header)?;
    // SAFETY: as above. Through memory, for the same reason as in `Maps::settle`.
    let [payload, wanted] = unsafe {
        let handover = &raw mut (*scratch).handover;
        handover.write_volatile([watched.tcp.payload as u32, wanted]);
        handover.read_volatile()
    };
    emit(skb, record, payload, wanted)
}

#[inline(always)]
fn segment_of<P: Place>(frame: &Buffer) -> Result<Segment, Skip> {
    // SAFETY: reading a field of the context is always allowed.
    let protocol = u16::from_be(unsafe { (*frame.skb).protocol } as u16);
    match P::ETHERNET {
        // XDP counts: it may be generic.
        true if !P::EGRESS && !P::COUNTS => parse_received(frame, protocol),
        true => parse_ethernet(frame),
        false => parse_network(frame, 0, protocol),
    }
}

#[inline(always)]
fn count_packet(watched: &Watched<'_>) {
    let source = Maps::<false>.source(&watched.key.client);
    if let Some(counter) = PACKETS.get_ptr_mut(PacketCount::index(watched.role, source, watched.kind())) {
        // SAFETY: the pointer is to this CPU's counter.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += watched.wire_length as u64;
        }
    }
}

#[inline(always)]
fn count_skip(hook: Hook, skip: Skip) {
    count(&SKIPS, hook as u32 * Skip::COUNT as u32 + skip as u32, 1);
}

/// Adds to this CPU's counter.
#[inline(always)]
pub fn count(counters: &PerCpuArray<u64>, index: u32, by: u64) {
    if let Some(counter) = counters.get_ptr_mut(index) {
        // SAFETY: the pointer is to this CPU's counter.
        unsafe { *counter += by };
    }
}

/// The maps as the pure half sees them; discovery and all that comes behind a settled segment are for programs that read.
struct Maps<const READS: bool>;

impl<const READS: bool> Tables for Maps<READS> {
    type Place = NonNull<FlowState>;

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: the helper takes nothing and cannot fail.
        unsafe { helpers::generated::bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn role(&self, port: u16) -> Option<Role> {
        match PORTS.get(u32::from(port)) {
            // Most ports: nothing more is to be compared.
            None | Some(0) => None,
            Some(role) => Role::from_value(*role - 1),
        }
    }

    #[inline(always)]
    fn discovers(&self) -> bool {
        READS && DISCOVER.load() != 0
    }

    #[inline(always)]
    fn claim(&mut self, port: u16, asked: Asked) -> bool {
        let now = self.now();
        if QUIET.get(asked.index(port)).is_none_or(|until| now < *until) {
            return false;
        }
        let Some(role) = PORTS.get_ptr_mut(u32::from(port)) else {
            return false;
        };
        // SAFETY: map values stay writable while the program runs; whoever else writes this byte meanwhile has found
        // the same.
        unsafe { *role = Role::Discovered as u8 + 1 };
        true
    }

    #[inline(always)]
    fn source(&self, address: &[u8; 16]) -> SourceClass {
        let generation = GENERATION.get(0).copied().unwrap_or(0);
        let wanted = CachedSource::key(address);
        let Some(slot) = SOURCES.get_ptr_mut(CachedSource::slot(wanted)) else {
            return longest_prefix(address);
        };
        // SAFETY: the pointer is to this CPU's slot, and programs of this half do not interrupt one another: both hooks
        // run with bottom halves disabled.
        unsafe {
            if (*slot).address == wanted
                && (*slot).generation == generation
                && let Some(class) = SourceClass::from_value((*slot).class.wrapping_sub(1) as u8)
            {
                return class;
            }
            let class = longest_prefix(address);
            *slot = CachedSource { address: wanted, generation, class: class as u32 + 1 };
            class
        }
    }

    #[inline(always)]
    fn settle(&mut self, located: Located) -> Located {
        if !READS {
            return located;
        }
        let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
            return located;
        };
        // SAFETY: as in `read`. Volatile, or the compiler would not go through memory.
        unsafe {
            let settled = &raw mut (*scratch).located;
            settled.write_volatile(located);
            settled.read_volatile()
        }
    }

    #[inline(always)]
    fn handshake(&mut self, index: u32) -> Option<&mut Handshake> {
        // SAFETY: map values stay readable and writable while the program runs; two CPUs that write the same slot
        // leave a mixture at worst, which the tag or the sequence number then denies.
        HANDSHAKES.get_ptr_mut(index).map(|slot| unsafe { &mut *slot })
    }

    #[inline(always)]
    fn find(&mut self, key: &FlowKey) -> Option<NonNull<FlowState>> {
        FLOWS.get_ptr_mut(key).and_then(NonNull::new)
    }

    #[inline(always)]
    fn flow(&mut self, mut place: NonNull<FlowState>) -> Option<&mut FlowState> {
        // SAFETY: as above; each direction of a flow is written by the CPU that has its packet.
        Some(unsafe { place.as_mut() })
    }

    #[inline(always)]
    fn room(&mut self) -> Option<&mut FlowState> {
        // SAFETY: as in `read`.
        SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut (*scratch).state })
    }

    #[inline(always)]
    fn begin(&mut self, key: &FlowKey) -> bool {
        let Some(state) = self.room() else {
            return false;
        };
        let begun = FLOWS.insert(key, &*state, 0).is_ok();
        if begun {
            count(&EVENTS, KernelEvent::FlowBegun as u32, 1);
        }
        begun
    }

    #[inline(always)]
    fn take_verdict(&mut self, key: &FlowKey) -> Option<Verdict> {
        // SAFETY: the value is copied at once; user space replaces whole values.
        let verdict = unsafe { VERDICTS.get(key) }.copied()?;
        // Gone already is as good.
        let _ = VERDICTS.remove(key);
        Some(verdict)
    }
}

/// The class of the longest prefix that holds this address.
#[inline(always)]
fn longest_prefix(address: &[u8; 16]) -> SourceClass {
    let class = match address {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => PREFIXES_IPV4.get(Key::new(32, [*a, *b, *c, *d])),
        _ => {
            // Not on the stack, where the address behind the length would not be aligned.
            let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
                return SourceClass::Public;
            };
            // SAFETY: as in `read`.
            let prefix = unsafe { &mut (*scratch).prefix };
            *prefix = Key::new(128, *address);
            PREFIXES_IPV6.get(&*prefix)
        }
    };
    class.and_then(|class| SourceClass::from_value(*class)).unwrap_or(SourceClass::Public)
}

/// The bytes between two packet pointers.
struct Linear {
    data: usize,
    data_end: usize,
}

impl Linear {
    #[inline(always)]
    fn of_xdp(context: *mut xdp_md) -> Self {
        // SAFETY: reading a field of the context is always allowed.
        unsafe { Self { data: (*context).data as usize, data_end: (*context).data_end as usize } }
    }
}

impl Frame for Linear {
    #[inline(always)]
    fn length(&self) -> usize {
        self.data_end - self.data
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset > FURTHEST_HEADER {
            return None;
        }
        let start = self.data + within_reach(offset);
        // Of one byte the compiler would compare its own address with the end, which tells the verifier nothing.
        let behind = if N == 1 { opaque(start + N) } else { start + N };
        if behind > self.data_end {
            return None;
        }
        // SAFETY: the comparisons show that `N` bytes from `start` on lie within the packet.
        Some(unsafe { (start as *const [u8; N]).read_unaligned() })
    }

    #[inline(always)]
    fn peek<const OFFSET: usize, const N: usize>(&self) -> Option<[u8; N]> {
        let start = self.data + OFFSET;
        if start + N > self.data_end {
            return None;
        }
        // SAFETY: the comparison shows that `N` bytes from `start` on lie within the packet.
        Some(unsafe { (start as *const [u8; N]).read_unaligned() })
    }

    #[inline(always)]
    fn forget_range(&self, offset: usize) -> usize {
        forget_range(offset)
    }
}

/// A socket buffer: the linear part by packet pointers, paged data by the kernel's helper.
struct Buffer {
    skb: *mut __sk_buff,
    linear: Linear,
}

impl Buffer {
    #[inline(always)]
    fn of(skb: *mut __sk_buff) -> Self {
        // SAFETY: reading a field of the context is always allowed. Volatile, so that it is read each time.
        let linear = unsafe {
            let (data, data_end) = (&raw const (*skb).data, &raw const (*skb).data_end);
            Linear { data: data.read_volatile() as usize, data_end: data_end.read_volatile() as usize }
        };
        Self { skb, linear }
    }
}

impl Frame for Buffer {
    #[inline(always)]
    fn length(&self) -> usize {
        // SAFETY: reading a field of the context is always allowed.
        unsafe { (*self.skb).len as usize }
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.linear.load(offset).or_else(|| paged(self.skb, offset))
    }

    #[inline(always)]
    fn peek<const OFFSET: usize, const N: usize>(&self) -> Option<[u8; N]> {
        self.linear.peek::<OFFSET, N>()
    }

    #[inline(always)]
    fn forget_range(&self, offset: usize) -> usize {
        forget_range(offset)
    }
}

/// Bytes that may lie in pages behind the linear part.
#[inline(always)]
fn paged<const N: usize>(skb: *mut __sk_buff, offset: usize) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: `bytes` has room for the `N` bytes that are asked for.
    let outcome = unsafe {
        helpers::generated::bpf_skb_load_bytes(skb.cast(), offset as u32, bytes.as_mut_ptr().cast(), N as u32)
    };
    (outcome == 0).then_some(bytes)
}

/// Gives `offset` back, which is at most [`FURTHEST_HEADER`], through a mask that changes nothing but shows the verifier
/// a range. The comparison alone does not: the compiler may do it on a sum that it already has (`offset + 12`), which
/// 5.10 does not see through, and 6.12 loses the range of a number that it knows from another one by a difference, on
/// ways that no packet takes ("REG INVARIANTS VIOLATION"; sync_linked_regs in kernel/bpf/verifier.c). Both then say "math
/// between pkt pointer and register with unbounded min value is not allowed".
#[inline(always)]
fn within_reach(mut offset: usize) -> usize {
    // SAFETY: a mask of one register.
    unsafe {
        core::arch::asm!(
            "{0} &= {1}",
            inout(reg) offset,
            const FURTHEST_HEADER,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    offset
}

/// Gives `number` back, of which the compiler then knows nothing: it leaves comparisons and masks of it where they are,
/// for the verifier to see. One move between registers: without any instruction the compiler would write two lines of
/// debug information for the next one, which the kernel refuses ("Invalid line_info", check_btf_line, since 5.0).
#[inline(always)]
pub fn opaque(number: usize) -> usize {
    let same: usize;
    // SAFETY: moves a number between two registers.
    unsafe {
        core::arch::asm!("{0} = {1}", out(reg) same, in(reg) number, options(pure, nomem, nostack, preserves_flags));
    }
    same
}

/// [`Frame::forget_range`], through this CPU's scratch space.
#[inline(always)]
fn forget_range(offset: usize) -> usize {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return offset;
    };
    // SAFETY: as in `read`. Volatile, or the compiler would not go through memory.
    unsafe {
        let forgotten = &raw mut (*scratch).offset;
        forgotten.write_volatile(offset);
        forgotten.read_volatile()
    }
}
