//! Bytes behind a hole, until the hole is filled or given up.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{Counts, GapReason};

/// Memory that one direction of one connection may hold behind a hole. A sender can have a window's worth in flight
/// behind one lost segment; Linux opens its windows to some hundred KiB on paths with the delays of a cluster.
pub const BUFFERED_CAP: usize = 256 << 10;

/// What a piece costs beside its bytes: its share of the tree, its allocation. Counted, so that one-byte segments do
/// not cost many times the cap.
const PIECE_OVERHEAD: usize = 64;

/// When something was met: in time, and in records of the connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// Nanoseconds, by the records' own clock.
    pub time: u64,
    /// Records of the connection so far; wraps.
    pub records: u32,
}

/// Pieces of a stream that cannot be delivered yet, by offset; they do not overlap.
#[derive(Debug, Default)]
pub(super) struct Held {
    pieces: BTreeMap<u64, Piece>,
    /// Where the stream ends, and when that was learned.
    end: Option<(u64, Moment)>,
    cost: usize,
}

#[derive(Debug)]
pub(super) struct Piece {
    pub content: Content,
    /// When the hole before this piece was first met.
    met: Moment,
}

#[derive(Debug)]
pub(super) enum Content {
    /// The first copy of these bytes, and what the speaker had received when it sent them.
    Bytes { bytes: Box<[u8]>, acknowledged: Option<u64> },
    /// Known not to come.
    Missing { length: u64, reason: GapReason },
}

impl Piece {
    fn length(&self) -> u64 {
        match &self.content {
            Content::Bytes { bytes, .. } => bytes.len() as u64,
            Content::Missing { length, .. } => *length,
        }
    }

    fn cost(&self) -> usize {
        match &self.content {
            Content::Bytes { bytes, .. } => cost(bytes.len()),
            Content::Missing { .. } => PIECE_OVERHEAD,
        }
    }
}

/// What holding this many bytes in one piece costs.
pub(super) const fn cost(bytes: usize) -> usize {
    bytes + PIECE_OVERHEAD
}

impl Held {
    /// Memory that is held.
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// Nothing is held and no end is awaited.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.end.is_none()
    }

    /// Where the hole in front ends (at the first piece, or at the stream's end), and when it was met.
    pub fn hole_end(&self) -> Option<(u64, Moment)> {
        self.pieces.first_key_value().map(|(offset, piece)| (*offset, piece.met)).or(self.end)
    }

    /// Where the first piece begins.
    pub fn first(&self) -> Option<u64> {
        self.pieces.first_key_value().map(|(offset, _)| *offset)
    }

    /// One past the last byte of any piece that begins before `offset`.
    pub fn end_before(&self, offset: u64) -> Option<u64> {
        self.pieces.range(..offset).next_back().map(|(start, piece)| start + piece.length())
    }

    /// Where the stream ends, where that is known.
    pub fn end(&self) -> Option<u64> {
        self.end.map(|(offset, _)| offset)
    }

    /// Remembers where the stream ends. A second word about it, or one that contradicts pieces that came before, is
    /// not believed.
    pub fn set_end(&mut self, offset: u64, now: Moment) {
        if self.end.is_none() && self.end_before(u64::MAX).is_none_or(|last| last <= offset) {
            self.end = Some((offset, now));
        }
    }

    /// Takes the piece that begins at `offset`, if there is one.
    pub fn take_at(&mut self, offset: u64) -> Option<Piece> {
        if self.first() != Some(offset) {
            return None;
        }
        let (_, piece) = self.pieces.pop_first()?;
        self.cost -= piece.cost();
        Some(piece)
    }

    /// Keeps those bytes that are not held yet; compares the others with the first copy.
    pub fn insert_bytes(
        &mut self,
        offset: u64,
        bytes: &[u8],
        acknowledged: Option<u64>,
        now: Moment,
        counts: &mut Counts,
    ) {
        let whole = offset..offset + bytes.len() as u64;
        let part = |range: &Range<u64>| -> &[u8] {
            bytes.get((range.start - offset) as usize..(range.end - offset) as usize).unwrap_or_default()
        };
        self.make_way(&whole);
        let mut free = vec![];
        let mut from = whole.start;
        for (range, piece) in self.touching(&whole) {
            let Content::Bytes { bytes: copy, .. } = &piece.content else { continue };
            let both = range.start.max(whole.start)..range.end.min(whole.end);
            let first = copy.get((both.start - range.start) as usize..(both.end - range.start) as usize);
            let differing = first.unwrap_or_default().iter().zip(part(&both)).filter(|(a, b)| a != b).count();
            counts.retransmitted = counts.retransmitted.saturating_add((both.end - both.start) as u32);
            counts.conflicts = counts.conflicts.saturating_add(differing as u32);
            free.push(from..both.start);
            from = both.end;
        }
        free.push(from..whole.end);
        for range in free.into_iter().filter(|range| !range.is_empty()) {
            let content = Content::Bytes { bytes: part(&range).into(), acknowledged };
            self.insert(range.start, content, now);
        }
    }

    /// Remembers that the bytes of `range` that are not held will not come.
    pub fn insert_missing(&mut self, range: Range<u64>, reason: GapReason, now: Moment) {
        let mut free = vec![];
        let mut from = range.start;
        for (held, _) in self.touching(&range) {
            free.push(from..held.start.max(from));
            from = held.end;
        }
        free.push(from..range.end.max(from));
        for range in free.into_iter().filter(|range| !range.is_empty()) {
            let content = Content::Missing { length: range.end - range.start, reason };
            self.insert(range.start, content, now);
        }
    }

    /// The hole before a piece was met when the first piece behind it came.
    fn insert(&mut self, offset: u64, content: Content, now: Moment) {
        let behind = self.pieces.range(offset..).next().map(|(_, piece)| piece.met);
        let piece = Piece { content, met: behind.or(self.end.map(|(_, met)| met)).unwrap_or(now) };
        self.cost += piece.cost();
        self.pieces.insert(offset, piece);
    }

    /// Pieces that overlap with `range`, in order.
    fn touching(&self, range: &Range<u64>) -> impl Iterator<Item = (Range<u64>, &Piece)> {
        let from = range.start;
        let before = self.pieces.range(..from).next_back();
        before.into_iter().chain(self.pieces.range(range.clone())).filter_map(move |(offset, piece)| {
            let held = *offset..offset + piece.length();
            (held.end > from).then_some((held, piece))
        })
    }

    /// Bytes that came after all take the place of missing ones.
    fn make_way(&mut self, range: &Range<u64>) {
        let missing = |(held, piece): (Range<u64>, &Piece)| match piece.content {
            Content::Missing { reason, .. } => Some((held, reason, piece.met)),
            Content::Bytes { .. } => None,
        };
        let touched: Vec<_> = self.touching(range).filter_map(missing).collect();
        for (held, reason, met) in touched {
            self.pieces.remove(&held.start);
            self.cost -= PIECE_OVERHEAD;
            for rest in [held.start..range.start.max(held.start), range.end.min(held.end)..held.end] {
                if !rest.is_empty() {
                    let content = Content::Missing { length: rest.end - rest.start, reason };
                    self.insert(rest.start, content, met);
                }
            }
        }
    }
}
