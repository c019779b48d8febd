//! A table of frames through both hooks by BPF_PROG_TEST_RUN.

use anyhow::{Context as _, Result, ensure};
use aya::programs::{TestRun, TestRunOptions, TestRunResult, Xdp};
use monitor::attach::object::{Counters, KernelHalf, program};
use monitor::receive::Record;
use monitor_common::{Hook, PacketCount, PacketKind, Role, Skip, SourceClass};

use crate::attachment::Loaded;
use crate::connection::PORT;
use crate::report::Outcome;

/// What has to come of a frame.
#[derive(Clone, Copy)]
enum Expected {
    /// It is left alone, for this reason.
    Left(Skip),
    /// It is counted; TC has nothing to hand over, for this reason.
    Counted(PacketKind, Skip),
    /// It is counted as data, and TC hands its payload over.
    Handed,
}

/// XDP_PASS (include/uapi/linux/bpf.h).
const PASS: u32 = 2;
/// TC_ACT_UNSPEC (include/uapi/linux/pkt_cls.h): what comes next on the hook decides.
const NEXT: i32 = -1;

const PAYLOAD: &[u8] = b"GET /version HTTP/1.1\r\n\r\n";

/// The TC program that counts, too.
pub fn tc(loaded: &mut Loaded) -> Result<Outcome> {
    let (kernel, reading, counters) = loaded.parts()?;
    let frames = frames();
    for (name, frame, expected) in &frames {
        let before = Before::new(counters)?;
        let classifier = kernel.classifier(program::INGRESS_COUNT)?;
        let result = run(classifier, frame).with_context(|| format!("frame `{name}`"))?;
        ensure!(result.return_value as i32 == NEXT, "frame `{name}`: the program said {}", result.return_value);
        let mut records = Vec::new();
        while let Some(item) = reading.records.next() {
            records.push(Record::from_bytes(&item).context("a short record")?.bytes.to_vec());
        }
        let handed = matches!(expected, Expected::Handed);
        let right = if handed { records == [PAYLOAD] } else { records.is_empty() };
        ensure!(right, "frame `{name}` gave {} records", records.len());
        before.check(counters, Hook::Tc, *expected).with_context(|| format!("frame `{name}`"))?;
    }
    Ok(Outcome::Works(format!("{} frames", frames.len())))
}

/// The XDP program that this kernel takes.
pub fn xdp(loaded: &mut Loaded) -> Result<Outcome> {
    let (kernel, _, counters) = loaded.parts()?;
    let frames = frames();
    let xdp = any_xdp(kernel)?;
    for (name, frame, expected) in &frames {
        let before = Before::new(counters)?;
        let result = run(xdp, frame).with_context(|| format!("frame `{name}`"))?;
        ensure!(result.return_value == PASS, "frame `{name}`: the program said {}", result.return_value);
        before.check(counters, Hook::Xdp, *expected).with_context(|| format!("frame `{name}`"))?;
    }
    Ok(Outcome::Works(format!("{} frames", frames.len())))
}

/// The XDP program for packets in several buffers, or the one for older kernels.
pub fn any_xdp(kernel: &mut KernelHalf) -> Result<&mut Xdp> {
    let name = if kernel.xdp(program::XDP).is_ok() { program::XDP } else { program::XDP_LINEAR };
    kernel.xdp(name)
}

fn run<'a, P: TestRun<Opts<'a> = TestRunOptions<'a>, Result = TestRunResult>>(
    program: &P,
    frame: &'a [u8],
) -> Result<TestRunResult> {
    Ok(program.test_run(TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() })?)
}

/// Counters before a frame.
struct Before {
    skips: [[u64; Skip::COUNT]; Hook::COUNT],
    packets: Vec<PacketCount>,
}

impl Before {
    fn new(counters: &Counters) -> Result<Self> {
        Ok(Self { skips: counters.skips()?, packets: counters.packets()? })
    }

    fn check(&self, counters: &Counters, hook: Hook, expected: Expected) -> Result<()> {
        let (skip, kind) = match expected {
            Expected::Left(skip) => (Some(skip), None),
            Expected::Counted(kind, skip) => ((hook == Hook::Tc).then_some(skip), Some(kind)),
            Expected::Handed => (None, Some(PacketKind::Data)),
        };
        let after = counters.skips()?[hook as usize];
        for reason in Skip::ALL {
            let since = after[*reason as usize] - self.skips[hook as usize][*reason as usize];
            ensure!(since == u64::from(Some(*reason) == skip), "left alone as {} {since} times", reason.label());
        }
        let after = counters.packets()?;
        for counted in PacketKind::ALL {
            let index = PacketCount::index(Role::Insecure, SourceClass::Public, *counted) as usize;
            let since = after[index].packets - self.packets[index].packets;
            ensure!(since == u64::from(Some(*counted) == kind), "counted as {} {since} times", counted.label());
        }
        Ok(())
    }
}

