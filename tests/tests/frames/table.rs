//! The frames.

use monitor_common::flow::mapped;
use monitor_common::{FlowKey, PacketKind, RecordFlags, Role, Side, Skip};
use monitor_tests::frame::{
    SERVER_IPV4, Tcp, cut, ether_type, ethernet, extension, flag, ipv4, ipv4_between, ipv6, ipv6_extended, key_ipv4,
    key_ipv6, padded, protocol, tag, udp, with,
};

/// A frame and what is expected of it.
pub struct Case {
    pub name: String,
    pub frame: Vec<u8>,
    pub expected: Expected,
}

impl Case {
    /// Whether the frame is IP right behind its Ethernet header, with a source address of the constants, so that it
    /// can be run without Ethernet header too.
    pub fn is_plain_ip(&self) -> bool {
        match self.frame.get(12..14) {
            Some([8, 0]) => self.frame.get(26..28) == Some(&[8, 0]),
            Some([0x86, 0xdd]) => self.frame.get(26..28) == Some(&[0x86, 0xdd]),
            _ => false,
        }
    }
}

/// What has to become of a frame.
#[derive(Clone, Debug)]
pub enum Expected {
    /// Parse or select leaves it alone: it is counted as skipped, and as nothing else.
    Left(Skip),
    /// It is counted as a packet.
    Watched(Watched),
}

/// What select and track have to make of a watched frame.
#[derive(Clone, Debug)]
pub struct Watched {
    pub key: FlowKey,
    pub side: Side,
    pub role: Role,
    pub kind: PacketKind,
    /// Bytes of the frame on the wire.
    pub wire: usize,
    pub tracked: Result<Facts, Skip>,
}

/// What its record has to say.
#[derive(Clone, Debug)]
pub struct Facts {
    pub sequence: u32,
    pub acknowledgement: u32,
    pub flags: u16,
    pub length: usize,
    pub bytes: Vec<u8>,
}

/// A request that is none of an API server's.
const PAGE: &[u8] = b"GET / HTTP/1.1\r\nHost: page\r\n\r\n";
const REQUEST: &[u8] = b"GET /version HTTP/1.1\r\nHost: api\r\n\r\n";
const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
/// Where an IPv4 header begins in an Ethernet frame, and where its TCP header does.
const IP: usize = 14;
const IPV4_TCP: usize = IP + 20;
const IPV6_TCP: usize = IP + 40;

/// All cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    link_layer(&mut cases);
    ipv4_headers(&mut cases);
    ipv6_headers(&mut cases);
    tcp_headers(&mut cases);
    other_transports(&mut cases);
    kinds(&mut cases);
    ports(&mut cases);
    cases
}

