//! Tables of records and what they become, then properties of any order, duplication, loss and nonsense.

use monitor_common::{FlowKey, RecordHeader};
use proptest::prelude::*;

use super::*;

const MILLISECOND: u64 = 1_000_000;
const ACK: u16 = RecordFlags::ACK;
const KNOWN: u16 = RecordFlags::START_KNOWN | RecordFlags::OTHER_START_KNOWN;

/// A record of the client; its stream begins at 1,000, the server's at 5,000.
fn header(sequence: u32, bytes: &[u8], flags: u16) -> RecordHeader {
    RecordHeader {
        time: 0,
        born: 0,
        key: FlowKey { client: [0; 16], server: [0; 16], client_port: 1, server_port: 6443 },
        tap: 0,
        sequence,
        acknowledgement: 5_000,
        start: 1_000,
        other_start: 5_000,
        length: bytes.len() as u32,
        captured: bytes.len() as u32,
        flags,
        side: Side::Client as u8,
        role: 0,
        source: 0,
        reserved: [0; 3],
    }
}

/// The same from the server.
fn from_server(mut header: RecordHeader) -> RecordHeader {
    header.side = Side::Server as u8;
    (header.start, header.other_start, header.acknowledgement) = (5_000, 1_000, 1_000);
    header
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Bytes(Side, u64, Vec<u8>, Option<u64>),
    Gap(Side, u64, u64, GapReason),
    End(Side),
}

fn keep(said: &mut Vec<Said>) -> impl FnMut(Chunk<'_>) {
    |chunk| {
        said.push(match chunk {
            Chunk::Bytes { side, offset, bytes, acknowledged } => {
                Said::Bytes(side, offset, bytes.to_vec(), acknowledged)
            }
            Chunk::Gap { side, offset, length, reason } => Said::Gap(side, offset, length, reason),
            Chunk::End { side } => Said::End(side),
        })
    }
}

impl Streams {
    /// Gives one record and returns what was said.
    fn give(&mut self, header: RecordHeader, bytes: &[u8]) -> Vec<Said> {
        let mut said = vec![];
        self.record(&Record { header, bytes }, &mut keep(&mut said));
        said
    }

    /// Client bytes with a known start.
    fn client(&mut self, sequence: u32, bytes: &[u8]) -> Vec<Said> {
        self.give(header(sequence, bytes, ACK | KNOWN), bytes)
    }

    fn end(&mut self) -> Vec<Said> {
        let mut said = vec![];
        self.finish(&mut keep(&mut said));
        said
    }
}

fn bytes(offset: u64, bytes: &[u8]) -> Said {
    Said::Bytes(Side::Client, offset, bytes.to_vec(), Some(0))
}

fn gap(offset: u64, length: u64, reason: GapReason) -> Said {
    Said::Gap(Side::Client, offset, length, reason)
}

#[test]
fn a_connection_is_small() {
    assert!(size_of::<Streams>() <= 112, "{}", size_of::<Streams>());
}

#[test]
fn in_order_bytes_are_delivered_at_once_and_nothing_is_held() {
    let mut streams = Streams::new();
    assert_eq!(streams.client(1_000, b"abc"), [bytes(0, b"abc")]);
    assert_eq!(streams.client(1_003, b"def"), [bytes(3, b"def")]);
    assert_eq!(streams.buffered(), 0);
    assert_eq!(streams.take_counts(), Counts::default());
    assert_eq!(streams.end(), []);
}

#[test]
fn in_order_bytes_are_the_records_own() {
    let mut streams = Streams::new();
    let text = *b"abc";
    let mut seen = None;
    streams.record(&Record { header: header(1_000, &text, KNOWN), bytes: &text }, &mut |chunk| {
        if let Chunk::Bytes { bytes, .. } = chunk {
            seen = Some(bytes.as_ptr());
        }
    });
    assert_eq!(seen, Some(text.as_ptr()));
}