/// Bits of a TCP header.
mod flag {
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const ACK: u8 = 16;
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;

fn frames() -> Vec<(&'static str, Vec<u8>, Expected)> {
    use Expected::{Counted, Handed, Left};
    let over4 =
        |client_port, flags, payload: &[u8]| ethernet(IPV4, &ipv4(6, 0, &tcp(client_port, PORT, flags, payload)));
    let over6 = |kinds: &[u8], client_port, flags, payload: &[u8]| {
        ethernet(IPV6, &ipv6(kinds, 6, &tcp(client_port, PORT, flags, payload)))
    };
    let tagged = |tags: usize, client_port| {
        let mut inner = ipv4(6, 0, &tcp(client_port, PORT, flag::ACK, PAYLOAD));
        let mut kind = IPV4;
        for _ in 0..tags {
            inner = [&[0, 5][..], &kind.to_be_bytes(), &inner].concat();
            kind = VLAN;
        }
        ethernet(kind, &inner)
    };
    let other = |protocol| ethernet(IPV4, &ipv4(protocol, 0, &[0; 40]));
    let mut short_header = over4(40_001, flag::ACK, PAYLOAD);
    short_header[14] = 0x44;
    vec![
        ("ARP", ethernet(0x0806, &[0; 46]), Left(Skip::NotIp)),
        ("UDP", ethernet(IPV4, &ipv4(17, 0, &udp(53))), Left(Skip::NotTcp)),
        ("VXLAN", ethernet(IPV4, &ipv4(17, 0, &udp(4789))), Left(Skip::Vxlan)),
        ("Geneve over IPv6", ethernet(IPV6, &ipv6(&[], 17, &udp(6081))), Left(Skip::Geneve)),
        ("GRE", other(47), Left(Skip::Gre)),
        ("ESP", other(50), Left(Skip::Encrypted)),
        ("IP in IP", other(4), Left(Skip::IpInIp)),
        (
            "another port",
            ethernet(IPV4, &ipv4(6, 0, &tcp(40_000, 80, flag::ACK, b"GET / HTTP/1.1\r\n\r\n"))),
            Left(Skip::NotWatched),
        ),
        ("a later fragment", ethernet(IPV4, &ipv4(6, 100, &[0; 40])), Left(Skip::LaterFragment)),
        ("an IPv4 header too short", short_header, Left(Skip::Malformed)),
        ("SYN", over4(40_002, flag::SYN, b""), Counted(PacketKind::Syn, Skip::NoPayload)),
        ("SYN over IPv6", over6(&[], 40_003, flag::SYN, b""), Counted(PacketKind::Syn, Skip::NoPayload)),
        ("SYN with payload", over4(40_004, flag::SYN, PAYLOAD), Counted(PacketKind::Syn, Skip::SynPayload)),
        ("ACK", over4(40_005, flag::ACK, b""), Counted(PacketKind::Ack, Skip::NoPayload)),
        ("FIN of no flow", over4(40_006, flag::FIN | flag::ACK, b""), Counted(PacketKind::Fin, Skip::NoPayload)),
        ("RST of no flow", over4(40_007, flag::RST, b""), Counted(PacketKind::Reset, Skip::NoPayload)),
        ("payload", over4(40_008, flag::ACK, PAYLOAD), Handed),
        ("payload over IPv6", over6(&[], 40_009, flag::ACK, PAYLOAD), Handed),
        ("payload behind a hop-by-hop header", over6(&[0], 40_010, flag::ACK, PAYLOAD), Handed),
        ("payload behind eight headers", over6(&[60; 8], 40_011, flag::ACK, PAYLOAD), Handed),
        ("nine headers", over6(&[60; 9], 40_012, flag::ACK, PAYLOAD), Left(Skip::TooManyExtensionHeaders)),
        ("payload behind one tag", tagged(1, 40_013), Handed),
        ("payload behind two tags", tagged(2, 40_014), Handed),
        ("three tags", tagged(3, 40_015), Left(Skip::TooManyVlanTags)),
    ]
}

fn ethernet(kind: u16, inner: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &kind.to_be_bytes(), inner].concat()
}

/// RFC 791 section 3.1; `fragment` is the offset in units of eight bytes. From an address of no known prefix.
fn ipv4(protocol: u8, fragment: u16, inner: &[u8]) -> Vec<u8> {
    let length = (20 + inner.len()) as u16;
    let mut header = vec![0x45, 0];
    header.extend(length.to_be_bytes());
    header.extend([0, 0]);
    header.extend(fragment.to_be_bytes());
    header.extend([64, protocol, 0, 0, 203, 0, 113, 7, 192, 168, 56, 10]);
    header.extend(inner);
    header
}

/// RFC 8200 section 3, with an extension header of eight bytes for each of `kinds`.
fn ipv6(kinds: &[u8], protocol: u8, inner: &[u8]) -> Vec<u8> {
    let length = (8 * kinds.len() + inner.len()) as u16;
    let mut header = vec![0x60, 0, 0, 0];
    header.extend(length.to_be_bytes());
    header.extend([kinds.first().copied().unwrap_or(protocol), 64]);
    header.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    header.extend([0xfd, 0, 0, 0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10]);
    for position in 0..kinds.len() {
        // Of padding only (PadN, RFC 8200 section 4.2).
        header.extend([kinds.get(position + 1).copied().unwrap_or(protocol), 0, 1, 4, 0, 0, 0, 0]);
    }
    header.extend(inner);
    header
}

/// RFC 9293 section 3.1.
fn tcp(source: u16, destination: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(source.to_be_bytes());
    header.extend(destination.to_be_bytes());
    header.extend([0, 0, 0, 100, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    header.extend(payload);
    header
}

fn udp(destination: u16) -> Vec<u8> {
    let mut header = vec![0x30, 0x39];
    header.extend(destination.to_be_bytes());
    header.extend([0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    header
}
