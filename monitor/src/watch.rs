//! What is watched: ports with their roles, prefixes with their source classes. Made from the settings, the node's own
//! addresses and what the Kubernetes API says, then loaded into the kernel's tables or asked natively by `replay`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use monitor_common::{Role, SourceClass};

use crate::config::{Settings, canonical};

/// Ranges of which everybody knows what they are (RFC 1122, RFC 1918, RFC 6598, RFC 3927, RFC 4193, RFC 4291). What is
/// in none of them is public: what is reserved but not private, such as the ranges of documentation, too.
const DEFAULTS: [(IpNet, SourceClass); 9] = [
    (ipv4([127, 0, 0, 0], 8), SourceClass::Loopback),
    (ipv6([0, 0, 0, 0, 0, 0, 0, 1], 128), SourceClass::Loopback),
    (ipv4([10, 0, 0, 0], 8), SourceClass::Private),
    (ipv4([172, 16, 0, 0], 12), SourceClass::Private),
    (ipv4([192, 168, 0, 0], 16), SourceClass::Private),
    (ipv4([100, 64, 0, 0], 10), SourceClass::Private),
    (ipv4([169, 254, 0, 0], 16), SourceClass::Private),
    (ipv6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), SourceClass::Private),
    (ipv6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), SourceClass::Private),
];

const fn ipv4(address: [u8; 4], length: u8) -> IpNet {
    let [a, b, c, d] = address;
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length))
}

const fn ipv6(address: [u16; 8], length: u8) -> IpNet {
    let [a, b, c, d, e, f, g, h] = address;
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), length))
}

/// Ports with their roles and prefixes with their classes.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// Watched ports, ascending, each once.
    pub ports: Vec<(u16, Role)>,
    /// Prefixes, each once; the longest that holds an address decides.
    pub prefixes: Vec<(IpNet, SourceClass)>,
    roles: Roles,
    classes: Classes,
}

/// What the Kubernetes API says of the cluster ([`crate::discovery`]): ports and prefixes, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterWords {
    /// Where the API server is reached.
    pub ports: Vec<(u16, Role)>,
    /// Where nodes, pods and Services have their addresses.
    pub prefixes: Vec<(IpNet, SourceClass)>,
}

/// Two that watch the same are equal; the tables follow from that.
impl PartialEq for Watch {
    fn eq(&self, other: &Self) -> bool {
        self.ports == other.ports && self.prefixes == other.prefixes
    }
}

impl Eq for Watch {}

impl Watch {
    /// What these settings watch; `own` are the addresses found on this node's interfaces (none in `replay`).
    pub fn new(settings: &Settings, own: &[IpAddr]) -> Self {
        Self::in_cluster(settings, own, &ClusterWords::default())
    }

    /// As [`Self::new`], with what the Kubernetes API says.
    ///
    /// Where several words fall on the very same prefix or port, the operator's beats what was found on the interfaces,
    /// that beats the API's, and that the defaults. Among the operator's own words `trusted` comes first: the other four
    /// say where something is, it alone says what is meant by it. Then the narrower statement: `node`, `cluster_node`,
    /// `pod`, `service`.
    pub fn in_cluster(settings: &Settings, own: &[IpAddr], cluster: &ClusterWords) -> Self {
        let roles = settings.roles();
        let roles = roles.iter().flat_map(|(_, role, ports)| ports.iter().map(move |port| (*port, *role)));
        let (usual, given): (Vec<_>, Vec<_>) = roles.partition(|(port, role)| settings.is_default_port(*port, *role));
        let ports = usual.into_iter().chain(cluster.ports.iter().copied()).chain(given);
        let own = own.iter().map(|address| address.to_canonical());
        // What an interface says of 127.0.0.1 and of addresses that it does not have yet is nothing new.
        let own = own.filter(|address| !address.is_loopback() && !address.is_unspecified()).map(IpNet::from);
        let node = settings.node_address.iter().map(|address| IpNet::from(address.to_canonical()));
        let operator = [
            (&settings.service_cidr, SourceClass::Service),
            (&settings.pod_cidr, SourceClass::Pod),
            (&settings.cluster_node_cidr, SourceClass::ClusterNode),
        ];
        let operator = operator.into_iter().flat_map(|(nets, class)| nets.iter().map(move |net| (*net, class)));
        let trusted = settings.trusted_cidr.iter().map(|net| (*net, SourceClass::Trusted));
        // From the weakest word to the strongest: the later one takes the prefix.
        let words = DEFAULTS
            .into_iter()
            .chain(cluster.prefixes.iter().copied())
            .chain(own.map(|net| (net, SourceClass::Node)))
            .chain(operator)
            .chain(node.map(|net| (net, SourceClass::Node)))
            .chain(trusted);
        Self::of(ports, words)
    }

