//! Sequences of segments through parse, select and track, in the kernel and natively: both have to make the same
//! records of them, one by one.

mod flows {
    pub mod both;
}

use std::collections::BTreeMap;

use flows::both::{Both, Seen, Tap};
use monitor::attach::object::program;
use monitor_common::{
    Decision, FlowKey, Hook, KernelEvent, LossReason, RecordFlags, Side, Skip, Verdict, flow::mapped, limits,
};
use monitor_tests::frame::{Tcp, flag, key_ipv4, key_ipv6};
use monitor_tests::kernel::Counts;
use monitor_tests::random::Random;

use flag::{ACK, FIN, PSH, RST, SYN};

/// How a TLS hello begins, and what is no HTTP.
const HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
const REQUEST: &[u8] = b"GET /api HTTP/1.1\r\n\r\n";
/// The client's and the server's initial sequence numbers.
const CLIENT: u32 = 5000;
const SERVER: u32 = 90_000;
/// Payload bytes of an Ethernet segment, as many as leave a whole number of segments in no budget.
const SEGMENT: usize = 1448;

/// Both halves have seen the three segments of a handshake.
fn established() -> Both {
    let mut both = Both::new();
    handshake(&mut both, CLIENT, SERVER);
    both
}

fn handshake(both: &mut Both, client: u32, server: u32) {
    both.client(client, 0, SYN, b"").nothing(Skip::NoPayload);
    both.server(server, client.wrapping_add(1), SYN | ACK, b"").nothing(Skip::NoPayload);
    both.client(client.wrapping_add(1), server.wrapping_add(1), ACK, b"").nothing(Skip::NoPayload);
}

#[test]
#[ignore = "needs root"]
fn a_flow_whose_handshake_was_seen_knows_where_both_sides_start() {
    let mut both = established();
    let seen = both.client(CLIENT + 1, SERVER + 1, ACK | PSH, HELLO).one();
    assert_eq!((seen.start, seen.other_start), (Some(CLIENT + 1), Some(SERVER + 1)));
    assert_eq!((seen.side, seen.bytes.as_slice(), seen.flags), (Side::Client, HELLO, RecordFlags::ACK));
    let reply = both.server(SERVER + 1, CLIENT + 1 + HELLO.len() as u32, ACK, b"\x16\x03\x03").one();
    assert_eq!((reply.start, reply.other_start), (Some(SERVER + 1), Some(CLIENT + 1)));
    assert_eq!((reply.side, reply.born), (Side::Server, seen.born));
}

#[test]
#[ignore = "needs root"]
fn a_flow_that_was_there_before_us_has_no_known_start() {
    let mut both = Both::new();
    let seen = both.client(700, 800, ACK, HELLO).one();
    assert_eq!((seen.start, seen.other_start), (None, None));
    // The server's side may begin it as well.
    both.anew();
    let seen = both.server(700, 800, ACK, b"HTTP/1.1 200 OK\r\n\r\n").one();
    assert_eq!((seen.side, seen.start, seen.other_start), (Side::Server, None, None));
    assert_eq!(both.client(800, 719, ACK, REQUEST).one().born, seen.born);
}

#[test]
#[ignore = "needs root"]
fn half_a_handshake_tells_what_it_said() {
    let mut both = Both::new();
    both.client(CLIENT, 0, SYN, b"").nothing(Skip::NoPayload);
    let seen = both.client(CLIENT + 1, SERVER + 1, ACK, HELLO).one();
    assert_eq!((seen.start, seen.other_start), (Some(CLIENT + 1), None));

    both.anew();
    both.server(SERVER, CLIENT + 1, SYN | ACK, b"").nothing(Skip::NoPayload);
    let seen = both.client(CLIENT + 1, SERVER + 1, ACK, HELLO).one();
    assert_eq!((seen.start, seen.other_start), (Some(CLIENT + 1), Some(SERVER + 1)), "an answer says both");

    // A SYN that came again must not make the answer forgotten.
    both.anew();
    both.client(CLIENT, 0, SYN, b"").nothing(Skip::NoPayload);
    both.server(SERVER, CLIENT + 1, SYN | ACK, b"").nothing(Skip::NoPayload);
    both.client(CLIENT, 0, SYN, b"").nothing(Skip::NoPayload);
    let seen = both.client(CLIENT + 1, SERVER + 1, ACK, HELLO).one();
    assert_eq!((seen.start, seen.other_start), (Some(CLIENT + 1), Some(SERVER + 1)));

    // A handshake far from the payload is another connection's.
    for sequence in [CLIENT.wrapping_add(1 + limits::START_WINDOW), CLIENT] {
        both.anew();
        handshake(&mut both, CLIENT, SERVER);
        let seen = both.client(sequence, SERVER + 1, ACK, HELLO).one();
        assert_eq!((seen.start, seen.other_start), (None, None), "{sequence}");
    }
    both.anew();
    handshake(&mut both, CLIENT, SERVER);
    let seen = both.client(CLIENT + limits::START_WINDOW, SERVER + 1, ACK, HELLO).one();
    assert_eq!(seen.start, Some(CLIENT + 1), "the first payload may have been lost on the way");
}

