//! The kernel half and the native one, side by side.

use std::collections::BTreeMap;

use monitor::attach::object::program;
use monitor::replay::Start;
use monitor::replay::native::NativeKernel;
use monitor::watch::Watch;
use monitor_common::{Decision, Hook, KernelEvent, RecordFlags, RecordHeader, Role, Side, Skip, Verdict};
use monitor_tests::frame::{Tcp, key_ipv4};
use monitor_tests::kernel::{Counts, Kernel, Record};
use monitor_tests::namespace::Namespace;
use monitor_tests::require_root;

/// Where a segment is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tap {
    /// On its way into one interface.
    One,
    /// On its way into another.
    Other,
    /// On its way out of the first.
    Egress,
}

/// Both halves; each segment goes through both, and they have to say the same.
pub struct Both {
    /// The kernel half.
    pub kernel: Kernel,
    native: NativeKernel,
    namespace: Namespace,
    interfaces: [u32; 2],
    tap: Tap,
    time: u64,
    /// Birth of a connection in the kernel, for its birth natively.
    births: BTreeMap<u64, u64>,
}

/// What became of one segment.
#[must_use]
#[derive(Clone, Debug)]
pub struct Run {
    /// The records, as both halves sent them.
    pub records: Vec<Seen>,
    /// Why nothing was sent.
    pub skips: Vec<(Skip, u64)>,
}

/// One record, without what depends on the half. `born` is the kernel's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub born: u64,
    pub side: Side,
    pub sequence: u32,
    pub start: Option<u32>,
    pub other_start: Option<u32>,
    pub length: usize,
    /// Without the bits that say which start is known.
    pub flags: u16,
    pub bytes: Vec<u8>,
}

impl Both {
    /// Both halves, which have seen nothing.
    pub fn new() -> Self {
        require_root();
        let namespace = Namespace::new().expect("a network namespace");
        let interfaces = namespace.veth("one", "other").expect("a pair of interfaces");
        Self {
            kernel: Kernel::new(&watch()).expect("the kernel half loads"),
            native: native(),
            namespace,
            interfaces,
            tap: Tap::One,
            time: 1_000_000,
            births: BTreeMap::new(),
        }
    }

    /// Both halves forget what they have seen; the kernel half's counters go on.
    pub fn anew(&mut self) {
        self.kernel.forget_all().expect("the tables can be emptied");
        self.native = native();
        self.births.clear();
    }

    /// The next segment is seen there.
    pub fn from(&mut self, tap: Tap) -> &mut Self {
        self.tap = tap;
        self
    }

    /// The client sends this over IPv4.
    pub fn client(&mut self, sequence: u32, acknowledgement: u32, flags: u8, payload: &[u8]) -> Run {
        self.run(&Tcp { sequence, acknowledgement, ..Tcp::new(Side::Client, flags, payload) })
    }

    /// The server sends this over IPv4.
    pub fn server(&mut self, sequence: u32, acknowledgement: u32, flags: u8, payload: &[u8]) -> Run {
        self.run(&Tcp { sequence, acknowledgement, ..Tcp::new(Side::Server, flags, payload) })
    }

    /// Runs one segment through both halves.
    pub fn run(&mut self, segment: &Tcp) -> Run {
        let frame = segment.frame();
        let tap = std::mem::replace(&mut self.tap, Tap::One);
        let (name, interface) = match tap {
            Tap::One => (program::INGRESS_COUNT, self.interfaces[0]),
            Tap::Other => (program::INGRESS_COUNT, self.interfaces[1]),
            Tap::Egress => (program::EGRESS, self.interfaces[0]),
        };
        let kernel = &mut self.kernel;
        let outcome = self.namespace.run(|| kernel.run(name, &frame, interface)).expect("the program runs");

        self.time += 1000;
        let before = Counts::from(&self.native);
        let mut natively: Vec<Record> = Vec::new();
        let egress = if tap == Tap::Egress { RecordHeader::EGRESS } else { 0 };
        self.native.frame(Start::Ethernet, self.time, interface | egress, &frame, |record| {
            natively.push(record.into());
        });
        assert_eq!(outcome.records.len(), natively.len(), "{segment:?}\nkernel {outcome:?}\nnative {natively:?}");
        for (kernel, native) in outcome.records.iter().zip(&natively) {
            let born = *self.births.entry(native.header.born).or_insert(kernel.header.born);
            let header = RecordHeader { time: 0, ..kernel.header };
            let expected = RecordHeader { time: 0, born, ..native.header };
            assert_eq!((header, &kernel.bytes), (expected, &native.bytes), "{segment:?}");
        }
        let counts = Counts::from(&self.native).since(&before);
        assert_eq!((outcome.counts.events, outcome.counts.skips), (counts.events, counts.skips), "{segment:?}");
        let skips = outcome.counts.skipped(Hook::Tc);
        Run { records: outcome.records.iter().map(Seen::of).collect(), skips }
    }

    /// Both halves are told what is decided about the flow of this record.
    pub fn decide(&mut self, seen: &Seen, decision: Decision) {
        let native = self.births.iter().find(|(_, kernel)| **kernel == seen.born).map(|(native, _)| *native);
        self.native.decide(&key_ipv4(), native.expect("a flow that both know"), decision);
        self.kernel.decide(&key_ipv4(), Verdict::new(seen.born, decision)).expect("the table takes it");
    }

    /// Flows that began.
    pub fn begun(&self) -> u64 {
        Counts::from(&self.native).event(KernelEvent::FlowBegun)
    }
}

impl Run {
    /// The only record.
    #[track_caller]
    pub fn one(self) -> Seen {
        assert_eq!((self.records.len(), &self.skips[..]), (1, &[][..]), "{self:?}");
        self.records.into_iter().next().expect("one")
    }

    /// There is none, for this reason.
    #[track_caller]
    pub fn nothing(self, skip: Skip) {
        assert_eq!((self.records.len(), &self.skips[..]), (0, &[(skip, 1)][..]), "{self:?}");
    }
}

impl Seen {
    /// What this record says.
    pub fn of(record: &Record) -> Self {
        const KNOWN: u16 = RecordFlags::START_KNOWN | RecordFlags::OTHER_START_KNOWN;
        let header = &record.header;
        assert_eq!(header.captured as usize, record.bytes.len());
        let known = |flag: u16, start: u32| (header.flags & flag != 0).then_some(start);
        Self {
            born: header.born,
            side: Side::from_value(header.side).expect("a side"),
            sequence: header.sequence,
            start: known(RecordFlags::START_KNOWN, header.start),
            other_start: known(RecordFlags::OTHER_START_KNOWN, header.other_start),
            length: header.length as usize,
            flags: header.flags & !KNOWN,
            bytes: record.bytes.clone(),
        }
    }
}

/// The native half, which has seen nothing.
pub fn native() -> NativeKernel {
    NativeKernel::new(watch())
}

fn watch() -> Watch {
    Watch::of([(6443, Role::Secure), (8080, Role::Insecure)], [])
}
