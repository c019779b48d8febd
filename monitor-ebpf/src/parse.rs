//! parse: from a frame to its TCP segment, or to the reason why it has none.

use monitor_common::{Skip, flow::mapped, limits};

use crate::bounds::{FURTHEST_HEADER, Frame};

/// TCP flag bits (RFC 9293 section 3.1).
pub mod tcp {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 2;
    /// Reset the connection.
    pub const RST: u8 = 4;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 16;
}

const ETHERNET: usize = 14;
const VLAN_TAG: usize = 4;
const VLAN_TAGS: usize = 2;
const IPV4: usize = 20;
const IPV6: usize = 40;
const TCP: usize = 20;

/// EtherTypes (IEEE 802 numbers).
mod ether_type {
    pub const IPV4: u16 = 0x0800;
    pub const IPV6: u16 = 0x86dd;
    pub const VLAN: u16 = 0x8100;
    pub const VLAN_SERVICE: u16 = 0x88a8;
    pub const VLAN_SERVICE_OLD: u16 = 0x9100;
}

/// IP protocol numbers (IANA).
mod protocol {
    pub const HOP_BY_HOP: u8 = 0;
    pub const IPV4: u8 = 4;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const IPV6: u8 = 41;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const GRE: u8 = 47;
    pub const ESP: u8 = 50;
    pub const AUTHENTICATION: u8 = 51;
    pub const DESTINATION_OPTIONS: u8 = 60;
    pub const MOBILITY: u8 = 135;
    pub const HIP: u8 = 139;
    pub const SHIM6: u8 = 140;
}

/// UDP ports of tunnels: IANA's, and 8472, which Linux, Flannel and Cilium use for VXLAN.
mod tunnel_port {
    pub const VXLAN: u16 = 4789;
    pub const VXLAN_LINUX: u16 = 8472;
    pub const GENEVE: u16 = 6081;
    pub const WIREGUARD: u16 = 51820;
    pub const WIREGUARD_CILIUM: u16 = 51871;
}

/// Where a frame's TCP segment is. What select does not need is read only once it is known to be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Segment {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Offset of the IP header.
    pub network: usize,
    /// Whether that is IPv6.
    pub ipv6: bool,
    /// Offset of the TCP header.
    pub transport: usize,
    /// Offset of the first byte behind the IP packet, by its own length field: padding of the link layer is not part
    /// of it, and it can lie behind the frame's end where a capture cut the frame.
    pub end: usize,
}

/// What the rest of the TCP header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpHeader {
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Bits of [`tcp`].
    pub flags: u8,
    /// Offset of the payload in the frame.
    pub payload: usize,
    /// Payload bytes on the wire.
    pub length: u32,
}

/// Finds the TCP segment of an Ethernet frame. Tags that the network card has stripped are not in the frame.
///
/// # Errors
/// The reason why there is none to read.
#[inline(always)]
pub fn parse_ethernet<F: Frame + ?Sized>(frame: &F) -> Result<Segment, Skip> {
    if let Some(plain) = parse_plain(frame) {
        return plain;
    }
    let kind = u16::from_be_bytes(frame.load::<2>(ETHERNET - 2).ok_or(Skip::Truncated)?);
    parse_network(frame, ETHERNET, kind)
}

/// The look that fits most frames: IPv4 or IPv6 right behind Ethernet, no options, no fragment, TCP or a UDP port that is no
/// tunnel's. All offsets are constants, and one comparison shows that the frame has them. `None` for every other frame.
#[inline(always)]
fn parse_plain<F: Frame + ?Sized>(frame: &F) -> Option<Result<Segment, Skip>> {
    const KIND: usize = ETHERNET - 2;
    const PORTS: usize = 4;
    let start = frame.peek::<KIND, { 2 + IPV4 + PORTS }>()?;
    let header = &start[2..];
    match u16::from_be_bytes([start[0], start[1]]) {
        ether_type::IPV4 => {
            let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
            let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
            if header[0] != 0x45 || fragment != 0 {
                return None;
            }
            let ports = [header[IPV4], header[IPV4 + 1], header[IPV4 + 2], header[IPV4 + 3]];
            match header[9] {
                protocol::TCP if length >= IPV4 + TCP => {
                    Some(Ok(Segment::new(ETHERNET, false, ETHERNET + IPV4, ETHERNET + length, ports)))
                }
                protocol::UDP if length >= IPV4 && !is_tunnel(u16::from_be_bytes([ports[2], ports[3]])) => {
                    Some(Err(Skip::NotTcp))
                }
                _ => None,
            }
        }
        ether_type::IPV6 => {
            let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
            let ports = frame.peek::<{ ETHERNET + IPV6 }, PORTS>()?;
            if header[0] >> 4 != 6 || header[6] != protocol::TCP || length < TCP {
                return None;
            }
            Some(Ok(Segment::new(ETHERNET, true, ETHERNET + IPV6, ETHERNET + IPV6 + length, ports)))
        }
        _ => None,
    }
}

