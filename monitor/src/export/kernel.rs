//! What the kernel side has counted, read at each scrape.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use monitor_common::{Hook, KernelEvent, LossReason, PacketCount, PacketKind, Role, Skip, SourceClass};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::definitions::{self, Definition};
use super::family::{Family, Samples, describe};

/// The kernel side's counters since its start, each summed over the CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelCounts {
    /// [`PacketCount::ENTRIES`] of them, indexed by [`PacketCount::index`].
    pub packets: Vec<PacketCount>,
    /// Packets left alone, by hook and reason.
    pub skips: [[u64; Skip::COUNT]; Hook::COUNT],
    /// Records lost on their way to user space.
    pub losses: [u64; LossReason::COUNT],
    /// Everything else that is counted.
    pub events: [u64; KernelEvent::COUNT],
    /// Each program's name with how often it ran and for how many nanoseconds; empty where nothing is attached.
    pub programs: Vec<(String, u64, u64)>,
}

impl Default for KernelCounts {
    fn default() -> Self {
        Self {
            packets: vec![PacketCount::default(); PacketCount::ENTRIES as usize],
            skips: [[0; Skip::COUNT]; Hook::COUNT],
            losses: [0; LossReason::COUNT],
            events: [0; KernelEvent::COUNT],
            programs: Vec::new(),
        }
    }
}

/// Where the kernel side's counters are: eBPF maps, or their native twins in `replay`.
pub trait KernelSource: Send + Sync {
    /// Reads them all; called at each scrape, from a thread that may block.
    fn read(&self) -> anyhow::Result<KernelCounts>;
}

/// Turns the counters into metrics at a scrape. Clones share the source and what was read last.
#[derive(Clone)]
pub struct KernelCollector {
    shared: Arc<Shared>,
    descs: Vec<Desc>,
}

struct Shared {
    source: RwLock<Option<Arc<dyn KernelSource>>>,
    latest: Mutex<Latest>,
    /// Losses that user space found, on top of the kernel side's.
    lost: Family<1>,
    failures: Family<0>,
}

/// What the last reading gave.
enum Latest {
    /// There is nothing to read from: only user space's own losses are shown.
    NoSource,
    /// Reading failed: nothing is shown, since a smaller sum would look like a restart of the counters.
    Failed,
    Read(Box<KernelCounts>),
}

/// What is made of the counters.
static DEFINITIONS: [&Definition; 10] = [
    &definitions::PACKETS,
    &definitions::BYTES,
    &definitions::TCP_HANDSHAKE_PACKETS,
    &definitions::SKIPPED_PACKETS,
    &definitions::FLOWS_BEGUN,
    &definitions::RECORDS_SENT,
    &definitions::RECORD_BYTES_SENT,
    &definitions::RECORDS_LOST,
    &definitions::KERNEL_PROGRAM_RUNS,
    &definitions::KERNEL_PROGRAM_RUN_SECONDS,
];

impl KernelCollector {
    /// Without a source, which gives no metric but the losses; `failures` counts the reads that fail.
    pub fn new(failures: Family<0>) -> prometheus::Result<Self> {
        let descs = DEFINITIONS.into_iter().map(describe).collect::<prometheus::Result<_>>()?;
        let lost = Family::new(&definitions::RECORDS_LOST)?;
        let latest = Mutex::new(Latest::NoSource);
        Ok(Self { shared: Arc::new(Shared { source: RwLock::default(), latest, lost, failures }), descs })
    }

    /// Where to read from now on; `None` when nothing is attached any more.
    pub fn set_source(&self, source: Option<Arc<dyn KernelSource>>) {
        *self.shared.source.write().unwrap_or_else(PoisonError::into_inner) = source;
    }

    /// Adds losses that user space found.
    pub fn lost(&self, reason: LossReason, count: u64) {
        self.shared.lost.add([reason as usize], count);
    }

    /// Reads the counters for the scrape that follows; a failure is counted and logged.
    pub fn refresh(&self) {
        let source = self.shared.source.read().unwrap_or_else(PoisonError::into_inner).clone();
        let latest = match source.map(|source| source.read()) {
            None => Latest::NoSource,
            Some(Ok(counts)) => Latest::Read(Box::new(counts)),
            Some(Err(error)) => {
                self.shared.failures.increment([]);
                tracing::warn!("cannot read the kernel side's counters: {error:#}");
                Latest::Failed
            }
        };
        *self.shared.latest.lock().unwrap_or_else(PoisonError::into_inner) = latest;
    }
}

impl Collector for KernelCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        match &*self.shared.latest.lock().unwrap_or_else(PoisonError::into_inner) {
            Latest::NoSource => self.shared.lost.collect(),
            Latest::Failed => Vec::new(),
            Latest::Read(counts) => {
                let mut counts = KernelCounts::clone(counts);
                for (at, count) in counts.losses.iter_mut().enumerate() {
                    *count += self.shared.lost.get([at]);
                }
                families(&counts)
            }
        }
    }
}

