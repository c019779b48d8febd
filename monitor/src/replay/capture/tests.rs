//! Captures made in memory: every link type and byte order, pcapng's features, and every way to be wrong.

use std::io;

use proptest::prelude::*;

use super::*;

/// A packet as one line: time, interface, outgoing, original length, start, bytes.
type Seen = (u64, u32, bool, u32, Start, Vec<u8>);

/// Gives what it has in pieces of at most so many bytes.
struct Trickle(io::Cursor<Vec<u8>>, usize);

impl Read for Trickle {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(self.1);
        self.0.read(&mut buffer[..most])
    }
}

/// Reads a file to its end, or to its error.
fn read_by(file: &[u8], step: usize) -> (Vec<Seen>, Option<CaptureError>) {
    let mut seen = vec![];
    let reader = Box::new(Trickle(io::Cursor::new(file.to_vec()), step));
    let mut capture = match Capture::from_reader("test.pcap", reader, None) {
        Ok(capture) => capture,
        Err(error) => return (seen, Some(error)),
    };
    loop {
        match capture.next_frame() {
            Ok(Some(frame)) => seen.push((
                frame.time,
                frame.interface,
                frame.outgoing,
                frame.original_length,
                frame.start,
                frame.bytes.to_vec(),
            )),
            Ok(None) => return (seen, None),
            Err(error) => {
                assert!(capture.next_frame().is_ok_and(|frame| frame.is_none()), "an error is the end");
                return (seen, Some(error));
            }
        }
    }
}

fn read(file: &[u8]) -> (Vec<Seen>, Option<CaptureError>) {
    read_by(file, usize::MAX)
}

fn read_well(file: &[u8]) -> Vec<Seen> {
    let (seen, error) = read(file);
    assert!(error.is_none(), "{}", error.unwrap());
    seen
}

fn error_of(file: &[u8]) -> String {
    read(file).1.expect("an error").to_string()
}

/// A writer of either byte order.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    Little,
    Big,
}
use Order::{Big, Little};

impl Order {
    fn word(self, word: u32) -> [u8; 4] {
        if self == Big { word.to_be_bytes() } else { word.to_le_bytes() }
    }

    fn half(self, half: u16) -> [u8; 2] {
        if self == Big { half.to_be_bytes() } else { half.to_le_bytes() }
    }

    fn words(self, words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| self.word(*word)).collect()
    }

    fn pcap(self, magic: u32, link_type: u32) -> Vec<u8> {
        let version = [self.half(2), self.half(4)].concat();
        [&self.word(magic)[..], &version, &self.words(&[0, 0, 65_535, link_type])].concat()
    }

    fn pcap_packet(self, seconds: u32, fraction: u32, original: u32, bytes: &[u8]) -> Vec<u8> {
        [&self.words(&[seconds, fraction, bytes.len() as u32, original]), bytes].concat()
    }

    fn block(self, kind: u32, body: &[u8]) -> Vec<u8> {
        let padded = body.len().next_multiple_of(4);
        let length = self.word(padded as u32 + 12);
        [&self.word(kind)[..], &length, body, &vec![0; padded - body.len()], &length].concat()
    }

    fn section(self) -> Vec<u8> {
        let version = [self.half(1), self.half(0)].concat();
        self.block(0x0a0d_0d0a, &[&self.word(0x1a2b_3c4d)[..], &version, &[0xff; 8]].concat())
    }

    fn option(self, code: u16, value: &[u8]) -> Vec<u8> {
        let padding = vec![0; value.len().next_multiple_of(4) - value.len()];
        [&self.half(code)[..], &self.half(value.len() as u16), value, &padding].concat()
    }

    fn interface(self, link_type: u16, snapshot: u32, options: &[Vec<u8>]) -> Vec<u8> {
        let head = [&self.half(link_type)[..], &[0, 0], &self.word(snapshot)].concat();
        self.block(1, &[head, options.concat()].concat())
    }

    fn enhanced(self, interface: u32, time: u64, original: u32, bytes: &[u8]) -> Vec<u8> {
        let head = self.words(&[interface, (time >> 32) as u32, time as u32, bytes.len() as u32, original]);
        let padding = vec![0; bytes.len().next_multiple_of(4) - bytes.len()];
        let options = [self.option(1, b"a comment"), self.option(0, b"")].concat();
        self.block(6, &[&head, bytes, &padding, &options].concat())
    }

    fn obsolete(self, interface: u16, time: u64, original: u32, bytes: &[u8]) -> Vec<u8> {
        let head = self.words(&[(time >> 32) as u32, time as u32, bytes.len() as u32, original]);
        self.block(2, &[&self.half(interface)[..], &self.half(7), &head, bytes].concat())
    }

    fn simple(self, original: u32, bytes: &[u8]) -> Vec<u8> {
        self.block(3, &[&self.word(original)[..], bytes].concat())
    }
}

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;

