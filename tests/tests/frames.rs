//! One table of frames, each with what parse, select and track have to make of it: natively, and in the kernel on
//! every hook.
#![expect(clippy::unwrap_used, reason = "what a test cannot do without fails it")]

mod frames {
    pub mod table;
}

use std::collections::BTreeSet;

use frames::table::{Case, Expected, Facts, cases};
use ipnet::IpNet;
use monitor::attach::object::program;
use monitor::replay::Start;
use monitor::replay::native::NativeKernel;
use monitor::watch::Watch;
use monitor_common::{
    FlowKey, Hook, KernelEvent, PacketCount, PacketKind, RecordFlags, RecordHeader, Role, Side, Skip, SourceClass,
    flow::mapped, limits,
};
use monitor_tests::frame::{self, Tcp, flag};
use monitor_tests::kernel::{Counts, Kernel, Outcome, Record};
use monitor_tests::require_root;

/// XDP_PASS (include/uapi/linux/bpf.h).
const XDP_PASS: u32 = 2;
/// TCX_NEXT and TC_ACT_UNSPEC.
const NEXT: u32 = -1_i32 as u32;
/// Bytes of an Ethernet header: the least that BPF_PROG_TEST_RUN takes.
const ETHERNET: usize = 14;

const PORTS: [(u16, Role); 4] =
    [(6443, Role::Secure), (8001, Role::Insecure), (8080, Role::Insecure), (30_443, Role::NodePort)];

fn watch() -> Watch {
    Watch::of(PORTS, [])
}

#[test]
fn native() {
    for case in cases() {
        let (outcome, counts) = run_natively(&case);
        match (&case.expected, outcome) {
            (Expected::Left(skip), None) => {
                assert_eq!(counts, (vec![*skip], vec![]), "{}: skips, packets", case.name);
            }
            (Expected::Watched(expected), record) => {
                let packet = PacketCount { packets: 1, bytes: expected.wire as u64 };
                let index = PacketCount::index(expected.role, SourceClass::Public, expected.kind);
                assert_eq!(counts.1, [(index, packet)], "{}: packets", case.name);
                match (&expected.tracked, record) {
                    (Ok(facts), Some(record)) => assert_record(&case, facts, &record),
                    (Err(skip), None) => assert_eq!(counts.0, [*skip], "{}: skips", case.name),
                    (expected, record) => panic!("{}: expected {expected:?}, got {record:?}", case.name),
                }
            }
            (expected, record) => panic!("{}: expected {expected:?}, got {record:?}", case.name),
        }
    }
}

#[test]
fn the_table_names_every_reason_that_one_frame_can_have() {
    let mut named = BTreeSet::new();
    for case in cases() {
        match case.expected {
            Expected::Left(skip) => named.insert(skip),
            Expected::Watched(expected) => expected.tracked.err().is_some_and(|skip| named.insert(skip)),
        };
    }
    // These need more than one frame (flows.rs), or, for the first, a kernel without memory.
    let sequences = [Skip::TableFull, Skip::Enough, Skip::Duplicate, Skip::Budget, Skip::RingFull];
    let missing: Vec<&Skip> =
        Skip::ALL.iter().filter(|skip| !named.contains(*skip) && !sequences.contains(skip)).collect();
    assert_eq!(missing, [] as [&Skip; 0]);
    let names: BTreeSet<String> = cases().into_iter().map(|case| case.name).collect();
    assert_eq!(names.len(), cases().len(), "each name once");
}

#[test]
#[ignore = "needs root"]
fn kernel_on_every_hook() {
    require_root();
    let mut kernel = Kernel::new(&watch()).unwrap();
    let mut ran = 0;
    for case in cases() {
        for hook in [program::INGRESS, program::INGRESS_COUNT, program::EGRESS] {
            ran += u32::from(run_tc(&mut kernel, &case, hook, &case.frame));
        }
        // On an interface without Ethernet header the frame begins where the Ethernet header ends.
        for hook in [program::INGRESS_IP, program::EGRESS_IP] {
            if case.is_plain_ip() {
                ran += u32::from(run_tc(&mut kernel, &case, hook, &case.frame[14..]));
            }
        }
        for hook in [program::XDP, program::XDP_LINEAR] {
            ran += u32::from(run_xdp(&mut kernel, &case, hook));
        }
    }
    assert!(ran > 600, "only {ran} runs: the table or the hooks shrank");
}

