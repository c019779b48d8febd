//! reassemble: records of a connection, in any order, to its two byte streams.
//!
//! [`Streams`] holds one connection. Bytes in order go straight from the record to the caller; only bytes behind a hole
//! are kept. A hole is waited for until there is evidence that it will not be filled.

mod direction;
mod held;
#[cfg(test)]
mod tests;

use monitor_common::{RecordFlags, Side};

use crate::receive::Record;
use direction::{Direction, Segment};
use held::Moment;

pub use held::BUFFERED_CAP;

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

/// What went otherwise than in order, since the caller last took the counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records with bytes behind a hole.
    pub out_of_order: u32,
    /// Bytes that had been delivered or buffered before.
    pub retransmitted: u32,
    /// Retransmitted bytes that differ from the first copy, where that copy was still buffered.
    pub conflicts: u32,
    /// Bytes that belong nowhere: before the beginning, behind the end, or further ahead than a TCP window reaches.
    pub outside: u32,
    /// Holes given up because the cap of buffered bytes was reached.
    pub capped: u32,
}

/// The two byte streams of one connection.
///
/// A hole is given up as [`GapReason::Lost`] when the other side has acknowledged what is behind it and 200 ms of record
/// time or 64 records of the connection went by since it was met; as [`GapReason::Capped`] when a direction would hold
/// more than [`BUFFERED_CAP`]; and at the connection's end. A record that holds less than its segment had makes a gap at
/// the next record of its direction: [`GapReason::LeftOut`] when that one says that bytes before it were left out on
/// purpose, [`GapReason::Cut`] otherwise (a record does not say whether the capture's snapshot length was the cause).
#[derive(Debug, Default)]
pub struct Streams {
    sides: [Direction; 2],
    records: u32,
    reset: Option<Side>,
    discarding: bool,
    counts: Counts,
}

impl Streams {
    /// A connection of which nothing was seen. Holds no memory beyond itself.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next record of this connection and delivers what has become the next part of either stream.
    ///
    /// A record whose `side` is no [`Side`] is left alone. After the end everything is.
    pub fn record(&mut self, record: &Record<'_>, deliver: &mut impl FnMut(Chunk<'_>)) {
        let header = &record.header;
        let Some(side) = Side::from_value(header.side) else { return };
        if self.ended() {
            return;
        }
        let has = |flag: u16| header.flags & flag != 0;
        self.records = self.records.wrapping_add(1);
        let now = Moment { time: header.time, records: self.records };

        let (speaker, listener) = self.pair(side);
        if has(RecordFlags::START_KNOWN) {
            speaker.begin(header.start);
        }
        if has(RecordFlags::OTHER_START_KNOWN) {
            listener.begin(header.other_start);
        }
        let acknowledged = if has(RecordFlags::ACK) { listener.acknowledge(header.acknowledgement) } else { None };

        // A SYN takes one sequence number; data in it is not handed on by the kernel side and would not be trusted.
        let syn = has(RecordFlags::SYN);
        let sequence = header.sequence.wrapping_add(u32::from(syn));
        let bytes = if syn { &[] } else { record.bytes };
        let captured = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let length = if syn { 0 } else { header.length.max(captured) };
        let segment = Segment {
            sequence,
            bytes,
            length,
            more: has(RecordFlags::MORE),
            fin: has(RecordFlags::FIN),
            left_out_before: has(RecordFlags::LEFT_OUT_BEFORE),
            acknowledged,
        };

        if self.discarding {
            let speaker = self.pair(side).0;
            if segment.fin && !speaker.ended() {
                speaker.close();
                deliver(Chunk::End { side });
            }
        } else {
            // A RST's text, if any, is a message for people (RFC 9293 section 3.5.3), not part of the stream.
            if !has(RecordFlags::RST) {
                let mut counts = self.counts;
                self.pair(side).0.segment(side, &segment, now, &mut counts, deliver);
                self.counts = counts;
            }
            for side in [side, side.other()] {
                self.pair(side).0.give_up_lost(side, now, deliver);
            }
        }
        if has(RecordFlags::RST) {
            self.finish(deliver);
            self.reset = Some(side);
        }
    }

    /// The connection is over for us (end of the file, idle for too long): delivers what is buffered, holes as gaps.
    pub fn finish(&mut self, deliver: &mut impl FnMut(Chunk<'_>)) {
        for &side in Side::ALL {
            self.pair(side).0.flush(side, deliver);
        }
    }

    /// User space has read enough: drops what is buffered and from now on only watches for the end.
    pub fn discard(&mut self) {
        self.discarding = true;
        for side in &mut self.sides {
            side.discard();
        }
    }

    /// Whether nothing more will come: both directions have ended (FIN), or either side sent RST.
    pub fn ended(&self) -> bool {
        self.reset.is_some() || self.sides.iter().all(Direction::ended)
    }

    /// Who reset the connection, if anyone did. A reset delivers what is buffered and no [`Chunk::End`].
    pub fn reset(&self) -> Option<Side> {
        self.reset
    }

    /// Memory held for bytes behind holes, with its bookkeeping; at most twice [`BUFFERED_CAP`].
    pub fn buffered(&self) -> usize {
        self.sides.iter().map(Direction::buffered).sum()
    }

    /// The counts since they were last taken.
    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    /// The direction of this side and the other one.
    fn pair(&mut self, side: Side) -> (&mut Direction, &mut Direction) {
        let [client, server] = &mut self.sides;
        match side {
            Side::Client => (client, server),
            Side::Server => (server, client),
        }
    }
}