    /// Of ports and prefixes; where one is named twice, the later one counts. IPv4-mapped prefixes are IPv4.
    pub fn of(
        ports: impl IntoIterator<Item = (u16, Role)>,
        prefixes: impl IntoIterator<Item = (IpNet, SourceClass)>,
    ) -> Self {
        let ports: HashMap<u16, Role> = ports.into_iter().collect();
        let mut ports: Vec<(u16, Role)> = ports.into_iter().collect();
        ports.sort_unstable();
        let prefixes: HashMap<IpNet, SourceClass> =
            prefixes.into_iter().map(|(net, class)| (canonical(net), class)).collect();
        let mut prefixes: Vec<(IpNet, SourceClass)> = prefixes.into_iter().collect();
        prefixes.sort_unstable();
        let (roles, classes) = (Roles::new(&ports), Classes::new(&prefixes));
        Self { ports, prefixes, roles, classes }
    }

    /// What this port is meant to be, `None` where it is not watched.
    pub fn role(&self, port: u16) -> Option<Role> {
        self.roles.0.get(usize::from(port)).copied().flatten()
    }

    /// Where this address belongs.
    pub fn class(&self, address: IpAddr) -> SourceClass {
        self.source(&match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        })
    }

    /// Addresses of this node, as far as they are known one by one; 127.0.0.1 and ::1 among them.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let whole = |net: &IpNet| net.prefix_len() == net.max_prefix_len();
        let own = self.prefixes.iter().filter(move |(net, class)| *class == SourceClass::Node && whole(net));
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        loopback.into_iter().chain(own.map(|(net, _)| net.addr()))
    }

    /// Where this address (IPv4 as IPv4-mapped) belongs.
    pub fn source(&self, address: &[u8; 16]) -> SourceClass {
        self.classes.of(u128::from_be_bytes(*address))
    }
}

/// Role of each port; empty where none is watched. `replay` asks it for both ports of each packet.
#[derive(Clone, Debug, Default)]
struct Roles(Box<[Option<Role>]>);

impl Roles {
    fn new(ports: &[(u16, Role)]) -> Self {
        if ports.is_empty() {
            return Self::default();
        }
        let mut roles = vec![None; usize::from(u16::MAX) + 1];
        for (port, role) in ports {
            roles[usize::from(*port)] = Some(*role);
        }
        Self(roles.into())
    }
}

/// The prefixes flattened: from each bound on, until the next one, all addresses are of one class. Addresses are
/// numbers, IPv4 as IPv4-mapped IPv6. `replay` asks it once a packet: a binary search over few bounds, without hashing.
/// Of IPv4 the first byte says where to begin, and mostly all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Classes {
    bounds: Vec<u128>,
    classes: Vec<SourceClass>,
    /// For each first byte of an IPv4 address the bounds up to its first address, and up to its last.
    ipv4: Vec<[u32; 2]>,
}

/// What stands before an IPv4 address in an IPv4-mapped one.
const MAPPED: u128 = 0xffff << 32;

