//! What the API said, and what that means for the tables: values in, values out.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use monitor_common::{Role, SourceClass, limits};

use super::Object;
use crate::config::canonical;
use crate::watch::ClusterWords;

/// Objects of one kind that are remembered: twice the nodes that Kubernetes supports in a cluster (5,000).
const OBJECTS: usize = 10_000;

/// Addresses, ranges or ports that are taken of one object; a node has one or two of each.
const ITEMS: usize = 16;

/// Prefixes of each family that go into the tables; the rest of their room is the operator's and the node's own.
const PREFIXES: usize = limits::PREFIXES as usize - 4_096;

/// A wider range is not believed. A node may write into its own object what it likes (addresses, and the pods' ranges
/// when it registers): with `0.0.0.0/0` it would have the whole Internet taken for pods.
const WIDEST_IPV4: u8 = 8;
const WIDEST_IPV6: u8 = 16;

/// What one object says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Of a node its InternalIPs and ExternalIPs; of an EndpointSlice the API servers'; of the Service its cluster IPs.
    pub addresses: Vec<IpAddr>,
    /// Of a node its pods' (podCIDRs); of a ServiceCIDR the Services'.
    pub ranges: Vec<IpNet>,
    /// Of an EndpointSlice where the API servers listen; of the Service its NodePorts.
    pub ports: Vec<u16>,
    /// Of the Service where its load balancers are reached: addresses or names.
    pub load_balancers: Vec<String>,
    /// What of these was left out: no address, too wide, too many.
    pub left_out: usize,
}

impl Facts {
    /// Takes addresses as they stand in an object.
    pub fn take_addresses<'a>(&mut self, words: impl IntoIterator<Item = &'a str>) {
        for word in words {
            let address = word.parse::<IpAddr>().ok().map(|address| address.to_canonical());
            let address = address
                .filter(|address| !(address.is_loopback() || address.is_unspecified() || address.is_multicast()));
            push(&mut self.addresses, address, &mut self.left_out);
        }
    }

    /// Takes ranges as they stand in an object.
    pub fn take_ranges<'a>(&mut self, words: impl IntoIterator<Item = &'a str>) {
        for word in words {
            let range = word.parse::<IpNet>().ok().map(canonical).filter(|range| {
                range.prefix_len() >= if range.addr().is_ipv4() { WIDEST_IPV4 } else { WIDEST_IPV6 }
                    && !range.addr().is_loopback()
                    && !range.addr().is_multicast()
            });
            push(&mut self.ranges, range, &mut self.left_out);
        }
    }

    /// Takes ports as they stand in an object; 0 is none.
    pub fn take_ports(&mut self, ports: impl IntoIterator<Item = i32>) {
        for port in ports.into_iter().filter(|port| *port != 0) {
            push(&mut self.ports, u16::try_from(port).ok(), &mut self.left_out);
        }
    }

    /// Takes a load balancer's address or name.
    pub fn take_load_balancer(&mut self, word: &str) {
        let fits = word.len() <= 253 && word.chars().all(|letter| letter.is_ascii_graphic());
        push(&mut self.load_balancers, fits.then(|| word.to_owned()), &mut self.left_out);
    }
}

fn push<T: PartialEq>(items: &mut Vec<T>, item: Option<T>, left_out: &mut usize) {
    match item {
        Some(item) if items.contains(&item) => {}
        Some(item) if items.len() < ITEMS => items.push(item),
        _ => *left_out += 1,
    }
}

/// What happened to the objects of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// All that there is will be listed.
    Begin,
    /// One is there.
    Apply(String, Facts),
    /// One is gone.
    Delete(String),
    /// All that there is was listed: what was not is gone.
    Done,
}

/// What the API said last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    objects: [BTreeMap<String, Facts>; Object::COUNT],
}

/// By what this node is told from the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThisNode {
    /// Its name in the cluster, where it is known.
    pub name: Option<String>,
    /// The addresses of its interfaces.
    pub addresses: Vec<IpAddr>,
}

impl Known {
    /// The objects of this kind, by name.
    pub fn objects(&self, object: Object) -> &BTreeMap<String, Facts> {
        &self.objects[object as usize]
    }

    /// How much of what the objects say was left out.
    pub fn left_out(&self) -> usize {
        self.objects.iter().flat_map(BTreeMap::values).map(|facts| facts.left_out).sum()
    }

    /// Where the `kubernetes` Service's load balancers are reached.
    pub fn load_balancers(&self) -> impl Iterator<Item = &str> {
        self.objects(Object::Service).values().flat_map(|facts| facts.load_balancers.iter().map(String::as_str))
    }

    /// Which of the nodes is this one: by its name, else by an address of its interfaces.
    pub fn this_node(&self, this: &ThisNode) -> Option<&str> {
        let nodes = self.objects(Object::Nodes);
        if let Some((name, _)) = this.name.as_deref().and_then(|name| nodes.get_key_value(name)) {
            return Some(name);
        }
        let mut nodes = nodes.iter();
        let (name, _) = nodes.find(|(_, facts)| facts.addresses.iter().any(|own| this.addresses.contains(own)))?;
        Some(name)
    }

