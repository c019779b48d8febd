use ipnet::IpNet;
use monitor_common::{Role, SourceClass};

use super::known::{Change, Listing};
use super::objects::{EndpointSlice, Followed, Node, Service, ServiceCIDR};
use super::*;
use crate::config::Settings;
use crate::watch::Watch;

fn facts<K: Followed + serde::de::DeserializeOwned>(json: &str) -> Facts {
    serde_json::from_str::<K>(json).unwrap().facts()
}

fn node(name: &str, address: &str, pods: &str) -> (String, Facts) {
    let mut facts = Facts::default();
    facts.take_addresses(address.split_whitespace());
    facts.take_ranges(pods.split_whitespace());
    (name.to_owned(), facts)
}

fn known(objects: impl IntoIterator<Item = (Object, (String, Facts))>) -> Known {
    let mut known = Known::default();
    let mut listing = Listing::default();
    for (object, (name, facts)) in objects {
        listing.take(&mut known, object, Change::Apply(name, facts));
    }
    known
}

fn addresses(words: &str) -> Vec<std::net::IpAddr> {
    words.split_whitespace().map(|word| word.parse().unwrap()).collect()
}

fn nets(words: &str) -> Vec<IpNet> {
    words.split_whitespace().map(|word| word.parse().unwrap()).collect()
}

/// Two control planes of both families and a worker, as kubeadm makes them.
fn cluster() -> Known {
    let mut service = facts::<Service>(
        r#"{"metadata":{"name":"kubernetes"},"spec":{"clusterIP":"10.96.0.1","clusterIPs":["10.96.0.1","fd00:96::1"],
            "ports":[{"name":"https","port":443,"targetPort":6443,"nodePort":31443}]},"status":{"loadBalancer":{}}}"#,
    );
    service.take_load_balancer("198.51.100.9");
    let slice = facts::<EndpointSlice>(
        r#"{"addressType":"IPv4","endpoints":[{"addresses":["192.168.56.10"]},{"addresses":["192.168.56.11"]},
            {"addresses":["192.168.60.1"]}],"ports":[{"name":"https","port":7443,"protocol":"TCP"}]}"#,
    );
    let mut ranges = Facts::default();
    ranges.take_ranges(["10.96.0.0/12", "fd00:96::/108"]);
    known([
        (Object::Nodes, node("cp-1", "192.168.56.10 fd00:56::10", "10.244.0.0/24 fd00:244::/64")),
        (Object::Nodes, node("cp-2", "192.168.56.11 203.0.113.11", "10.244.1.0/24")),
        (Object::Nodes, node("worker", "192.168.56.20", "10.244.2.0/24")),
        (Object::Service, ("kubernetes".to_owned(), service)),
        (Object::EndpointSlices, ("kubernetes".to_owned(), slice)),
        (Object::ServiceCidrs, ("kubernetes".to_owned(), ranges)),
    ])
}

fn class(watch: &Watch, address: &str) -> &'static str {
    let address = match address.parse().unwrap() {
        std::net::IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        std::net::IpAddr::V6(address) => address.octets(),
    };
    watch.source(&address).label()
}

