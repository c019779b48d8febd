//! The memory of the kernel's maps, all tables full.
#![expect(clippy::unwrap_used, reason = "what a test cannot do without fails it")]

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};

use monitor::attach::object::KernelHalf;
use monitor::watch::Watch;
use monitor_common::{Role, SourceClass, limits};
use monitor_tests::kernel;
use monitor_tests::require_root;

/// What the maps may take at the most.
const LIMIT: u64 = 48 << 20;

#[test]
#[ignore = "needs root"]
fn the_maps_take_less_than_48_mib() {
    require_root();
    let (mut half, _reading, _counters) = KernelHalf::load().unwrap();
    let empty = memory(&mut half);
    // The tables of prefixes grow with their entries; all others have their memory from the start.
    let prefixes = (0..limits::PREFIXES).flat_map(|index| {
        let [_, b, c, d] = index.to_be_bytes();
        let ipv4 = format!("10.{b}.{c}.{d}/32").parse().unwrap();
        let ipv6 = format!("2001:db8::{index:x}/128").parse().unwrap();
        [(ipv4, SourceClass::Pod), (ipv6, SourceClass::Pod)]
    });
    half.watch(&Watch::of([(6443, Role::Secure)], prefixes)).unwrap();
    let full = memory(&mut half);
    let (before, sum): (u64, u64) = (empty.iter().map(|map| map.1).sum(), full.iter().map(|map| map.1).sum());
    println!("maps: {before} bytes when loaded, {sum} bytes with every prefix table full, of {LIMIT}");
    for (name, bytes) in &full {
        println!("{bytes:>10} {name}");
        assert!(*bytes > 0, "the kernel says nothing about map {name}");
    }
    let names: Vec<&str> = full.iter().map(|(name, _)| name.as_str()).collect();
    let expected = [
        ".rodata",
        "EVENTS",
        "FLOWS",
        "GENERATION",
        "HANDSHAKES",
        "LOSSES",
        "PACKETS",
        "PORTS",
        "PREFIXES_IPV4",
        "PREFIXES_IPV6",
        "QUIET",
        "RECORDS",
        "SCRATCH",
        "SKIPS",
        "SOURCES",
        "VERDICTS",
    ];
    assert_eq!(names, expected, "every map is added up");
    assert!(sum > before, "the prefixes are counted");
    // Of a prefix table the kernel counts what its entries ask for. The allocator gives 64 bytes for each, and an entry
    // can need one more in between (kernel/bpf/lpm_trie.c, 6.18).
    let at_most = sum + u64::from(limits::PREFIXES) * 2 * 2 * 64;
    assert!(at_most < LIMIT, "{at_most} of {LIMIT} bytes");
}

/// Name and memory of each map, as the kernel tells them (`bpf_map_show_fdinfo` in kernel/bpf/syscall.c, 6.18).
fn memory(half: &mut KernelHalf) -> Vec<(String, u64)> {
    let maps = kernel::maps(half).unwrap().into_iter().map(|info| {
        let descriptor = info.fd().unwrap();
        let words = fs::read_to_string(format!("/proc/self/fdinfo/{}", descriptor.as_fd().as_raw_fd())).unwrap();
        let line = words.lines().find_map(|line| line.strip_prefix("memlock:"));
        (info.name_as_str().unwrap().to_owned(), line.unwrap().trim().parse().unwrap())
    });
    let mut maps: Vec<(String, u64)> = maps.collect();
    maps.sort();
    maps
}