/// Every byte of a large frame is handed over: pages behind the linear part too, and in XDP only counted.
#[test]
#[ignore = "needs root"]
fn a_packet_in_several_buffers_is_counted_by_xdp() {
    require_root();
    let mut kernel = Kernel::new(&watch()).unwrap();
    let frame = Tcp::new(Side::Client, flag::ACK, &[b'x'; 9000]).frame();
    let outcome = kernel.run(program::XDP, &frame, 0).unwrap();
    let index = PacketCount::index(Role::Secure, SourceClass::Public, PacketKind::Data);
    assert_eq!(outcome.counts.counted(), [(index, PacketCount { packets: 1, bytes: frame.len() as u64 })]);
    assert_eq!((outcome.verdict, outcome.frame == frame), (XDP_PASS, true));
}

#[test]
#[ignore = "needs root"]
fn the_longest_prefix_decides_in_the_kernel() {
    require_root();
    let mut prefixes = [
        ("8.0.0.0/8", SourceClass::Private),
        ("8.0.0.0/16", SourceClass::Pod),
        ("8.0.113.0/24", SourceClass::Service),
        ("8.0.113.0/31", SourceClass::ClusterNode),
        ("8.0.113.7/32", SourceClass::Trusted),
        ("127.0.0.0/8", SourceClass::Loopback),
        ("2001:db8::/32", SourceClass::Private),
        ("2001:db8:86dd::/48", SourceClass::Pod),
        ("2001:db8:86dd:0:8000::/65", SourceClass::Service),
        ("2001:db8:86dd::7/128", SourceClass::Node),
        ("::1/128", SourceClass::Loopback),
    ]
    .map(|(prefix, class)| (prefix.parse::<IpNet>().unwrap(), class))
    .to_vec();
    let watch = Watch::of(PORTS, prefixes.clone());
    let mut kernel = Kernel::new(&watch).unwrap();
    let table = [
        ("8.0.113.7", SourceClass::Trusted),
        ("8.0.113.6", SourceClass::Service),
        ("8.0.113.1", SourceClass::ClusterNode),
        ("8.0.113.0", SourceClass::ClusterNode),
        ("8.0.114.7", SourceClass::Pod),
        ("8.1.0.0", SourceClass::Private),
        ("9.0.0.0", SourceClass::Public),
        ("7.255.255.255", SourceClass::Public),
        ("127.0.0.1", SourceClass::Loopback),
        ("2001:db8:86dd::7", SourceClass::Node),
        ("2001:db8:86dd::8", SourceClass::Pod),
        ("2001:db8:86dd:0:8000::", SourceClass::Service),
        ("2001:db8:86dd:0:7fff:ffff:ffff:ffff", SourceClass::Pod),
        ("2001:db8:86de::7", SourceClass::Private),
        ("2001:db9::", SourceClass::Public),
        ("::1", SourceClass::Loopback),
        ("::2", SourceClass::Public),
    ];
    for (address, class) in table {
        assert_eq!(source_of(&mut kernel, address), class, "{address}");
        assert_eq!(watch.source(&bytes_of(address)), class, "{address} natively");
    }
    // What is taken away decides no more, what replaces it does, and what stays stays.
    prefixes.retain(|(prefix, _)| *prefix != "8.0.113.7/32".parse::<IpNet>().unwrap());
    prefixes[0].1 = SourceClass::Node;
    prefixes
        .extend([("0.0.0.0/0".parse().unwrap(), SourceClass::Trusted), ("::/0".parse().unwrap(), SourceClass::Pod)]);
    kernel.half.watch(&Watch::of(PORTS, prefixes)).unwrap();
    assert_eq!(source_of(&mut kernel, "9.0.0.0"), SourceClass::Trusted);
    assert_eq!(source_of(&mut kernel, "2001:db9::"), SourceClass::Pod);
    assert_eq!(source_of(&mut kernel, "8.0.113.7"), SourceClass::Service);
    assert_eq!(source_of(&mut kernel, "8.1.0.0"), SourceClass::Node);
    assert_eq!(source_of(&mut kernel, "8.0.113.1"), SourceClass::ClusterNode);
}