fn ethernet(time: u64, original_length: u32, bytes: &[u8]) -> Seen {
    (time, 0, false, original_length, Start::Ethernet, bytes.to_vec())
}

#[test]
fn pcap_in_both_byte_orders_and_resolutions() {
    for order in [Little, Big] {
        for (magic, unit) in [(MICROSECONDS, 1_000), (NANOSECONDS, 1)] {
            let file = [
                order.pcap(magic, 1),
                order.pcap_packet(1_700_000_000, 123_456, 3, b"abc"),
                order.pcap_packet(5, 0, 1_500, b""),
                order.pcap_packet(0, 0, 1, b"longer than it says"),
            ]
            .concat();
            let expected = [
                ethernet(1_700_000_000_000_000_000 + 123_456 * unit, 3, b"abc"),
                ethernet(5_000_000_000, 1_500, b""),
                ethernet(0, 19, b"longer than it says"),
            ];
            assert_eq!(read_well(&file), expected, "{order:?} {magic:x}");
            for step in [1, 7] {
                assert_eq!(read_by(&file, step).0, expected, "in pieces of {step}");
            }
        }
    }
}

#[test]
fn pcap_with_the_longer_packet_header_of_old_linux_systems() {
    let extra = [0; 8];
    let packet = |bytes: &[u8]| [&Little.words(&[1, 2, bytes.len() as u32, 9]), &extra[..], bytes].concat();
    let file = [Little.pcap(0xa1b2_cd34, 1), packet(b"abc"), packet(b"d")].concat();
    assert_eq!(read_well(&file), [ethernet(1_000_002_000, 9, b"abc"), ethernet(1_000_002_000, 9, b"d")]);
    assert!(matches!(read(&file[..file.len() - 1]).1, Some(CaptureError::CutShort { .. })));
}

#[test]
fn times_that_cannot_be_are_harmless() {
    let file = [Little.pcap(MICROSECONDS, 1), Little.pcap_packet(u32::MAX, u32::MAX, 1, b"x")].concat();
    assert_eq!(read_well(&file).len(), 1);
}

/// How a frame of this link type begins, and whether it was on its way out.
fn start_of(link_type: u32, bytes: &[u8]) -> (Start, bool) {
    let length = bytes.len() as u32;
    let file = [Little.pcap(MICROSECONDS, link_type), Little.pcap_packet(0, 0, length, bytes)].concat();
    let seen = read_well(&file);
    (seen[0].4, seen[0].2)
}

fn network(offset: usize, ether_type: u16) -> Start {
    Start::Network { offset, ether_type }
}

