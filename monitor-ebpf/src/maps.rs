//! The kernel's maps, in one table; their sizes stand in `monitor_common::limits`, each with its reason.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
};
use monitor_common::{
    FlowKey, FlowState, Handshake, Hook, KernelEvent, LossReason, PacketCount, ProbeLayout, RecordHeader, Skip,
    Verdict, limits,
};
use monitor_ebpf::tables::Located;

/// Role of each port, plus one; 0 is not watched. User space writes it.
#[map]
pub static PORTS: Array<u8> = Array::with_max_entries(65_536, 0);

/// Source class of each IPv4 prefix. User space writes it.
#[map]
pub static PREFIXES_IPV4: LpmTrie<[u8; 4], u8> = LpmTrie::with_max_entries(limits::PREFIXES, BPF_F_NO_PREALLOC);

/// Source class of each IPv6 prefix. User space writes it.
#[map]
pub static PREFIXES_IPV6: LpmTrie<[u8; 16], u8> = LpmTrie::with_max_entries(limits::PREFIXES, BPF_F_NO_PREALLOC);

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

/// What is too large for the stack.
#[repr(C)]
pub struct Scratch {
    /// Of the connection at hand.
    pub key: FlowKey,
    /// Of a flow that begins.
    pub state: FlowState,
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
