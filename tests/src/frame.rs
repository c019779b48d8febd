//! Frames, put together layer by layer: each function wraps what it is given in one header. Headers that are right
//! are etherparse's; what has to be wrong is written over them with [`with`]. Checksums are zero: nobody reads them.

use etherparse::{IpNumber, Ipv4Header, Ipv4Options, Ipv6Header, TcpHeader, TcpOptions};
use monitor_common::{FlowKey, Side, flow::mapped};

/// The client's IPv4 address. BPF_PROG_TEST_RUN takes the protocol of a packet without Ethernet header from its bytes
/// 12 and 13 all the same (`eth_type_trans` in the kernel's net/bpf/test_run.c, 6.18). There an IPv4 header has the
/// first half of its source address: 8.0 is the EtherType of IPv4.
pub const CLIENT_IPV4: [u8; 4] = [8, 0, 113, 7];
/// The server's IPv4 address, for the same reason in 8.0.0.0/16.
pub const SERVER_IPV4: [u8; 4] = [8, 0, 56, 10];
/// The client's IPv6 address; bytes 4 and 5 are the EtherType of IPv6, for the same reason.
pub const CLIENT_IPV6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0x86, 0xdd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
/// The server's IPv6 address.
pub const SERVER_IPV6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0x86, 0xdd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
/// The client's port.
pub const CLIENT_PORT: u16 = 51_234;
/// The server's port.
pub const SERVER_PORT: u16 = 6443;

/// EtherTypes.
pub mod ether_type {
    #![expect(missing_docs, reason = "the names say it")]
    pub const IPV4: u16 = 0x0800;
    pub const ARP: u16 = 0x0806;
    pub const IPV6: u16 = 0x86dd;
    pub const VLAN: u16 = 0x8100;
    pub const VLAN_SERVICE: u16 = 0x88a8;
    pub const VLAN_SERVICE_OLD: u16 = 0x9100;
    pub const MACSEC: u16 = 0x88e5;
    pub const LLDP: u16 = 0x88cc;
}

/// IP protocol numbers.
pub mod protocol {
    #![expect(missing_docs, reason = "the names say it")]
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const IPV4: u8 = 4;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const IPV6: u8 = 41;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const GRE: u8 = 47;
    pub const ESP: u8 = 50;
    pub const AUTHENTICATION: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const NONE: u8 = 59;
    pub const DESTINATION_OPTIONS: u8 = 60;
    pub const SCTP: u8 = 132;
    pub const MOBILITY: u8 = 135;
    pub const HIP: u8 = 139;
    pub const SHIM6: u8 = 140;
}

/// TCP flag bits.
pub mod flag {
    #![expect(missing_docs, reason = "the names say it")]
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const PSH: u8 = 8;
    pub const ACK: u8 = 16;
}

/// A TCP segment, and the addresses that its IP header is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// The connection.
    pub key: FlowKey,
    /// Who speaks.
    pub side: Side,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Bits of [`flag`].
    pub flags: u8,
    /// Options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// Payload.
    pub payload: Vec<u8>,
}

impl Tcp {
    /// A segment over IPv4 with these flags and this payload.
    pub fn new(side: Side, flags: u8, payload: &[u8]) -> Self {
        Self {
            key: key_ipv4(),
            side,
            sequence: 0x0102_0304,
            acknowledgement: 0x0a0b_0c0d,
            flags,
            options: Vec::new(),
            payload: payload.to_vec(),
        }
    }

    /// Source and destination port.
    fn ports(&self) -> (u16, u16) {
        match self.side {
            Side::Client => (self.key.client_port, self.key.server_port),
            Side::Server => (self.key.server_port, self.key.client_port),
        }
    }

    /// Source and destination address.
    fn addresses(&self) -> ([u8; 16], [u8; 16]) {
        match self.side {
            Side::Client => (self.key.client, self.key.server),
            Side::Server => (self.key.server, self.key.client),
        }
    }

    /// TCP header and payload.
    pub fn segment(&self) -> Vec<u8> {
        let (source, destination) = self.ports();
        let mut header = TcpHeader::new(source, destination, self.sequence, 512);
        header.acknowledgment_number = self.acknowledgement;
        header.options = TcpOptions::try_from_slice(&self.options).expect("at most 40 bytes, a multiple of 4");
        let mut bytes = header.to_bytes().to_vec();
        bytes[13] = self.flags;
        bytes.extend(&self.payload);
        bytes
    }

    /// The segment in IP, without link layer.
    pub fn packet(&self) -> Vec<u8> {
        let (source, destination) = self.addresses();
        match (ipv4_of(&source), ipv4_of(&destination)) {
            (Some(source), Some(destination)) => ipv4_between(source, destination, protocol::TCP, &[], &self.segment()),
            _ => ipv6_between(source, destination, protocol::TCP, &self.segment()),
        }
    }