#[test]
fn every_link_type() {
    let cooked = |kind: u16, device: u16, protocol: u16| {
        [&kind.to_be_bytes()[..], &device.to_be_bytes(), &[0; 10], &protocol.to_be_bytes(), &[0x45]].concat()
    };
    let cooked2 = |kind: u8, device: u16, protocol: u16| {
        [&protocol.to_be_bytes()[..], &[0; 6], &device.to_be_bytes(), &[kind, 6], &[0; 8], &[0x45]].concat()
    };
    let table: &[(&str, u32, Vec<u8>, Start, bool)] = &[
        ("Ethernet", 1, vec![0; 60], Start::Ethernet, false),
        ("Ethernet with an FCS length", 0x5400_0001, vec![0; 60], Start::Ethernet, false),
        ("cooked", 113, cooked(0, 1, 0x0800), network(16, 0x0800), false),
        ("cooked, outgoing", 113, cooked(4, 772, 0x86dd), network(16, 0x86dd), true),
        ("cooked, VLAN", 113, cooked(0, 1, 0x8100), network(16, 0x8100), false),
        ("cooked, netlink", 113, cooked(4, 824, 0x0800), network(16, 0), true),
        ("cooked, nothing behind", 113, cooked(0, 1, 0x86dd)[..16].to_vec(), network(16, 0x86dd), false),
        ("cooked, too short", 113, vec![0; 15], network(15, 0x0800), false),
        ("cooked v2", 276, cooked2(0, 1, 0x86dd), network(20, 0x86dd), false),
        ("cooked v2, outgoing", 276, cooked2(4, 1, 0x0800), network(20, 0x0800), true),
        ("cooked v2, VLAN", 276, cooked2(1, 1, 0x8100), network(20, 0x8100), false),
        ("cooked v2, radiotap", 276, cooked2(1, 803, 0x0800), network(20, 0), false),
        ("cooked v2, too short", 276, vec![0; 19], network(19, 0x0800), false),
        ("raw IPv4", 101, vec![0x45, 0], network(0, 0x0800), false),
        ("raw IPv6", 101, vec![0x60, 0], network(0, 0x86dd), false),
        ("raw, neither", 101, vec![0x15], network(0, 0), false),
        ("raw, empty", 101, vec![], network(0, 0x0800), false),
        ("DLT_RAW", 12, vec![0x45], network(0, 0x0800), false),
        ("DLT_RAW of OpenBSD", 14, vec![0x60], network(0, 0x86dd), false),
        ("IPv4", 228, vec![0x45], network(0, 0x0800), false),
        ("IPv6", 229, vec![0x60], network(0, 0x86dd), false),
        ("null, IPv4, little", 0, vec![2, 0, 0, 0, 0x45], network(4, 0x0800), false),
        ("null, IPv4, big", 0, vec![0, 0, 0, 2, 0x45], network(4, 0x0800), false),
        ("null, IPv6 of Linux", 0, vec![10, 0, 0, 0, 0x60], network(4, 0x86dd), false),
        ("null, IPv6 of NetBSD", 0, vec![24, 0, 0, 0, 0x60], network(4, 0x86dd), false),
        ("null, IPv6 of FreeBSD, big", 0, vec![0, 0, 0, 28, 0x60], network(4, 0x86dd), false),
        ("null, IPv6 of Darwin", 0, vec![30, 0, 0, 0, 0x60], network(4, 0x86dd), false),
        ("null, something else", 0, vec![7, 0, 0, 0, 0x60], network(4, 0), false),
        ("null, too short", 0, vec![2, 0, 0], network(3, 0x0800), false),
        ("loopback, IPv4", 108, vec![0, 0, 0, 2, 0x45], network(4, 0x0800), false),
        ("loopback, IPv6", 108, vec![0, 0, 0, 24, 0x60], network(4, 0x86dd), false),
    ];
    for (name, link_type, bytes, start, outgoing) in table {
        assert_eq!(start_of(*link_type, bytes), (*start, *outgoing), "{name}");
    }
}

#[test]
fn an_unknown_link_type_is_named() {
    for (number, word) in [(127, "127 (IEEE 802.11 with radiotap)"), (777, "777 ")] {
        let error = error_of(&Little.pcap(MICROSECONDS, number));
        assert!(error.contains(&format!("link type {word}")), "{error}");
        assert!(error.contains("Linux cooked v1 (113)"), "{error}");
    }
}

/// A pcapng file with two sections of both byte orders and blocks of every kind.
fn pcapng(first: Order) -> Vec<u8> {
    let second = if first == Big { Little } else { Big };
    let offset = |seconds: i64| if first == Big { seconds.to_be_bytes() } else { seconds.to_le_bytes() };
    [
        first.section(),
        first.interface(
            1,
            65_535,
            &[first.option(2, b"eth0"), first.option(9, &[9]), first.option(0, b""), first.option(2, b"none")],
        ),
        first.interface(101, 4, &[first.option(2, b"tun0"), first.option(14, &offset(1_000))]),
        first.block(5, &[0; 12]),
        first.enhanced(0, 1_700_000_000_123_456_789, 1_500, b"abc"),
        first.block(0xbad, b"unknown to everyone"),
        first.enhanced(1, 2_000_001, 1, b"\x45"),
        first.obsolete(0, 7, 4, b"abcd"),
        first.simple(3, b"xyz"),
        second.section(),
        second.interface(101, 2, &[]),
        second.interface(113, 0, &[second.option(2, b"eth0")]),
        second.interface(1, 0, &[second.option(9, &[0x80 | 10])]),
        second.simple(5, b"\x60\0\0\0\0"),
        second.enhanced(1, 1, 1, b"\0"),
        second.enhanced(2, 1_536, 1, b"e"),
    ]
    .concat()
}