#[test]
#[ignore = "needs root"]
fn sixteen_thousand_prefixes_are_told_apart() {
    require_root();
    let mut prefixes: Vec<(IpNet, SourceClass)> = Vec::new();
    let class = |index: u32| SourceClass::ALL[1 + index as usize % (SourceClass::COUNT - 1)];
    for index in 0..16_384_u32 {
        let [_, _, high, low] = index.to_be_bytes();
        let ipv4: IpNet = format!("10.{high}.{low}.0/24").parse().unwrap();
        let ipv6: IpNet = format!("2001:db8:{index:x}::/48").parse().unwrap();
        prefixes.extend([(ipv4, class(index)), (ipv6, class(index + 1))]);
    }
    let mut kernel = Kernel::new(&Watch::of(PORTS, prefixes)).unwrap();
    for index in (0..16_384_u32).step_by(97).chain([16_383]) {
        let [_, _, high, low] = index.to_be_bytes();
        assert_eq!(source_of(&mut kernel, &format!("10.{high}.{low}.200")), class(index));
        assert_eq!(source_of(&mut kernel, &format!("2001:db8:{index:x}::5")), class(index + 1));
    }
    assert_eq!(source_of(&mut kernel, "10.64.0.1"), SourceClass::Public, "behind the last prefix");
    // One prefix more than the table holds is an error that names the limit.
    let many = (0..=limits::PREFIXES).map(|index| {
        let [_, b, c, d] = index.to_be_bytes();
        (format!("11.{b}.{c}.{d}/32").parse().unwrap(), SourceClass::Pod)
    });
    let error = kernel.half.watch(&Watch::of(PORTS, many)).unwrap_err().to_string();
    assert!(error.contains("32768 prefixes"), "{error}");
}

#[test]
#[ignore = "needs root"]
fn ports_are_watched_and_forgotten_again() {
    require_root();
    let mut kernel = Kernel::new(&watch()).unwrap();
    let frame = Tcp::new(Side::Client, flag::SYN, &[]).frame();
    for (ports, expected) in [
        (vec![(6443, Role::Secure)], Ok(Role::Secure)),
        (vec![(6443, Role::Discovered)], Ok(Role::Discovered)),
        (vec![(6444, Role::Secure)], Err(Skip::NotWatched)),
        (vec![], Err(Skip::NotWatched)),
        (vec![(0, Role::Secure), (65_535, Role::Secure), (6443, Role::NodePort)], Ok(Role::NodePort)),
    ] {
        kernel.half.watch(&Watch::of(ports.clone(), [])).unwrap();
        let counts = kernel.run(program::XDP_LINEAR, &frame, 0).unwrap().counts;
        let packets: Vec<u32> = counts.counted().into_iter().map(|(index, _)| index).collect();
        let skips = counts.skipped(Hook::Xdp);
        match expected {
            Ok(role) => {
                let index = PacketCount::index(role, SourceClass::Public, PacketKind::Syn);
                assert_eq!((packets, skips), (vec![index], vec![]), "{ports:?}");
            }
            Err(skip) => assert_eq!((packets, skips), (vec![], vec![(skip, 1)]), "{ports:?}"),
        }
    }
}

/// The class that the kernel gives to a client of this address.
fn source_of(kernel: &mut Kernel, address: &str) -> SourceClass {
    let mut tcp = Tcp::new(Side::Client, flag::ACK, b"GET / HTTP/1.1\r\n\r\n");
    tcp.key.client = bytes_of(address);
    if tcp.key.client[..12] != frame::key_ipv4().client[..12] {
        tcp.key.server = frame::SERVER_IPV6;
    }
    let outcome = kernel.run(program::INGRESS_COUNT, &tcp.frame(), 0).unwrap();
    let [record] = &outcome.records[..] else { panic!("{address}: {outcome:?}") };
    let class = SourceClass::from_value(record.header.source).unwrap();
    let index = PacketCount::index(Role::Secure, class, PacketKind::Data);
    assert_eq!(outcome.counts.counted()[0].0, index, "{address}: counted as the record says");
    class
}

fn bytes_of(address: &str) -> [u8; 16] {
    match address.parse().unwrap() {
        std::net::IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        std::net::IpAddr::V6(address) => address.octets(),
    }
}

/// Why packets were left alone, and what packets counted as.
type Counted = (Vec<Skip>, Vec<(u32, PacketCount)>);