fn link_layer(cases: &mut Vec<Case>) {
    let packet = request().packet();
    read(cases, "Ethernet, IPv4", ethernet(ether_type::IPV4, &packet));
    read_ipv6(cases, "Ethernet, IPv6", ethernet(ether_type::IPV6, &request_ipv6().packet()));
    left(cases, "ARP", ethernet(ether_type::ARP, &[0; 28]), Skip::NotIp);
    left(cases, "LLDP", ethernet(ether_type::LLDP, &[0; 46]), Skip::NotIp);
    left(cases, "MACsec", ethernet(ether_type::MACSEC, &[0; 46]), Skip::NotIp);
    left(cases, "a length in place of the EtherType (802.3)", ethernet(0x05dc, &packet), Skip::NotIp);
    left(cases, "an Ethernet header and nothing more", ethernet(ether_type::IPV4, &[]), Skip::Truncated);
    for length in 0..14 {
        left(cases, &format!("{length} bytes"), cut(request().frame(), length), Skip::Truncated);
    }
    let tags =
        [("802.1Q", ether_type::VLAN), ("802.1ad", ether_type::VLAN_SERVICE), ("0x9100", ether_type::VLAN_SERVICE_OLD)];
    for (name, kind) in tags {
        read(cases, &format!("one tag, {name}"), ethernet(kind, &tag(ether_type::IPV4, &packet)));
        let frame = ethernet(kind, &tag(ether_type::IPV6, &request_ipv6().packet()));
        read_ipv6(cases, &format!("one tag, {name}, IPv6"), frame);
        let frame = ethernet(kind, &tag(ether_type::VLAN, &tag(ether_type::IPV4, &packet)));
        read(cases, &format!("two tags, {name} and 802.1Q"), frame);
        let frame = ethernet(kind, &tag(ether_type::VLAN, &tag(kind, &tag(ether_type::IPV4, &packet))));
        left(cases, &format!("three tags, {name}, 802.1Q and {name}"), frame, Skip::TooManyVlanTags);
        for length in 14..18 {
            let frame = cut(ethernet(kind, &tag(ether_type::IPV4, &packet)), length);
            left(cases, &format!("a tag, {name}, cut after {} bytes", length - 14), frame, Skip::Truncated);
        }
    }
    left(cases, "a tag before ARP", ethernet(ether_type::VLAN, &tag(ether_type::ARP, &[0; 28])), Skip::NotIp);
    let frame = ethernet(ether_type::VLAN, &tag(ether_type::VLAN, &tag(ether_type::VLAN, &[])));
    left(cases, "a third tag that is cut", cut(frame, 22), Skip::TooManyVlanTags);
}

fn ipv4_headers(cases: &mut Vec<Case>) {
    let segment = request().segment();
    let plain = || request().frame();
    for words in [1, 5, 10] {
        let options = vec![1; words * 4];
        let packet = ipv4_between([8, 0, 113, 7], SERVER_IPV4, protocol::TCP, &options, &segment);
        read(cases, &format!("IPv4 with {} bytes of options", words * 4), ethernet(ether_type::IPV4, &packet));
    }
    for length in 0..20 {
        left(cases, &format!("IPv4 header cut after {length} bytes"), cut(plain(), IP + length), Skip::Truncated);
        let tagged = ethernet(ether_type::VLAN, &tag(ether_type::IPV4, &request().packet()));
        let name = format!("tagged IPv4 header cut after {length} bytes");
        left(cases, &name, cut(tagged, IP + 4 + length), Skip::Truncated);
    }
    for words in 0..5 {
        let frame = with(plain(), IP, &[0x40 | words]);
        left(cases, &format!("IPv4 header length {words}"), frame, Skip::Malformed);
    }
    for version in [0, 5, 6, 15] {
        let frame = with(plain(), IP, &[version << 4 | 5]);
        left(cases, &format!("IPv4 EtherType, version {version}"), frame, Skip::Malformed);
    }
    let beyond = with(cut(plain(), IPV4_TCP + 8), IP, &[0x4f, 0, 0, 140]);
    left(cases, "IPv4 options beyond the frame", beyond, Skip::Truncated);
    let first = with(plain(), IP + 6, &[0x20, 0]);
    read(cases, "IPv4, first fragment", first);
    let frame = with(plain(), IP + 6, &[0x40, 0]);
    read(cases, "IPv4, not to be fragmented", frame);
    for (name, bits) in [("in the middle", [0x20, 1]), ("the last", [0, 1]), ("the furthest", [0x1f, 0xff])] {
        let frame = with(plain(), IP + 6, &bits);
        left(cases, &format!("IPv4, a later fragment, {name}"), frame, Skip::LaterFragment);
    }
    let total = |length: u16| with(plain(), IP + 2, &length.to_be_bytes());
    read(cases, "IPv4 total length 0: to the frame's end", total(0));
    for length in [1, 19, 20, 39] {
        left(cases, &format!("IPv4 total length {length}"), total(length), Skip::Malformed);
    }
    let mut case = watched(total(40).len(), Side::Client, PacketKind::Ack);
    case.tracked = Err(Skip::NoPayload);
    push(cases, "IPv4 total length 40: no payload", total(40), case);
    let mut case = watched(total(44).len(), Side::Client, PacketKind::Data);
    case.tracked = Ok(facts(RecordFlags::ACK, &REQUEST[..4]));
    push(cases, "IPv4 total length ends in the payload", total(44), case);
    let mut case = watched(total(1040).len(), Side::Client, PacketKind::Data);
    case.tracked = Ok(Facts { length: 1000, ..facts(RecordFlags::ACK, REQUEST) });
    case.wire = IP + 1040;
    push(cases, "IPv4 total length beyond the frame", total(1040), case);
    let mut case = watched(plain().len(), Side::Client, PacketKind::Ack);
    case.tracked = Err(Skip::NoPayload);
    case.wire = 60;
    let frame = padded(Tcp::new(Side::Client, flag::ACK, &[]).frame(), &[0xee; 6]);
    push(cases, "IPv4, a short frame's padding", frame, case);
    let mut case = watched(plain().len(), Side::Client, PacketKind::Data);
    case.wire += 10;
    push(cases, "IPv4, payload and a trailer", padded(plain(), &[0xee; 10]), case);
}