fn pcapng_packets() -> Vec<Seen> {
    let seen =
        |time, interface, original, start, bytes: &[u8]| (time, interface, false, original, start, bytes.to_vec());
    vec![
        seen(1_700_000_000_123_456_789, 1, 1_500, Start::Ethernet, b"abc"),
        seen(1_002_000_001_000, 2, 1, network(0, 0x0800), b"\x45"),
        seen(7, 1, 4, Start::Ethernet, b"abcd"),
        seen(7, 1, 3, Start::Ethernet, b"xyz"),
        seen(7, 3, 5, network(0, 0x86dd), b"\x60\0"),
        seen(1_000, 1, 1, network(1, 0x0800), b"\0"),
        seen(1_500_000_000, 4, 1, Start::Ethernet, b"e"),
    ]
}

#[test]
fn pcapng_with_sections_interfaces_and_blocks_of_every_kind() {
    for order in [Little, Big] {
        let file = pcapng(order);
        assert_eq!(read_well(&file), pcapng_packets(), "{order:?}");
        for step in [1, 13] {
            assert_eq!(read_by(&file, step).0, pcapng_packets(), "in pieces of {step}");
        }
    }
}

#[test]
fn pcapng_interfaces_have_names() {
    let mut capture = Capture::from_reader("x", Box::new(io::Cursor::new(pcapng(Little))), None).unwrap();
    let mut names = vec![];
    while let Some(frame) = capture.next_frame().unwrap() {
        names.push(frame.interface_name.map(|name| name.to_string()));
    }
    let names: Vec<_> = names.iter().map(Option::as_deref).collect();
    assert_eq!(names, [Some("eth0"), Some("tun0"), Some("eth0"), Some("eth0"), None, Some("eth0"), None]);
}

#[test]
fn interfaces_that_cooked_frames_name_are_told_apart() {
    let frame = |interface: u32| [&[8, 0, 0, 0][..], &interface.to_be_bytes(), &[0; 12]].concat();
    let file = [
        Little.section(),
        Little.interface(276, 0, &[Little.option(2, b"any")]),
        Little.enhanced(0, 0, 20, &frame(3)),
        Little.enhanced(0, 0, 20, &frame(1)),
        Little.enhanced(0, 0, 20, &frame(3)),
    ]
    .concat();
    let interfaces: Vec<_> = read_well(&file).iter().map(|seen| seen.1).collect();
    assert_eq!(interfaces, [2, 3, 2]);
}

#[test]
fn clocks() {
    let at = |resolution, offset, time| Clock { resolution, offset }.nanoseconds(time);
    use super::pcapng::Clock;
    assert_eq!(at(6, 0, 1), 1_000);
    assert_eq!(at(9, 0, 1), 1);
    assert_eq!(at(3, 0, 1), 1_000_000);
    assert_eq!(at(0, 0, 2), 2_000_000_000);
    assert_eq!(at(12, 0, 1_999), 1);
    assert_eq!(at(0x80, 0, 2), 2_000_000_000);
    assert_eq!(at(0x81, 0, 3), 1_500_000_000);
    assert_eq!(at(6, -1, 1_500_000), 500_000_000);
    assert_eq!(at(6, -2, 1), 0);
    assert_eq!(at(0, i64::MAX, u64::MAX), u64::MAX);
    for resolution in 0..=u8::MAX {
        at(resolution, i64::MIN, u64::MAX);
        at(resolution, i64::MAX, u64::MAX);
    }
}

#[test]
fn a_packet_of_an_unknown_link_type_in_pcapng() {
    let interface = Little.interface(220, 0, &[]);
    let unused = [Little.section(), interface.clone(), Little.interface(1, 0, &[]), Little.enhanced(1, 0, 1, b"x")];
    assert_eq!(read_well(&unused.concat()).len(), 1, "an interface without packets does not matter");
    let used = [Little.section(), interface, Little.enhanced(0, 0, 1, b"x")].concat();
    assert!(error_of(&used).contains("link type 220 (USB)"));
}

#[test]
fn a_packet_larger_than_a_read_is_given() {
    let bytes = vec![7; 600_000];
    let file =
        [Little.pcap(MICROSECONDS, 1), Little.pcap_packet(0, 0, 600_000, &bytes), Little.pcap_packet(0, 0, 3, b"abc")];
    assert_eq!(read_well(&file.concat()), [ethernet(0, 600_000, &bytes), ethernet(0, 3, b"abc")]);
}