#[test]
fn a_hole_is_awaited_and_filled() {
    let mut streams = Streams::new();
    assert_eq!(streams.client(1_003, b"def"), []);
    assert!(streams.buffered() > 0);
    assert_eq!(streams.client(1_006, b"ghi"), []);
    assert_eq!(streams.client(1_000, b"abc"), [bytes(0, b"abc"), bytes(3, b"def"), bytes(6, b"ghi")]);
    assert_eq!(streams.buffered(), 0);
    assert_eq!(streams.take_counts(), Counts { out_of_order: 2, ..Counts::default() });
}

#[test]
fn without_a_known_start_the_first_byte_is_the_beginning() {
    let mut streams = Streams::new();
    let said = streams.give(header(77, b"abc", ACK), b"abc");
    assert_eq!(said, [Said::Bytes(Side::Client, 0, b"abc".to_vec(), None)], "the server's beginning is not known");
    assert_eq!(streams.give(header(70, b"before!", ACK), b"before!"), []);
    assert_eq!(streams.take_counts().outside, 7);
}

#[test]
fn the_acknowledgement_is_an_offset_of_the_other_direction() {
    let mut streams = Streams::new();
    streams.client(1_000, b"question");
    let mut answer = from_server(header(5_000, b"answer", ACK | KNOWN));
    answer.acknowledgement = 1_008;
    let said = streams.give(answer, b"answer");
    assert_eq!(said, [Said::Bytes(Side::Server, 0, b"answer".to_vec(), Some(8))]);
    let mut next = header(1_008, b"more", ACK);
    next.acknowledgement = 5_006;
    assert_eq!(streams.give(next, b"more"), [Said::Bytes(Side::Client, 8, b"more".to_vec(), Some(6))]);
    let next = header(1_012, b"!", 0);
    assert_eq!(streams.give(next, b"!"), [Said::Bytes(Side::Client, 12, b"!".to_vec(), None)]);
    let mut next = header(1_013, b"?", ACK);
    next.acknowledgement = 4_000;
    assert_eq!(streams.give(next, b"?"), [Said::Bytes(Side::Client, 13, b"?".to_vec(), Some(0))]);
}

#[test]
fn the_first_copy_wins_and_conflicts_are_counted() {
    let mut streams = Streams::new();
    streams.client(1_004, b"FIRST");
    assert_eq!(streams.client(1_002, b"..firstXX"), []);
    let counts = streams.take_counts();
    assert_eq!((counts.retransmitted, counts.conflicts), (5, 5));
    assert_eq!(
        streams.client(1_000, b"abYYfiRS"),
        [bytes(0, b"ab"), bytes(2, b".."), bytes(4, b"FIRST"), bytes(9, b"XX")]
    );
    let counts = streams.take_counts();
    assert_eq!((counts.retransmitted, counts.conflicts), (6, 4));
    assert_eq!(streams.client(1_000, b"abYYfiRS"), []);
    assert_eq!(streams.take_counts(), Counts { retransmitted: 8, ..Counts::default() });
}

/// Client bytes 3..6 are there, 0..3 are not; the server acknowledges all of them.
fn acknowledged_hole() -> Streams {
    let mut streams = Streams::new();
    streams.client(1_003, b"def");
    let mut answer = from_server(header(5_000, b"a", ACK | KNOWN));
    answer.acknowledgement = 1_006;
    assert_eq!(streams.give(answer, b"a"), [Said::Bytes(Side::Server, 0, b"a".to_vec(), Some(6))]);
    streams
}

#[test]
fn an_acknowledged_hole_is_given_up_after_200_milliseconds() {
    let mut streams = acknowledged_hole();
    let mut late = from_server(header(5_001, b"", ACK));
    late.time = 200 * MILLISECOND - 1;
    assert_eq!(streams.give(late, b""), []);
    late.time = 200 * MILLISECOND;
    assert_eq!(streams.give(late, b""), [gap(0, 3, GapReason::Lost), bytes(3, b"def")]);
}