fn ipv6_headers(cases: &mut Vec<Case>) {
    let segment = request_ipv6().segment();
    let plain = || request_ipv6().frame();
    let extended = |kinds: &[u8]| ethernet(ether_type::IPV6, &ipv6_extended(kinds, protocol::TCP, &segment));
    let kinds = [
        ("hop-by-hop options", protocol::HOP_BY_HOP),
        ("routing", protocol::ROUTING),
        ("destination options", protocol::DESTINATION_OPTIONS),
        ("fragment", protocol::FRAGMENT),
        ("authentication", protocol::AUTHENTICATION),
        ("mobility", protocol::MOBILITY),
        ("host identity", protocol::HIP),
        ("shim6", protocol::SHIM6),
    ];
    for (name, kind) in kinds {
        read_ipv6(cases, &format!("IPv6, {name}"), extended(&[kind]));
        for length in 0..4 {
            let frame = cut(extended(&[kind]), IPV6_TCP + length);
            left(cases, &format!("IPv6, {name}, cut after {length} bytes"), frame, Skip::Truncated);
        }
        let frame = ethernet(ether_type::IPV6, &ipv6_extended(&[kind], protocol::UDP, &udp(53, b"?")));
        left(cases, &format!("IPv6, {name}, UDP"), frame, Skip::NotTcp);
        if kind != protocol::FRAGMENT {
            let frame = with(extended(&[kind]), IPV6_TCP + 1, &[255]);
            left(cases, &format!("IPv6, {name}, longer than the packet"), frame, Skip::Malformed);
        }
    }
    let long = {
        let options = with(extension(protocol::DESTINATION_OPTIONS, protocol::TCP, &[]), 1, &[2]);
        let rest = padded(padded(options, &[0; 16]), &segment);
        ethernet(ether_type::IPV6, &ipv6(protocol::DESTINATION_OPTIONS, &rest))
    };
    read_ipv6(cases, "IPv6, destination options of 24 bytes", long);
    let order = [
        protocol::HOP_BY_HOP,
        protocol::DESTINATION_OPTIONS,
        protocol::ROUTING,
        protocol::FRAGMENT,
        protocol::AUTHENTICATION,
        protocol::DESTINATION_OPTIONS,
    ];
    read_ipv6(cases, "IPv6, all headers in the order of RFC 8200", extended(&order));
    for kind in [protocol::DESTINATION_OPTIONS, protocol::AUTHENTICATION, protocol::FRAGMENT] {
        read_ipv6(cases, &format!("IPv6, eight headers of kind {kind}"), extended(&[kind; 8]));
        let frame = extended(&[kind; 9]);
        left(cases, &format!("IPv6, nine headers of kind {kind}"), frame, Skip::TooManyExtensionHeaders);
    }
    let fragment = |bits: [u8; 2]| with(extended(&[protocol::FRAGMENT]), IPV6_TCP + 2, &bits);
    read_ipv6(cases, "IPv6, first fragment", fragment([0, 1]));
    left(cases, "IPv6, a later fragment in the middle", fragment([0, 9]), Skip::LaterFragment);
    left(cases, "IPv6, the last fragment", fragment([0, 8]), Skip::LaterFragment);
    left(cases, "IPv6, the furthest fragment", fragment([0xff, 0xf8]), Skip::LaterFragment);
    let frame = ethernet(
        ether_type::IPV6,
        &with(
            ipv6_extended(&[protocol::DESTINATION_OPTIONS, protocol::FRAGMENT], protocol::TCP, &segment),
            50,
            &[1, 0],
        ),
    );
    left(cases, "IPv6, a later fragment behind options", frame, Skip::LaterFragment);
    read_ipv6(cases, "IPv6 payload length 0: to the frame's end", with(plain(), IP + 4, &[0, 0]));
    let jumbo = with(extended(&[protocol::HOP_BY_HOP]), IPV6_TCP + 2, &[0xc2, 4]);
    read_ipv6(cases, "IPv6, a jumbo payload option, length 0", with(jumbo, IP + 4, &[0, 0]));
    for length in [1, 19_u16] {
        let frame = with(plain(), IP + 4, &length.to_be_bytes());
        left(cases, &format!("IPv6 payload length {length}"), frame, Skip::Malformed);
    }
    let frame = with(plain(), IP + 4, &1020_u16.to_be_bytes());
    let mut case = watched_ipv6(frame.len());
    case.tracked = Ok(Facts { length: 1000, ..facts(RecordFlags::ACK, REQUEST) });
    case.wire = IPV6_TCP + 1020;
    push(cases, "IPv6 payload length beyond the frame", frame, case);
    let frame = with(plain(), IP + 4, &24_u16.to_be_bytes());
    let mut case = watched_ipv6(frame.len());
    case.tracked = Ok(facts(RecordFlags::ACK, &REQUEST[..4]));
    push(cases, "IPv6 payload length ends in the payload", frame, case);
    for length in 0..40 {
        left(cases, &format!("IPv6 header cut after {length} bytes"), cut(plain(), IP + length), Skip::Truncated);
        let tagged = ethernet(ether_type::VLAN, &tag(ether_type::IPV6, &request_ipv6().packet()));
        let name = format!("tagged IPv6 header cut after {length} bytes");
        left(cases, &name, cut(tagged, IP + 4 + length), Skip::Truncated);
    }
    for version in [0, 4, 7] {
        let frame = with(plain(), IP, &[version << 4]);
        left(cases, &format!("IPv6 EtherType, version {version}"), frame, Skip::Malformed);
    }
    let frame = ethernet(ether_type::IPV6, &ipv6(protocol::NONE, &[]));
    left(cases, "IPv6, no next header", frame, Skip::NotTcp);
}

