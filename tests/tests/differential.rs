//! The kernel's parser against etherparse, over random, mutated and cut frames.
//!
//! Both have to agree whether a frame holds a TCP segment, and on its addresses, ports, sequence and acknowledgement
//! number, flags, the offset of its payload, how many payload bytes the frame has and how many the packet had on the
//! wire. Where the two differ on purpose, [`expected`] names the difference and says what ours has to do.
//!
//! `API_EXPOSURE_TEST_SEED` and `API_EXPOSURE_TEST_FRAMES` choose other frames, and more.

use std::collections::BTreeMap;

use etherparse::err::{ip_auth, tcp};
use etherparse::{
    EtherType, IpAuthHeaderSlice, IpNumber, Ipv6FragmentHeaderSlice, Ipv6RawExtHeaderSlice, LaxLinkExtSlice,
    LaxNetSlice, LaxSlicedPacket, LinkSlice, SlicedPacket, TcpHeaderSlice, TransportSlice,
};
use monitor_common::{Side, Skip, flow::mapped, limits};
use monitor_ebpf::parse::parse_ethernet;
use monitor_tests::frame::{
    Tcp, ether_type, ethernet, extension, ipv4_between, ipv6_between, key_ipv6, protocol, tag, udp,
};
use monitor_tests::random::Random;

const FRAMES: u64 = 1_200_000;
const SEED: u64 = 0x5eed_0000_0000_6443;

/// What both sides say of a TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Facts {
    source: ([u8; 16], u16),
    destination: ([u8; 16], u16),
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
    payload: usize,
    /// Payload bytes in the frame.
    present: usize,
    /// Payload bytes on the wire.
    length: usize,
}

/// What etherparse makes of a frame, put into the terms of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// A TCP segment.
    Tcp(Facts),
    /// No TCP segment, for any reason.
    NotTcp,
    /// The frame was cut within the TCP header. etherparse wants all of it; ours goes without what it does not need.
    CutTcpHeader,
    /// One of the differences on purpose: ours has to leave the frame alone for this reason.
    Left(&'static str, Skip),
}

#[test]
fn agrees_with_etherparse() {
    let seed = number("API_EXPOSURE_TEST_SEED", SEED);
    let frames = number("API_EXPOSURE_TEST_FRAMES", FRAMES);
    let mut random = Random::new(seed);
    let mut seen = BTreeMap::<&str, u64>::new();
    for index in 0..frames {
        let frame = next_frame(&mut random);
        let (expected, ours) = (expected(&frame), ours(&frame));
        let (agree, what) = match (expected, ours) {
            (Expected::Tcp(theirs), Ok(ours)) => (theirs == ours, "TCP"),
            (Expected::NotTcp, Err(_)) => (true, "not TCP"),
            (Expected::CutTcpHeader, Ok(ours)) => (ours.payload > frame.len() && ours.present == 0, "cut, read"),
            (Expected::CutTcpHeader, Err(skip)) => {
                (matches!(skip, Skip::Truncated | Skip::Malformed), "cut, left alone")
            }
            (Expected::Left(what, reason), Err(skip)) => (skip == reason, what),
            _ => (false, ""),
        };
        assert!(
            agree,
            "frame {index} of seed {seed:#x}\nexpected {expected:?}\n    ours {ours:?}\n   frame {}",
            hexadecimal(&frame)
        );
        *seen.entry(what).or_default() += 1;
    }
    println!("{frames} frames of seed {seed:#x}: {seen:?}");
    if frames >= FRAMES {
        let share = |what: &str| seen.get(what).copied().unwrap_or(0) * 1000 / frames;
        assert!(share("TCP") > 400, "most frames have to come as far as the end of the parser: {seen:?}");
        assert!(share("not TCP") > 100, "{seen:?}");
        for what in ["cut, read", "cut, left alone"] {
            assert!(share(what) > 1, "{what}: {seen:?}");
        }
        for what in DIFFERENCES {
            assert!(seen.contains_key(what), "nothing tried the difference {what:?}: {seen:?}");
        }
    }
}

/// Frames that nobody mutated: the strict parser has to take them, so that the templates are not all wrong alike.
#[test]
fn templates_are_what_the_strict_parser_takes() {
    let mut random = Random::new(SEED);
    let (mut taken, mut frames) = (0, 0);
    for _ in 0..20_000 {
        let frame = template(&mut random);
        let Expected::Tcp(facts) = expected(&frame) else { continue };
        frames += 1;
        assert_eq!(ours(&frame), Ok(facts), "{}", hexadecimal(&frame));
        if let Ok(SlicedPacket { transport: Some(TransportSlice::Tcp(tcp)), .. }) = SlicedPacket::from_ethernet(&frame)
        {
            taken += 1;
            assert_eq!(tcp.payload().len(), facts.length, "{}", hexadecimal(&frame));
        }
    }
    assert!(frames > 10_000 && taken * 2 > frames, "{taken} of {frames}");
}