#[test]
fn a_hole_that_is_filled_in_part_was_met_when_it_was_met_first() {
    let mut streams = Streams::new();
    streams.client(1_010, b"k");
    let mut within = header(1_005, b"f", ACK);
    within.time = 200 * MILLISECOND - 1;
    assert_eq!(streams.give(within, b"f"), []);
    let mut answer = from_server(header(5_000, b"", ACK | KNOWN));
    (answer.acknowledgement, answer.time) = (1_011, 200 * MILLISECOND);
    let lost = |offset, length| gap(offset, length, GapReason::Lost);
    assert_eq!(streams.give(answer, b""), [lost(0, 5), bytes(5, b"f"), lost(6, 4), bytes(10, b"k")]);
}

#[test]
fn an_acknowledged_hole_is_given_up_after_64_records() {
    let mut streams = acknowledged_hole();
    let other = from_server(header(5_001, b"", ACK));
    // The hole was met with the first record, the answer was the second.
    for _ in 2..64 {
        assert_eq!(streams.give(other, b""), []);
    }
    assert_eq!(streams.give(other, b""), [gap(0, 3, GapReason::Lost), bytes(3, b"def")]);
}

#[test]
fn a_hole_that_nobody_acknowledged_is_awaited() {
    let mut streams = Streams::new();
    streams.client(1_003, b"def");
    let mut later = from_server(header(5_000, b"", ACK | KNOWN));
    later.acknowledgement = 1_002;
    for second in 0..1_000 {
        later.time = second * 1_000 * MILLISECOND;
        assert_eq!(streams.give(later, b""), []);
    }
    assert_eq!(streams.client(1_000, b"abc").len(), 2);
}

#[test]
fn time_that_runs_backwards_gives_nothing_up() {
    let mut streams = Streams::new();
    let mut first = header(1_003, b"def", ACK | KNOWN);
    first.time = u64::MAX;
    streams.give(first, b"def");
    let mut answer = from_server(header(5_000, b"", ACK | KNOWN));
    answer.acknowledgement = 1_006;
    assert_eq!(streams.give(answer, b""), []);
}

#[test]
fn the_cap_gives_up_the_hole() {
    let mut streams = Streams::new();
    let segment = vec![7; 16_384];
    let mut said = vec![];
    for number in 0..16 {
        assert!(said.is_empty(), "given up with {} bytes", streams.buffered());
        said = streams.client(1_001 + number * 16_384, &segment);
        assert!(streams.buffered() <= BUFFERED_CAP);
    }
    assert_eq!(said[0], gap(0, 1, GapReason::Capped));
    assert_eq!(said.len(), 1 + 16, "all that was held, and the record that did not fit");
    assert_eq!(streams.take_counts().capped, 1);
}

#[test]
fn what_makes_room_may_have_been_a_repetition() {
    let segment = vec![7; 15_000];
    let full = || {
        let mut streams = Streams::new();
        for number in 0..17 {
            assert_eq!(streams.client(1_100 + number * 15_000, &segment), []);
        }
        streams
    };
    let mut streams = full();
    assert_eq!(streams.client(1_200, &segment).len(), 1 + 17);
    assert_eq!(streams.take_counts().retransmitted, 15_000);
    assert_eq!(streams.buffered(), 0);
    assert_eq!(streams.end(), []);

    // The same with a record that holds nothing of its segment: its bookkeeping alone is too much.
    let mut streams = full();
    let short = |sequence| RecordHeader { length: 10, ..header(sequence, b"", ACK) };
    for number in 0.. {
        if streams.buffered() + 64 > BUFFERED_CAP {
            break;
        }
        assert_eq!(streams.give(short(1_000_000 + 20 * number), b""), []);
    }
    assert_eq!(streams.give(short(1_200), b"").first(), Some(&gap(0, 100, GapReason::Capped)));
    streams.end();
    assert_eq!(streams.buffered(), 0);
}

