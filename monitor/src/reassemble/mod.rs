//! reassemble: records of a connection, in any order, to its two byte streams.

use monitor_common::Side;

/// What the reassembler says of a connection, in the order of its streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk<'a> {
    /// The next bytes of one direction.
    Bytes {
        /// Who speaks.
        side: Side,
        /// Position of the first byte in this direction's stream; 0 is the first byte after the handshake, or the
        /// first byte seen where the start was not seen.
        offset: u64,
        /// The bytes, at least one.
        bytes: &'a [u8],
        /// How much of the other direction's stream the speaker had received when it sent these bytes (its
        /// acknowledgement as an offset). For a client that does not pipeline, the answer to these bytes begins there.
        acknowledged: Option<u64>,
    },
    /// Bytes of one direction that will not come: left out on purpose, cut, or lost. The next `Bytes` of this
    /// direction begins at `offset + length`.
    Gap {
        /// Whose bytes are missing.
        side: Side,
        /// Where they would have begun.
        offset: u64,
        /// How many.
        length: u64,
        /// Why they are missing.
        reason: GapReason,
    },
    /// This direction has ended (FIN), after all its bytes.
    End {
        /// Who will not speak again.
        side: Side,
    },
}

monitor_common::closed_set! {
    /// Why bytes of a stream are missing.
    GapReason {
        /// The kernel side left them out: budget spent or beyond the reply's window.
        LeftOut = "left_out",
        /// The capture holds less of the packet than was on the wire.
        Cut = "cut",
        /// They were acknowledged but never seen: lost on the way to us.
        Lost = "lost",
        /// The cap of buffered bytes of this flow was reached.
        Capped = "capped",
    }
}

/// Stub.
#[derive(Default)]
pub struct Streams;
/// Stub.
pub struct Counts;
impl Streams {
    /// Stub.
    pub fn new() -> Self {
        Self
    }
    /// Stub.
    pub fn record(&mut self, _: &crate::receive::Record<'_>, _: &mut impl FnMut(Chunk<'_>)) {}
    /// Stub.
    pub fn finish(&mut self, _: &mut impl FnMut(Chunk<'_>)) {}
    /// Stub.
    pub fn discard(&mut self) {}
    /// Stub.
    pub fn ended(&self) -> bool {
        false
    }
    /// Stub.
    pub fn take_counts(&mut self) -> Counts {
        Counts
    }
}