/// Names of the differences on purpose.
const DIFFERENCES: [&str; 9] = [
    MACSEC,
    TAGS,
    IPV4_TYPE,
    IPV6_TYPE,
    IPV4_LENGTH,
    IPV4_AUTHENTICATION,
    EXTENSIONS,
    LATER_FRAGMENT_IPV4,
    LATER_FRAGMENT_IPV6,
];
/// Ours does not look behind an 802.1AE header.
const MACSEC: &str = "MACsec";
/// Ours follows two VLAN tags.
const TAGS: &str = "a third VLAN tag";
/// etherparse goes by the version in the IP header, ours asks for the EtherType's.
const IPV4_TYPE: &str = "IPv6 with the EtherType of IPv4";
/// The other way round.
const IPV6_TYPE: &str = "IPv4 with the EtherType of IPv6";
/// etherparse takes a total length under the header's for no length at all; ours does so for 0 alone.
const IPV4_LENGTH: &str = "IPv4 total length under the header's";
/// Ours follows authentication headers over IPv6 only.
const IPV4_AUTHENTICATION: &str = "authentication header over IPv4";
/// Ours follows eight.
const EXTENSIONS: &str = "more than eight extension headers";
/// No difference, but a reason that etherparse's result holds, so that ours can be held to it.
const LATER_FRAGMENT_IPV4: &str = "later fragment over IPv4";
/// As over IPv4.
const LATER_FRAGMENT_IPV6: &str = "later fragment over IPv6";

/// What ours has to say of this frame, by what etherparse says of it.
fn expected(frame: &[u8]) -> Expected {
    let Ok(packet) = LaxSlicedPacket::from_ethernet(frame) else { return Expected::NotTcp };
    let mut kind = match &packet.link {
        Some(LinkSlice::Ethernet2(ethernet)) => ethernet.ether_type(),
        _ => return Expected::NotTcp,
    };
    for (index, link) in packet.link_exts.iter().enumerate() {
        match link {
            LaxLinkExtSlice::Vlan(_) if index == 2 => return Expected::Left(TAGS, Skip::TooManyVlanTags),
            LaxLinkExtSlice::Vlan(vlan) => kind = vlan.ether_type(),
            LaxLinkExtSlice::Macsec(_) => return Expected::Left(MACSEC, Skip::NotIp),
        }
    }
    match &packet.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let header_length = header.slice().len();
            let total = usize::from(header.total_len());
            if kind != EtherType::IPV4 {
                return Expected::Left(IPV6_TYPE, Skip::Malformed);
            }
            if (1..header_length).contains(&total) {
                return Expected::Left(IPV4_LENGTH, Skip::Malformed);
            }
            if header.fragments_offset().value() != 0 {
                return Expected::Left(LATER_FRAGMENT_IPV4, Skip::LaterFragment);
            }
            if header.protocol() == IpNumber::AUTHENTICATION_HEADER {
                return Expected::Left(IPV4_AUTHENTICATION, Skip::NotTcp);
            }
            let payload = ip.payload();
            let on_wire = if total == 0 { payload.payload.len() } else { total - header_length };
            let addresses = [mapped(header.source()), mapped(header.destination())];
            transport(frame, payload.ip_number, payload.payload, on_wire, addresses)
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            if kind != EtherType::IPV6 {
                return Expected::Left(IPV4_TYPE, Skip::Malformed);
            }
            let payload = ip.extensions().slice().as_ptr() as usize - frame.as_ptr() as usize;
            let on_wire = match usize::from(header.payload_length()) {
                0 => frame.len() - payload,
                length => length,
            };
            let all = &frame[payload..frame.len().min(payload + on_wire)];
            let (next, rest) = match follow_extensions(header.next_header(), all) {
                Ok(found) => found,
                Err(expected) => return expected,
            };
            let on_wire = on_wire - (all.len() - rest.len());
            transport(frame, next, rest, on_wire, [header.source(), header.destination()])
        }
        _ => Expected::NotTcp,
    }
}