#[test]
fn a_block_that_is_skipped_may_be_larger_than_memory_allows() {
    let large = Little.block(10, &vec![1; 3 << 20]);
    let file = [Little.section(), Little.interface(1, 0, &[]), large.clone(), Little.enhanced(0, 0, 1, b"x")].concat();
    assert_eq!(read_well(&file).len(), 1);
    let cut = &file[..large.len()];
    assert!(matches!(read(cut).1, Some(CaptureError::CutShort { .. })));
}

#[test]
fn every_prefix_of_a_pcap_gives_what_is_whole_and_says_where_it_is_cut() {
    for order in [Little, Big] {
        let packets = [order.pcap_packet(1, 0, 3, b"abc"), order.pcap_packet(2, 0, 4, b"defg")];
        let file = [order.pcap(MICROSECONDS, 1), packets.concat()].concat();
        let ends = [24, 24 + packets[0].len(), file.len()];
        let all = read_well(&file);
        for length in 0..=file.len() {
            let (seen, error) = read(&file[..length]);
            let whole = ends.iter().filter(|end| **end <= length).count();
            assert_eq!(seen, all[..whole.saturating_sub(1)], "{length}");
            match error {
                None => assert!(ends.contains(&length), "{length}"),
                Some(CaptureError::Empty { .. }) => assert_eq!(length, 0),
                Some(CaptureError::CutShort { position, .. }) => {
                    let begun = ends.iter().rev().find(|end| **end <= length).copied().unwrap_or(0);
                    assert_eq!(position, begun as u64, "{length}");
                }
                Some(error) => panic!("{length}: {error}"),
            }
        }
    }
}

#[test]
fn every_prefix_of_a_pcapng_gives_what_is_whole_and_says_that_it_is_cut() {
    for order in [Little, Big] {
        let file = pcapng(order);
        let mut boundaries = vec![];
        let mut at = 0;
        let mut big = order == Big;
        while at < file.len() {
            // The second section is in the other byte order.
            if at > 0 && file[at..].starts_with(&super::pcapng::MAGIC) {
                big = !big;
            }
            let length: [u8; 4] = file[at + 4..at + 8].try_into().unwrap();
            at += if big { u32::from_be_bytes(length) } else { u32::from_le_bytes(length) } as usize;
            boundaries.push(at);
        }
        let all = pcapng_packets();
        let mut most = 0;
        for length in 0..=file.len() {
            let (seen, error) = read(&file[..length]);
            assert_eq!(seen, all[..seen.len()], "{length}");
            assert!(seen.len() >= most, "{length}");
            most = seen.len();
            match error {
                None => assert!(boundaries.contains(&length), "{length}"),
                Some(CaptureError::Empty { .. }) => assert_eq!(length, 0),
                Some(CaptureError::CutShort { .. }) => assert!(!boundaries.contains(&length), "{length}"),
                Some(error) => panic!("{length}: {error}"),
            }
        }
        assert_eq!(most, all.len());
    }
}

