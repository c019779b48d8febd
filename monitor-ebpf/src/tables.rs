//! What the kernel half asks of its surroundings: maps in the kernel, tables of the process in `replay`.

use monitor_common::{Asked, FlowKey, FlowState, Handshake, Role, SourceClass, Verdict};

use crate::parse::Segment;

/// A segment between a client and a watched port, before the rest of its headers is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Located {
    /// Where it is.
    pub segment: Segment,
    /// A [`monitor_common::Side`]: who speaks.
    pub side: u8,
    /// A [`Role`]: what the watched port is meant to be.
    pub role: u8,
    /// Not 0: this segment is the one by which the port was discovered.
    pub candidate: u8,
}

/// What the kernel half asks of its surroundings.
pub trait Tables {
    /// Where a flow that was found stands, so that it is looked up once a packet.
    type Place: Copy;
    /// The time, nanoseconds: of a flow's birth and of a record.
    fn now(&self) -> u64;
    /// What this port is meant to be, `None` where it is not watched.
    fn role(&self, port: u16) -> Option<Role>;
    /// Whether segments to ports that nobody watches are looked at for requests to an API server.
    fn discovers(&self) -> bool {
        false
    }
    /// Watches this port as [`Role::Discovered`] from now on, unless it is to be left alone for such requests.
    fn claim(&mut self, _port: u16, _asked: Asked) -> bool {
        false
    }
    /// Where this address (IPv4 as IPv4-mapped) belongs, by the longest prefix.
    fn source(&self, address: &[u8; 16]) -> SourceClass;
    /// Gives back what it was given. In the kernel it goes through memory of which the verifier knows nothing, so that
    /// what follows is verified once and not once for each way in which a frame can come here.
    fn settle(&mut self, located: Located) -> Located {
        located
    }
    /// The slot of the handshake table with this index, under [`limits::HANDSHAKES`].
    fn handshake(&mut self, index: u32) -> Option<&mut Handshake>;
    /// Where the flow with this key stands.
    fn find(&mut self, key: &FlowKey) -> Option<Self::Place>;
    /// The flow that stands there.
    fn flow(&mut self, place: Self::Place) -> Option<&mut FlowState>;
    /// Room in which the state of a flow that begins is put together; what is in it is an older one's.
    fn room(&mut self) -> Option<&mut FlowState>;
    /// Remembers the flow that was put together in [`Self::room`], in place of an older one with the same key; `false`
    /// where it cannot.
    fn begin(&mut self, key: &FlowKey) -> bool;
    /// Takes away what user space has decided about the flow with this key.
    fn take_verdict(&mut self, key: &FlowKey) -> Option<Verdict>;
}