#[test]
#[ignore = "needs root"]
fn data_in_a_syn_begins_no_flow_and_its_bytes_come_again() {
    let mut both = Both::new();
    both.client(CLIENT, 0, SYN, REQUEST).nothing(Skip::SynPayload);
    assert_eq!(both.begun(), 0);
    // Fast Open: the first segment afterwards begins behind the data of the SYN, which nobody handed on. A start behind it
    // would hide that a request was missed: the stream begins with a hole.
    both.server(SERVER, CLIENT + 1 + 21, SYN | ACK, b"").nothing(Skip::NoPayload);
    let seen = both.client(CLIENT + 22, SERVER + 1, ACK, b"more").one();
    assert_eq!((seen.start, seen.sequence), (Some(CLIENT + 1), CLIENT + 22));
}

#[test]
#[ignore = "needs root"]
fn a_flood_of_syns_evicts_no_flow_and_sends_nothing() {
    const FLOOD: u64 = 100_000;
    let mut both = established();
    let honest = both.client(CLIENT + 1, SERVER + 1, ACK, HELLO).one();
    let kernel = &mut both.kernel;
    kernel.counted().unwrap();
    let mut random = Random::new(1);
    for _ in 0..FLOOD {
        let mut syn = Tcp::new(Side::Client, SYN, b"");
        syn.key.client = mapped((random.next() as u32).to_be_bytes());
        syn.key.client_port = random.next() as u16 | 1;
        syn.sequence = random.next() as u32;
        kernel.run_only(program::INGRESS_COUNT, &syn.frame(), 0, 1, None).unwrap();
    }
    let counts = kernel.counted().unwrap();
    // A port of the flood that is watched itself makes no other side of it: the lower port is the server's.
    assert_eq!(counts.skipped(Hook::Tc), [(Skip::NoPayload, FLOOD)]);
    assert_eq!(counts.counted().iter().map(|(_, count)| count.packets).sum::<u64>(), FLOOD);
    assert_eq!((counts.event(KernelEvent::FlowBegun), counts.event(KernelEvent::RecordSent)), (0, 0));
    assert_eq!((kernel.flows(), kernel.drain()), (1, vec![]));
    // The honest flow goes on, and one whose handshake the flood has overwritten is read from its first byte.
    let next = both.client(CLIENT + 1 + HELLO.len() as u32, SERVER + 1, ACK, b"more").one();
    assert_eq!((next.born, next.start), (honest.born, Some(CLIENT + 1)));
}

#[test]
#[ignore = "needs root"]
fn a_retransmission_is_handed_on_and_the_same_bytes_elsewhere_are_not() {
    let mut both = established();
    let (sequence, acknowledgement) = (CLIENT + 1, SERVER + 1);
    let first = both.client(sequence, acknowledgement, ACK, HELLO).one();
    let again = both.client(sequence, acknowledgement, ACK, HELLO).one();
    assert_eq!((again.born, again.sequence, again.bytes), (first.born, sequence, HELLO.to_vec()));
    // On another interface, and on the way out of the same one.
    for tap in [Tap::Other, Tap::Egress] {
        both.from(tap).client(sequence, acknowledgement, ACK, HELLO).nothing(Skip::Duplicate);
        // Part of what was seen, from its middle on.
        both.from(tap).client(sequence + 3, acknowledgement, ACK, &HELLO[3..]).nothing(Skip::Duplicate);
        // An older interface may still come behind: what goes one byte further is news, and then seen.
        let mut longer = HELLO.to_vec();
        longer.push(0);
        if tap == Tap::Other {
            let seen = both.from(tap).client(sequence, acknowledgement, ACK, &longer).one();
            assert_eq!(seen.bytes, longer);
        } else {
            both.from(tap).client(sequence, acknowledgement, ACK, &longer).nothing(Skip::Duplicate);
        }
    }
    // Each direction has its own interface: the reply may leave by another one than the request came by.
    let reply = both.from(Tap::Egress).server(acknowledgement, sequence + 11, ACK, b"\x16\x03\x03").one();
    assert_eq!(reply.born, first.born);
    both.from(Tap::Other).server(acknowledgement, sequence + 11, ACK, b"\x16\x03\x03").nothing(Skip::Duplicate);
    // The FIN that comes by a second interface is not told twice either.
    both.client(sequence + 12, acknowledgement, ACK | FIN, b"").one();
    both.from(Tap::Other).client(sequence + 12, acknowledgement, ACK | FIN, b"").nothing(Skip::Duplicate);
}

