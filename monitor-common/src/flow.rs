//! A TCP connection as the kernel side remembers it.

use crate::closed_set;

/// An IPv4 address as IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2), so that one key holds both families.
pub const fn mapped(address: [u8; 4]) -> [u8; 16] {
    // As a number, so that the kernel side writes words and not bytes.
    (0xffff << 32 | u32::from_be_bytes(address) as u128).to_be_bytes()
}

/// One TCP connection, the same for both directions and on every interface.
/// Aligned so that the kernel side copies words and not bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C, align(4))]
pub struct FlowKey {
    /// Address of the client; IPv4 as IPv4-mapped.
    pub client: [u8; 16],
    /// Address of the server, the side with the watched port.
    pub server: [u8; 16],
    /// The client's port, host byte order.
    pub client_port: u16,
    /// The watched port, host byte order.
    pub server_port: u16,
}

impl FlowKey {
    /// A hash for the handshake table: the lower bits choose the slot, the upper 32 are its tag.
    #[inline(always)]
    pub fn hash(&self) -> u64 {
        const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut hash = u64::from(self.client_port) << 16 | u64::from(self.server_port);
        for half in [0, 8] {
            for address in [&self.client, &self.server] {
                let mut word = [0; 8];
                word.copy_from_slice(&address[half..half + 8]);
                hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(MULTIPLIER);
                hash ^= hash >> 29;
            }
        }
        hash
    }
}

closed_set! {
    /// A direction, named after who speaks.
    Side {
        /// From the client to the API.
        Client = "client",
        /// From the API to the client.
        Server = "server",
    }
}

impl Side {
    /// The other direction.
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

closed_set! {
    /// What user space has decided about a flow.
    Decision {
        /// Not decided: hand over within the budgets.
        Read = "read",
        /// Nothing more is to be handed over but the flow's end.
        Enough = "enough",
        /// Keep the client's side without a budget, the server's side within its window.
        KeepClient = "keep_client",
        /// Keep both sides without a budget (HTTP/2 in the clear, where a byte left out loses all that follow).
        KeepBoth = "keep_both",
    }
}

/// Value of the flow table: one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FlowState {
    /// `bpf_ktime_get_ns` of its first payload byte (capture time in `replay`); with the key it identifies the connection.
    pub born: u64,
    /// The two directions, indexed by [`Side`].
    pub sides: [SideState; 2],
    /// A [`Decision`].
    pub decision: u8,
    /// Bits of [`FlowState::CLIENT_FIN`], [`FlowState::SERVER_FIN`], [`FlowState::RESET`], [`FlowState::SYN_AGAIN`].
    pub closed: u8,
    /// Zero.
    pub reserved: [u8; 6],
}

impl FlowState {
    /// `closed`: the client has sent FIN.
    pub const CLIENT_FIN: u8 = 1;
    /// `closed`: the server has sent FIN.
    pub const SERVER_FIN: u8 = 2;
    /// `closed`: either side has sent RST. It ends nothing by itself: a forged one would blind us for what follows.
    pub const RESET: u8 = 4;
    /// `closed`: a SYN came with the ports of this flow, so the next payload may be a new connection's.
    pub const SYN_AGAIN: u8 = 8;

    /// `closed` bit of a FIN from this side.
    pub const fn fin(side: Side) -> u8 {
        match side {
            Side::Client => Self::CLIENT_FIN,
            Side::Server => Self::SERVER_FIN,
        }
    }

    /// Both sides have sent FIN.
    pub const fn ended(&self) -> bool {
        self.closed & (Self::CLIENT_FIN | Self::SERVER_FIN) == Self::CLIENT_FIN | Self::SERVER_FIN
    }
}

/// What user space has decided about one flow; value of the table through which it tells the kernel side. The kernel
/// side copies it into the flow, which only it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Verdict {
    /// [`FlowState::born`] of the flow that is meant.
    pub born: u64,
    /// A [`Decision`].
    pub decision: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

impl Verdict {
    /// What is decided about the flow that was born then.
    pub const fn new(born: u64, decision: Decision) -> Self {
        Self { born, decision: decision as u8, reserved: [0; 7] }
    }
}

/// One direction of a flow. Sequence numbers are TCP's, host byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SideState {
    /// Sequence number of the first payload byte; valid with [`SideState::START_KNOWN`].
    pub start: u32,
    /// One past the highest byte that was handed over; valid with [`SideState::NEXT_KNOWN`].
    pub next: u32,
    /// Bytes that may still be handed over (client), or one past the last byte that may be (server).
    pub budget: u32,
    /// Interface and hook where this direction was first seen ([`crate::record::RecordHeader::tap`]).
    pub tap: u32,
    /// Bits of the constants below.
    pub flags: u32,
}

impl SideState {
    /// The handshake was seen: `start` is the initial sequence number plus one.
    pub const START_KNOWN: u32 = 1;
    /// `next` is valid.
    pub const NEXT_KNOWN: u32 = 2;
    /// Bytes were left out on purpose since the last record of this direction.
    pub const LEFT_OUT: u32 = 4;
    /// `budget` is valid.
    pub const BUDGET_KNOWN: u32 = 8;
}

/// Slot of the handshake table, direct-mapped by a hash of the key: what a SYN and its answer said.
/// A flood overwrites slots, never flows; a slot that was overwritten makes the flow's start unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Handshake {
    /// [`FlowKey::hash`]'s upper bits: the other bits of the key's hash, so that another flow's slot is not taken for this one's.
    pub tag: u32,
    /// Sequence number of the client's first payload byte.
    pub client_start: u32,
    /// Sequence number of the server's first payload byte.
    pub server_start: u32,
    /// Bit 0: `client_start` is known; bit 1: `server_start` is known.
    pub known: u32,
}

impl Handshake {
    /// Sequence number of this side's first payload byte, where it is known.
    pub const fn start(&self, side: Side) -> Option<u32> {
        match side {
            Side::Client if self.known & 1 != 0 => Some(self.client_start),
            Side::Server if self.known & 2 != 0 => Some(self.server_start),
            _ => None,
        }
    }
}
