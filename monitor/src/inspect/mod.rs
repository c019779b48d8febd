//! inspect: what is spoken in a connection, read from its two byte streams.

mod observation;

pub use observation::*;

use monitor_common::Decision;

use crate::reassemble::Chunk;

/// What the inspector wants next of this connection; the words that go back to the kernel side.
pub type Wanted = Decision;

/// Reads one connection. Chosen once from the first bytes; a decoder that has read enough holds no buffers.
#[derive(Debug, Default)]
pub struct Inspector {}

impl Inspector {
    /// Stub.
    pub fn new(_start_known: bool) -> Self {
        Self {}
    }
    /// Stub.
    pub fn settled(&self) -> bool {
        false
    }
    /// Stub.
    pub fn finish(&mut self, _: &mut Observation) {}

    /// Takes the next chunk, fills the observation, and says what is wanted next.
    pub fn chunk(&mut self, _chunk: &Chunk<'_>, _observation: &mut Observation) -> Wanted {
        Wanted::Read
    }
}
