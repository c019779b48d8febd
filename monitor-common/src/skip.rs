//! Why a packet was left alone: each way out of the kernel side has its name.

use crate::closed_set;

closed_set! {
    /// Why a packet was left alone. The value indexes the kernel's counter, the word is the metric's label.
    Skip {
        /// Neither IPv4 nor IPv6 (ARP, LLDP, an unknown EtherType).
        NotIp = "not_ip",
        /// IP that carries something other than TCP.
        NotTcp = "not_tcp",
        /// TCP between ports that nobody watches.
        NotWatched = "not_watched",
        /// The frame ends before its headers do.
        Truncated = "truncated",
        /// A header contradicts itself (IP header length under 20, TCP data offset under 5, ...).
        Malformed = "malformed",
        /// A fragment after the first: it has no TCP header.
        LaterFragment = "later_fragment",
        /// More than two VLAN tags.
        TooManyVlanTags = "too_many_vlan_tags",
        /// More IPv6 extension headers than are followed.
        TooManyExtensionHeaders = "too_many_extension_headers",
        /// IPsec ESP: what is inside cannot be read.
        Encrypted = "encrypted",
        /// VXLAN (UDP 4789, 8472): the connection is inside and not read.
        Vxlan = "vxlan",
        /// Geneve (UDP 6081).
        Geneve = "geneve",
        /// GRE (IP protocol 47).
        Gre = "gre",
        /// IP in IP (IP protocols 4 and 41).
        IpInIp = "ip_in_ip",
        /// WireGuard (UDP 51820, 51871).
        Wireguard = "wireguard",
        /// Watched, but without payload and with nothing to say about a flow (the packet is counted all the same).
        NoPayload = "no_payload",
        /// Data in a SYN (TCP Fast Open) begins no flow: a spoofed one would evict honest flows.
        SynPayload = "syn_payload",
        /// User space has read enough of this flow.
        Enough = "enough",
        /// The same bytes came by on another interface or hook before.
        Duplicate = "duplicate",
        /// The direction's byte budget is spent or the bytes lie beyond the reply's window.
        Budget = "budget",
        /// The flow table took no entry.
        TableFull = "table_full",
        /// The ring buffer took no record.
        RingFull = "ring_full",
    }
}