#[test]
fn tiny_segments_cost_what_they_cost() {
    let mut streams = Streams::new();
    let mut given_up = 0;
    for number in 0..20_000 {
        given_up += streams.client(1_001 + 2 * number, b"x").len();
        assert!(streams.buffered() <= BUFFERED_CAP);
    }
    assert!(given_up > 0);
}

#[test]
fn a_short_record_is_a_cut_unless_the_next_one_says_left_out() {
    for (flag, reason) in [(0, GapReason::Cut), (RecordFlags::LEFT_OUT_BEFORE, GapReason::LeftOut)] {
        let mut streams = Streams::new();
        let mut short = header(1_000, b"abc", ACK | KNOWN);
        short.length = 10;
        assert_eq!(streams.give(short, b"abc"), [bytes(0, b"abc")]);
        assert_eq!(streams.buffered(), 0);
        let next = header(1_010, b"def", ACK | flag);
        assert_eq!(streams.give(next, b"def"), [gap(3, 7, reason), bytes(10, b"def")]);
    }
}

#[test]
fn a_short_record_that_is_repeated_in_full_leaves_no_gap() {
    let mut streams = Streams::new();
    let mut short = header(1_000, b"abc", ACK | KNOWN);
    short.length = 6;
    streams.give(short, b"abc");
    assert_eq!(streams.client(1_000, b"abcde"), [bytes(3, b"de")]);
    assert_eq!(streams.client(1_006, b"ghi"), [gap(5, 1, GapReason::Cut), bytes(6, b"ghi")]);
}

#[test]
fn what_a_short_record_lacked_may_come_in_part() {
    let mut streams = Streams::new();
    let mut short = header(1_000, b"abc", ACK | KNOWN);
    short.length = 10;
    streams.give(short, b"abc");
    short.length = 4;
    assert_eq!(streams.give(short, b"abc"), []);
    assert_eq!(streams.client(1_002, b"cde"), [bytes(3, b"de")]);
    assert_eq!(streams.client(1_007, b"h"), [gap(5, 2, GapReason::Cut), bytes(7, b"h")]);
    assert_eq!(streams.end(), [gap(8, 2, GapReason::Cut)]);
}

#[test]
fn a_short_record_at_the_end_is_a_cut() {
    let mut streams = Streams::new();
    let mut short = header(1_000, b"abc", ACK | KNOWN);
    short.length = 6;
    streams.give(short, b"abc");
    assert_eq!(streams.end(), [gap(3, 3, GapReason::Cut)]);

    let mut streams = Streams::new();
    short.flags |= RecordFlags::FIN;
    let said = streams.give(short, b"abc");
    assert_eq!(said, [bytes(0, b"abc"), gap(3, 3, GapReason::Cut), Said::End(Side::Client)]);
}

#[test]
fn a_short_record_behind_a_hole_is_a_cut_in_its_place() {
    let mut streams = Streams::new();
    let mut short = header(1_003, b"d", ACK | KNOWN);
    short.length = 3;
    streams.give(short, b"d");
    streams.client(1_006, b"ghi");
    let said = streams.client(1_000, b"abc");
    assert_eq!(said, [bytes(0, b"abc"), bytes(3, b"d"), gap(4, 2, GapReason::Cut), bytes(6, b"ghi")]);
}

#[test]
fn bytes_that_come_after_all_fill_what_was_known_to_be_missing() {
    let mut streams = Streams::new();
    let mut short = header(1_003, b"d", ACK | KNOWN);
    short.length = 6;
    streams.give(short, b"d");
    streams.client(1_005, b"fg");
    let said = streams.client(1_000, b"abc");
    let expected =
        [bytes(0, b"abc"), bytes(3, b"d"), gap(4, 1, GapReason::Cut), bytes(5, b"fg"), gap(7, 2, GapReason::Cut)];
    assert_eq!(said, expected);
}

#[test]
fn more_is_awaited_and_no_gap() {
    let mut streams = Streams::new();
    let mut first = header(1_000, b"abc", ACK | KNOWN | RecordFlags::MORE | RecordFlags::FIN);
    first.length = 6;
    assert_eq!(streams.give(first, b"abc"), [bytes(0, b"abc")]);
    let rest = header(1_003, b"def", ACK | RecordFlags::FIN);
    assert_eq!(streams.give(rest, b"def"), [bytes(3, b"def"), Said::End(Side::Client)]);
}