/// Runs one case natively: its record, and its skips and packets.
fn run_natively(case: &Case) -> (Option<Record>, Counted) {
    let mut native = NativeKernel::new(watch());
    let mut records = Vec::new();
    native.frame(Start::Ethernet, 1, 3, &case.frame, |record| records.push(record.into()));
    assert!(records.len() < 2, "{}: {records:?}", case.name);
    let counts = Counts::from(&native);
    let skips = counts.skipped(Hook::Tc).into_iter().map(|(skip, _)| skip).collect();
    (records.pop(), (skips, counts.counted()))
}

/// Runs a TC program over one case's frame; false where the kernel takes no such frame.
fn run_tc(kernel: &mut Kernel, case: &Case, name: &str, frame: &[u8]) -> bool {
    let Some(outcome) = run(kernel, case, name, frame, smallest_tc(frame)) else { return false };
    let at = format!("{} on {name}", case.name);
    let cut_off = case.frame.len() - frame.len();
    assert_eq!(outcome.verdict, NEXT, "{at}");
    assert!(outcome.frame == frame, "{at}: the packet was changed");
    assert_eq!(outcome.counts.skipped(Hook::Xdp), [], "{at}");
    let sent: u64 = outcome.records.iter().map(|record| record.bytes.len() as u64).sum();
    assert_eq!(outcome.counts.event(KernelEvent::RecordSent), outcome.records.len() as u64, "{at}");
    assert_eq!(outcome.counts.event(KernelEvent::ByteSent), sent, "{at}");
    match &case.expected {
        Expected::Left(skip) => {
            assert_eq!(outcome.counts.skipped(Hook::Tc), [(*skip, 1)], "{at}");
            assert_eq!((outcome.counts.counted(), outcome.records), (vec![], vec![]), "{at}");
        }
        Expected::Watched(expected) => {
            let egress = [program::EGRESS, program::EGRESS_IP].contains(&name);
            let counts = name != program::INGRESS && egress == (expected.side == Side::Server);
            let packet = PacketCount { packets: 1, bytes: (expected.wire - cut_off) as u64 };
            let index = PacketCount::index(expected.role, SourceClass::Public, expected.kind);
            let expected_counts = if counts { vec![(index, packet)] } else { vec![] };
            assert_eq!(outcome.counts.counted(), expected_counts, "{at}");
            match &expected.tracked {
                Ok(facts) => {
                    let [record] = &outcome.records[..] else { panic!("{at}: {outcome:?}") };
                    assert_record(case, facts, record);
                    assert_eq!(record.header.tap & RecordHeader::EGRESS != 0, egress, "{at}");
                    assert_eq!(record.header.interface(), 1, "{at}: BPF_PROG_TEST_RUN gives a packet to lo");
                    let (native, _) = run_natively(case);
                    assert_eq!(without_circumstances(record), without_circumstances(&native.unwrap()), "{at}");
                    assert_eq!(outcome.counts.event(KernelEvent::FlowBegun), 1, "{at}");
                    assert_eq!(outcome.counts.skipped(Hook::Tc), [], "{at}");
                    kernel.forget(&record.header.key).unwrap();
                }
                Err(skip) => {
                    assert_eq!(outcome.counts.skipped(Hook::Tc), [(*skip, 1)], "{at}");
                    assert_eq!(outcome.counts.event(KernelEvent::FlowBegun), 0, "{at}");
                    kernel.forget(&expected.key).unwrap();
                }
            }
        }
    }
    true
}

/// As [`run_tc`] for an XDP program, which only counts what comes from clients.
fn run_xdp(kernel: &mut Kernel, case: &Case, name: &str) -> bool {
    let Some(outcome) = run(kernel, case, name, &case.frame, ETHERNET) else { return false };
    let at = format!("{} on {name}", case.name);
    assert_eq!(outcome.verdict, XDP_PASS, "{at}");
    assert!(outcome.frame == case.frame, "{at}: the packet was changed");
    assert_eq!((outcome.counts.skipped(Hook::Tc), outcome.records), (vec![], vec![]), "{at}");
    assert_eq!(outcome.counts.events, [0; KernelEvent::COUNT], "{at}");
    match &case.expected {
        Expected::Left(skip) => {
            assert_eq!(outcome.counts.skipped(Hook::Xdp), [(*skip, 1)], "{at}");
            assert_eq!(outcome.counts.counted(), [], "{at}");
        }
        Expected::Watched(expected) => {
            assert_eq!(outcome.counts.skipped(Hook::Xdp), [], "{at}");
            let packet = PacketCount { packets: 1, bytes: expected.wire as u64 };
            let index = PacketCount::index(expected.role, SourceClass::Public, expected.kind);
            let client = expected.side == Side::Client;
            assert_eq!(outcome.counts.counted(), if client { vec![(index, packet)] } else { vec![] }, "{at}");
        }
    }
    true
}

