//! The kernel half, loaded, and run over single frames with BPF_PROG_TEST_RUN: nothing is attached anywhere.

use anyhow::{Context as _, Result, anyhow};
use aya::TestRun as _;
use aya::maps::{Array, HashMap, Map, MapData, MapInfo};
use aya::programs::{TestRunOptions, TestRunResult};
use monitor::attach::object::{Counters, Discovered, KernelHalf, Reading, program};
use monitor::export::KernelCounts;
use monitor::receive;
use monitor::replay::native::NativeKernel;
use monitor::watch::Watch;
use monitor_common::{
    FlowKey, FlowState, Handshake, Hook, KernelEvent, LossReason, PacketCount, RecordHeader, Skip, Verdict, limits,
};

/// A record that was taken out of the ring buffer, or that the native half delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The header.
    pub header: RecordHeader,
    /// Payload bytes.
    pub bytes: Vec<u8>,
}

impl From<receive::Record<'_>> for Record {
    fn from(record: receive::Record<'_>) -> Self {
        Self { header: record.header, bytes: record.bytes.to_vec() }
    }
}

/// All counters at one time, or what was added to them between two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Index as [`PacketCount::index`].
    pub packets: Vec<PacketCount>,
    /// By hook and reason.
    pub skips: [[u64; Skip::COUNT]; Hook::COUNT],
    /// By reason.
    pub losses: [u64; LossReason::COUNT],
    /// By event.
    pub events: [u64; KernelEvent::COUNT],
}

impl From<&NativeKernel> for Counts {
    fn from(native: &NativeKernel) -> Self {
        let mut counts = KernelCounts::default();
        native.add_counts(&mut counts);
        Self { packets: counts.packets, skips: counts.skips, losses: counts.losses, events: counts.events }
    }
}

impl Counts {
    /// What was added since `before`.
    pub fn since(&self, before: &Self) -> Self {
        let packets = self.packets.iter().zip(&before.packets).map(|(now, before)| PacketCount {
            packets: now.packets - before.packets,
            bytes: now.bytes - before.bytes,
        });
        Self {
            packets: packets.collect(),
            skips: std::array::from_fn(|hook| {
                std::array::from_fn(|skip| self.skips[hook][skip] - before.skips[hook][skip])
            }),
            losses: std::array::from_fn(|index| self.losses[index] - before.losses[index]),
            events: std::array::from_fn(|index| self.events[index] - before.events[index]),
        }
    }

    /// The reasons that were counted at this hook, each with how often.
    pub fn skipped(&self, hook: Hook) -> Vec<(Skip, u64)> {
        let counts = Skip::ALL.iter().map(|skip| (*skip, self.skips[hook as usize][*skip as usize]));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// The packets that were counted: index and count of each that is not zero.
    pub fn counted(&self) -> Vec<(u32, PacketCount)> {
        let counts = self.packets.iter().enumerate().map(|(index, count)| (index as u32, *count));
        counts.filter(|(_, count)| count.packets > 0 || count.bytes > 0).collect()
    }

    /// How often this happened.
    pub fn event(&self, event: KernelEvent) -> u64 {
        self.events[event as usize]
    }

    /// Records lost for this reason.
    pub fn lost(&self, reason: LossReason) -> u64 {
        self.losses[reason as usize]
    }
}

/// What one run of a program did.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What the program returned.
    pub verdict: u32,
    /// The packet afterwards.
    pub frame: Vec<u8>,
    /// What was counted.
    pub counts: Counts,
    /// What was sent.
    pub records: Vec<Record>,
}

/// The loaded kernel half.
pub struct Kernel {
    /// Programs and tables.
    pub half: KernelHalf,
    reading: Reading,
    counters: Counters,
    /// As after the last run.
    counts: Counts,
    flows: HashMap<MapData, FlowKey, FlowState>,
    handshakes: Array<MapData, Handshake>,
}