impl Classes {
    fn new(prefixes: &[(IpNet, SourceClass)]) -> Self {
        // An IPv6 prefix that lies around IPv4-mapped addresses says nothing of IPv4, as in the kernel's two tables.
        let mapped = Range::of(&ipv6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96), SourceClass::Public);
        let mut ranges: Vec<Range> = prefixes.iter().map(|(net, class)| Range::of(net, *class)).collect();
        if !ranges.iter().any(|range| (range.first, range.last) == (mapped.first, mapped.last)) {
            ranges.push(mapped);
        }
        // Outer before inner: prefixes either lie in one another or apart.
        ranges.sort_unstable_by_key(|range| (range.first, std::cmp::Reverse(range.last)));
        let mut table = Self::default();
        let mut open: Vec<Range> = Vec::new();
        for range in ranges {
            table.close(&mut open, range.first.checked_sub(1));
            table.bound(range.first, range.class);
            open.push(range);
        }
        table.close(&mut open, Some(u128::MAX));
        let upto = |address: u128| table.bounds.partition_point(|bound| *bound <= address) as u32;
        table.ipv4 =
            (0..=0xff).map(|byte| MAPPED | byte << 24).map(|first| [upto(first), upto(first | 0xff_ffff)]).collect();
        table
    }

    /// Ends the ranges that end at `last` or before.
    fn close(&mut self, open: &mut Vec<Range>, last: Option<u128>) {
        while let (Some(range), Some(last)) = (open.last(), last)
            && range.last <= last
        {
            let next = range.last.checked_add(1);
            open.pop();
            if let Some(next) = next {
                self.bound(next, open.last().map_or(SourceClass::Public, |outer| outer.class));
            }
        }
    }

    /// From `first` on, addresses are of `class`.
    fn bound(&mut self, first: u128, class: SourceClass) {
        if self.bounds.last() == Some(&first) {
            self.bounds.pop();
            self.classes.pop();
        }
        if self.classes.last().copied().unwrap_or(SourceClass::Public) != class {
            self.bounds.push(first);
            self.classes.push(class);
        }
    }

    fn of(&self, address: u128) -> SourceClass {
        let (from, to) = match address >> 32 {
            0xffff => self
                .ipv4
                .get((address as u32 >> 24) as usize)
                .map_or((0, 0), |[from, to]| (*from as usize, *to as usize)),
            _ => (0, self.bounds.len()),
        };
        let between = self.bounds.get(from..to).unwrap_or_default();
        let after = from + if between.is_empty() { 0 } else { between.partition_point(|bound| *bound <= address) };
        after.checked_sub(1).and_then(|at| self.classes.get(at)).copied().unwrap_or(SourceClass::Public)
    }
}

/// First and last address of a prefix.
#[derive(Clone, Copy, Debug)]
struct Range {
    first: u128,
    last: u128,
    class: SourceClass,
}

impl Range {
    fn of(net: &IpNet, class: SourceClass) -> Self {
        let number = |address: IpAddr| match address {
            IpAddr::V4(address) => u128::from(address.to_ipv6_mapped()),
            IpAddr::V6(address) => u128::from(address),
        };
        Self { first: number(net.network()), last: number(net.broadcast()), class }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(word: &str) -> [u8; 16] {
        match word.parse().unwrap() {
            IpAddr::V4(address) => monitor_common::flow::mapped(address.octets()),
            IpAddr::V6(address) => address.octets(),
        }
    }

    fn class(watch: &Watch, word: &str) -> &'static str {
        watch.source(&address(word)).label()
    }

    fn nets(words: &[&str]) -> Vec<IpNet> {
        words.iter().map(|word| word.parse().unwrap()).collect()
    }

