//! The kernel's maps, in one table; their sizes stand in `monitor_common::limits`, each with its reason.

use aya_ebpf::{
    Global,
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, LpmTrie, LruHashMap, PerCpuArray, RingBuf, lpm_trie::Key},
};
use monitor_common::{
    Asked, FlowKey, FlowState, Handshake, Hook, KernelEvent, LossReason, PacketCount, ProbeLayout, RecordHeader, Skip,
    Verdict, limits,
};
use monitor_ebpf::tables::Located;

/// Role of each port, plus one; 0 is not watched. User space writes it; the kernel side, a port that it discovers.
#[map]
pub static PORTS: Array<u8> = Array::with_max_entries(65_536, 0);

/// Not 0: ports that nobody watches are looked at for an API in the clear. User space sets it before it loads this, so
/// that the verifier leaves out what is switched off.
#[unsafe(no_mangle)]
pub static DISCOVER: Global<u8> = Global::new(1);

/// Until when (nanoseconds of CLOCK_MONOTONIC) a port is not discovered, whatever is asked of it: [`Asked::index`].
/// User space writes it.
#[map]
pub static QUIET: Array<u64> = Array::with_max_entries(Asked::ENTRIES, 0);

/// Source class of each IPv4 prefix. User space writes it.
#[map]
pub static PREFIXES_IPV4: LpmTrie<[u8; 4], u8> = LpmTrie::with_max_entries(limits::PREFIXES, BPF_F_NO_PREALLOC);

/// Source class of each IPv6 prefix. User space writes it.
#[map]
pub static PREFIXES_IPV6: LpmTrie<[u8; 16], u8> = LpmTrie::with_max_entries(limits::PREFIXES, BPF_F_NO_PREALLOC);

/// Which state of the two tables of prefixes what is remembered of them belongs to; one entry. User space counts it up
/// after each change.
#[map]
pub static GENERATION: Array<u32> = Array::with_max_entries(1, 0);

/// What the tables of prefixes said last of an address, one slot a hash: a walk down a table takes longer than all else
/// that is done for most packets.
#[map]
pub static SOURCES: PerCpuArray<CachedSource> = PerCpuArray::with_max_entries(limits::CACHED_SOURCES, 0);

/// What SYNs and their answers said, one slot a hash.
#[map]
pub static HANDSHAKES: Array<Handshake> = Array::with_max_entries(limits::HANDSHAKES, 0);

/// Connections with payload. The longest idle one gives way when it is full.
#[map]
pub static FLOWS: LruHashMap<FlowKey, FlowState> = LruHashMap::with_max_entries(limits::FLOWS, 0);

/// What user space has decided, until the flow's next payload takes it over; what is about flows that ended meanwhile
/// gives way. User space writes it.
#[map]
pub static VERDICTS: LruHashMap<FlowKey, Verdict> = LruHashMap::with_max_entries(limits::VERDICTS, 0);

/// Records on their way to user space.
#[map]
pub static RECORDS: RingBuf = RingBuf::with_byte_size(limits::RING_BYTES, 0);

/// Room in which flow states and records are put together.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Packets and bytes by (role, source, kind): [`PacketCount::index`].
#[map]
pub static PACKETS: PerCpuArray<PacketCount> = PerCpuArray::with_max_entries(PacketCount::ENTRIES, 0);

/// Packets left alone, by hook and reason.
#[map]
pub static SKIPS: PerCpuArray<u64> = PerCpuArray::with_max_entries((Hook::COUNT * Skip::COUNT) as u32, 0);

/// Records lost, by reason.
#[map]
pub static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(LossReason::COUNT as u32, 0);

/// Everything else that is counted.
#[map]
pub static EVENTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(KernelEvent::COUNT as u32, 0);

/// What the probe's programs have to know of the binary that they are attached to; one entry. User space writes it.
#[map]
pub static PROBE_LAYOUT: Array<ProbeLayout> = Array::with_max_entries(1, 0);

/// The probe's hits on their way to user space.
#[map]
pub static HITS: RingBuf = RingBuf::with_byte_size(limits::HIT_RING_BYTES, 0);

/// The probe's hits lost, by reason.
#[map]
pub static HIT_LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(LossReason::COUNT as u32, 0);

/// The class of one address.
#[repr(C)]
pub struct CachedSource {
    pub address: [u64; 2],
    /// As [`GENERATION`] was.
    pub generation: u32,
    /// A [`monitor_common::SourceClass`], plus one; 0 in an empty slot.
    pub class: u32,
}

impl CachedSource {
    /// The address as two words.
    #[inline(always)]
    pub fn key(address: &[u8; 16]) -> [u64; 2] {
        let [a, b, c, d, e, f, g, h, rest @ ..] = *address;
        [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes(rest)]
    }

    /// Its slot.
    #[inline(always)]
    pub fn slot([high, low]: [u64; 2]) -> u32 {
        let hash = (low ^ high.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (hash >> 32) as u32 & (limits::CACHED_SOURCES - 1)
    }
}

/// What is too large for the stack.
#[repr(C)]
pub struct Scratch {
    /// Of the connection at hand.
    pub key: FlowKey,
    /// Of a flow that begins.
    pub state: FlowState,
    /// Of an address that is looked up.
    pub prefix: Key<[u8; 16]>,
    /// Of a header whose range is to be forgotten.
    pub offset: usize,
    /// Where the segment at hand is.
    pub located: Located,
    /// Offset in the packet, and number, of the bytes on their way out.
    pub handover: [u32; 2],
    /// On its way out.
    pub record: Record,
}

/// A record with room for its payload.
#[repr(C)]
pub struct Record {
    pub header: RecordHeader,
    pub payload: [u8; limits::RECORD_PAYLOAD],
}
