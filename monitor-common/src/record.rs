//! What the kernel side hands to user space: a fixed header and the payload bytes behind it.

use crate::{FlowKey, closed_set};

/// Header of a record in the ring buffer; `captured` bytes of TCP payload follow it. All fields in host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RecordHeader {
    /// When the packet was seen, nanoseconds of CLOCK_MONOTONIC (live) or since 1970 (`replay`).
    pub time: u64,
    /// [`crate::FlowState::born`]: tells connections with the same key apart.
    pub born: u64,
    /// The connection.
    pub key: FlowKey,
    /// Interface index in the lower 31 bits; [`RecordHeader::EGRESS`] when seen on its way out.
    pub tap: u32,
    /// Sequence number of the first byte in this record (of the segment's first byte where it carries none).
    pub sequence: u32,
    /// Acknowledgement number; valid with [`RecordFlags::ACK`].
    pub acknowledgement: u32,
    /// Sequence number of this direction's first byte; valid with [`RecordFlags::START_KNOWN`].
    pub start: u32,
    /// Sequence number of the other direction's first byte; valid with [`RecordFlags::OTHER_START_KNOWN`].
    pub other_start: u32,
    /// Payload bytes from `sequence` to the end of the segment on the wire, of which `captured` follow. The
    /// difference was left out on purpose, or cut by the capture, or follows in the next record.
    pub length: u32,
    /// Payload bytes that follow the header.
    pub captured: u32,
    /// Bits of [`RecordFlags`].
    pub flags: u16,
    /// A [`crate::Side`]: who speaks.
    pub side: u8,
    /// A [`crate::Role`].
    pub role: u8,
    /// A [`crate::SourceClass`]: the client's.
    pub source: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

impl RecordHeader {
    /// Bytes of the header.
    pub const SIZE: usize = core::mem::size_of::<Self>();
    /// Bit of `tap`: seen on its way out of the interface.
    pub const EGRESS: u32 = 1 << 31;

    /// Interface index that the packet was seen on; 0 where a capture does not say.
    pub const fn interface(&self) -> u32 {
        self.tap & !Self::EGRESS
    }
}

/// Bits of [`RecordHeader::flags`].
#[derive(Clone, Copy, Debug)]
pub struct RecordFlags;

impl RecordFlags {
    /// TCP FIN.
    pub const FIN: u16 = 1;
    /// TCP SYN.
    pub const SYN: u16 = 2;
    /// TCP RST.
    pub const RST: u16 = 4;
    /// TCP ACK.
    pub const ACK: u16 = 8;
    /// `start` is known: the handshake of this direction was seen.
    pub const START_KNOWN: u16 = 16;
    /// `other_start` is known.
    pub const OTHER_START_KNOWN: u16 = 32;
    /// Bytes of this direction before this record were left out on purpose (budget, window): do not wait for them.
    pub const LEFT_OUT_BEFORE: u16 = 64;
    /// Another record with later bytes of the same segment follows.
    pub const MORE: u16 = 128;
    /// For this segment's sake the kernel side watches its destination from now on, as [`crate::Role::Discovered`].
    pub const CANDIDATE: u16 = 256;
}

closed_set! {
    /// Why a record was lost on its way to user space.
    LossReason {
        /// The ring buffer was full.
        RingFull = "ring_full",
        /// The packet's bytes could not be read.
        Unreadable = "unreadable",
    }
}

#[cfg(feature = "user")]
mod user {
    //! SAFETY of each: `repr(C)`, made of integers only, without padding (tested), any bit pattern is valid.
    // SAFETY: see the module.
    unsafe impl aya::Pod for crate::FlowKey {}
    // SAFETY: see the module.
    unsafe impl aya::Pod for crate::FlowState {}
    // SAFETY: see the module.
    unsafe impl aya::Pod for crate::Handshake {}
    // SAFETY: see the module.
    unsafe impl aya::Pod for crate::Verdict {}
    // SAFETY: see the module.
    unsafe impl aya::Pod for crate::PacketCount {}
}

#[cfg(test)]
mod tests {
    use crate::{FlowKey, FlowState, Handshake, PacketCount, RecordHeader, SideState, Verdict};

    #[test]
    fn layouts_have_no_padding() {
        assert_eq!(size_of::<FlowKey>(), 36);
        assert_eq!(size_of::<SideState>(), 20);
        assert_eq!(size_of::<FlowState>(), 8 + 2 * 20 + 8);
        assert_eq!(size_of::<Handshake>(), 16);
        assert_eq!(size_of::<Verdict>(), 16);
        assert_eq!(size_of::<PacketCount>(), 16);
        assert_eq!(RecordHeader::SIZE, 8 + 8 + 36 + 7 * 4 + 8);
        assert_eq!(RecordHeader::SIZE % 8, 0, "records in the ring stay aligned");
    }
}