#[test]
fn files_that_are_no_captures() {
    assert_eq!(error_of(b""), "test.pcap: is empty; a capture has at least a header");
    for garbage in [&b"x"[..], b"GET / HTTP/1.1\r\n", &[0; 64], b"\x0a\x0e", b"BZ"] {
        assert_eq!(error_of(garbage), "test.pcap: neither pcap nor pcapng");
    }
    let expected =
        "test.pcap: compressed with gzip; decompress first: gzip -dc test.pcap | api-exposure-monitor replay -";
    assert_eq!(error_of(&[0x1f, 0x8b, 8, 0]), expected);
    let piped = Capture::from_reader("standard input", Box::new(&[0x1f, 0x8b][..]), None).unwrap_err().to_string();
    assert!(piped.ends_with("decompress first: ... | gzip -dc | api-exposure-monitor replay -"), "{piped}");
    for (magic, word) in [
        (&[0x28, 0xb5, 0x2f, 0xfd][..], "zstd -dc"),
        (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz -dc"),
        (b"BZh9", "bzip2 -dc"),
        (&[0x04, 0x22, 0x4d, 0x18], "lz4 -dc"),
    ] {
        assert!(error_of(magic).contains(word), "{word}");
    }
}

#[test]
fn contradictions_are_corruption() {
    let pcap = |packet: &[u8]| [&Little.pcap(MICROSECONDS, 1), packet].concat();
    let section = Little.section();
    let interface = Little.interface(1, 0, &[]);
    let pcapng = |blocks: &[&[u8]]| [&section, &interface[..], &blocks.concat()].concat();
    let mut lengths_differ = Little.enhanced(0, 0, 1, b"x");
    *lengths_differ.last_mut().unwrap() = 1;
    let mut skipped_lengths_differ = Little.block(99, b"");
    *skipped_lengths_differ.last_mut().unwrap() = 1;
    let mut captured_too_much = Little.enhanced(0, 0, 1, b"x");
    captured_too_much[20] = 0xff;
    let mut section_magic = Little.section();
    section_magic[8] = 0;
    let mut section_version = Little.section();
    section_version[12] = 2;
    let mut pcap_version = Little.pcap(MICROSECONDS, 1);
    pcap_version[4] = 3;
    let table: &[(&str, Vec<u8>)] = &[
        ("more than 1 MiB", pcap(&Little.words(&[0, 0, (1 << 20) + 1, 0]))),
        ("version is not 2", pcap_version),
        ("byte order magic", section_magic),
        ("version is not 1", section_version),
        ("two lengths differ", pcapng(&[&lengths_differ])),
        ("two lengths differ", pcapng(&[&skipped_lengths_differ])),
        ("no multiple of 4", pcapng(&[&Little.words(&[6, 33, 0, 0, 0])])),
        ("too small", pcapng(&[&Little.words(&[6, 8, 0, 0, 0])])),
        ("block is too small", pcapng(&[&Little.block(6, &[0; 16])])),
        ("block is too small", pcapng(&[&Little.block(3, &[])])),
        ("more than 1.25 MiB", pcapng(&[&Little.words(&[6, 2 << 20, 0, 0, 0])])),
        ("longer than its block", pcapng(&[&captured_too_much])),
        ("not described", pcapng(&[&Little.enhanced(1, 0, 1, b"x")])),
        ("not described", [&section[..], &Little.simple(1, b"x")].concat()),
        ("interface description", [&section[..], &Little.block(1, &[0; 4])].concat()),
    ];
    for (what, file) in table {
        let error = error_of(file);
        assert!(error.contains(what) && error.contains("corrupt at byte"), "{what}: {error}");
    }
}

#[test]
fn paths_that_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let error = |path: &Path| Capture::open(path).unwrap_err();
    let name = directory.path().display().to_string();
    assert_eq!(error(directory.path()).to_string(), format!("{name}: is a directory; name the capture files in it"));
    let absent = directory.path().join("absent.pcap");
    assert_eq!(error(&absent).to_string(), format!("{}: no such file", absent.display()));
    let denied = Fault::Read(io::ErrorKind::PermissionDenied.into()).of(&"x".into(), 0);
    assert_eq!(denied.to_string(), "x: permission denied; make it readable for this user");
}

#[test]
fn a_file_says_its_length_and_how_far_it_was_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("one.pcap");
    let file = [Little.pcap(MICROSECONDS, 1), Little.pcap_packet(0, 0, 1, b"x")].concat();
    std::fs::write(&path, &file).unwrap();
    let mut capture = Capture::open(&path).unwrap();
    assert_eq!((capture.total(), capture.position()), (Some(41), 24));
    assert!(capture.next_frame().unwrap().is_some());
    assert_eq!(capture.position(), 41);
    assert!(capture.next_frame().unwrap().is_none());
}

#[test]
fn a_reading_error_is_handed_on() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is gone"))
        }
    }
    let error = Capture::from_reader("x", Box::new(Broken), None).unwrap_err();
    assert_eq!(error.to_string(), "x: cannot be read: the disk is gone");
}

proptest! {
    #[test]
    fn nothing_panics_on_damaged_files(
        ng in any::<bool>(),
        big in any::<bool>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        step in 1..64_usize,
    ) {
        let order = if big { Big } else { Little };
        let mut file = if ng {
            pcapng(order)
        } else {
            [order.pcap(NANOSECONDS, 276), order.pcap_packet(1, 2, 30, &[0; 30]), order.pcap_packet(1, 2, 9, &[4; 9])].concat()
        };
        for (index, value) in damage {
            let at = index.index(file.len());
            file[at] = value;
        }
        let _ = read_by(&file, step);
    }

    #[test]
    fn nothing_panics_on_garbage(magic in 0..6_usize, garbage in prop::collection::vec(any::<u8>(), 0..300)) {
        let magics: Vec<_> = pcap::MAGICS.iter().chain([&super::pcapng::MAGIC]).collect();
        let _ = read(&[&magics[magic][..], &garbage].concat());
    }
}