fn families(counts: &KernelCounts) -> Vec<MetricFamily> {
    let mut packets = Samples::new(&definitions::PACKETS);
    let mut bytes = Samples::new(&definitions::BYTES);
    let mut steps = Samples::new(&definitions::TCP_HANDSHAKE_PACKETS);
    for &role in Role::ALL {
        for &source in SourceClass::ALL {
            let words = [role.label(), source.label()];
            let count = |kind| {
                let index = PacketCount::index(role, source, kind) as usize;
                counts.packets.get(index).copied().unwrap_or_default()
            };
            let sum = |field: fn(PacketCount) -> u64| {
                PacketKind::ALL.iter().fold(0_u64, |sum, &kind| sum.wrapping_add(field(count(kind))))
            };
            packets.push(&words, sum(|count| count.packets) as f64);
            bytes.push(&words, sum(|count| count.bytes) as f64);
            for kind in [PacketKind::Syn, PacketKind::SynAck, PacketKind::Reset] {
                steps.push(&[words[0], words[1], kind.label()], count(kind).packets as f64);
            }
        }
    }

    let mut skips = Samples::new(&definitions::SKIPPED_PACKETS);
    for (hook, reasons) in Hook::ALL.iter().zip(&counts.skips) {
        for (reason, &count) in Skip::ALL.iter().zip(reasons) {
            skips.push(&[hook.label(), reason.label()], count as f64);
        }
    }

    let mut losses = Samples::new(&definitions::RECORDS_LOST);
    for (reason, &count) in LossReason::ALL.iter().zip(&counts.losses) {
        losses.push(&[reason.label()], count as f64);
    }

    let mut families: Vec<MetricFamily> =
        [packets, bytes, steps, skips, losses].into_iter().flat_map(Samples::finish).collect();

    for (event, &count) in KernelEvent::ALL.iter().zip(&counts.events) {
        let mut samples = Samples::new(match event {
            KernelEvent::FlowBegun => &definitions::FLOWS_BEGUN,
            KernelEvent::RecordSent => &definitions::RECORDS_SENT,
            KernelEvent::ByteSent => &definitions::RECORD_BYTES_SENT,
        });
        samples.push(&[], count as f64);
        families.extend(samples.finish());
    }

    let mut runs = Samples::new(&definitions::KERNEL_PROGRAM_RUNS);
    let mut seconds = Samples::new(&definitions::KERNEL_PROGRAM_RUN_SECONDS);
    for (program, count, nanoseconds) in &counts.programs {
        runs.push(&[program], *count as f64);
        seconds.push(&[program], *nanoseconds as f64 / 1e9);
    }
    families.extend(runs.finish());
    families.extend(seconds.finish());
    families
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken;

    impl KernelSource for Broken {
        fn read(&self) -> anyhow::Result<KernelCounts> {
            anyhow::bail!("no such map")
        }
    }

    #[test]
    fn a_failing_read_is_counted_and_gives_nothing() {
        let failures = Family::new(&definitions::KERNEL_READ_FAILURES).unwrap();
        let collector = KernelCollector::new(failures.clone()).unwrap();
        collector.lost(LossReason::RingFull, 2);
        collector.refresh();
        assert_eq!(collector.collect().len(), 1, "without a source only the losses");
        assert_eq!(failures.get([]), 0, "no source is no failure");
        collector.set_source(Some(Arc::new(Broken)));
        collector.refresh();
        assert!(collector.collect().is_empty());
        assert_eq!(failures.get([]), 1);
    }

    #[test]
    fn losses_of_both_sides_add_up() {
        struct Lossy;
        impl KernelSource for Lossy {
            fn read(&self) -> anyhow::Result<KernelCounts> {
                Ok(KernelCounts { losses: [40, 0], ..Default::default() })
            }
        }
        let collector = KernelCollector::new(Family::new(&definitions::KERNEL_READ_FAILURES).unwrap()).unwrap();
        collector.set_source(Some(Arc::new(Lossy)));
        collector.lost(LossReason::RingFull, 2);
        collector.refresh();
        let families = collector.collect();
        let losses = families.iter().find(|family| family.name() == "api_exposure_records_lost_total").unwrap();
        let full = losses.get_metric().iter().find(|metric| metric.get_label()[0].value() == "ring_full").unwrap();
        assert_eq!(full.get_counter().get_value(), 42.0);
    }

    #[test]
    fn kinds_of_packets_add_up_and_steps_stand_apart() {
        let mut counts = KernelCounts::default();
        for (kind, packets) in [(PacketKind::Syn, 5), (PacketKind::Data, 3), (PacketKind::Reset, 2)] {
            let index = PacketCount::index(Role::Insecure, SourceClass::Public, kind) as usize;
            counts.packets[index] = PacketCount { packets, bytes: packets * 100 };
        }
        let value = |name: &str, words: &[&str]| {
            let families = families(&counts);
            let family = families.iter().find(|family| family.name() == name).unwrap();
            let metric = family
                .get_metric()
                .iter()
                .find(|metric| words.iter().all(|word| metric.get_label().iter().any(|pair| pair.value() == *word)));
            metric.unwrap().get_counter().get_value()
        };
        assert_eq!(value("api_exposure_packets_total", &["insecure", "public"]), 10.0);
        assert_eq!(value("api_exposure_bytes_total", &["insecure", "public"]), 1_000.0);
        assert_eq!(value("api_exposure_packets_total", &["secure", "public"]), 0.0);
        assert_eq!(value("api_exposure_tcp_handshake_packets_total", &["insecure", "public", "syn"]), 5.0);
        assert_eq!(value("api_exposure_tcp_handshake_packets_total", &["insecure", "public", "reset"]), 2.0);
    }

    #[test]
    fn every_family_was_described() {
        let mut counts = KernelCounts::default();
        counts.programs.push(("tc_ingress".into(), 1, 1));
        let made: Vec<String> = families(&counts).iter().map(|family| family.name().to_owned()).collect();
        for definition in DEFINITIONS {
            assert!(made.iter().any(|name| name == definition.name), "{}", definition.name);
        }
        assert_eq!(made.len(), DEFINITIONS.len());
    }
}