/// Follows extension headers, one by one: etherparse takes hop-by-hop options in the first place only and no mobility,
/// host identity and shim6 headers. What is behind the last one, or what ours has to say where that is nothing.
fn follow_extensions(first: IpNumber, all: &[u8]) -> Result<(IpNumber, &[u8]), Expected> {
    let (mut next, mut rest) = (first, all);
    for count in 0.. {
        let (following, length) = match next {
            IpNumber::IPV6_HEADER_HOP_BY_HOP
            | IpNumber::IPV6_ROUTE_HEADER
            | IpNumber::IPV6_DESTINATION_OPTIONS
            | IpNumber::MOBILITY_HEADER
            | IpNumber::HIP
            | IpNumber::SHIM6 => {
                let header = Ipv6RawExtHeaderSlice::from_slice(rest).map_err(|_| Expected::NotTcp)?;
                (header.next_header(), header.slice().len())
            }
            IpNumber::IPV6_FRAGMENTATION_HEADER => {
                let header = Ipv6FragmentHeaderSlice::from_slice(rest).map_err(|_| Expected::NotTcp)?;
                if count < limits::EXTENSION_HEADERS && header.fragment_offset().value() != 0 {
                    return Err(Expected::Left(LATER_FRAGMENT_IPV6, Skip::LaterFragment));
                }
                (header.next_header(), header.slice().len())
            }
            IpNumber::AUTHENTICATION_HEADER => match IpAuthHeaderSlice::from_slice(rest) {
                Ok(header) => (header.next_header(), header.slice().len()),
                // A length of 0 is too short for the header's own fields; ours goes on behind 8 bytes all the same, as
                // the kernel does (`ipv6_authlen` in include/linux/ipv6.h, 6.18).
                Err(ip_auth::HeaderSliceError::Content(_)) if rest.len() >= 8 => (IpNumber(rest[0]), 8),
                Err(_) => return Err(Expected::NotTcp),
            },
            _ => return Ok((next, rest)),
        };
        if count == limits::EXTENSION_HEADERS {
            return Err(Expected::Left(EXTENSIONS, Skip::TooManyExtensionHeaders));
        }
        (next, rest) = (following, &rest[length..]);
    }
    unreachable!("the headers end before numbers do")
}

/// What is behind the IP headers, of which `on_wire` bytes were on the wire.
fn transport(frame: &[u8], kind: IpNumber, bytes: &[u8], on_wire: usize, addresses: [[u8; 16]; 2]) -> Expected {
    if kind != IpNumber::TCP {
        return Expected::NotTcp;
    }
    let tcp = match TcpHeaderSlice::from_slice(bytes) {
        Ok(tcp) => tcp,
        Err(tcp::HeaderSliceError::Len(_)) if bytes.len() < on_wire => return Expected::CutTcpHeader,
        Err(_) => return Expected::NotTcp,
    };
    let header = tcp.slice();
    let [source, destination] = addresses;
    Expected::Tcp(Facts {
        source: (source, tcp.source_port()),
        destination: (destination, tcp.destination_port()),
        sequence: tcp.sequence_number(),
        acknowledgement: tcp.acknowledgment_number(),
        flags: [tcp.fin(), tcp.syn(), tcp.rst(), tcp.psh(), tcp.ack(), tcp.urg(), tcp.ece(), tcp.cwr()]
            .iter()
            .enumerate()
            .fold(0, |flags, (bit, set)| flags | u8::from(*set) << bit),
        payload: header.as_ptr() as usize - frame.as_ptr() as usize + header.len(),
        present: bytes.len() - header.len(),
        length: on_wire - header.len(),
    })
}

/// What ours says of this frame.
fn ours(frame: &[u8]) -> Result<Facts, Skip> {
    let segment = parse_ethernet(frame)?;
    let tcp = segment.tcp(frame)?;
    let (mut source, mut destination) = ([0; 16], [0; 16]);
    segment.addresses(frame, &mut source, &mut destination)?;
    Ok(Facts {
        source: (source, segment.source_port),
        destination: (destination, segment.destination_port),
        sequence: tcp.sequence,
        acknowledgement: tcp.acknowledgement,
        flags: tcp.flags,
        payload: tcp.payload,
        present: (tcp.length as usize).min(frame.len().saturating_sub(tcp.payload)),
        length: tcp.length as usize,
    })
}

/// A frame, right or mutated, cut, lengthened, or nothing but noise.
fn next_frame(random: &mut Random) -> Vec<u8> {
    if random.chance(3) {
        let length = random.below(120);
        return random.bytes(length);
    }
    let mut frame = template(random);
    if random.chance(55) {
        for _ in 0..=random.below(3) {
            let at = random.below(frame.len().min(140));
            frame[at] = match random.below(4) {
                0 => random.next() as u8,
                1 => random.pick(&[0, 1, 2, 4, 5, 6, 8, 15, 17, 43, 44, 50, 51, 60, 64, 69, 96, 127, 128, 135, 255]),
                2 => frame[at] ^ 1 << random.below(8),
                _ => frame[at].wrapping_add(random.pick(&[1, 255, 4, 16])),
            };
        }
    }
    if random.chance(20) {
        let length = random.below(frame.len());
        frame.truncate(length);
    } else if random.chance(20) {
        let length = random.below(40);
        frame.extend(random.bytes(length));
    }
    frame
}