fn tcp_headers(cases: &mut Vec<Case>) {
    let plain = || request().frame();
    for words in 1..=10 {
        let mut tcp = request();
        tcp.options = vec![1; words * 4];
        read(cases, &format!("TCP with {} bytes of options", words * 4), tcp.frame());
    }
    for words in 0..5 {
        let frame = with(plain(), IPV4_TCP + 12, &[words << 4]);
        left(cases, &format!("TCP data offset {words}"), frame, Skip::Malformed);
    }
    let short = Tcp::new(Side::Client, flag::ACK, b"four").frame();
    left(cases, "TCP data offset beyond the packet", with(short, IPV4_TCP + 12, &[0x70]), Skip::Malformed);
    let short = padded(Tcp::new(Side::Client, flag::ACK, b"four").frame(), &[0; 16]);
    left(cases, "TCP data offset into the padding", with(short, IPV4_TCP + 12, &[0x70]), Skip::Malformed);
    for length in 0..14 {
        let frame = cut(plain(), IPV4_TCP + length);
        left(cases, &format!("TCP header cut after {length} bytes"), frame, Skip::Truncated);
        let frame = cut(request_ipv6().frame(), IPV6_TCP + length);
        left(cases, &format!("TCP header over IPv6 cut after {length} bytes"), frame, Skip::Truncated);
    }
    for length in 14..=20 {
        // All that is needed is there but the payload, which a capture cut off.
        let frame = cut(plain(), IPV4_TCP + length);
        let mut case = watched(frame.len(), Side::Client, PacketKind::Data);
        case.tracked = Ok(Facts { length: REQUEST.len(), ..facts(RecordFlags::ACK, b"") });
        case.wire = plain().len();
        push(cases, &format!("TCP header cut after {length} bytes, the fields are there"), frame, case);
    }
    let ports = with(cut(plain(), IPV4_TCP + 4), IPV4_TCP + 2, &[0, 80]);
    left(cases, "TCP header cut behind ports that nobody watches", ports, Skip::NotWatched);
    let ecn = with(plain(), IPV4_TCP + 12, &[0x51, 0xd8]);
    read(cases, "TCP with all the bits of congestion notification", ecn);
}