    /// What is watched on this node because of it. Where two say something of the same prefix, the narrower statement
    /// counts: this node, nodes, pods, Services.
    pub fn words(&self, this: &ThisNode) -> ClusterWords {
        let this = self.this_node(this);
        let of = |object| self.objects(object).iter();
        let all = |object, class: SourceClass, range: bool| {
            of(object).flat_map(move |(_, facts)| {
                let ranges = facts.ranges.iter().filter(move |_| range).copied();
                let addresses = facts.addresses.iter().filter(move |_| !range).map(|address| IpNet::from(*address));
                ranges.chain(addresses).map(move |net| (net, class))
            })
        };
        let own = of(Object::Nodes).filter(|(name, _)| Some(name.as_str()) == this);
        let own = own.flat_map(|(_, facts)| &facts.addresses).map(|address| (IpNet::from(*address), SourceClass::Node));
        // From the weakest to the strongest: the later one takes the prefix.
        let words = all(Object::ServiceCidrs, SourceClass::Service, true)
            .chain(all(Object::Service, SourceClass::Service, false))
            .chain(all(Object::Nodes, SourceClass::Pod, true))
            .chain(all(Object::EndpointSlices, SourceClass::ClusterNode, false))
            .chain(all(Object::Nodes, SourceClass::ClusterNode, false))
            .chain(own);
        let mut prefixes = BTreeMap::new();
        let mut room = [PREFIXES; 2];
        for (net, class) in words {
            let room = &mut room[usize::from(net.addr().is_ipv6())];
            match prefixes.get_mut(&net) {
                Some(before) => *before = class,
                None if *room == 0 => {}
                None => {
                    *room -= 1;
                    prefixes.insert(net, class);
                }
            }
        }
        let ports = |object, role: Role| of(object).flat_map(|(_, facts)| &facts.ports).map(move |port| (*port, role));
        let ports = ports(Object::Service, Role::NodePort).chain(ports(Object::EndpointSlices, Role::Secure));
        let ports: BTreeMap<u16, Role> = ports.collect();
        ClusterWords { ports: ports.into_iter().collect(), prefixes: prefixes.into_iter().collect() }
    }

    /// What is known of the objects of one kind, in a line.
    pub fn describe(&self, object: Object, this: &ThisNode) -> String {
        let objects = self.objects(object);
        let all = |of: fn(&Facts) -> Vec<String>| {
            let mut words: Vec<String> = objects.values().flat_map(of).collect();
            words.sort_unstable();
            words.dedup();
            list(&words)
        };
        let addresses = || all(|facts| facts.addresses.iter().map(ToString::to_string).collect());
        let ranges = || all(|facts| facts.ranges.iter().map(ToString::to_string).collect());
        let ports = || all(|facts| facts.ports.iter().map(ToString::to_string).collect());
        let mut words = match object {
            Object::Nodes => {
                let this = self
                    .this_node(this)
                    .map_or("this one is not among them".to_owned(), |name| format!("this is {name}"));
                format!("{} ({this}); addresses {}; pods {}", objects.len(), addresses(), ranges())
            }
            Object::Service => {
                let balancers = all(|facts| facts.load_balancers.clone());
                format!("cluster IPs {}; NodePort {}; load balancer {balancers}", addresses(), ports())
            }
            Object::EndpointSlices => format!("API servers {}; port {}", addresses(), ports()),
            Object::ServiceCidrs => ranges(),
        };
        let left_out: usize = objects.values().map(|facts| facts.left_out).sum();
        if left_out > 0 {
            words += &format!("; {left_out} left out: no address, too wide, or too many");
        }
        words
    }

    pub(super) fn replace(&mut self, object: Object, objects: BTreeMap<String, Facts>) -> bool {
        let changed = self.objects[object as usize] != objects;
        self.objects[object as usize] = objects;
        changed
    }

    fn apply(&mut self, object: Object, name: String, facts: Facts) -> bool {
        let objects = &mut self.objects[object as usize];
        if objects.get(&name) == Some(&facts) {
            return false;
        }
        insert(objects, name, facts)
    }

    fn delete(&mut self, object: Object, name: &str) -> bool {
        self.objects[object as usize].remove(name).is_some()
    }
}

/// Objects of one kind as they are being listed.
#[derive(Debug, Default)]
pub struct Listing(Option<BTreeMap<String, Facts>>);

impl Listing {
    /// Takes what happened, and says whether something else is known now. What is being listed becomes known at its end,
    /// all at once, so that nothing is forgotten in between.
    pub fn take(&mut self, known: &mut Known, object: Object, change: Change) -> bool {
        match (change, &mut self.0) {
            (Change::Begin, listed) => {
                *listed = Some(BTreeMap::new());
                false
            }
            (Change::Apply(name, facts), Some(listed)) => {
                insert(listed, name, facts);
                false
            }
            (Change::Apply(name, facts), None) => known.apply(object, name, facts),
            (Change::Delete(name), Some(listed)) => {
                listed.remove(&name);
                false
            }
            (Change::Delete(name), None) => known.delete(object, &name),
            (Change::Done, listed) => listed.take().is_some_and(|listed| known.replace(object, listed)),
        }
    }
}

/// The first few of them.
fn list(words: &[String]) -> String {
    const SHOWN: usize = 8;
    match words {
        [] => "none".to_owned(),
        words if words.len() <= SHOWN => words.join(", "),
        words => format!("{} and {} more", words[..SHOWN].join(", "), words.len() - SHOWN),
    }
}

fn insert(objects: &mut BTreeMap<String, Facts>, name: String, facts: Facts) -> bool {
    let room = objects.len() < OBJECTS || objects.contains_key(&name);
    if room {
        objects.insert(name, facts);
    }
    room
}