    /// The segment in IP in Ethernet.
    pub fn frame(&self) -> Vec<u8> {
        let packet = self.packet();
        ethernet(if packet[0] >> 4 == 4 { ether_type::IPV4 } else { ether_type::IPV6 }, &packet)
    }
}

/// The connection of the constants over IPv4.
pub const fn key_ipv4() -> FlowKey {
    FlowKey {
        client: mapped(CLIENT_IPV4),
        server: mapped(SERVER_IPV4),
        client_port: CLIENT_PORT,
        server_port: SERVER_PORT,
    }
}

/// The connection of the constants over IPv6.
pub const fn key_ipv6() -> FlowKey {
    FlowKey { client: CLIENT_IPV6, server: SERVER_IPV6, client_port: CLIENT_PORT, server_port: SERVER_PORT }
}

/// The IPv4 address that this IPv4-mapped one stands for.
fn ipv4_of(address: &[u8; 16]) -> Option<[u8; 4]> {
    let address = std::net::Ipv6Addr::from(*address).to_ipv4_mapped()?;
    Some(address.octets())
}

/// An Ethernet header before `payload`.
pub fn ethernet(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(ether_type.to_be_bytes());
    frame.extend(payload);
    frame
}

/// What follows the EtherType of a VLAN tag: identifier 42, then `ether_type` and `payload`.
pub fn tag(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut tagged = vec![0, 42];
    tagged.extend(ether_type.to_be_bytes());
    tagged.extend(payload);
    tagged
}

/// An IPv4 header from client to server before `payload`.
pub fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_between(CLIENT_IPV4, SERVER_IPV4, protocol, &[], payload)
}

/// An IPv4 header with options, at most 40 bytes and a multiple of four. A packet too large for the header's length
/// field has 0 there, as with segmentation offload.
pub fn ipv4_between(source: [u8; 4], destination: [u8; 4], protocol: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let header = Ipv4Header {
        total_len: u16::try_from(20 + options.len() + payload.len()).unwrap_or(0),
        time_to_live: 64,
        protocol: IpNumber(protocol),
        source,
        destination,
        options: Ipv4Options::try_from(options).expect("at most 40 bytes, a multiple of 4"),
        ..Ipv4Header::default()
    };
    let mut packet = header.to_bytes().to_vec();
    packet.extend(payload);
    packet
}

/// An IPv6 header from client to server before `payload`.
pub fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    ipv6_between(CLIENT_IPV6, SERVER_IPV6, next_header, payload)
}

/// An IPv6 header before `payload`; one too large for the header's length field has 0 there, as with BIG TCP.
pub fn ipv6_between(source: [u8; 16], destination: [u8; 16], next_header: u8, payload: &[u8]) -> Vec<u8> {
    let header = Ipv6Header {
        payload_length: u16::try_from(payload.len()).unwrap_or(0),
        next_header: IpNumber(next_header),
        hop_limit: 64,
        source,
        destination,
        ..Ipv6Header::default()
    };
    let mut packet = header.to_bytes().to_vec();
    packet.extend(payload);
    packet
}

/// An IPv6 packet with these extension headers, each 8 bytes or, for authentication, 16, before a `last` header.
pub fn ipv6_extended(extensions: &[u8], last: u8, payload: &[u8]) -> Vec<u8> {
    let mut inner = payload.to_vec();
    let mut next = last;
    for kind in extensions.iter().rev() {
        inner = extension(*kind, next, &inner);
        next = *kind;
    }
    ipv6(next, &inner)
}

/// An extension header of this kind (RFC 8200 section 4, RFC 4302 section 2) before `payload`.
pub fn extension(kind: u8, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = match kind {
        // Length in units of four bytes, less two; 12 bytes of fields and 4 of integrity check value.
        protocol::AUTHENTICATION => vec![next_header, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0xaa, 0xbb, 0xcc, 0xdd],
        protocol::FRAGMENT => vec![next_header, 0, 0, 0, 0, 0, 0, 9],
        _ => vec![next_header, 0, 1, 4, 0, 0, 0, 0],
    };
    bytes.extend(payload);
    bytes
}

/// A UDP header with this destination port before `payload`.
pub fn udp(destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = 50_000_u16.to_be_bytes().to_vec();
    bytes.extend(destination.to_be_bytes());
    bytes.extend(((8 + payload.len()) as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    bytes
}

/// `bytes` with `over` written at `offset`.
pub fn with(mut bytes: Vec<u8>, offset: usize, over: &[u8]) -> Vec<u8> {
    bytes[offset..offset + over.len()].copy_from_slice(over);
    bytes
}

/// The first `length` of `bytes`.
pub fn cut(mut bytes: Vec<u8>, length: usize) -> Vec<u8> {
    assert!(length <= bytes.len());
    bytes.truncate(length);
    bytes
}

/// `bytes` with `more` behind them.
pub fn padded(mut bytes: Vec<u8>, more: &[u8]) -> Vec<u8> {
    bytes.extend(more);
    bytes
}