impl Kernel {
    /// The kernel half, loaded, watching `watch`.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn new(watch: &Watch) -> Result<Self> {
        Self::of(KernelHalf::load()?, watch)
    }

    /// A kernel half as it was loaded, watching `watch`.
    ///
    /// # Errors
    /// A map is missing or takes no entry.
    pub fn of((mut half, reading, counters): (KernelHalf, Reading, Counters), watch: &Watch) -> Result<Self> {
        half.watch(watch)?;
        let flows = HashMap::try_from(Map::LruHashMap(map(&mut half, "FLOWS")?)).context("map FLOWS")?;
        let handshakes = Array::try_from(Map::Array(map(&mut half, "HANDSHAKES")?)).context("map HANDSHAKES")?;
        let counts = read(&counters)?;
        Ok(Self { half, reading, counters, counts, flows, handshakes })
    }

    /// Runs this program once over `frame`, as if it had come by `interface` (of the network namespace of this
    /// thread; XDP and 0: the loopback interface).
    ///
    /// # Errors
    /// The kernel does not take the frame: under 14 bytes, or larger than a page has room for.
    pub fn run(&mut self, name: &str, frame: &[u8], interface: u32) -> Result<Outcome> {
        let mut after = vec![0; frame.len() + 64];
        let result = self.run_only(name, frame, interface, 1, Some(&mut after))?;
        after.truncate(result.data_size_out as usize);
        let now = read(&self.counters)?;
        let counts = now.since(&self.counts);
        self.counts = now;
        Ok(Outcome { verdict: result.return_value, frame: after, counts, records: self.drain() })
    }

    /// Runs this program `repeat` times over `frame` and looks at nothing.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_only(
        &mut self,
        name: &str,
        frame: &[u8],
        interface: u32,
        repeat: u32,
        after: Option<&mut [u8]>,
    ) -> Result<TestRunResult> {
        // `struct __sk_buff` of include/uapi/linux/bpf.h; `ifindex` is its eleventh word, the others stay zero.
        let mut context = [0; 192];
        context[40..44].copy_from_slice(&interface.to_ne_bytes());
        let classifier = !matches!(name, program::XDP | program::XDP_LINEAR);
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: after,
            ctx_in: (classifier && interface != 0).then_some(&context[..]),
            repeat,
            ..TestRunOptions::default()
        };
        let result = if classifier {
            self.half.classifier(name)?.test_run(options)
        } else {
            self.half.xdp(name)?.test_run(options)
        };
        result.with_context(|| format!("running {name} over {} bytes", frame.len()))
    }

    /// What was counted since the last run.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn counted(&mut self) -> Result<Counts> {
        let now = read(&self.counters)?;
        let counts = now.since(&self.counts);
        self.counts = now;
        Ok(counts)
    }

    /// Takes all records out of the ring buffer.
    ///
    /// # Panics
    /// One of them is shorter than its header says.
    pub fn drain(&mut self) -> Vec<Record> {
        let mut records = Vec::new();
        while let Some(bytes) = self.reading.records.next() {
            records.push(receive::Record::from_bytes(&bytes).expect("a whole record").into());
        }
        records
    }

    /// Tells the kernel half what is decided about a flow, as the reader of records does.
    ///
    /// # Errors
    /// The table does not take it.
    pub fn decide(&mut self, key: &FlowKey, verdict: Verdict) -> Result<()> {
        self.reading.verdicts.insert(key, verdict, 0).context("writing a verdict")
    }

    /// The tables by which discovered ports are forgotten.
    pub fn discovered(&mut self) -> &mut Discovered {
        &mut self.reading.discovered
    }

    /// Whether a verdict about this flow waits to be taken over.
    pub fn verdict_waits(&self, key: &FlowKey) -> bool {
        self.reading.verdicts.get(key, 0).is_ok()
    }

    /// What is remembered of this flow.
    pub fn flow(&self, key: &FlowKey) -> Option<FlowState> {
        self.flows.get(key, 0).ok()
    }

    /// How many flows are remembered.
    pub fn flows(&self) -> usize {
        self.flows.keys().count()
    }

    /// Forgets every flow with its handshake and with what is decided about it.
    ///
    /// # Errors
    /// A map cannot be written.
    pub fn forget_all(&mut self) -> Result<()> {
        let keys: Vec<FlowKey> = self.flows.keys().collect::<Result<_, _>>().context("reading the flow table")?;
        for key in keys {
            self.forget(&key)?;
        }
        Ok(())
    }

    /// Forgets this flow, its handshake and what is decided about it.
    ///
    /// # Errors
    /// A map cannot be written.
    pub fn forget(&mut self, key: &FlowKey) -> Result<()> {
        if self.flow(key).is_some() {
            self.flows.remove(key).context("forgetting a flow")?;
        }
        if self.verdict_waits(key) {
            self.reading.verdicts.remove(key).context("forgetting a verdict")?;
        }
        let slot = key.hash() as u32 & (limits::HANDSHAKES - 1);
        self.handshakes.set(slot, Handshake::default(), 0).context("forgetting a handshake")
    }
}

/// Every map that the kernel half has, found through its programs.
///
/// # Errors
/// The kernel does not tell.
pub fn maps(half: &mut KernelHalf) -> Result<Vec<MapInfo>> {
    let mut ids = Vec::new();
    for name in program::TC {
        ids.extend(half.classifier(name)?.info()?.map_ids()?.context("the kernel names no maps")?);
    }
    ids.sort_unstable();
    ids.dedup();
    ids.into_iter().map(|id| MapInfo::from_id(id).context("information about a map")).collect()
}

fn map(half: &mut KernelHalf, name: &str) -> Result<MapData> {
    let info = maps(half)?.into_iter().find(|info| info.name_as_str() == Some(name));
    let info = info.ok_or_else(|| anyhow!("no program has a map {name}"))?;
    MapData::from_id(info.id()).with_context(|| format!("map {name}"))
}

fn read(counters: &Counters) -> Result<Counts> {
    Ok(Counts {
        packets: counters.packets()?,
        skips: counters.skips()?,
        losses: counters.losses()?,
        events: counters.events()?,
    })
}