fn other_transports(cases: &mut Vec<Case>) {
    let inner = request().packet();
    let tunnels = [
        ("VXLAN", 4789, Skip::Vxlan),
        ("VXLAN of Linux", 8472, Skip::Vxlan),
        ("Geneve", 6081, Skip::Geneve),
        ("WireGuard", 51_820, Skip::Wireguard),
        ("WireGuard of Cilium", 51_871, Skip::Wireguard),
        ("DNS", 53, Skip::NotTcp),
        ("QUIC to the secure port", 6443, Skip::NotTcp),
    ];
    for (name, port, skip) in tunnels {
        let payload = udp(port, &padded(vec![8, 0, 0, 0, 0, 0, 1, 0], &request().frame()));
        left(cases, name, ethernet(ether_type::IPV4, &ipv4(protocol::UDP, &payload)), skip);
        let frame = ethernet(ether_type::IPV6, &ipv6(protocol::UDP, &payload));
        left(cases, &format!("{name} over IPv6"), frame, skip);
    }
    let frame = ethernet(ether_type::IPV4, &ipv4(protocol::UDP, &udp(53, &[])));
    for length in 0..4 {
        let name = format!("UDP header cut after {length} bytes");
        left(cases, &name, cut(frame.clone(), IPV4_TCP + length), Skip::Truncated);
    }
    let gre = padded(vec![0, 0, 8, 0], &inner);
    let kinds = [
        ("GRE", protocol::GRE, &gre, Skip::Gre),
        ("IP in IP", protocol::IPV4, &inner, Skip::IpInIp),
        ("IPv6 in IP", protocol::IPV6, &request_ipv6().packet(), Skip::IpInIp),
        ("IPsec ESP", protocol::ESP, &vec![0; 64], Skip::Encrypted),
        ("ICMP", protocol::ICMP, &vec![8, 0, 0, 0, 0, 0, 0, 0], Skip::NotTcp),
        ("ICMPv6", protocol::ICMPV6, &vec![128, 0, 0, 0, 0, 0, 0, 0], Skip::NotTcp),
        ("SCTP", protocol::SCTP, &vec![0; 32], Skip::NotTcp),
        ("a protocol without name", 253, &vec![0; 32], Skip::NotTcp),
    ];
    for (name, kind, payload, skip) in kinds {
        left(cases, &format!("{name}, outside IPv4"), ethernet(ether_type::IPV4, &ipv4(kind, payload)), skip);
        left(cases, &format!("{name}, outside IPv6"), ethernet(ether_type::IPV6, &ipv6(kind, payload)), skip);
    }
    let frame = ethernet(ether_type::IPV6, &ipv6_extended(&[protocol::AUTHENTICATION], protocol::ESP, &[0; 32]));
    left(cases, "IPsec ESP behind authentication", frame, Skip::Encrypted);
}