#[test]
#[ignore = "needs root"]
fn a_client_that_speaks_no_http_has_a_budget() {
    let mut both = established();
    let mut sequence = CLIENT + 1;
    let mut sent = 0;
    let whole = limits::CLIENT_BUDGET as usize / SEGMENT;
    for _ in 0..whole {
        let seen = both.client(sequence, SERVER + 1, ACK, &tls(SEGMENT)).one();
        assert_eq!((seen.bytes.len(), seen.length), (SEGMENT, SEGMENT));
        sent += SEGMENT;
        sequence += SEGMENT as u32;
    }
    let rest = limits::CLIENT_BUDGET as usize - sent;
    let seen = both.client(sequence, SERVER + 1, ACK, &tls(SEGMENT)).one();
    assert_eq!((seen.bytes.len(), seen.length, seen.flags), (rest, SEGMENT, RecordFlags::ACK), "the last part");
    sequence += SEGMENT as u32;
    both.client(sequence, SERVER + 1, ACK, &tls(SEGMENT)).nothing(Skip::Budget);
    sequence += SEGMENT as u32;
    // The end is told, and that there was something before it.
    let end = both.client(sequence, SERVER + 1, ACK | FIN, &tls(10)).one();
    assert_eq!(end.flags, RecordFlags::ACK | RecordFlags::FIN | RecordFlags::LEFT_OUT_BEFORE);
    assert_eq!((end.sequence, end.length, end.bytes.len()), (sequence, 10, 0));
}

#[test]
#[ignore = "needs root"]
fn a_client_that_speaks_http_has_none() {
    let mut both = Both::new();
    for (first, keeps) in [
        (&b"GET"[..], true),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", true),
        (b"\r\nGET / HTTP/1.1\r\n\r\n", true),
        (b"GE", true),
        (b"G", true),
        (b"\x16", true),
        (b"get / HTTP/1.1\r\n\r\n", false),
        (b"\x16\x03\x01", false),
        (b"GE\x00", false),
    ] {
        both.anew();
        handshake(&mut both, CLIENT, SERVER);
        both.client(CLIENT + 1, SERVER + 1, ACK, first).one();
        let mut sequence = CLIENT + 1 + first.len() as u32;
        let segments = limits::CLIENT_BUDGET as usize / SEGMENT + 2;
        let kept = (0..segments).filter(|_| {
            let run = both.client(sequence, SERVER + 1, ACK, &tls(SEGMENT));
            sequence += SEGMENT as u32;
            run.records.iter().map(|seen| seen.bytes.len()).sum::<usize>() == SEGMENT
        });
        let expected = if keeps { segments } else { (limits::CLIENT_BUDGET as usize - first.len()) / SEGMENT };
        assert_eq!(kept.count(), expected, "{}", String::from_utf8_lossy(first));
    }
}

