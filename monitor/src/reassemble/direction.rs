//! One direction of a connection: where its stream stands and what waits behind a hole.

use std::ops::Range;

use monitor_common::Side;

use super::held::{BUFFERED_CAP, Content, Held, Moment, cost};
use super::{Chunk, Counts, GapReason};

/// Time that an acknowledged hole is waited for, nanoseconds: captures of several queues or CPUs hand packets on out of
/// order by a scheduling delay, rarely more than some tens of milliseconds.
const PATIENCE: u64 = 200_000_000;

/// Records of the connection that an acknowledged hole is waited for: a queue's batch (NAPI polls up to 64 packets).
const PATIENCE_RECORDS: u32 = 64;

/// How far ahead of what was delivered a TCP sender may be: the largest window (RFC 7323 section 2.3).
const WINDOW: i64 = 1 << 30;

/// How far behind the newest byte a number may still be taken for an old one where bytes were left out on purpose, and
/// for acknowledgements: everything else is ahead. Sequence numbers wrap after 4 GiB, and more than half of that may
/// have been left out between two records.
const BEHIND: u32 = 1 << 28;

/// One direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Direction {
    /// What waits behind a hole; `None` while in order.
    held: Option<Box<Held>>,
    /// Offset of the next byte to be delivered.
    next: u64,
    /// Offset up to which the other side is known to have received.
    acknowledged: u64,
    /// Sequence number of offset 0; valid when `begun`.
    origin: u32,
    /// Bytes from `next` on that the record before did not hold, and whose reason the next record tells.
    short: u32,
    begun: bool,
    ended: bool,
}

/// What one record says of its direction's stream.
pub(super) struct Segment<'a> {
    /// Sequence number of the first byte.
    pub sequence: u32,
    /// The bytes that were captured.
    pub bytes: &'a [u8],
    /// Bytes to the end of the segment, as on the wire.
    pub length: u32,
    /// The bytes that this record does not hold come with another record.
    pub more: bool,
    /// A FIN follows the segment's last byte.
    pub fin: bool,
    /// What is missing before was left out on purpose.
    pub left_out_before: bool,
    /// Offset in the other direction up to which the speaker had received.
    pub acknowledged: Option<u64>,
}

impl Direction {
    /// Offset 0 has this sequence number; only the first word counts.
    pub fn begin(&mut self, origin: u32) {
        if !self.begun {
            self.begun = true;
            self.origin = origin;
        }
    }

    /// The other side has received everything before this sequence number. Gives it as an offset, where that can be.
    pub fn acknowledge(&mut self, sequence: u32) -> Option<u64> {
        if !self.begun {
            return None;
        }
        let mut offset = self.position(sequence, BEHIND).max(0) as u64;
        if let Some(end) = self.end() {
            // The FIN takes a sequence number of its own.
            offset = offset.min(end);
        }
        self.acknowledged = self.acknowledged.max(offset);
        Some(offset)
    }