/// Whether a tunnel's packets go to this UDP port.
#[inline(always)]
const fn is_tunnel(port: u16) -> bool {
    tunnel_skip(port).is_some()
}

/// What a packet to this UDP port is, where it is a tunnel's.
#[inline(always)]
const fn tunnel_skip(port: u16) -> Option<Skip> {
    match port {
        tunnel_port::VXLAN | tunnel_port::VXLAN_LINUX => Some(Skip::Vxlan),
        tunnel_port::GENEVE => Some(Skip::Geneve),
        tunnel_port::WIREGUARD | tunnel_port::WIREGUARD_CILIUM => Some(Skip::Wireguard),
        _ => None,
    }
}

/// Finds the TCP segment of a frame that came in and whose Ethernet header may be missing; `protocol` is the EtherType
/// that the kernel took from it. Behind generic XDP it is missing: the kernel copies a packet with little headroom and
/// does not copy how long the header was (`mac_len`; skb_pp_cow_data in the kernel's net/core/skbuff.c, 6.18).
///
/// # Errors
/// The reason why there is none to read.
#[inline(always)]
pub fn parse_received<F: Frame + ?Sized>(frame: &F, protocol: u16) -> Result<Segment, Skip> {
    let kind = u16::from_be_bytes(frame.load::<2>(ETHERNET - 2).ok_or(Skip::Truncated)?);
    if kind == protocol {
        return parse_ethernet(frame);
    }
    let [first, _] = frame.load::<2>(0).ok_or(Skip::Truncated)?;
    let missing = matches!((protocol, first >> 4), (ether_type::IPV4, 4) | (ether_type::IPV6, 6));
    let (offset, kind) = if missing { (0, protocol) } else { (ETHERNET, kind) };
    parse_network(frame, frame.forget_range(offset), kind)
}

/// Finds the TCP segment behind a link layer that ends at `offset` and says `kind` (an EtherType).
///
/// # Errors
/// The reason why there is none to read.
#[inline(always)]
pub fn parse_network<F: Frame + ?Sized>(frame: &F, offset: usize, kind: u16) -> Result<Segment, Skip> {
    let (mut offset, mut kind) = (offset, kind);
    for tag in 0..=VLAN_TAGS {
        if !matches!(kind, ether_type::VLAN | ether_type::VLAN_SERVICE | ether_type::VLAN_SERVICE_OLD) {
            break;
        }
        if tag == VLAN_TAGS {
            return Err(Skip::TooManyVlanTags);
        }
        let tag = frame.load::<VLAN_TAG>(offset).ok_or(Skip::Truncated)?;
        kind = u16::from_be_bytes([tag[2], tag[3]]);
        offset = frame.forget_range(offset + VLAN_TAG);
    }
    match kind {
        ether_type::IPV4 => parse_ipv4(frame, offset),
        ether_type::IPV6 => parse_ipv6(frame, offset),
        _ => Err(Skip::NotIp),
    }
}

/// RFC 791 section 3.1.
#[inline(always)]
fn parse_ipv4<F: Frame + ?Sized>(frame: &F, network: usize) -> Result<Segment, Skip> {
    let header = frame.load::<10>(network).ok_or(Skip::Truncated)?;
    let header_length = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || header_length < IPV4 {
        return Err(Skip::Malformed);
    }
    let end = end_of_packet(frame, network, u16::from_be_bytes([header[2], header[3]]), 0);
    let transport = network + header_length;
    if end < transport {
        return Err(Skip::Malformed);
    }
    if u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0 {
        return Err(Skip::LaterFragment);
    }
    parse_transport(frame, header[9], Segment { network, ipv6: false, transport, end, ..NO_PORTS })
}

/// RFC 8200 sections 3 and 4; the authentication header is RFC 4302's.
#[inline(always)]
fn parse_ipv6<F: Frame + ?Sized>(frame: &F, network: usize) -> Result<Segment, Skip> {
    let header = frame.load::<8>(network).ok_or(Skip::Truncated)?;
    if header[0] >> 4 != 6 {
        return Err(Skip::Malformed);
    }
    let end = end_of_packet(frame, network, u16::from_be_bytes([header[4], header[5]]), IPV6);
    let mut next = header[6];
    let mut transport = network + IPV6;
    for _ in 0..limits::EXTENSION_HEADERS {
        let unit = match next {
            protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::DESTINATION_OPTIONS
            | protocol::MOBILITY
            | protocol::HIP
            | protocol::SHIM6
            | protocol::FRAGMENT => 8,
            protocol::AUTHENTICATION => 4,
            _ => return parse_transport(frame, next, Segment { network, ipv6: true, transport, end, ..NO_PORTS }),
        };
        let extension = frame.load::<4>(transport).ok_or(Skip::Truncated)?;
        let length = match next {
            protocol::FRAGMENT if u16::from_be_bytes([extension[2], extension[3]]) & 0xfff8 != 0 => {
                return Err(Skip::LaterFragment);
            }
            protocol::FRAGMENT => 8,
            protocol::AUTHENTICATION => (usize::from(extension[1]) + 2) * unit,
            _ => (usize::from(extension[1]) + 1) * unit,
        };
        next = extension[0];
        transport = frame.forget_range(transport + length);
        if transport > end {
            return Err(Skip::Malformed);
        }
        if transport > FURTHEST_HEADER {
            return Err(Skip::TooManyExtensionHeaders);
        }
    }
    match next {
        protocol::HOP_BY_HOP
        | protocol::ROUTING
        | protocol::DESTINATION_OPTIONS
        | protocol::MOBILITY
        | protocol::HIP
        | protocol::SHIM6
        | protocol::FRAGMENT
        | protocol::AUTHENTICATION => Err(Skip::TooManyExtensionHeaders),
        _ => parse_transport(frame, next, Segment { network, ipv6: true, transport, end, ..NO_PORTS }),
    }
}