#[test]
#[ignore = "needs root"]
fn the_server_is_read_within_a_window_behind_each_request() {
    let mut both = established();
    let mut client = CLIENT + 1;
    let mut server = SERVER + 1;
    for _ in 0..3 {
        let flags = both.client(client, server, ACK, REQUEST).one().flags;
        assert_eq!(flags, RecordFlags::ACK, "nothing of the client is left out");
        client += REQUEST.len() as u32;
        let begin = server;
        let (mut sent, mut left_out) = (0, 0);
        for index in 0..limits::SERVER_WINDOW as usize / SEGMENT + 4 {
            let run = both.server(server, client, ACK, &tls(SEGMENT));
            server += SEGMENT as u32;
            match &run.records[..] {
                [seen] => {
                    sent += seen.bytes.len();
                    let expected = if index == 0 && begin != SERVER + 1 { RecordFlags::LEFT_OUT_BEFORE } else { 0 };
                    assert_eq!(seen.flags, RecordFlags::ACK | expected, "at {index} behind {begin}");
                }
                _ => {
                    run.nothing(Skip::Budget);
                    left_out += 1;
                }
            }
        }
        assert_eq!((sent, left_out), (limits::SERVER_WINDOW as usize, 3));
    }
    // A pure acknowledgement moves no window: a download would be read in full.
    both.client(client, server, ACK, b"").nothing(Skip::NoPayload);
    both.server(server, client, ACK, &tls(SEGMENT)).nothing(Skip::Budget);
    // A late, reordered request moves it no way back.
    both.client(client, server, ACK, REQUEST).one();
    both.client(client - REQUEST.len() as u32, SERVER + 1, ACK, REQUEST).one();
    assert_eq!(both.server(server, client, ACK, &tls(SEGMENT)).one().bytes.len(), SEGMENT);
    // Nor does the end of the client's side: nothing is asked for with it.
    let end = server + limits::SERVER_WINDOW;
    both.client(client + REQUEST.len() as u32, end, ACK | FIN, b"").one();
    both.server(end, client, ACK, &tls(SEGMENT)).nothing(Skip::Budget);
}

#[test]
#[ignore = "needs root"]
fn without_a_request_the_window_is_at_the_server_s_start() {
    // Known: behind the handshake.
    let mut both = established();
    assert_eq!(both.server(SERVER + 1, CLIENT + 1, ACK, &tls(SEGMENT)).one().bytes.len(), SEGMENT);
    both.server(SERVER + 1 + limits::SERVER_WINDOW, CLIENT + 1, ACK, &tls(SEGMENT)).nothing(Skip::Budget);
    let seen = both.server(SERVER + limits::SERVER_WINDOW, CLIENT + 1, ACK, &tls(SEGMENT)).one();
    assert_eq!((seen.bytes.len(), seen.length), (1, SEGMENT), "the window's last byte");
    // Unknown: at the first segment that is seen.
    both.anew();
    both.server(1_000_000, 1, ACK, &tls(SEGMENT)).one();
    both.server(1_000_000 + limits::SERVER_WINDOW, 1, ACK, &tls(SEGMENT)).nothing(Skip::Budget);
    // Bytes before the window were overtaken on the way: they are read.
    assert_eq!(both.server(999_000, 1, ACK, &tls(500)).one().bytes.len(), 500);
}

#[test]
#[ignore = "needs root"]
fn enough_ends_the_reading_but_for_the_end() {
    let mut both = established();
    let seen = both.client(CLIENT + 1, SERVER + 1, ACK, HELLO).one();
    both.decide(&seen, Decision::Enough);
    let (client, server) = (CLIENT + 1 + HELLO.len() as u32, SERVER + 1);
    both.client(client, server, ACK, b"more").nothing(Skip::Enough);
    assert!(!both.kernel.verdict_waits(&key_ipv4()), "the verdict was taken over");
    both.server(server, client, ACK, b"more").nothing(Skip::Enough);
    let end = both.server(server + 4, client + 4, ACK | FIN, b"").one();
    assert_eq!((end.side, end.born), (Side::Server, seen.born));
    assert_eq!(end.flags, RecordFlags::ACK | RecordFlags::FIN);
    both.server(server + 4, client + 4, ACK | FIN, b"").nothing(Skip::Duplicate);
    let end = both.client(client + 4, server + 5, ACK | FIN, b"rest").one();
    assert_eq!((end.bytes.len(), end.length), (0, 4), "the end, not the bytes before it");
}

#[test]
#[ignore = "needs root"]
fn a_decision_about_an_older_connection_is_not_taken_over() {
    let mut both = established();
    let seen = both.client(CLIENT + 1, SERVER + 1, ACK, HELLO).one();
    let verdict = Verdict::new(seen.born - 1, Decision::Enough);
    both.kernel.decide(&key_ipv4(), verdict).unwrap();
    both.client(CLIENT + 12, SERVER + 1, ACK, b"more").one();
    assert!(!both.kernel.verdict_waits(&key_ipv4()), "it is thrown away");
}