#[test]
fn what_was_left_out_is_a_gap_at_once() {
    let mut streams = Streams::new();
    streams.client(1_000, b"abc");
    let later = header(1_100, b"xyz", ACK | RecordFlags::LEFT_OUT_BEFORE);
    assert_eq!(streams.give(later, b"xyz"), [gap(3, 97, GapReason::LeftOut), bytes(100, b"xyz")]);
}

#[test]
fn what_was_left_out_reaches_back_to_what_is_held() {
    let mut streams = Streams::new();
    streams.client(1_003, b"def");
    let later = header(1_100, b"xyz", ACK | RecordFlags::LEFT_OUT_BEFORE);
    assert_eq!(streams.give(later, b"xyz"), []);
    let said = streams.client(1_000, b"abc");
    assert_eq!(said, [bytes(0, b"abc"), bytes(3, b"def"), gap(6, 94, GapReason::LeftOut), bytes(100, b"xyz")]);
}

#[test]
fn three_gibibytes_may_have_been_left_out() {
    let mut streams = Streams::new();
    streams.client(1_000, b"abc");
    let later = header(1_003_u32.wrapping_add(3 << 30), b"x", ACK | RecordFlags::LEFT_OUT_BEFORE);
    assert_eq!(streams.give(later, b"x"), [gap(3, 3 << 30, GapReason::LeftOut), bytes(3 + (3 << 30), b"x")]);
    let again = header(1_000_u32.wrapping_add(3 << 30), b"oldx", ACK | RecordFlags::LEFT_OUT_BEFORE);
    assert_eq!(streams.give(again, b"oldx"), []);
}

#[test]
fn further_ahead_than_any_window_is_outside() {
    let mut streams = Streams::new();
    streams.client(1_000, b"abc");
    assert_eq!(streams.client(1_004_u32.wrapping_add(1 << 30), b"far"), []);
    assert_eq!(streams.take_counts(), Counts { outside: 3, ..Counts::default() });
    assert_eq!(streams.buffered(), 0);
}

#[test]
fn fin_waits_for_what_comes_before_it() {
    let mut streams = Streams::new();
    let fin = header(1_003, b"", ACK | KNOWN | RecordFlags::FIN);
    assert_eq!(streams.give(fin, b""), []);
    assert_eq!(streams.client(1_001, b"bcOUT"), []);
    assert_eq!(streams.take_counts().outside, 3);
    assert_eq!(streams.client(1_000, b"a"), [bytes(0, b"a"), bytes(1, b"bc"), Said::End(Side::Client)]);
    assert!(!streams.ended());
    assert_eq!(streams.client(1_003, b"late"), []);
    let fin = from_server(header(5_000, b"", ACK | RecordFlags::FIN));
    assert_eq!(streams.give(fin, b""), [Said::End(Side::Server)]);
    assert!(streams.ended());
    assert_eq!(streams.buffered(), 0);
}

#[test]
fn the_first_fin_counts_and_nothing_is_missing_behind_it() {
    let mut streams = Streams::new();
    streams.give(header(1_006, b"", ACK | KNOWN | RecordFlags::FIN), b"");
    streams.give(header(1_009, b"", ACK | RecordFlags::FIN), b"");
    let mut short = header(1_003, b"d", ACK);
    short.length = 10;
    assert_eq!(streams.give(short, b"d"), []);
    let said = streams.client(1_000, b"abc");
    assert_eq!(said, [bytes(0, b"abc"), bytes(3, b"d"), gap(4, 2, GapReason::Cut), Said::End(Side::Client)]);
}