/// Runs a program over a frame; a frame under `smallest` bytes may be refused.
fn run(kernel: &mut Kernel, case: &Case, name: &str, frame: &[u8], smallest: usize) -> Option<Outcome> {
    match kernel.run(name, frame, 0) {
        Ok(outcome) => Some(outcome),
        Err(_) if frame.len() < smallest => None,
        Err(error) => panic!("{}: {error:#}", case.name),
    }
}

/// Bytes that a frame has to have for BPF_PROG_TEST_RUN to make a socket buffer of it: an Ethernet header with
/// something behind, and the whole IP header where the EtherType says IP (net/bpf/test_run.c in the kernel, 6.18).
/// Behind a VLAN tag it looks at nothing: there the table has headers that are cut at each byte.
fn smallest_tc(frame: &[u8]) -> usize {
    ETHERNET
        + match frame.get(12..14) {
            Some([8, 0]) => 20,
            Some([0x86, 0xdd]) => 40,
            _ => 1,
        }
}

fn assert_record(case: &Case, facts: &Facts, record: &Record) {
    let Expected::Watched(expected) = &case.expected else { panic!("{}: not watched", case.name) };
    let header = &record.header;
    let name = &case.name;
    assert_eq!(header.key, expected.key, "{name}: key");
    assert_eq!(header.side, expected.side as u8, "{name}: side");
    assert_eq!(header.role, expected.role as u8, "{name}: role");
    assert_eq!(header.source, SourceClass::Public as u8, "{name}: source");
    assert_eq!(header.sequence, facts.sequence, "{name}: sequence");
    assert_eq!(header.acknowledgement, facts.acknowledgement, "{name}: acknowledgement");
    assert_eq!(header.flags, facts.flags, "{name}: flags");
    assert_eq!(header.length as usize, facts.length, "{name}: length");
    assert_eq!(header.captured as usize, record.bytes.len(), "{name}: captured");
    assert_eq!(record.bytes, facts.bytes, "{name}: bytes");
    assert_eq!(header.reserved, [0; 3], "{name}: reserved");
    assert_ne!(header.born, 0, "{name}: born");
    assert_eq!(header.flags & (RecordFlags::START_KNOWN | RecordFlags::OTHER_START_KNOWN), 0, "{name}: no handshake");
}

/// A record without what depends on when and where it was seen.
fn without_circumstances(record: &Record) -> Record {
    Record { header: RecordHeader { time: 0, born: 0, tap: 0, ..record.header }, bytes: record.bytes.clone() }
}

/// A client that takes a watched port for its own is no server for that: which side is this node decides.
#[test]
fn a_client_cannot_pass_for_the_server() {
    for node in [SourceClass::Node, SourceClass::Loopback] {
        let key = FlowKey {
            client: mapped([203, 0, 113, 7]),
            server: mapped([192, 168, 56, 10]),
            client_port: 6443,
            server_port: 8080,
        };
        let [.., a, b, c, d] = key.server;
        let prefix = IpNet::from(std::net::IpAddr::from([a, b, c, d]));
        let ports = [(6443, Role::Secure), (8080, Role::Insecure)];
        let mut kernel = NativeKernel::new(Watch::of(ports, [(prefix, node)]));
        for side in [Side::Client, Side::Server] {
            let frame = Tcp { key, ..Tcp::new(side, flag::PSH | flag::ACK, b"GET /version HTTP/1.1\r\n\r\n") }.frame();
            let mut records = Vec::new();
            kernel.frame(Start::Ethernet, 1, 0, &frame, |record| records.push((record.header.key, record.header.side)));
            assert_eq!(records, [(key, side as u8)], "{node:?}");
        }
    }
}