    /// Takes one record.
    pub fn segment(
        &mut self,
        side: Side,
        segment: &Segment<'_>,
        now: Moment,
        counts: &mut Counts,
        deliver: &mut impl FnMut(Chunk<'_>),
    ) {
        self.begin(segment.sequence);
        let behind = if segment.left_out_before { BEHIND } else { 1 << 31 };
        let position = self.position(segment.sequence, behind);
        let ahead = position - self.next as i64;
        if self.ended || (ahead > WINDOW && !segment.left_out_before) {
            let outside = if ahead > 0 { segment.bytes.len() as u32 } else { 0 };
            counts.outside = counts.outside.saturating_add(outside);
            counts.retransmitted = counts.retransmitted.saturating_add(segment.bytes.len() as u32 - outside);
            return;
        }
        if ahead > 0 {
            if segment.left_out_before {
                self.leave_out(side, position as u64, now, deliver);
            } else {
                self.cut_short(side, position as u64, deliver);
            }
        }

        let (start, bytes) = self.trim(position, segment.bytes, counts);
        if !bytes.is_empty() {
            if start == self.next {
                self.in_order(side, bytes, segment.acknowledged, now, counts, deliver);
            } else {
                counts.out_of_order = counts.out_of_order.saturating_add(1);
                self.out_of_order(side, start, bytes, segment.acknowledged, now, counts, deliver);
            }
        }

        let captured_to = position + segment.bytes.len() as i64;
        let end = position + i64::from(segment.length);
        let missing_to = if segment.more { captured_to } else { end };
        let limit = self.end().unwrap_or(u64::MAX);
        let missing = clamp(captured_to, self.next).min(limit)..clamp(missing_to, self.next).min(limit);
        if !missing.is_empty() {
            self.missing(side, missing, now, counts, deliver);
        }
        if segment.fin {
            self.fin(side, end, now, deliver);
        }
    }

    /// Gives up the hole in front while there is evidence that it will not be filled.
    pub fn give_up_lost(&mut self, side: Side, now: Moment, deliver: &mut impl FnMut(Chunk<'_>)) {
        while let Some((end, met)) = self.held.as_ref().and_then(|held| held.hole_end()) {
            let waited = now.time.saturating_sub(met.time) >= PATIENCE
                || now.records.wrapping_sub(met.records) >= PATIENCE_RECORDS;
            if self.acknowledged < end || !waited {
                break;
            }
            self.skip_to(side, end, GapReason::Lost, deliver);
        }
    }

    /// Delivers everything that is held, with gaps between.
    pub fn flush(&mut self, side: Side, deliver: &mut impl FnMut(Chunk<'_>)) {
        self.cut_short(side, u64::MAX, deliver);
        while let Some((end, _)) = self.held.as_ref().and_then(|held| held.hole_end()) {
            self.skip_to(side, end, GapReason::Lost, deliver);
        }
    }

    /// Drops everything that is held.
    pub fn discard(&mut self) {
        self.held = None;
        self.short = 0;
    }

    /// The FIN was met while nothing is read any more.
    pub fn close(&mut self) {
        self.ended = true;
    }

    /// Whether the FIN was delivered.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Memory that is held.
    pub fn buffered(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.cost())
    }

    /// The offset of a sequence number that is at most `behind` before the next byte, or else after it; negative
    /// before the stream's beginning.
    fn position(&self, sequence: u32, behind: u32) -> i64 {
        let forward = sequence.wrapping_sub(self.origin.wrapping_add(self.next as u32));
        let distance = if forward > u32::MAX - behind { i64::from(forward) - (1 << 32) } else { i64::from(forward) };
        self.next as i64 + distance
    }

    /// Where the stream ends, where that is known.
    fn end(&self) -> Option<u64> {
        if self.ended { Some(self.next) } else { self.held.as_ref().and_then(|held| held.end()) }
    }

    /// Takes from bytes at `position` what was delivered before and what is outside of the stream.
    fn trim<'a>(&self, position: i64, bytes: &'a [u8], counts: &mut Counts) -> (u64, &'a [u8]) {
        let length = bytes.len() as i64;
        let before_beginning = (-position).clamp(0, length);
        let before_next = (self.next as i64 - position).clamp(0, length);
        let limit = self.end().map_or(i64::MAX, |end| end as i64);
        let within = limit.saturating_sub(position).clamp(before_next, length);
        let outside = before_beginning + (length - within);
        counts.outside = counts.outside.saturating_add(outside as u32);
        counts.retransmitted = counts.retransmitted.saturating_add((before_next - before_beginning) as u32);
        let bytes = bytes.get(before_next as usize..within as usize).unwrap_or_default();
        ((position + before_next).max(0) as u64, bytes)
    }

    /// Bytes from `next` on: delivered straight from the record up to the first piece that is held.
    fn in_order(
        &mut self,
        side: Side,
        bytes: &[u8],
        acknowledged: Option<u64>,
        now: Moment,
        counts: &mut Counts,
        deliver: &mut impl FnMut(Chunk<'_>),
    ) {
        let Some(held) = &mut self.held else {
            return self.advance(side, bytes, acknowledged, deliver);
        };
        let free = held.first().map_or(bytes.len(), |first| bytes.len().min((first - self.next) as usize));
        let (fresh, rest) = bytes.split_at(free);
        if !rest.is_empty() {
            held.insert_bytes(self.next + free as u64, rest, acknowledged, now, counts);
        }
        self.advance(side, fresh, acknowledged, deliver);
        self.drain(side, deliver);
    }

    /// Bytes behind a hole: held, within the cap.
    #[expect(clippy::too_many_arguments, reason = "what the record says, and the three that every step passes on")]
    fn out_of_order(
        &mut self,
        side: Side,
        start: u64,
        bytes: &[u8],
        acknowledged: Option<u64>,
        now: Moment,
        counts: &mut Counts,
        deliver: &mut impl FnMut(Chunk<'_>),
    ) {
        self.make_room(side, start, cost(bytes.len()), counts, deliver);
        // Making room may have delivered part of what these bytes repeat.
        let before = self.next.saturating_sub(start).min(bytes.len() as u64);
        counts.retransmitted = counts.retransmitted.saturating_add(before as u32);
        let bytes = bytes.get(before as usize..).unwrap_or_default();
        let start = start + before;
        if bytes.is_empty() {
            return;
        }
        if start == self.next {
            self.in_order(side, bytes, acknowledged, now, counts, deliver);
        } else {
            self.held.get_or_insert_default().insert_bytes(start, bytes, acknowledged, now, counts);
        }
    }

    /// Bytes of a record's segment that the record did not hold.
    fn missing(
        &mut self,
        side: Side,
        range: Range<u64>,
        now: Moment,
        counts: &mut Counts,
        deliver: &mut impl FnMut(Chunk<'_>),
    ) {
        if self.held.is_none() && range.start == self.next {
            self.short = self.short.max((range.end - range.start) as u32);
            return;
        }
        self.make_room(side, range.start, cost(0), counts, deliver);
        let range = range.start.max(self.next)..range.end.max(self.next);
        if !range.is_empty() {
            self.held.get_or_insert_default().insert_missing(range, GapReason::Cut, now);
            self.drain(side, deliver);
        }
    }

    /// Bytes up to `position` were left out on purpose, back to the last byte that is held before it.
    fn leave_out(&mut self, side: Side, position: u64, now: Moment, deliver: &mut impl FnMut(Chunk<'_>)) {
        let Some(held) = &mut self.held else {
            return self.gap(side, position, GapReason::LeftOut, deliver);
        };
        let position = position.min(held.end().unwrap_or(u64::MAX));
        let from = held.end_before(position).unwrap_or(self.next).max(self.next);
        if from < position {
            held.insert_missing(from..position, GapReason::LeftOut, now);
            self.drain(side, deliver);
        }
    }

    /// The stream ends at `end`.
    fn fin(&mut self, side: Side, end: i64, now: Moment, deliver: &mut impl FnMut(Chunk<'_>)) {
        // A FIN before bytes that were delivered contradicts them.
        if self.ended || end < self.next as i64 {
            return;
        }
        self.cut_short(side, end as u64, deliver);
        self.held.get_or_insert_default().set_end(end as u64, now);
        self.drain(side, deliver);
    }

    /// Gives up holes until `more` can be held at `start` or `start` is next.
    fn make_room(
        &mut self,
        side: Side,
        start: u64,
        more: usize,
        counts: &mut Counts,
        deliver: &mut impl FnMut(Chunk<'_>),
    ) {
        while self.next < start && self.buffered() + more > BUFFERED_CAP {
            let end = self.held.as_ref().and_then(|held| held.first()).map_or(start, |first| first.min(start));
            counts.capped = counts.capped.saturating_add(1);
            self.skip_to(side, end, GapReason::Capped, deliver);
        }
    }

    /// What the record before did not hold was cut by the capture, as far as `limit`.
    fn cut_short(&mut self, side: Side, limit: u64, deliver: &mut impl FnMut(Chunk<'_>)) {
        let end = self.next + u64::from(self.short);
        self.gap(side, end.min(limit), GapReason::Cut, deliver);
    }

    /// Gives up what is missing before `offset` and delivers what is held from there on.
    fn skip_to(&mut self, side: Side, offset: u64, reason: GapReason, deliver: &mut impl FnMut(Chunk<'_>)) {
        self.gap(side, offset, reason, deliver);
        self.drain(side, deliver);
    }

    /// Delivers what is held and has become next.
    fn drain(&mut self, side: Side, deliver: &mut impl FnMut(Chunk<'_>)) {
        let Some(mut held) = self.held.take() else { return };
        while let Some(piece) = held.take_at(self.next) {
            match piece.content {
                Content::Bytes { bytes, acknowledged } => self.advance(side, &bytes, acknowledged, deliver),
                Content::Missing { length, reason } => self.gap(side, self.next + length, reason, deliver),
            }
        }
        if held.end() == Some(self.next) {
            self.ended = true;
            deliver(Chunk::End { side });
        } else if !held.is_empty() {
            self.held = Some(held);
        }
    }

    fn advance(&mut self, side: Side, bytes: &[u8], acknowledged: Option<u64>, deliver: &mut impl FnMut(Chunk<'_>)) {
        if bytes.is_empty() {
            return;
        }
        let offset = self.next;
        self.next += bytes.len() as u64;
        self.short = self.short.saturating_sub(bytes.len() as u32);
        deliver(Chunk::Bytes { side, offset, bytes, acknowledged });
    }

    fn gap(&mut self, side: Side, to: u64, reason: GapReason, deliver: &mut impl FnMut(Chunk<'_>)) {
        if to > self.next {
            let offset = self.next;
            self.next = to;
            self.short = u64::from(self.short).saturating_sub(to - offset) as u32;
            deliver(Chunk::Gap { side, offset, length: to - offset, reason });
        }
    }
}

/// An offset, not before `next`.
fn clamp(position: i64, next: u64) -> u64 {
    position.max(next as i64) as u64
}
