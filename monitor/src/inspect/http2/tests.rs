//! HTTP/2 connections in the clear, whole and in pieces.

use loona_hpack::Encoder;
use monitor_common::Side::{self, Client, Server};

use super::frame::{flag, kind};
use crate::inspect::detect::PREFACE;
use crate::inspect::testing::Said::{Bytes, Gap};
use crate::inspect::testing::{observe, play};
use crate::inspect::{Credential, Observation, Protocol, Unclassified};

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// SETTINGS without any.
fn settings() -> Vec<u8> {
    frame(4, 0, 0, &[])
}

fn request(encoder: &mut Encoder<'_>, method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let fields = [&[(":method", method), (":scheme", "http"), (":path", path), (":authority", "h")], more].concat();
    encoder.encode(fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
}

fn response(encoder: &mut Encoder<'_>, status: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let fields = [&[(":status", status)], more].concat();
    encoder.encode(fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
}

fn listed(observation: &Observation) -> Vec<(&str, &str, Option<u16>)> {
    observation.requests.iter().map(|request| (&*request.method, &*request.path, request.status)).collect()
}

const END: u8 = flag::END_HEADERS | flag::END_STREAM;

#[test]
fn several_streams_each_with_its_status() {
    let (mut client, mut server) = (Encoder::new(), Encoder::new());
    let first = request(&mut client, "GET", "/api/v1/pods?watch=1", &[("authorization", "Bearer x")]);
    let second = request(&mut client, "POST", "/api/v1/secrets", &[("x-a", "y")]);
    let trailer = client.encode([(&b"x-t"[..], &b"1"[..])]);
    let third = request(&mut client, "GET", "/livez", &[]);
    let (head, tail) = second.split_at(7);
    let padded = [&[3][..], &[0, 0, 0, 0, 16], &third, &[0; 3]].concat();
    let promise = response(&mut server, "200", &[]);
    let interim = response(&mut server, "103", &[]);
    let answers = [response(&mut server, "404", &[]), response(&mut server, "200", &[("x-b", "z")])];
    let (observation, settled) = observe(&[
        Bytes(Client, [PREFACE, &settings(), &frame(kind::HEADERS, END, 1, &first)].concat()),
        Bytes(Server, [settings(), frame(4, 1, 0, &[])].concat()),
        Bytes(
            Client,
            [frame(kind::HEADERS, 0, 3, head), frame(kind::CONTINUATION, flag::END_HEADERS, 3, tail)].concat(),
        ),
        Bytes(Client, [frame(kind::DATA, 0, 3, b"body"), frame(kind::HEADERS, END, 3, &trailer)].concat()),
        Bytes(Client, frame(kind::HEADERS, END | flag::PADDED | flag::PRIORITY, 5, &padded)),
        Bytes(Server, frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &[&[0, 0, 0, 2][..], &promise].concat())),
        Bytes(Server, frame(kind::HEADERS, flag::END_HEADERS, 3, &interim)),
        Bytes(Server, frame(kind::HEADERS, flag::END_HEADERS, 3, &answers[0])),
        Bytes(Server, frame(kind::DATA, flag::END_STREAM, 3, br#"{"kind":"Status","apiVersion":"v1"}"#)),
        Bytes(Server, frame(kind::HEADERS, END, 1, &answers[1])),
        Bytes(Server, [frame(kind::RST_STREAM, 0, 5, &[0; 4]), frame(7, 0, 0, &[0; 8])].concat()),
    ]);
    assert_eq!(observation.protocol, Protocol::Http2);
    assert_eq!(
        listed(&observation),
        [("GET", "/api/v1/pods", Some(200)), ("POST", "/api/v1/secrets", Some(404)), ("GET", "/livez", None)]
    );
    let credentials: Vec<Credential> = observation.requests.iter().map(|request| request.credential).collect();
    assert_eq!(credentials, [Credential::Bearer, Credential::None, Credential::None]);
    assert!(observation.kubernetes && observation.requests[0].query.watch && !settled);
    assert_eq!(observation.unclassified, None);
}

#[test]
fn a_gap_is_harmless_inside_data_only() {
    let (mut client, mut server) = (Encoder::new(), Encoder::new());
    let first = request(&mut client, "GET", "/a", &[]);
    let second = request(&mut client, "GET", "/b", &[]);
    let answers = [response(&mut server, "200", &[]), response(&mut server, "404", &[])];
    let (observation, _) = observe(&[
        Bytes(Client, [PREFACE, &frame(kind::HEADERS, END, 1, &first)].concat()),
        Bytes(
            Server,
            [frame(kind::HEADERS, flag::END_HEADERS, 1, &answers[0]), frame(kind::DATA, 0, 1, &[0; 99])[..20].to_vec()]
                .concat(),
        ),
        Gap(Server, 88),
        Bytes(Client, frame(kind::HEADERS, END, 3, &second)),
        Bytes(Server, frame(kind::HEADERS, END, 3, &answers[1])),
        Gap(Client, 10),
        Bytes(Client, frame(kind::HEADERS, END, 5, &second)),
    ]);
    assert_eq!(listed(&observation), [("GET", "/a", Some(200)), ("GET", "/b", Some(404))]);
    assert_eq!(observation.unclassified, Some(Unclassified::Gap), "the client's gap has frames in it");
}

#[test]
fn what_a_server_of_http1_makes_of_the_preface() {
    let first = request(&mut Encoder::new(), "GET", "/version", &[]);
    let (observation, _) = observe(&[
        Bytes(Client, [PREFACE, &settings(), &frame(kind::HEADERS, END, 1, &first)].concat()),
        Bytes(Server, b"HTTP/1.1 404 Not Found\r\nAudit-Id: x\r\n\r\n".to_vec()),
    ]);
    assert_eq!((observation.protocol, listed(&observation)), (Protocol::Http2, vec![("PRI", "*", Some(404))]));
}

#[test]
fn an_upgrade_goes_on_on_stream_1() {
    let (mut client, mut server) = (Encoder::new(), Encoder::new());
    let second = request(&mut client, "GET", "/b", &[]);
    let answers = [response(&mut server, "200", &[]), response(&mut server, "403", &[])];
    let upgrade =
        b"GET /a HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n";
    let switching = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    let begin = [PREFACE, &settings(), &frame(kind::HEADERS, END, 3, &second)].concat();
    let answer =
        [settings(), frame(kind::HEADERS, END, 1, &answers[0]), frame(kind::HEADERS, END, 3, &answers[1])].concat();
    let expected = vec![("GET", "/a", Some(200)), ("GET", "/b", Some(403))];
    let (patient, _) = observe(&[
        Bytes(Client, upgrade.to_vec()),
        Bytes(Server, [&switching[..], &settings()].concat()),
        Bytes(Client, begin.clone()),
        Bytes(Server, answer[9..].to_vec()),
    ]);
    assert_eq!(listed(&patient), expected);
    let (hasty, _) =
        observe(&[Bytes(Client, [&upgrade[..], &begin].concat()), Bytes(Server, [&switching[..], &answer].concat())]);
    assert_eq!(listed(&hasty), expected, "the preface came before the answer");
}

#[test]
fn what_is_wrong_or_too_much_is_named() {
    let indexed = [0xff, 0xff, 0xff, 0x7f];
    let grown = [0x3f, 0xe1, 0xff, 0x7f, 0x82];
    for (description, bytes, expected) in [
        ("an index out of bounds", frame(kind::HEADERS, END, 1, &indexed), Unclassified::Malformed),
        ("a table of megabytes", frame(kind::HEADERS, END, 1, &grown), Unclassified::Malformed),
        ("a continuation of nothing", frame(kind::CONTINUATION, flag::END_HEADERS, 1, &[]), Unclassified::Malformed),
        (
            "something else than a continuation",
            [frame(kind::HEADERS, 0, 1, &[0x82]), settings()].concat(),
            Unclassified::Malformed,
        ),
        (
            "padding longer than its frame",
            frame(kind::HEADERS, END | flag::PADDED, 1, &[9, 0x82]),
            Unclassified::Malformed,
        ),
        ("a block of 70 kB", frame(kind::HEADERS, END, 1, &[0x82; 70_000]), Unclassified::TooLong),
        (
            "a block of 70 kB in pieces",
            [frame(kind::HEADERS, 0, 1, &[0x82; 35_000]), frame(kind::CONTINUATION, 0, 1, &[0x82; 35_000])].concat(),
            Unclassified::TooLong,
        ),
    ] {
        let said = [Bytes(Client, PREFACE.to_vec()), Bytes(Client, bytes)];
        assert_eq!(play(true, &said).0.unclassified, Some(expected), "{description}");
    }
    let said = [Bytes(Client, b"PRI * HTTP/2.0\r\n\r\nXX".to_vec())];
    assert_eq!(play(true, &said).0.unclassified, Some(Unclassified::Malformed), "another preface");
}

#[test]
fn nothing_that_was_sent_is_in_its_debug_output() {
    let mut reader = super::Http2::default();
    let block = request(&mut Encoder::new(), "GET", "/a", &[("authorization", "Bearer abcdefgh")]);
    let bytes = [PREFACE, &frame(kind::HEADERS, END, 1, &block)].concat();
    reader.bytes(Side::Client, &bytes, &mut Observation::default());
    assert!(!format!("{reader:?}").contains("abcdefgh"));
}