#[test]
#[ignore = "needs root"]
fn keep_client_lifts_the_client_s_budget_only() {
    let mut both = established();
    let seen = both.client(CLIENT + 1, SERVER + 1, ACK, HELLO).one();
    both.decide(&seen, Decision::KeepClient);
    let mut sequence = CLIENT + 1 + HELLO.len() as u32;
    for _ in 0..limits::CLIENT_BUDGET as usize / SEGMENT + 3 {
        assert_eq!(both.client(sequence, SERVER + 1, ACK, &tls(SEGMENT)).one().bytes.len(), SEGMENT);
        sequence += SEGMENT as u32;
    }
    both.server(SERVER + 1 + limits::SERVER_WINDOW, sequence, ACK, &tls(SEGMENT)).nothing(Skip::Budget);
}

#[test]
#[ignore = "needs root"]
fn keep_both_leaves_nothing_out() {
    let mut both = Both::new();
    // Decided by user space, and by the preface of HTTP/2.
    for (first, decide) in [(HELLO, true), (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false)] {
        both.anew();
        handshake(&mut both, CLIENT, SERVER);
        let seen = both.client(CLIENT + 1, SERVER + 1, ACK, first).one();
        if decide {
            both.decide(&seen, Decision::KeepBoth);
        }
        let mut client = CLIENT + 1 + first.len() as u32;
        let mut server = SERVER + 1;
        for _ in 0..limits::CLIENT_BUDGET as usize / SEGMENT + 3 {
            let seen = both.client(client, SERVER + 1, ACK, &tls(SEGMENT)).one();
            assert_eq!((seen.bytes.len(), seen.flags), (SEGMENT, RecordFlags::ACK));
            client += SEGMENT as u32;
            let seen = both.server(server, client, ACK, &tls(SEGMENT)).one();
            assert_eq!((seen.bytes.len(), seen.flags), (SEGMENT, RecordFlags::ACK));
            server += SEGMENT as u32;
        }
    }
}

#[test]
#[ignore = "needs root"]
fn a_flow_ends_with_two_fins_and_not_with_a_reset() {
    let mut both = established();
    let first = both.client(CLIENT + 1, SERVER + 1, ACK, REQUEST).one();
    let (client, server) = (CLIENT + 1 + REQUEST.len() as u32, SERVER + 1);
    // Anybody can forge a reset; the flow is read on.
    let reset = both.client(client, 0, RST, b"").one();
    assert_eq!((reset.flags, reset.bytes.len(), reset.born), (RecordFlags::RST, 0, first.born));
    both.client(client, 0, RST, b"").nothing(Skip::Duplicate);
    let reply = both.server(server, client, ACK | FIN, b"HTTP/1.1 200 OK\r\n\r\n").one();
    assert_eq!((reply.flags, reply.bytes.len()), (RecordFlags::ACK | RecordFlags::FIN, 19));
    // Half closed: the client goes on.
    both.client(client, server + 20, ACK, REQUEST).one();
    let end = both.client(client + 21, server + 20, ACK | FIN, b"").one();
    assert_eq!(end.flags, RecordFlags::ACK | RecordFlags::FIN);
    both.client(client, server + 20, ACK, REQUEST).nothing(Skip::Enough);
    both.server(server, client, ACK | FIN, b"HTTP/1.1 200 OK\r\n\r\n").nothing(Skip::Enough);
    both.server(server, client, ACK, b"").nothing(Skip::NoPayload);
}

#[test]
#[ignore = "needs root"]
fn the_same_ports_again_are_another_connection() {
    let mut both = established();
    let first = both.client(CLIENT + 1, SERVER + 1, ACK, REQUEST).one();
    for round in 1..4_u32 {
        let (client, server) = (CLIENT + round * 1_000_000, SERVER + round * 3_000_000);
        handshake(&mut both, client, server);
        let seen = both.client(client + 1, server + 1, ACK, REQUEST).one();
        assert_ne!(seen.born, first.born);
        assert_eq!((seen.start, seen.other_start, seen.flags), (Some(client + 1), Some(server + 1), RecordFlags::ACK));
        assert_eq!(both.begun(), u64::from(round) + 1);
        let reply = both.server(server + 1, client + 22, ACK, b"HTTP/1.1 200 OK\r\n\r\n").one();
        assert_eq!(reply.born, seen.born);
    }
    // A late segment of the connection before is not taken for a new one.
    let last = both.client(CLIENT + 3_000_022, SERVER + 9_000_001, ACK, b"x").one();
    both.client(CLIENT + 3_000_000, 0, SYN, b"").nothing(Skip::NoPayload);
    let next = both.client(CLIENT + 3_000_023, SERVER + 9_000_001, ACK, b"y").one();
    assert_eq!((next.born, both.begun()), (last.born, 4), "a SYN of this very connection changes nothing");
}