const NO_PORTS: Segment =
    Segment { source_port: 0, destination_port: 0, network: 0, ipv6: false, transport: 0, end: 0 };

/// First byte behind the IP packet. A length field of zero stands for a packet too large for it: segmentation
/// offload and BIG TCP (iph_totlen and ipv6_payload_len in the kernel's include/linux/ip.h and ipv6.h, 6.18).
#[inline(always)]
fn end_of_packet<F: Frame + ?Sized>(frame: &F, network: usize, length: u16, header: usize) -> usize {
    if length == 0 { frame.length() } else { network + header + usize::from(length) }
}

/// The part that IPv4 and IPv6 share: which transport it is, and where it goes.
#[inline(always)]
fn parse_transport<F: Frame + ?Sized>(frame: &F, kind: u8, segment: Segment) -> Result<Segment, Skip> {
    match kind {
        protocol::TCP => {
            if segment.end < segment.transport + TCP {
                return Err(Skip::Malformed);
            }
            let ports = frame.load::<4>(segment.transport).ok_or(Skip::Truncated)?;
            let Segment { network, ipv6, transport, end, .. } = segment;
            Ok(Segment::new(network, ipv6, transport, end, ports))
        }
        protocol::UDP => {
            let port = frame.load::<2>(segment.transport + 2).ok_or(Skip::Truncated)?;
            Err(tunnel_skip(u16::from_be_bytes(port)).unwrap_or(Skip::NotTcp))
        }
        protocol::IPV4 | protocol::IPV6 => Err(Skip::IpInIp),
        protocol::GRE => Err(Skip::Gre),
        protocol::ESP => Err(Skip::Encrypted),
        _ => Err(Skip::NotTcp),
    }
}

impl Segment {
    #[inline(always)]
    fn new(network: usize, ipv6: bool, transport: usize, end: usize, ports: [u8; 4]) -> Self {
        Self {
            source_port: u16::from_be_bytes([ports[0], ports[1]]),
            destination_port: u16::from_be_bytes([ports[2], ports[3]]),
            network,
            ipv6,
            transport,
            end,
        }
    }

    /// Writes source and destination address, IPv4 as IPv4-mapped.
    ///
    /// # Errors
    /// The frame ends before them.
    #[inline(always)]
    pub fn addresses<F: Frame + ?Sized>(
        &self,
        frame: &F,
        source: &mut [u8; 16],
        destination: &mut [u8; 16],
    ) -> Result<(), Skip> {
        if self.ipv6 {
            *source = frame.load::<16>(self.network + 8).ok_or(Skip::Truncated)?;
            *destination = frame.load::<16>(self.network + 24).ok_or(Skip::Truncated)?;
        } else {
            *source = mapped(frame.load::<4>(self.network + 12).ok_or(Skip::Truncated)?);
            *destination = mapped(frame.load::<4>(self.network + 16).ok_or(Skip::Truncated)?);
        }
        Ok(())
    }

    /// The rest of the TCP header (RFC 9293 section 3.1).
    ///
    /// # Errors
    /// The frame ends before it, or its data offset contradicts the packet's length.
    #[inline(always)]
    pub fn tcp<F: Frame + ?Sized>(&self, frame: &F) -> Result<TcpHeader, Skip> {
        let header = frame.load::<10>(self.transport + 4).ok_or(Skip::Truncated)?;
        let header_length = usize::from(header[8] >> 4) * 4;
        let payload = self.transport + header_length;
        if header_length < TCP || payload > self.end {
            return Err(Skip::Malformed);
        }
        Ok(TcpHeader {
            sequence: u32::from_be_bytes([header[0], header[1], header[2], header[3]]),
            acknowledgement: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            flags: header[9],
            payload,
            length: (self.end - payload) as u32,
        })
    }

    /// Bytes of the frame on the wire, as far as its IP packet tells: a capture may hold fewer, and the linear part
    /// of a multi-buffer XDP packet too.
    #[inline(always)]
    pub fn wire_length<F: Frame + ?Sized>(&self, frame: &F) -> usize {
        frame.length().max(self.end)
    }
}