#[test]
fn a_length_that_is_less_than_the_bytes_is_not_believed() {
    let mut streams = Streams::new();
    let mut fin = header(1_000, b"abc", ACK | KNOWN | RecordFlags::FIN);
    fin.length = 0;
    assert_eq!(streams.give(fin, b"abc"), [bytes(0, b"abc"), Said::End(Side::Client)]);
}

#[test]
fn a_resets_text_is_no_part_of_the_stream() {
    let mut streams = Streams::new();
    streams.client(1_000, b"abc");
    assert_eq!(streams.give(header(1_003, b"go away", ACK | RecordFlags::RST), b"go away"), []);
}

#[test]
fn fin_before_what_is_held_is_not_believed() {
    let mut streams = Streams::new();
    streams.client(1_003, b"def");
    streams.give(header(1_004, b"", ACK | RecordFlags::FIN), b"");
    assert_eq!(streams.client(1_000, b"abc"), [bytes(0, b"abc"), bytes(3, b"def")]);
    let fin = header(1_006, b"", ACK | RecordFlags::FIN);
    assert_eq!(streams.give(fin, b""), [Said::End(Side::Client)]);
}

#[test]
fn the_fins_own_sequence_number_is_no_byte() {
    let mut streams = Streams::new();
    streams.give(header(1_000, b"abc", ACK | KNOWN | RecordFlags::FIN), b"abc");
    let mut answer = from_server(header(5_000, b"x", ACK));
    answer.acknowledgement = 1_004;
    assert_eq!(streams.give(answer, b"x"), [Said::Bytes(Side::Server, 0, b"x".to_vec(), Some(3))]);
}

#[test]
fn reset_ends_both_and_delivers_what_is_held() {
    let mut streams = Streams::new();
    streams.client(1_003, b"def");
    let reset = from_server(header(9_999_999, b"", RecordFlags::RST));
    assert_eq!(streams.give(reset, b""), [gap(0, 3, GapReason::Lost), bytes(3, b"def")]);
    assert!(streams.ended());
    assert_eq!(streams.reset(), Some(Side::Server));
    assert_eq!(streams.client(1_006, b"ghi"), []);
}

#[test]
fn finish_delivers_what_is_held() {
    let mut streams = Streams::new();
    streams.client(1_003, b"def");
    streams.client(1_008, b"i");
    streams.give(header(1_010, b"", ACK | RecordFlags::FIN), b"");
    let lost = |offset, length| gap(offset, length, GapReason::Lost);
    let expected = [lost(0, 3), bytes(3, b"def"), lost(6, 2), bytes(8, b"i"), lost(9, 1), Said::End(Side::Client)];
    assert_eq!(streams.end(), expected);
    assert_eq!(streams.buffered(), 0);
}

#[test]
fn discard_drops_all_and_still_sees_the_end() {
    let mut streams = Streams::new();
    streams.client(1_003, b"def");
    streams.discard();
    assert_eq!(streams.buffered(), 0);
    assert_eq!(streams.client(1_000, b"abc"), []);
    assert_eq!(streams.client(1_010, b"jkl"), []);
    assert_eq!(streams.buffered(), 0);
    let fin = header(1_099, b"", ACK | RecordFlags::FIN);
    assert_eq!(streams.give(fin, b""), [Said::End(Side::Client)]);
    assert_eq!(streams.give(fin, b""), [], "once");
    assert!(!streams.ended());
    let fin = from_server(header(6_000, b"", ACK | RecordFlags::FIN));
    assert_eq!(streams.give(fin, b""), [Said::End(Side::Server)]);
    assert!(streams.ended());
}

#[test]
fn syn_takes_a_sequence_number_and_brings_no_bytes() {
    let mut streams = Streams::new();
    assert_eq!(streams.give(header(999, b"tfo", RecordFlags::SYN), b"tfo"), []);
    assert_eq!(streams.give(header(1_000, b"abc", 0), b"abc"), [Said::Bytes(Side::Client, 0, b"abc".to_vec(), None)]);
}

/// Both streams of a connection as they were on the wire.
#[derive(Clone, Debug)]
struct Wire {
    streams: [Vec<u8>; 2],
    starts: [u32; 2],
}