/// A frame that is right: tags, headers, options and payload at random, most of it TCP.
fn template(random: &mut Random) -> Vec<u8> {
    let length = random.below(64);
    let mut tcp = Tcp::new(random.pick(&[Side::Client, Side::Server]), random.next() as u8, &random.bytes(length));
    (tcp.sequence, tcp.acknowledgement) = (random.next() as u32, random.next() as u32);
    if random.chance(40) {
        let words = random.below(11);
        tcp.options = random.bytes(words * 4);
    }
    (tcp.key.client_port, tcp.key.server_port) = (random.next() as u16, random.next() as u16);
    let mut inner = tcp.segment();
    let mut next = protocol::TCP;
    if random.chance(8) {
        next = random.pick(&[protocol::UDP, protocol::ICMP, protocol::GRE, protocol::ESP, protocol::IPV4, 59, 253]);
        inner = udp(random.pick(&[53, 4789, 6081, 8472, 51_820]), &inner);
    }
    let (mut kind, mut packet) = if random.chance(50) {
        let words = if random.chance(30) { random.below(11) } else { 0 };
        let options = random.bytes(words * 4);
        if random.chance(3) {
            inner = extension(protocol::AUTHENTICATION, next, &inner);
            next = protocol::AUTHENTICATION;
        }
        let (source, destination) = (random.next() as u32, random.next() as u32);
        let mut packet = ipv4_between(source.to_be_bytes(), destination.to_be_bytes(), next, &options, &inner);
        if random.chance(8) {
            packet[6..8].copy_from_slice(&random.pick(&[[0x20, 0], [0x40, 0], [0, 1], [0x3f, 0xff], [0x80, 0]]));
        }
        (ether_type::IPV4, packet)
    } else {
        if random.chance(60) {
            for _ in 0..random.pick(&[1, 1, 1, 2, 2, 3, 5, 7, 8, 9, 10]) {
                let kind = random.pick(&EXTENSION_KINDS);
                inner = extension(kind, next, &inner);
                match kind {
                    protocol::FRAGMENT if random.chance(20) => inner[3] = random.next() as u8,
                    protocol::FRAGMENT => inner[3] = random.pick(&[0, 1]),
                    protocol::AUTHENTICATION if random.chance(10) => inner[1] = random.pick(&[0, 1, 2]),
                    protocol::AUTHENTICATION => {}
                    _ if random.chance(30) => {
                        let more = random.below(3);
                        inner[1] = more as u8;
                        let padding = random.bytes(more * 8);
                        inner.splice(8..8, padding);
                    }
                    _ => {}
                }
                next = kind;
            }
        }
        let key = key_ipv6();
        (ether_type::IPV6, ipv6_between(key.client, key.server, next, &inner))
    };
    if random.chance(4) {
        // No length: too large a packet for its field.
        let at = if kind == ether_type::IPV4 { 2 } else { 4 };
        packet[at..at + 2].copy_from_slice(&[0, 0]);
    }
    for _ in 0..random.pick(&[0, 0, 0, 1, 1, 2, 3]) {
        packet = tag(kind, &packet);
        kind = random.pick(&[ether_type::VLAN, ether_type::VLAN_SERVICE, ether_type::VLAN_SERVICE_OLD]);
    }
    if random.chance(1) {
        kind =
            random.pick(&[ether_type::MACSEC, ether_type::ARP, ether_type::LLDP, ether_type::IPV4, ether_type::IPV6]);
        let length = random.below(16);
        packet = [random.bytes(length), packet].concat();
    }
    ethernet(kind, &packet)
}

const EXTENSION_KINDS: [u8; 8] = [
    protocol::HOP_BY_HOP,
    protocol::ROUTING,
    protocol::FRAGMENT,
    protocol::AUTHENTICATION,
    protocol::DESTINATION_OPTIONS,
    protocol::MOBILITY,
    protocol::HIP,
    protocol::SHIM6,
];

/// A number from the environment, decimal or, behind 0x, hexadecimal.
fn number(variable: &str, default: u64) -> u64 {
    let Ok(value) = std::env::var(variable) else { return default };
    let number = match value.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => value.parse(),
    };
    number.unwrap_or_else(|error| panic!("{variable}={value}: {error}"))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
