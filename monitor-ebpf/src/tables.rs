//! What the kernel half asks of its surroundings: maps in the kernel, tables of the process in `replay`.

use monitor_common::{FlowKey, FlowState, Handshake, Role, SourceClass, Verdict};

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
}

/// What the kernel half asks of its surroundings.
pub trait Tables {
    /// What this port is meant to be, `None` where it is not watched.
    fn role(&self, port: u16) -> Option<Role>;
    /// Where this address (IPv4 as IPv4-mapped) belongs, by the longest prefix.
    fn source(&self, address: &[u8; 16]) -> SourceClass;
    /// Gives back what it was given. In the kernel it goes through memory of which the verifier knows nothing, so that
    /// what follows is verified once and not once for each way in which a frame can come here.
    fn settle(&mut self, located: Located) -> Located {
        located
    }
    /// The slot of the handshake table with this index, under [`limits::HANDSHAKES`].
    fn handshake(&mut self, index: u32) -> Option<&mut Handshake>;
    /// The flow with this key.
    fn flow(&mut self, key: &FlowKey) -> Option<&mut FlowState>;
    /// Remembers a flow as `fill` makes it, in place of an older one with the same key; false where there is no room.
    fn begin(&mut self, key: &FlowKey, fill: impl FnOnce(&mut FlowState)) -> bool;
    /// Takes away what user space has decided about the flow with this key.
    fn take_verdict(&mut self, key: &FlowKey) -> Option<Verdict>;
}