/// A record of the wire: which side, where, how many bytes.
type Slice = (usize, usize, usize);

impl Wire {
    fn record(&self, (side, from, length): Slice) -> (RecordHeader, &[u8]) {
        let stream = &self.streams[side];
        let from = from.min(stream.len());
        let bytes = &stream[from..stream.len().min(from + length)];
        let mut header = header(self.starts[side].wrapping_add(from as u32), bytes, KNOWN);
        (header.start, header.other_start) = (self.starts[side], self.starts[1 - side]);
        header.side = side as u8;
        if from + bytes.len() == stream.len() {
            header.flags |= RecordFlags::FIN;
        }
        (header, bytes)
    }
}

/// What was delivered of both directions: bytes where they came, `None` in gaps. Checks that offsets follow each other.
fn delivered(said: &[Said]) -> [Vec<Option<u8>>; 2] {
    let mut streams = [vec![], vec![]];
    let mut ended = [false; 2];
    for said in said {
        let (Said::Bytes(side, ..) | Said::Gap(side, ..) | Said::End(side)) = said;
        assert!(!ended[*side as usize], "nothing comes after the end");
        let stream = &mut streams[*side as usize];
        match said {
            Said::Bytes(_, offset, bytes, _) => {
                assert_eq!(*offset, stream.len() as u64);
                assert!(!bytes.is_empty());
                stream.extend(bytes.iter().copied().map(Some));
            }
            Said::Gap(_, offset, length, _) => {
                assert_eq!(*offset, stream.len() as u64);
                assert!(*length > 0);
                stream.resize(stream.len() + *length as usize, None);
            }
            Said::End(_) => ended[*side as usize] = true,
        }
    }
    streams
}

fn wire() -> impl Strategy<Value = Wire> {
    let start = prop_oneof![any::<u32>(), (u32::MAX - 400)..=u32::MAX];
    let stream = prop::collection::vec(any::<u8>(), 0..600);
    ([stream.clone(), stream], [start.clone(), start]).prop_map(|(streams, starts)| Wire { streams, starts })
}

