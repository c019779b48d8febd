//! What holds for every protocol.

use monitor_common::Decision;
use monitor_common::Side::{Client, Server};
use proptest::prelude::*;

use super::testing::Said::{self, Bytes, End, Gap};
use super::testing::play;
use super::{Inspector, Observation, Protocol, TlsHandshake, TlsObservation, Unclassified};
use crate::reassemble::Chunk;

#[test]
fn the_protocol_of_first_bytes() {
    for (description, said, protocol, unclassified) in [
        ("nothing", vec![End(Client), End(Server)], Protocol::None, None),
        ("SSH, the server first", vec![Bytes(Server, b"SSH-2.0-x\r\n".to_vec())], Protocol::Other, None),
        (
            "only an answer",
            vec![Bytes(Server, b"HTTP/1.1 408 x\r\n\r\n".to_vec())],
            Protocol::Other,
            Some(Unclassified::NoClient),
        ),
        ("RTSP", vec![Bytes(Client, b"OPTIONS / RTSP/1.0\r\n\r\n".to_vec())], Protocol::Other, None),
        ("half a record", vec![Bytes(Client, b"\x16\x03".to_vec())], Protocol::Other, Some(Unclassified::Protocol)),
        ("half a request", vec![Bytes(Client, b"GET /a".to_vec())], Protocol::Http1, Some(Unclassified::Malformed)),
        (
            "its first bytes lost",
            vec![Gap(Client, 9), Bytes(Client, vec![0; 9])],
            Protocol::Other,
            Some(Unclassified::Gap),
        ),
    ] {
        let (observation, _) = play(true, &said);
        assert_eq!((observation.protocol, observation.unclassified), (protocol, unclassified), "{description}");
    }
}

#[test]
fn the_middle_of_tls_is_tls_and_nothing_more() {
    for side in [Client, Server] {
        let (observation, settled) = play(false, &[Bytes(side, b"\x17\x03\x03\0\x02ab\x17\x03\x03\0\x02cd".to_vec())]);
        assert_eq!((observation.protocol, observation.unclassified), (Protocol::Tls, Some(Unclassified::NoStart)));
        let tls = observation.tls.expect("TLS");
        assert!(settled && tls.version.is_none() && tls.handshake == TlsHandshake::Incomplete);
    }
    let (observation, _) = play(false, &[Bytes(Client, vec![0x17; 40])]);
    assert_eq!((observation.protocol, observation.unclassified), (Protocol::Other, Some(Unclassified::NoStart)));
}

#[test]
fn what_is_held_of_the_middle_is_no_part_of_a_request() {
    let (observation, _) =
        play(false, &[Bytes(Client, b"abc".to_vec()), Bytes(Client, b"GET /a HTTP/1.1\r\n\r\n".to_vec())]);
    assert_eq!(observation.requests.first().map(|request| &*request.method), Some("GET"));
}

#[test]
fn many_that_are_settled_are_small() {
    assert!(size_of::<Inspector>() <= 24, "{}", size_of::<Inspector>());
    let of_a_connection = size_of::<Observation>() + size_of::<TlsObservation>();
    assert!(of_a_connection <= 400, "{of_a_connection}");
}

#[test]
fn what_is_wanted_next() {
    for (bytes, wanted) in [
        (&b"\x16\x03\x01\0\x05\x01"[..], Decision::Read),
        (b"GET / HTTP/1.1\r\n", Decision::KeepClient),
        (b"PRI * HTTP/2.0\r\n\r\n", Decision::KeepBoth),
        (b"GET /", Decision::Read),
        (b"\0\0\0\0", Decision::Enough),
    ] {
        let chunk = Chunk::Bytes { side: Client, offset: 0, bytes, acknowledged: None };
        assert_eq!(Inspector::new(true).chunk(&chunk, &mut Observation::default()), wanted, "{bytes:?}");
    }
}

/// Beginnings that lead into each reader.
const BEGINNINGS: [&[u8]; 6] = [
    b"",
    b"\x16\x03\x01\0\x2d\x01\0\0\x29\x03\x03",
    b"\x80\x1c\x01\x03\x01\0\x03\0\0\0\x10",
    b"GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
];

/// Bytes that mean something to one reader or another, and others.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        prop::sample::select(vec![
            &b"\x16\x03\x03\0\x04\x0e\0\0\0"[..],
            b"\x16\x03\x03\0\x07\x0b\0\0\x03\0\0\0",
            b"\x14\x03\x03\0\x01\x01",
            b"\x17\x03\x03\0\x19",
            b"\x15\x03\x03\0\x02\x02\x28",
            b"\x02\0\0\x26\x03\x03",
            b"HTTP/1.1 101 x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"GET /a HTTP/1.1\r\n\r\n",
            b"5\r\n{\"kin\r\n",
            b"\0\0\x01\x01\x05\0\0\0\x01\x82",
            b"\0\0\x02\x01\0\0\0\0\x03\x84\x40",
            b"\0\0\x03\x09\x04\0\0\0\x03\x01a\x81",
            b"\0\0\x05\0\x01\0\0\0\x01{\"k8s",
        ])
        .prop_map(<[u8]>::to_vec),
    ];
    prop::collection::vec(pieces, 0..6).prop_map(|pieces| pieces.concat())
}

fn said() -> impl Strategy<Value = Said> {
    let side = prop::sample::select(vec![Client, Server]);
    prop_oneof![
        8 => (side.clone(), bytes()).prop_map(|(side, bytes)| Bytes(side, bytes)),
        1 => (side.clone(), 1..200_u64).prop_map(|(side, length)| Gap(side, length)),
        1 => side.prop_map(End),
    ]
}

proptest! {
    #[test]
    fn no_bytes_are_too_much(
        start_known: bool,
        beginning in prop::sample::select(&BEGINNINGS[..]),
        said in prop::collection::vec(said(), 0..12),
    ) {
        let all = [&[Bytes(Client, beginning.to_vec())], &said[..]].concat();
        let (observation, _) = play(start_known, &all);
        prop_assert!(observation.requests.len() <= Observation::REQUESTS);
    }
}