fn kinds(cases: &mut Vec<Case>) {
    use flag::{ACK, FIN, PSH, RST, SYN};
    type Tracked = Result<(u16, &'static [u8]), Skip>;
    const NOTHING: &[u8] = b"";
    let (client, server) = (Side::Client, Side::Server);
    type Row = (&'static str, Side, u8, &'static [u8], PacketKind, Tracked);
    #[rustfmt::skip]
    let table: [Row; 22] = [
        ("SYN", client, SYN, NOTHING, PacketKind::Syn, Err(Skip::NoPayload)),
        ("SYN with data (Fast Open)", client, SYN, REQUEST, PacketKind::Syn, Err(Skip::SynPayload)),
        ("SYN/ACK", server, SYN | ACK, NOTHING, PacketKind::SynAck, Err(Skip::NoPayload)),
        ("SYN/ACK with data", server, SYN | ACK, REPLY, PacketKind::SynAck, Err(Skip::SynPayload)),
        ("SYN/ACK from the client", client, SYN | ACK, NOTHING, PacketKind::Syn, Err(Skip::NoPayload)),
        ("SYN from the server", server, SYN, NOTHING, PacketKind::Reply, Err(Skip::NoPayload)),
        ("ACK", client, ACK, NOTHING, PacketKind::Ack, Err(Skip::NoPayload)),
        ("ACK from the server", server, ACK, NOTHING, PacketKind::Reply, Err(Skip::NoPayload)),
        ("no flags", client, 0, NOTHING, PacketKind::Ack, Err(Skip::NoPayload)),
        ("FIN of no flow", client, FIN | ACK, NOTHING, PacketKind::Fin, Err(Skip::NoPayload)),
        ("FIN of no flow from the server", server, FIN | ACK, NOTHING, PacketKind::Reply, Err(Skip::NoPayload)),
        ("FIN with data", client, FIN | ACK, REQUEST, PacketKind::Fin, Ok((RecordFlags::FIN | RecordFlags::ACK, REQUEST))),
        ("FIN with data from the server", server, FIN | ACK, REPLY, PacketKind::Reply, Ok((RecordFlags::FIN | RecordFlags::ACK, REPLY))),
        ("RST of no flow", client, RST, NOTHING, PacketKind::Reset, Err(Skip::NoPayload)),
        ("RST of no flow from the server", server, RST | ACK, NOTHING, PacketKind::Reset, Err(Skip::NoPayload)),
        ("RST with data", client, RST, REQUEST, PacketKind::Reset, Ok((RecordFlags::RST, REQUEST))),
        ("SYN and RST", client, SYN | RST, NOTHING, PacketKind::Reset, Err(Skip::NoPayload)),
        ("SYN and FIN", client, SYN | FIN, NOTHING, PacketKind::Syn, Err(Skip::NoPayload)),
        ("data", client, PSH | ACK, REQUEST, PacketKind::Data, Ok((RecordFlags::ACK, REQUEST))),
        ("data without ACK", client, PSH, REQUEST, PacketKind::Data, Ok((0, REQUEST))),
        ("one byte of data", client, ACK, b"G", PacketKind::Data, Ok((RecordFlags::ACK, b"G"))),
        ("data from the server", server, PSH | ACK, REPLY, PacketKind::Reply, Ok((RecordFlags::ACK, REPLY))),
    ];
    for (name, side, flags, payload, kind, tracked) in table {
        for (family, key) in [("IPv4", key_ipv4()), ("IPv6", key_ipv6())] {
            let frame = Tcp { key, ..Tcp::new(side, flags, payload) }.frame();
            let case = Watched {
                key,
                side,
                role: Role::Secure,
                kind,
                wire: frame.len(),
                tracked: tracked.map(|(flags, bytes)| facts(flags, bytes)),
            };
            push(cases, &format!("{name}, {family}"), frame, case);
        }
    }
}

fn ports(cases: &mut Vec<Case>) {
    let key = |client_port, server_port| FlowKey { client_port, server_port, ..key_ipv4() };
    let frame = |key, side| Tcp { key, ..Tcp::new(side, flag::PSH | flag::ACK, REQUEST) }.frame();
    let roles = [("secure", 6443, Role::Secure), ("insecure", 8080, Role::Insecure), ("node", 30_443, Role::NodePort)];
    for (name, port, role) in roles {
        let key = key(40_000, port);
        let bytes = frame(key, Side::Client);
        let case = Watched { key, role, ..watched(bytes.len(), Side::Client, PacketKind::Data) };
        push(cases, &format!("the {name} port"), bytes, case);
    }
    for (client, server) in [(51_234, 80), (51_234, 6444), (0, 0), (65_535, 65_535)] {
        let name = format!("ports {client} and {server}");
        let page = Tcp { key: key(client, server), ..Tcp::new(Side::Client, flag::PSH | flag::ACK, PAGE) }.frame();
        left(cases, &name, page, Skip::NotWatched);
    }
    // Where both ports are watched, the lower one is the server's, whoever speaks.
    let both = key(8080, 6443);
    let bytes = frame(both, Side::Client);
    let case = Watched { key: both, ..watched(bytes.len(), Side::Client, PacketKind::Data) };
    push(cases, "both ports watched, from the higher", bytes, case);
    let bytes = frame(both, Side::Server);
    let case = Watched { key: both, ..watched(bytes.len(), Side::Server, PacketKind::Reply) };
    push(cases, "both ports watched, from the lower", bytes, case);
    let same = FlowKey { client: mapped([8, 0, 1, 1]), ..key(8080, 8080) };
    let bytes = frame(same, Side::Client);
    let case = Watched { key: same, role: Role::Insecure, ..watched(bytes.len(), Side::Client, PacketKind::Data) };
    push(cases, "the same watched port on both sides", bytes, case);
}

fn request() -> Tcp {
    Tcp::new(Side::Client, flag::PSH | flag::ACK, REQUEST)
}

fn request_ipv6() -> Tcp {
    Tcp { key: key_ipv6(), ..request() }
}

fn facts(flags: u16, bytes: &[u8]) -> Facts {
    Facts { sequence: 0x0102_0304, acknowledgement: 0x0a0b_0c0d, flags, length: bytes.len(), bytes: bytes.to_vec() }
}

/// A request over IPv4 of which everything is read.
fn watched(wire: usize, side: Side, kind: PacketKind) -> Watched {
    Watched { key: key_ipv4(), side, role: Role::Secure, kind, wire, tracked: Ok(facts(RecordFlags::ACK, REQUEST)) }
}

fn watched_ipv6(wire: usize) -> Watched {
    Watched {
        key: key_ipv6(),
        side: Side::Client,
        role: Role::Secure,
        kind: PacketKind::Data,
        wire,
        tracked: Ok(facts(RecordFlags::ACK, REQUEST)),
    }
}

fn push(cases: &mut Vec<Case>, name: &str, frame: Vec<u8>, watched: Watched) {
    cases.push(Case { name: name.to_owned(), frame, expected: Expected::Watched(watched) });
}

/// The frame is the whole request over IPv4.
fn read(cases: &mut Vec<Case>, name: &str, frame: Vec<u8>) {
    let watched = watched(frame.len(), Side::Client, PacketKind::Data);
    push(cases, name, frame, watched);
}

/// The frame is the whole request over IPv6.
fn read_ipv6(cases: &mut Vec<Case>, name: &str, frame: Vec<u8>) {
    let watched = watched_ipv6(frame.len());
    push(cases, name, frame, watched);
}

fn left(cases: &mut Vec<Case>, name: &str, frame: Vec<u8>, skip: Skip) {
    cases.push(Case { name: name.to_owned(), frame, expected: Expected::Left(skip) });
}