#[test]
#[ignore = "needs root"]
fn a_forged_syn_ends_no_flow() {
    let mut both = established();
    let first = both.client(CLIENT + 1, SERVER + 1, ACK, REQUEST).one();
    both.client(77_000_000, 0, SYN, b"").nothing(Skip::NoPayload);
    // The connection goes on: its bytes do not follow the forged handshake.
    let next = both.client(CLIENT + 22, SERVER + 1, ACK, REQUEST).one();
    assert_eq!((next.born, next.start), (first.born, Some(CLIENT + 1)));
    let reply = both.server(SERVER + 1, CLIENT + 22, ACK, b"HTTP/1.1 200 OK\r\n\r\n").one();
    assert_eq!((reply.born, both.begun()), (first.born, 1));
}

#[test]
#[ignore = "needs root"]
fn sequence_numbers_begin_again_at_zero() {
    let mut both = Both::new();
    for begin in [u32::MAX - 1, u32::MAX, u32::MAX - 700, 0, i32::MAX as u32, 1 << 31] {
        both.anew();
        handshake(&mut both, begin, begin);
        let mut sequence = begin.wrapping_add(1);
        let mut sent = 0;
        for index in 0..limits::CLIENT_BUDGET as usize / SEGMENT + 2 {
            let run = both.client(sequence, begin.wrapping_add(1), ACK, &tls(SEGMENT));
            sent += run.records.iter().map(|seen| seen.bytes.len()).sum::<usize>();
            if index == 0 {
                assert_eq!(run.records[0].start, Some(begin.wrapping_add(1)));
                both.from(Tap::Other)
                    .client(sequence, begin.wrapping_add(1), ACK, &tls(SEGMENT))
                    .nothing(Skip::Duplicate);
            }
            sequence = sequence.wrapping_add(SEGMENT as u32);
        }
        assert_eq!(sent, limits::CLIENT_BUDGET as usize, "from {begin}");
        let mut server = begin.wrapping_add(1);
        let mut sent = 0;
        for _ in 0..limits::SERVER_WINDOW as usize / SEGMENT + 3 {
            let run = both.server(server, sequence, ACK, &tls(SEGMENT));
            sent += run.records.iter().map(|seen| seen.bytes.len()).sum::<usize>();
            server = server.wrapping_add(SEGMENT as u32);
        }
        assert_eq!(sent, limits::SERVER_WINDOW as usize, "from {begin}");
    }
}

#[test]
#[ignore = "needs root"]
fn ipv6_flows_are_told_apart_by_every_part_of_their_key() {
    let mut both = Both::new();
    let mut keys = vec![key_ipv6(), key_ipv4()];
    for index in [0, 7, 8, 15] {
        let mut key = key_ipv6();
        key.client[index] ^= 1;
        keys.push(key);
        let mut key = key_ipv6();
        key.server[index] ^= 1;
        keys.push(key);
    }
    keys.push(FlowKey { client_port: 1, ..key_ipv6() });
    keys.push(FlowKey { server_port: 8080, ..key_ipv6() });
    let mut births = BTreeMap::new();
    for key in &keys {
        let segment = Tcp { key: *key, ..Tcp::new(Side::Client, ACK, REQUEST) };
        births.insert(both.run(&segment).one().born, *key);
    }
    assert_eq!((births.len(), both.begun()), (keys.len(), keys.len() as u64));
}