fn slices(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Slice>> {
    prop::collection::vec((0..2_usize, 0..600_usize, 0..120_usize), count)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_order_duplication_and_segmentation_gives_the_same_streams(
        wire in wire(),
        some in slices(0..40),
        cuts in prop::collection::vec(1..200_usize, 1..20),
        seed in any::<u64>(),
    ) {
        // Everything once, in pieces of any size, and some of it again: in an order that the seed decides.
        let mut slices = some;
        for side in 0..2 {
            let mut from = 0;
            for cut in cuts.iter().cycle() {
                slices.push((side, from, *cut));
                from += cut;
                if from >= wire.streams[side].len() {
                    break;
                }
            }
            slices.push((side, wire.streams[side].len(), 0));
        }
        let mut state = seed | 1;
        for index in (1..slices.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            slices.swap(index, (state >> 33) as usize % (index + 1));
        }
        let mut streams = Streams::new();
        let mut said = vec![];
        for slice in slices {
            let (header, bytes) = wire.record(slice);
            said.extend(streams.give(header, bytes));
        }
        prop_assert!(streams.ended());
        prop_assert_eq!(streams.buffered(), 0);
        prop_assert!(!said.iter().any(|said| matches!(said, Said::Gap(..))));
        let counts = streams.take_counts();
        prop_assert_eq!((counts.conflicts, counts.outside, counts.capped), (0, 0, 0));
        for (stream, wire) in delivered(&said).iter().zip(&wire.streams) {
            prop_assert_eq!(stream, &wire.iter().copied().map(Some).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_was_lost_is_a_gap_and_the_rest_is_in_its_place(wire in wire(), slices in slices(0..40)) {
        let mut streams = Streams::new();
        let mut said = vec![];
        let mut seen = [vec![false; 600], vec![false; 600]];
        let mut last = [0; 2];
        for slice in slices {
            let (header, bytes) = wire.record(slice);
            let from = header.sequence.wrapping_sub(header.start) as usize;
            seen[slice.0][from..from + bytes.len()].fill(true);
            if !bytes.is_empty() || header.flags & RecordFlags::FIN != 0 {
                last[slice.0] = last[slice.0].max(from + bytes.len());
            }
            said.extend(streams.give(header, bytes));
        }
        said.extend(streams.end());
        prop_assert_eq!(streams.buffered(), 0);
        let streams = delivered(&said);
        for side in 0..2 {
            prop_assert_eq!(streams[side].len(), last[side]);
            for (offset, byte) in streams[side].iter().enumerate() {
                let expected = seen[side][offset].then_some(wire.streams[side][offset]);
                prop_assert_eq!(*byte, expected, "at {}", offset);
            }
        }
    }

    #[test]
    fn conflicting_copies_never_replace_the_first(
        copies in prop::collection::vec((1..200_usize, 1..60_usize, any::<u8>()), 1..30),
    ) {
        // Nothing is at offset 0, so all of it is held; each record is filled with a byte of its own.
        let mut streams = Streams::new();
        let mut first = vec![None; 260];
        let (mut conflicts, mut retransmitted) = (0, 0);
        for (from, length, fill) in copies {
            prop_assert_eq!(streams.client(1_000 + from as u32, &vec![fill; length]), []);
            for byte in &mut first[from..from + length] {
                retransmitted += u32::from(byte.is_some());
                conflicts += u32::from(byte.is_some_and(|byte| byte != fill));
                byte.get_or_insert(fill);
            }
        }
        let counts = streams.take_counts();
        prop_assert_eq!((counts.conflicts, counts.retransmitted), (conflicts, retransmitted));
        let mut said = streams.client(1_000, b"!");
        said.extend(streams.end());
        first[0] = Some(b'!');
        while first.last() == Some(&None) {
            first.pop();
        }
        let [client, _] = delivered(&said);
        prop_assert_eq!(client, first);
    }

    #[test]
    fn nothing_panics_and_the_cap_holds(
        records in prop::collection::vec(
            (any::<[u32; 6]>(), any::<u16>(), 0..3_u8, 0..2_000_usize, any::<u64>(), any::<bool>()), 0..200),
        discard in prop::option::of(0..200_usize),
    ) {
        let mut streams = Streams::new();
        let mut said = vec![];
        for (index, ([sequence, acknowledgement, start, other_start, length, narrow], flags, side, bytes, time, small)) in
            records.into_iter().enumerate()
        {
            if discard == Some(index) {
                streams.discard();
            }
            let bytes = vec![index as u8; bytes * if small { 1 } else { 40 }];
            // Resets and ends are rarer than their bits, so that something happens before them.
            let flags = if narrow % 16 == 0 { flags } else { flags & !(RecordFlags::RST | RecordFlags::FIN) };
            let mask = if narrow % 4 == 0 { u32::MAX } else { 0xf_ffff };
            let header = RecordHeader {
                time,
                sequence: sequence & mask,
                acknowledgement: acknowledgement & mask,
                start: start & mask,
                other_start: other_start & mask,
                length: if narrow % 8 == 0 { length } else { bytes.len() as u32 },
                side,
                ..header(0, &bytes, flags)
            };
            said.extend(streams.give(header, &bytes));
            for direction in &streams.sides {
                prop_assert!(direction.buffered() <= BUFFERED_CAP);
            }
        }
        said.extend(streams.end());
        prop_assert_eq!(streams.buffered(), 0);
        let mut next = [0; 2];
        for said in &said {
            match said {
                Said::Bytes(side, offset, bytes, _) => {
                    prop_assert_eq!(*offset, next[*side as usize]);
                    next[*side as usize] += bytes.len() as u64;
                }
                Said::Gap(side, offset, length, _) => {
                    prop_assert_eq!(*offset, next[*side as usize]);
                    next[*side as usize] += length;
                }
                Said::End(_) => {}
            }
        }
    }
}
