//! What the kernel side counts, and where each count stands in its per-CPU arrays.

use crate::{PacketKind, Role, SourceClass, closed_set};

/// Packets and bytes of one (role, source, kind); value of the packet counters, one a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PacketCount {
    /// Packets.
    pub packets: u64,
    /// Bytes of the frames, from the link layer's header on.
    pub bytes: u64,
}

impl PacketCount {
    /// Entries of the packet counters.
    pub const ENTRIES: u32 = (Role::COUNT * SourceClass::COUNT * PacketKind::COUNT) as u32;

    /// Where (role, source, kind) stands in the packet counters.
    pub const fn index(role: Role, source: SourceClass, kind: PacketKind) -> u32 {
        ((role as usize * SourceClass::COUNT + source as usize) * PacketKind::COUNT + kind as usize) as u32
    }
}

closed_set! {
    /// Which hook of the kernel a packet met.
    Hook {
        /// eXpress Data Path: before the network stack, on ingress.
        Xdp = "xdp",
        /// Traffic control, on ingress and egress.
        Tc = "tc",
    }
}

closed_set! {
    /// What the kernel side counts beside packets, skips and losses.
    KernelEvent {
        /// A flow entry was made.
        FlowBegun = "flow_begun",
        /// A record was handed to user space.
        RecordSent = "record_sent",
        /// Payload bytes were handed to user space.
        ByteSent = "byte_sent",
    }
}