    #[test]
    fn what_nobody_has_to_say() {
        let watch = Watch::new(&Settings::default(), &[]);
        let table = [
            ("loopback", "127.0.0.1 127.255.255.255 ::1 ::ffff:127.0.0.1"),
            ("private", "10.0.0.0 10.255.255.255 172.16.0.1 172.31.255.255 192.168.56.10 100.64.0.1 100.127.255.255"),
            ("private", "169.254.169.254 fe80::1 febf:ffff::1 fc00::1 fdff:ffff::1 ::ffff:10.1.2.3"),
            ("public", "9.255.255.255 11.0.0.0 126.255.255.255 128.0.0.0 172.15.255.255 172.32.0.0 192.167.255.255"),
            ("public", "100.63.255.255 100.128.0.0 169.253.255.255 169.255.0.0 0.0.0.0 255.255.255.255 8.8.8.8"),
            ("public", "192.0.2.1 198.51.100.1 203.0.113.7 2001:db8::1 :: ::2 fbff::1 fe00::1 fec0::1 2606:4700::1111"),
            // IPv4-compatible, 6to4 and NAT64 are IPv6 addresses like any other.
            ("public", "::10.0.0.1 2002:a00:1:: 64:ff9b::a00:1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ];
        for (expected, addresses) in table {
            for address in addresses.split(' ') {
                assert_eq!(class(&watch, address), expected, "{address}");
            }
        }
        assert_eq!(class(&Watch::default(), "10.0.0.1"), "public");
    }

    #[test]
    fn the_longest_prefix_decides() {
        let settings = Settings {
            node_address: vec!["192.168.56.10".parse().unwrap(), "fd00:56::10".parse().unwrap()],
            cluster_node_cidr: nets(&["192.168.56.0/24", "fd00:56::/64"]),
            pod_cidr: nets(&["10.244.0.0/16", "fd00:244::/48"]),
            service_cidr: nets(&["10.96.0.0/12"]),
            trusted_cidr: nets(&["203.0.113.128/25", "10.244.7.7/32"]),
            ..Settings::default()
        };
        let own = ["10.244.0.1", "172.18.0.2", "::ffff:172.18.0.3", "127.0.0.1", "::1", "0.0.0.0"];
        let watch = Watch::new(&settings, &own.map(|word| word.parse().unwrap()));
        let table = [
            ("node", "192.168.56.10 fd00:56::10 10.244.0.1 172.18.0.2 172.18.0.3"),
            ("cluster_node", "192.168.56.9 192.168.56.11 192.168.56.255 fd00:56::11 fd00:56::ffff:0:0:1"),
            ("pod", "10.244.0.0 10.244.0.2 10.244.255.255 fd00:244:0:1::5"),
            ("service", "10.96.0.1 10.111.255.255"),
            ("trusted", "203.0.113.128 203.0.113.255 10.244.7.7"),
            ("private", "192.168.57.1 10.95.255.255 10.112.0.0 fd00:57::1 172.18.0.4"),
            ("public", "203.0.113.127 0.0.0.0"),
            ("loopback", "127.0.0.1 ::1"),
        ];
        for (expected, addresses) in table {
            for address in addresses.split(' ') {
                assert_eq!(class(&watch, address), expected, "{address}");
            }
        }
    }

    #[test]
    fn on_the_same_prefix_the_stronger_word_counts() {
        let same = || nets(&["10.0.0.0/8"]);
        let mut settings = Settings::default();
        let class = |settings: &Settings, word: &str, own: &[IpAddr]| class(&Watch::new(settings, own), word);
        assert_eq!(class(&settings, "10.0.0.1", &[]), "private");
        settings.service_cidr = same();
        assert_eq!(class(&settings, "10.0.0.1", &[]), "service");
        settings.pod_cidr = same();
        assert_eq!(class(&settings, "10.0.0.1", &[]), "pod");
        settings.cluster_node_cidr = same();
        assert_eq!(class(&settings, "10.0.0.1", &[]), "cluster_node");
        settings.trusted_cidr = same();
        assert_eq!(class(&settings, "10.0.0.1", &[]), "trusted");

        let mut settings = Settings { cluster_node_cidr: nets(&["192.0.2.1/32"]), ..Settings::default() };
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!(class(&settings, "192.0.2.1", &[address]), "cluster_node", "the operator's word beats discovery");
        settings.node_address = vec![address];
        assert_eq!(class(&settings, "192.0.2.1", &[]), "node");
        settings = Settings { trusted_cidr: nets(&["127.0.0.0/8"]), ..Settings::default() };
        assert_eq!(class(&settings, "127.0.0.1", &[address]), "trusted", "the operator's word beats the defaults");
    }

    #[test]
    fn everything_is_a_prefix_too() {
        let settings = Settings { trusted_cidr: nets(&["0.0.0.0/0", "::/0"]), ..Settings::default() };
        let watch = Watch::new(&settings, &[]);
        for address in ["8.8.8.8", "0.0.0.0", "255.255.255.255", "::", "2001:db8::1"] {
            assert_eq!(class(&watch, address), "trusted", "{address}");
        }
        assert_eq!(class(&watch, "10.0.0.1"), "private");
        let settings = Settings { trusted_cidr: nets(&["::/0"]), ..Settings::default() };
        let watch = Watch::new(&settings, &[]);
        assert_eq!((class(&watch, "8.8.8.8"), class(&watch, "2001:db8::1")), ("public", "trusted"));
        assert_eq!(class(&watch, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), "trusted");
    }

    #[test]
    fn ports_have_roles() {
        let settings = Settings { node_port: vec![31443, 65535], secure_port: vec![6443, 1], ..Settings::default() };
        let watch = Watch::new(&settings, &[]);
        let roles = [
            (1, Role::Secure),
            (6443, Role::Secure),
            (8001, Role::Insecure),
            (8080, Role::Insecure),
            (31443, Role::NodePort),
            (65535, Role::NodePort),
        ];
        assert_eq!(watch.ports, roles);
        for port in 0..=u16::MAX {
            let expected = roles.iter().find(|(watched, _)| *watched == port).map(|(_, role)| *role);
            assert_eq!(watch.role(port), expected, "{port}");
        }
        assert_eq!(Watch::default().role(6443), None);
    }

    #[test]
    fn equal_when_the_same_is_watched() {
        let settings = Settings { pod_cidr: nets(&["10.1.0.0/16", "10.2.0.0/16"]), ..Settings::default() };
        let reversed = Settings { pod_cidr: nets(&["10.2.0.0/16", "10.1.0.0/16"]), ..Settings::default() };
        assert_eq!(Watch::new(&settings, &[]), Watch::new(&reversed, &[]));
        assert_ne!(Watch::new(&settings, &[]), Watch::new(&Settings::default(), &[]));
        let other_port = Settings { secure_port: vec![443], ..settings.clone() };
        assert_ne!(Watch::new(&settings, &[]), Watch::new(&other_port, &[]));
    }

    fn any_net() -> impl Strategy<Value = IpNet> {
        // Few high bits, so that prefixes often lie in one another.
        prop_oneof![
            (any::<[bool; 4]>(), 0..=32_u8).prop_map(|(bits, length)| {
                let octets = bits.map(|bit| if bit { 0xa5 } else { 0x0a });
                IpNet::V4(Ipv4Net::new(octets.into(), length).unwrap()).trunc()
            }),
            (any::<[bool; 8]>(), 0..=128_u8).prop_map(|(bits, length)| {
                let groups = bits.map(|bit| if bit { 0xffff_u16 } else { 0 });
                IpNet::V6(Ipv6Net::new(groups.into(), length).unwrap()).trunc()
            }),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_looking_at_every_prefix(
            words in proptest::collection::vec((any_net(), prop::sample::select(SourceClass::ALL)), 0..24),
            more in proptest::collection::vec(any::<[u8; 16]>(), 4),
        ) {
            let watch = Watch::of([], words);
            let edges = watch.prefixes.iter().flat_map(|(net, _)| {
                let range = Range::of(net, SourceClass::Public);
                [range.first, range.last, range.first.wrapping_sub(1), range.last.wrapping_add(1)]
            });
            for number in edges.chain(more.iter().map(|bytes| u128::from_be_bytes(*bytes))) {
                let address = IpAddr::V6(number.into()).to_canonical();
                let longest = watch.prefixes.iter().filter(|(net, _)| net.contains(&address));
                let expected = longest.max_by_key(|(net, _)| net.prefix_len()).map(|(_, class)| *class);
                prop_assert_eq!(
                    watch.source(&number.to_be_bytes()),
                    expected.unwrap_or(SourceClass::Public),
                    "{} in {:?}", address, watch.prefixes
                );
            }
        }
    }
}