/// The kernel has no segment larger than a page in BPF_PROG_TEST_RUN; live.rs sends it some on the loopback interface.
#[test]
fn a_large_segment_is_cut_into_records() {
    let mut native = flows::both::native();
    let payload: Vec<u8> = (0..200_000_u32).map(|index| (index % 251) as u8).collect();
    let segment = |from: usize, flags, length: usize| Tcp {
        sequence: CLIENT + from as u32,
        ..Tcp::new(Side::Client, flags, &[b"GET ", &payload[from..from + length]].concat()[..length])
    };
    for length in [1, limits::RECORD_PAYLOAD, limits::RECORD_PAYLOAD + 1, 65_495, 65_496, 200_000] {
        let mut records = Vec::new();
        let segment = segment(0, ACK | FIN | PSH, length);
        let frame = segment.frame();
        native = flows::both::native();
        native.frame(monitor::replay::Start::Ethernet, 1, 1, &frame, |record| {
            records.push(Seen::of(&record.into()));
        });
        assert_eq!(records.len(), length.div_ceil(limits::RECORD_PAYLOAD), "{length}");
        let mut from = 0;
        for (index, record) in records.iter().enumerate() {
            let last = index + 1 == records.len();
            let flags = if last { RecordFlags::FIN } else { RecordFlags::MORE };
            assert_eq!(record.flags, RecordFlags::ACK | flags, "{length}, {index}");
            assert_eq!(record.sequence, CLIENT + from as u32);
            assert_eq!(record.length, length - from, "from here to the segment's end");
            assert_eq!(record.bytes, segment.payload[from..from + record.bytes.len()]);
            from += record.bytes.len();
        }
        assert_eq!(from, length);
    }
    assert_eq!(Counts::from(&native).event(KernelEvent::FlowBegun), 1);
}

#[test]
#[ignore = "needs root"]
fn what_a_full_ring_does_not_take_is_counted() {
    let mut both = established();
    let segment = Tcp::new(Side::Client, ACK, &[REQUEST, &[b'x'; 3000][..]].concat());
    let kernel = &mut both.kernel;
    let frame = segment.frame();
    kernel.counted().unwrap();
    let repeat = limits::RING_BYTES / segment.payload.len() as u32 + 100;
    kernel.run_only(program::INGRESS_COUNT, &frame, 0, repeat, None).unwrap();
    let counts = kernel.counted().unwrap();
    let (sent, lost) = (counts.event(KernelEvent::RecordSent), counts.lost(LossReason::RingFull));
    assert_eq!(sent + lost, u64::from(repeat));
    assert!(lost > 100, "{lost} of {repeat}");
    assert_eq!(counts.skipped(Hook::Tc), [(Skip::RingFull, lost)]);
    assert_eq!(counts.event(KernelEvent::ByteSent), sent * segment.payload.len() as u64);
    // What was taken is whole, and there is room again.
    let records = kernel.drain();
    assert_eq!(records.len() as u64, sent);
    assert!(records.iter().all(|record| record.bytes == segment.payload));
    kernel.run_only(program::INGRESS_COUNT, &frame, 0, 1, None).unwrap();
    assert_eq!(kernel.drain().len(), 1);
}

#[test]
#[ignore = "needs root"]
fn a_full_table_gives_the_oldest_flows_away() {
    let mut both = Both::new();
    let kernel = &mut both.kernel;
    let flows = limits::FLOWS + 10_000;
    let key = |index: u32| FlowKey {
        client: mapped((0x0a00_0000 | index >> 8).to_be_bytes()),
        client_port: 10_000 + (index & 0xff) as u16,
        ..key_ipv4()
    };
    for index in 0..flows {
        let segment = Tcp { key: key(index), ..Tcp::new(Side::Client, ACK, HELLO) };
        kernel.run_only(program::INGRESS_COUNT, &segment.frame(), 0, 1, None).unwrap();
        if index % 10_000 == 0 {
            kernel.drain();
        }
    }
    let counts = kernel.counted().unwrap();
    assert_eq!(counts.event(KernelEvent::FlowBegun), u64::from(flows), "the table took each");
    assert_eq!(counts.skipped(Hook::Tc), []);
    assert!(kernel.flow(&key(flows - 1)).is_some() && kernel.flow(&key(0)).is_none());
    assert!(kernel.flows() <= limits::FLOWS as usize);
}

fn tls(length: usize) -> Vec<u8> {
    let mut bytes = vec![0x17; length];
    bytes[..5.min(length)].copy_from_slice(&[0x17, 3, 3, 5, 0xa8][..5.min(length)]);
    bytes
}