#[test]
fn objects_are_read_as_the_api_server_writes_them() {
    let facts_of_node = facts::<Node>(
        r#"{"kind":"Node","apiVersion":"v1","metadata":{"name":"n","resourceVersion":"1","managedFields":[{"manager":"kubelet"}]},
            "spec":{"podCIDR":"10.244.0.0/24","podCIDRs":["10.244.0.0/24","fd00:244::/64"],"taints":[{"key":"k","effect":"NoSchedule"}]},
            "status":{"addresses":[{"type":"InternalIP","address":"192.168.56.10"},{"type":"InternalIP","address":"fd00:56::10"},
            {"type":"ExternalIP","address":"203.0.113.5"},{"type":"Hostname","address":"192.0.2.1"},{"type":"InternalDNS","address":"n"}],
            "images":[{"names":["a"],"sizeBytes":1}]}}"#,
    );
    assert_eq!(facts_of_node.addresses, addresses("192.168.56.10 fd00:56::10 203.0.113.5"));
    assert_eq!((facts_of_node.ranges, facts_of_node.left_out), (nets("10.244.0.0/24 fd00:244::/64"), 0));

    // Go writes null for a list that is empty, and leaves out what is.
    assert_eq!(facts::<EndpointSlice>(r#"{"metadata":{"name":"s"},"endpoints":null,"ports":null}"#), Facts::default());
    assert_eq!(facts::<Node>(r#"{"metadata":{"name":"n"},"spec":{},"status":{}}"#), Facts::default());
    assert_eq!(facts::<Node>(r#"{"metadata":{"name":"n"}}"#), Facts::default());
    assert_eq!(facts::<Service>(r#"{"spec":{"clusterIP":"None","ports":[{"port":443}]}}"#), Facts::default());
    let service = facts::<Service>(
        r#"{"spec":{"ports":[{"nodePort":31443}]},"status":{"loadBalancer":{"ingress":[{"ip":"198.51.100.9"},{"hostname":"a.example"}]}}}"#,
    );
    assert_eq!(
        (service.ports, service.load_balancers),
        (vec![31_443], vec!["198.51.100.9".into(), "a.example".into()])
    );
    let ranges = facts::<ServiceCIDR>(r#"{"metadata":{"name":"kubernetes"},"spec":{"cidrs":["10.96.0.0/12"]}}"#);
    assert_eq!(ranges.ranges, nets("10.96.0.0/12"));
}

/// A kubelet writes its node's object itself: what it says must not turn the Internet into pods.
#[test]
fn what_is_not_to_be_believed_is_left_out() {
    let mut facts = Facts::default();
    facts.take_addresses(["127.0.0.1", "::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "10.0.0.0/8", "node", ""]);
    facts.take_ranges(["0.0.0.0/0", "10.0.0.0/7", "::/0", "fd00::/15", "127.0.0.0/16", "10.0.0.0/33", "10.0.0", ""]);
    facts.take_ports([-1, 65_536]);
    facts.take_load_balancer("a\nb");
    assert_eq!((facts.left_out, &facts), (20, &Facts { left_out: 20, ..Facts::default() }));
    facts.take_addresses((0..100).map(|last| format!("10.0.0.{last}")).collect::<Vec<_>>().iter().map(String::as_str));
    assert!(facts.addresses.len() < 20 && facts.left_out > 100, "{facts:?}");
    facts.take_ranges(["10.1.2.3/8", "::ffff:10.96.0.0/108"]);
    assert_eq!(facts.ranges, nets("10.0.0.0/8 10.96.0.0/12"));
}

#[test]
fn what_the_cluster_says_becomes_ports_and_prefixes() {
    let this = ThisNode { name: Some("cp-1".into()), addresses: addresses("192.168.56.10 10.244.0.1") };
    let watch = Watch::in_cluster(&Settings::default(), &this.addresses, &cluster().words(&this));
    let table = [
        ("node", "192.168.56.10 fd00:56::10 10.244.0.1"),
        ("cluster_node", "192.168.56.11 203.0.113.11 192.168.56.20 192.168.60.1"),
        ("pod", "10.244.0.2 10.244.1.1 10.244.2.255 fd00:244::5"),
        ("service", "10.96.0.1 10.111.255.255 fd00:96::1"),
        ("private", "10.244.3.1 192.168.56.12 10.112.0.0"),
        ("public", "203.0.113.12 198.51.100.9 8.8.8.8"),
        ("loopback", "127.0.0.1 ::1"),
    ];
    for (expected, words) in table {
        for address in words.split(' ') {
            assert_eq!(class(&watch, address), expected, "{address}");
        }
    }
    let ports: Vec<_> = [6443, 7443, 8080, 8001, 31_443, 443].map(|port| watch.role(port)).into();
    let expected = [
        Some(Role::Secure),
        Some(Role::Secure),
        Some(Role::Insecure),
        Some(Role::Insecure),
        Some(Role::NodePort),
        None,
    ];
    assert_eq!(ports, expected);
}

#[test]
fn this_node_is_known_by_name_or_by_address() {
    let this = |name: Option<&str>, own: &str| ThisNode { name: name.map(str::to_owned), addresses: addresses(own) };
    let known = cluster();
    for (this, expected) in [
        (this(Some("cp-2"), "192.168.56.10"), Some("cp-2")),
        (this(Some("monitor-x7k2p"), "fd00:56::10 172.17.0.1"), Some("cp-1")),
        (this(None, "192.168.56.20"), Some("worker")),
        (this(Some("other"), "10.9.9.9"), None),
        (this(None, ""), None),
    ] {
        assert_eq!(known.this_node(&this), expected, "{this:?}");
    }
    // An address of the cloud's that is on no interface.
    let this = ThisNode { name: Some("cp-2".into()), addresses: addresses("192.168.56.11") };
    let watch = Watch::in_cluster(&Settings::default(), &this.addresses, &known.words(&this));
    assert_eq!(class(&watch, "203.0.113.11"), "node");
    assert_eq!(class(&watch, "192.168.56.10"), "cluster_node");
}

/// The operator's word beats the cluster's, the cluster's the default.
#[test]
fn words_have_their_order() {
    let this = ThisNode { name: Some("cp-1".into()), addresses: addresses("192.168.56.10") };
    let words = cluster().words(&this);
    let settings = Settings {
        trusted_cidr: nets("192.168.56.11/32"),
        pod_cidr: nets("10.96.0.0/12 192.168.56.20/32"),
        node_address: addresses("192.168.60.1"),
        secure_port: vec![6443, 31_443],
        ..Settings::default()
    };
    let watch = Watch::in_cluster(&settings, &this.addresses, &words);
    for (expected, address) in [
        ("trusted", "192.168.56.11"),
        ("pod", "192.168.56.20"),
        ("pod", "10.97.0.1"),
        ("node", "192.168.60.1"),
        ("service", "10.96.0.1"),
    ] {
        assert_eq!(class(&watch, address), expected, "{address}");
    }
    assert_eq!(watch.role(31_443), Some(Role::Secure));

    let named = |ports: &[(u16, Role)]| crate::watch::ClusterWords { ports: ports.to_vec(), prefixes: Vec::new() };
    let of =
        |settings: &Settings, ports: &[(u16, Role)], port| Watch::in_cluster(settings, &[], &named(ports)).role(port);
    assert_eq!(of(&Settings::default(), &[(8080, Role::Secure)], 8080), Some(Role::Secure), "8080 is a default");
    let given = Settings { insecure_port: vec![8080, 9090], ..Settings::default() };
    assert_eq!(of(&given, &[(8080, Role::Secure)], 8080), Some(Role::Insecure), "8080 is given");
    assert_eq!(of(&Settings::default(), &[(6443, Role::NodePort)], 6443), Some(Role::NodePort));
    assert_eq!(Watch::in_cluster(&settings, &[], &Default::default()), Watch::new(&settings, &[]));
}

#[test]
fn what_is_known_fits_into_a_line() {
    let this = ThisNode { name: Some("cp-1".into()), addresses: Vec::new() };
    let table = [
        (
            Object::Nodes,
            "3 (this is cp-1); addresses 192.168.56.10, 192.168.56.11, 192.168.56.20, 203.0.113.11, fd00:56::10; \
             pods 10.244.0.0/24, 10.244.1.0/24, 10.244.2.0/24, fd00:244::/64",
        ),
        (Object::Service, "cluster IPs 10.96.0.1, fd00:96::1; NodePort 31443; load balancer 198.51.100.9"),
        (Object::EndpointSlices, "API servers 192.168.56.10, 192.168.56.11, 192.168.60.1; port 7443"),
        (Object::ServiceCidrs, "10.96.0.0/12, fd00:96::/108"),
    ];
    for (object, line) in table {
        assert_eq!(cluster().describe(object, &this), line);
    }
    assert_eq!(
        Known::default().describe(Object::Nodes, &this),
        "0 (this one is not among them); addresses none; pods none"
    );
    let many = known((0..100).map(|last| (Object::Nodes, node(&last.to_string(), &format!("10.0.0.{last} x"), ""))));
    let line = many.describe(Object::Nodes, &this);
    assert!(line.contains(" and 92 more; pods none; 100 left out") && line.len() < 300, "{line}");
}

/// Where two objects say something of one prefix, the narrower statement counts.
#[test]
fn among_objects_the_narrower_statement_counts() {
    let mut service = Facts::default();
    service.take_addresses(["10.0.0.1"]);
    let mut slice = Facts::default();
    slice.take_addresses(["10.0.0.2"]);
    let mut ranges = Facts::default();
    ranges.take_ranges(["10.0.0.0/24", "10.0.0.3/32"]);
    let known = known([
        (Object::ServiceCidrs, ("a".into(), ranges)),
        (Object::Service, ("kubernetes".into(), service)),
        (Object::EndpointSlices, ("kubernetes".into(), slice)),
        (Object::Nodes, node("n", "10.0.0.1", "10.0.0.0/24 10.0.0.3/32")),
        (Object::Nodes, node("this", "10.0.0.2", "")),
    ]);
    let words = known.words(&ThisNode { name: Some("this".into()), addresses: Vec::new() });
    let expected = [
        ("10.0.0.0/24", SourceClass::Pod),
        ("10.0.0.1/32", SourceClass::ClusterNode),
        ("10.0.0.2/32", SourceClass::Node),
        ("10.0.0.3/32", SourceClass::Pod),
    ];
    let mut prefixes = words.prefixes;
    prefixes.sort_by_key(|(net, _)| (net.addr(), net.prefix_len()));
    assert_eq!(prefixes, expected.map(|(net, class)| (net.parse().unwrap(), class)));
}

#[test]
fn a_list_takes_effect_at_its_end_and_forgets_nothing_before() {
    let (mut known, mut listing) = (cluster(), Listing::default());
    let before = known.clone();
    let mut take = |change| listing.take(&mut known, Object::Nodes, change);
    assert!(!take(Change::Begin));
    let (name, facts) = node("cp-1", "192.168.56.10", "");
    assert!(!take(Change::Apply(name.clone(), facts.clone())));
    assert!(!take(Change::Delete("worker".into())));
    // It breaks off, and begins anew.
    assert!(!take(Change::Begin));
    assert!(!take(Change::Apply(name.clone(), facts.clone())));
    assert!(take(Change::Done));
    assert!(!take(Change::Done), "nothing more");
    assert!(!take(Change::Apply(name, facts)), "a heartbeat says nothing new");
    assert!(
        take(Change::Delete("cp-1".into())) && !listing.take(&mut known, Object::Nodes, Change::Delete("cp-1".into()))
    );
    assert!(known.objects(Object::Nodes).is_empty());
    assert_eq!(known.objects(Object::Service), before.objects(Object::Service));
}

#[test]
fn a_cluster_without_end_has_an_end() {
    let nodes = (0..20_000_u32).map(|number| {
        let [_, a, b, c] = number.to_be_bytes();
        let address = format!("10.{a}.{b}.{c} 11.{a}.{b}.{c} 12.{a}.{b}.{c} 13.{a}.{b}.{c} fd00::{b:x}:{c:x}");
        (Object::Nodes, node(&number.to_string(), &address, ""))
    });
    let known = known(nodes);
    assert_eq!(known.objects(Object::Nodes).len(), 10_000);
    let prefixes = known.words(&ThisNode::default()).prefixes;
    let ipv4 = prefixes.iter().filter(|(net, _)| net.addr().is_ipv4()).count();
    assert!(ipv4 < monitor_common::limits::PREFIXES as usize - 1_000, "{ipv4}");
    assert_eq!(prefixes.len() - ipv4, 10_000);
}

proptest::proptest! {
    #[test]
    fn no_object_panics(text in ".{0,80}") {
        let json = serde_json::json!({
            "metadata": {"name": text},
            "spec": {"podCIDR": text, "clusterIP": text, "cidrs": [text]},
            "status": {"addresses": [{"type": "InternalIP", "address": text}], "loadBalancer": {"ingress": [{"ip": text}]}},
        })
        .to_string();
        for facts in [facts::<Node>(&json), facts::<Service>(&json), facts::<EndpointSlice>(&json), facts::<ServiceCIDR>(&json)] {
            let known = known([(Object::Nodes, ("n".to_owned(), facts))]);
            let _ = Watch::in_cluster(&Settings::default(), &[], &known.words(&ThisNode::default()));
        }
        let _ = serde_json::from_str::<Node>(&text);
    }
}
