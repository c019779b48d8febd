//! Link types: what stands before the network layer's header.

/// The link types that are read, for people.
pub(super) const SUPPORTED: &str =
    "Ethernet (1), Linux cooked v1 (113) and v2 (276), raw IP (12, 14, 101, 228, 229), null and loopback (0, 108)";

/// Name, in parentheses behind a space, of a link type that people meet and that is not read.
pub(super) fn unsupported_name(number: u32) -> &'static str {
    match number {
        9 | 50 => " (PPP)",
        51 => " (PPPoE)",
        105 => " (IEEE 802.11)",
        117 => " (PF log)",
        127 => " (IEEE 802.11 with radiotap)",
        187 | 201 => " (Bluetooth)",
        189 | 220 => " (USB)",
        195 | 230 => " (IEEE 802.15.4)",
        239 => " (NFLOG)",
        252 => " (Wireshark's exported packets)",
        253 => " (netlink)",
        _ => "",
    }
}

/// EtherType of IPv4.
const IPV4: u16 = 0x0800;
/// EtherType of IPv6.
const IPV6: u16 = 0x86dd;
/// No EtherType: what follows is no IP.
const NOT_IP: u16 = 0;

/// How to begin reading a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the Ethernet header, at the first byte.
    Ethernet,
    /// With the network layer's header. A frame that ends before it has `offset` at its end and says IPv4, so that its
    /// reader finds it truncated.
    Network {
        /// Where that header begins.
        offset: usize,
        /// What it is; can be that of a VLAN tag. 0 when it is known to be neither IP nor a VLAN tag.
        ether_type: u16,
    },
}

/// A link type that is read (<https://www.tcpdump.org/linktypes.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkType {
    Ethernet,
    Raw,
    Ipv4,
    Ipv6,
    /// Null (the writing machine's byte order) and loopback (network byte order): an address family in four bytes.
    Loopback,
    /// Linux cooked v1: packet type, ARPHRD type, address length, address (8), protocol.
    Cooked,
    /// Linux cooked v2: protocol, reserved, interface, ARPHRD type, packet type, address length, address (8).
    Cooked2,
}

impl LinkType {
    /// The link type with this number, as it stands in files. 12 and 14 are DLT_RAW of the BSDs.
    pub fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 | 108 => Self::Loopback,
            1 => Self::Ethernet,
            12 | 14 | 101 => Self::Raw,
            113 => Self::Cooked,
            228 => Self::Ipv4,
            229 => Self::Ipv6,
            276 => Self::Cooked2,
            _ => return None,
        })
    }

    /// How to begin reading these bytes, and whether they were on their way out.
    #[inline]
    pub fn start(self, bytes: &[u8]) -> (Start, bool) {
        let network = |offset: usize, ether_type: u16| {
            if offset <= bytes.len() {
                Start::Network { offset, ether_type }
            } else {
                Start::Network { offset: bytes.len(), ether_type: IPV4 }
            }
        };
        match self {
            Self::Ethernet => (Start::Ethernet, false),
            Self::Ipv4 => (network(0, IPV4), false),
            Self::Ipv6 => (network(0, IPV6), false),
            Self::Raw => {
                let ether_type = match bytes.first().map(|first| first >> 4) {
                    Some(4) | None => IPV4,
                    Some(6) => IPV6,
                    Some(_) => NOT_IP,
                };
                (network(0, ether_type), false)
            }
            Self::Loopback => {
                let family = bytes.first_chunk().map_or(0, |family| u32::from_le_bytes(*family));
                // Families are small numbers: what is large was written in the other byte order.
                let family = if family > 0xffff { family.swap_bytes() } else { family };
                (network(4, ether_type_of_family(family)), false)
            }
            Self::Cooked => {
                (network(16, cooked_protocol(half(bytes, 2), half(bytes, 14))), half(bytes, 0) == PACKET_OUTGOING)
            }
            Self::Cooked2 => {
                let outgoing = bytes.get(10).is_some_and(|kind| u16::from(*kind) == PACKET_OUTGOING);
                (network(20, cooked_protocol(half(bytes, 8), half(bytes, 0))), outgoing)
            }
        }
    }

    /// The kernel's number of the interface, where the frame itself says it.
    pub fn interface(self, bytes: &[u8]) -> Option<u32> {
        match self {
            Self::Cooked2 => bytes.get(4..8)?.try_into().ok().map(u32::from_be_bytes),
            _ => None,
        }
    }
}

/// `PACKET_OUTGOING` (include/uapi/linux/if_packet.h).
const PACKET_OUTGOING: u16 = 4;

/// What a cooked header's protocol says. For some devices it is no EtherType
/// (<https://www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL.html>).
fn cooked_protocol(device: u16, protocol: u16) -> u16 {
    const ARPHRD_FRAD: u16 = 770;
    const ARPHRD_IEEE80211: u16 = 801;
    const ARPHRD_IEEE80211_RADIOTAP: u16 = 803;
    const ARPHRD_NETLINK: u16 = 824;
    match device {
        ARPHRD_FRAD | ARPHRD_NETLINK | ARPHRD_IEEE80211..=ARPHRD_IEEE80211_RADIOTAP => NOT_IP,
        _ => protocol,
    }
}

/// Address families: AF_INET is 2 everywhere; AF_INET6 is 10 on Linux, 23 on Windows, 24 on NetBSD and OpenBSD, 28 on
/// FreeBSD, 30 on Darwin.
fn ether_type_of_family(family: u32) -> u16 {
    match family {
        2 => IPV4,
        10 | 23 | 24 | 28 | 30 => IPV6,
        _ => NOT_IP,
    }
}

/// The big-endian 16 bits at `offset`, 0 where they are not there.
fn half(bytes: &[u8], offset: usize) -> u16 {
    bytes.get(offset..offset + 2).and_then(|half| half.try_into().ok()).map_or(0, u16::from_be_bytes)
}
