//! The kernel half, loaded: its programs, and its maps as tables.

use anyhow::{Context as _, Result, anyhow, bail};
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray, RingBuf};
use aya::programs::{ProgramError, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use ipnet::IpNet;
use monitor_common::{Asked, FlowKey, Hook, KernelEvent, LossReason, PacketCount, Skip, SourceClass, Verdict};

use super::privileges;
use crate::discover::Forget;
use crate::watch::Watch;

/// The kernel half as it was compiled with this binary; empty where its compiler was missing.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/monitor-ebpf"));

/// Bytes of the kernel object in this binary; 0 where its compiler was missing.
pub fn size() -> usize {
    OBJECT.len()
}

/// Programs of the kernel half by their names in the object (monitor-ebpf/src/programs.rs).
pub mod program {
    /// XDP for packets in several buffers.
    pub const XDP: &str = "api_exposure_xdp";
    /// XDP for packets in one buffer.
    pub const XDP_LINEAR: &str = "api_exposure_xdp_linear";
    /// TC ingress where XDP counts.
    pub const INGRESS: &str = "api_exposure_ingress";
    /// TC ingress where nothing else counts.
    pub const INGRESS_COUNT: &str = "api_exposure_ingress_count";
    /// TC egress.
    pub const EGRESS: &str = "api_exposure_egress";
    /// TC ingress without Ethernet header.
    pub const INGRESS_IP: &str = "api_exposure_ingress_ip";
    /// TC egress without Ethernet header.
    pub const EGRESS_IP: &str = "api_exposure_egress_ip";
    /// The TC programs.
    pub const TC: [&str; 5] = [INGRESS, INGRESS_COUNT, EGRESS, INGRESS_IP, EGRESS_IP];
}

/// The kernel half, loaded. Dropping it detaches and unloads everything.
pub struct KernelHalf {
    ebpf: Ebpf,
    ports: Array<MapData, u8>,
    prefixes_ipv4: LpmTrie<MapData, [u8; 4], u8>,
    prefixes_ipv6: LpmTrie<MapData, [u8; 16], u8>,
    prefix_generation: Array<MapData, u32>,
    loaded: Watch,
    /// XDP programs that this kernel does not take, and why.
    xdp_refused: Vec<(&'static str, String)>,
}

/// The counters of the kernel half; read at scrape.
pub struct Counters {
    packets: PerCpuArray<MapData, PacketCount>,
    skips: PerCpuArray<MapData, u64>,
    losses: PerCpuArray<MapData, u64>,
    events: PerCpuArray<MapData, u64>,
}

/// What the reader of records needs: the ring buffer, and the table through which decisions go back.
pub struct Reading {
    /// Records.
    pub records: RingBuf<MapData>,
    /// Decisions about flows.
    pub verdicts: HashMap<MapData, FlowKey, Verdict>,
    /// The tables by which discovered ports are forgotten.
    pub discovered: Discovered,
}

/// The tables of ports that the kernel side discovers.
pub struct Discovered {
    ports: Array<MapData, u8>,
    quiet: Array<MapData, u64>,
}

impl Discovered {
    /// Watches a port that was discovered no longer, and leaves it alone for a while.
    ///
    /// # Errors
    /// A table cannot be written.
    pub fn forget(&mut self, forget: &Forget) -> Result<()> {
        // Left alone first, or the next request makes it watched again.
        for asked in Asked::ALL {
            let index = asked.index(forget.port);
            let until = forget.quiet_until[*asked as usize].max(self.quiet.get(&index, 0).unwrap_or(0));
            self.quiet.set(index, until, 0).with_context(|| format!("leaving port {} alone", forget.port))?;
        }
        self.ports.set(u32::from(forget.port), 0, 0).with_context(|| format!("forgetting port {}", forget.port))
    }
}

impl KernelHalf {
    /// Loads maps and programs. A kernel that does not take an XDP program is no failure: TC counts then.
    ///
    /// # Errors
    /// The kernel refuses: no privilege, too old, or its verifier does not take a program.
    pub fn load() -> Result<(Self, Reading, Counters)> {
        Self::load_with(true)
    }

    /// As [`Self::load`]; `discovers` says whether ports that nobody watches are looked at for an API in the clear,
    /// which [`Self::load`] does.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_with(discovers: bool) -> Result<(Self, Reading, Counters)> {
        if OBJECT.is_empty() {
            bail!("this binary was built without its kernel object: run `cargo xtask setup`, then `cargo xtask build`");
        }
        privileges::raise_locked_memory();
        let mut ebpf = EbpfLoader::new()
            .override_global("DISCOVER", &u8::from(discovers), true)
            .load(OBJECT)
            .map_err(explain_load)?;
        // The loader makes the probe's maps too; the probe makes its own.
        for name in crate::probe::MAPS {
            drop(ebpf.take_map(name));
        }
        for name in program::TC {
            let classifier: &mut SchedClassifier = typed(&mut ebpf, name)?;
            classifier.load().map_err(|error| explain_program(name, error))?;
        }
        let mut xdp_refused = Vec::new();
        for name in [program::XDP, program::XDP_LINEAR] {
            let xdp: &mut Xdp = typed(&mut ebpf, name)?;
            if let Err(error) = xdp.load() {
                xdp_refused.push((name, format!("{:#}", explain_program(name, error))));
            }
        }
        let ports = take(&mut ebpf, "PORTS")?;
        let reading = Reading {
            discovered: Discovered {
                ports: Array::try_from(again(&ports).context("map PORTS")?).context("map PORTS")?,
                quiet: Array::try_from(take(&mut ebpf, "QUIET")?).context("map QUIET")?,
            },
            records: RingBuf::try_from(take(&mut ebpf, "RECORDS")?).context("ring buffer RECORDS")?,
            verdicts: HashMap::try_from(take(&mut ebpf, "VERDICTS")?).context("map VERDICTS")?,
        };
        let counters = Counters {
            packets: PerCpuArray::try_from(take(&mut ebpf, "PACKETS")?).context("map PACKETS")?,
            skips: PerCpuArray::try_from(take(&mut ebpf, "SKIPS")?).context("map SKIPS")?,
            losses: PerCpuArray::try_from(take(&mut ebpf, "LOSSES")?).context("map LOSSES")?,
            events: PerCpuArray::try_from(take(&mut ebpf, "EVENTS")?).context("map EVENTS")?,
        };
        let half = Self {
            ports: Array::try_from(ports).context("map PORTS")?,
            prefixes_ipv4: LpmTrie::try_from(take(&mut ebpf, "PREFIXES_IPV4")?).context("map PREFIXES_IPV4")?,
            prefixes_ipv6: LpmTrie::try_from(take(&mut ebpf, "PREFIXES_IPV6")?).context("map PREFIXES_IPV6")?,
            prefix_generation: Array::try_from(take(&mut ebpf, "GENERATION")?).context("map GENERATION")?,
            loaded: Watch::default(),
            xdp_refused,
            ebpf,
        };
        Ok((half, reading, counters))
    }

    /// Brings the tables to what is to be watched: new entries first, then the old ones go, so that nothing that is
    /// in both is unknown in between.
    ///
    /// # Errors
    /// A table took no entry: more prefixes than `monitor_common::limits::PREFIXES`.
    pub fn watch(&mut self, watch: &Watch) -> Result<()> {
        let outcome = self.load_tables(watch);
        // Also after a failure: what was changed before it is to be seen.
        let generation = self.prefix_generation.get(&0, 0).unwrap_or(0).wrapping_add(1);
        self.prefix_generation.set(0, generation, 0).context("telling the kernel half that prefixes have changed")?;
        outcome
    }

    fn load_tables(&mut self, watch: &Watch) -> Result<()> {
        for (port, role) in &watch.ports {
            self.ports.set(u32::from(*port), *role as u8 + 1, 0).with_context(|| format!("watching port {port}"))?;
        }
        for (port, _) in &self.loaded.ports {
            if watch.role(*port).is_none() {
                self.ports.set(u32::from(*port), 0, 0).with_context(|| format!("forgetting port {port}"))?;
            }
        }
        for (prefix, class) in &watch.prefixes {
            self.set_prefix(prefix, *class)?;
        }
        let kept: std::collections::HashSet<&IpNet> = watch.prefixes.iter().map(|(prefix, _)| prefix).collect();
        for (prefix, _) in std::mem::take(&mut self.loaded.prefixes) {
            if !kept.contains(&prefix) {
                self.remove_prefix(&prefix)?;
            }
        }
        self.loaded = watch.clone();
        Ok(())
    }

    fn set_prefix(&mut self, prefix: &IpNet, class: SourceClass) -> Result<()> {
        let length = u32::from(prefix.prefix_len());
        match prefix {
            IpNet::V4(net) => self.prefixes_ipv4.insert(&Key::new(length, net.network().octets()), class as u8, 0),
            IpNet::V6(net) => self.prefixes_ipv6.insert(&Key::new(length, net.network().octets()), class as u8, 0),
        }
        .with_context(|| {
            format!(
                "the kernel's prefix table took no {prefix}; it holds {} prefixes of each family: join prefixes",
                monitor_common::limits::PREFIXES
            )
        })
    }

    fn remove_prefix(&mut self, prefix: &IpNet) -> Result<()> {
        let length = u32::from(prefix.prefix_len());
        match prefix {
            IpNet::V4(net) => self.prefixes_ipv4.remove(&Key::new(length, net.network().octets())),
            IpNet::V6(net) => self.prefixes_ipv6.remove(&Key::new(length, net.network().octets())),
        }
        .with_context(|| format!("forgetting prefix {prefix}"))
    }

    /// A loaded TC program.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn classifier(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        typed(&mut self.ebpf, name)
    }

    /// A loaded XDP program.
    ///
    /// # Errors
    /// The kernel does not take it.
    pub fn xdp(&mut self, name: &str) -> Result<&mut Xdp> {
        if let Some((_, why)) = self.xdp_refused.iter().find(|(refused, _)| *refused == name) {
            bail!("{why}");
        }
        typed(&mut self.ebpf, name)
    }

    /// The programs by name, for [`ProgramTimes`].
    ///
    /// # Errors
    /// A descriptor cannot be duplicated.
    pub fn program_times(&self) -> Result<ProgramTimes> {
        let names = program::TC.iter().chain(&[program::XDP, program::XDP_LINEAR]);
        let mut programs = Vec::new();
        for name in names {
            // An XDP program that the kernel does not take has none.
            let Some(fd) = self.ebpf.program(name).and_then(|program| program.fd().ok()) else { continue };
            programs.push((*name, fd.try_clone().with_context(|| format!("descriptor of program {name}"))?));
        }
        Ok(ProgramTimes(programs))
    }
}

/// How often and how long the programs ran.
pub struct ProgramTimes(Vec<(&'static str, aya::programs::ProgramFd)>);

impl ProgramTimes {
    /// (name, runs, nanoseconds) of each program, as /proc/self/fdinfo has them (bpf_prog_show_fdinfo in the kernel's
    /// kernel/bpf/syscall.c, 6.18). Zero unless somebody has the kernel count them (sysctl kernel.bpf_stats_enabled),
    /// which costs each run more than the program itself.
    pub fn read(&self) -> Vec<(&'static str, u64, u64)> {
        use std::os::fd::{AsFd as _, AsRawFd as _};
        self.0
            .iter()
            .map(|(name, fd)| {
                let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
                let words = std::fs::read_to_string(path).unwrap_or_default();
                let field = |key: &str| {
                    let line = words.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
                    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
                };
                (*name, field("run_cnt"), field("run_time_ns"))
            })
            .collect()
    }
}

impl Counters {
    /// Packets and bytes, summed over the CPUs; index as [`PacketCount::index`].
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn packets(&self) -> Result<Vec<PacketCount>> {
        (0..PacketCount::ENTRIES)
            .map(|index| {
                let counts = self.packets.get(&index, 0).context("reading the kernel's packet counters")?;
                Ok(counts.iter().fold(PacketCount::default(), |sum, count| PacketCount {
                    packets: sum.packets + count.packets,
                    bytes: sum.bytes + count.bytes,
                }))
            })
            .collect()
    }

    /// Packets left alone, by hook and reason.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn skips(&self) -> Result<[[u64; Skip::COUNT]; Hook::COUNT]> {
        let sums = sums::<{ Hook::COUNT * Skip::COUNT }>(&self.skips, "skip counters")?;
        let mut skips = [[0; Skip::COUNT]; Hook::COUNT];
        for (hook, row) in skips.iter_mut().enumerate() {
            row.copy_from_slice(&sums[hook * Skip::COUNT..(hook + 1) * Skip::COUNT]);
        }
        Ok(skips)
    }

    /// Records lost, by reason.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn losses(&self) -> Result<[u64; LossReason::COUNT]> {
        sums(&self.losses, "loss counters")
    }

    /// Everything else that the kernel half counts.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn events(&self) -> Result<[u64; KernelEvent::COUNT]> {
        sums(&self.events, "event counters")
    }
}

fn sums<const N: usize>(map: &PerCpuArray<MapData, u64>, what: &str) -> Result<[u64; N]> {
    let mut sums = [0; N];
    for (index, sum) in sums.iter_mut().enumerate() {
        let counts = map.get(&(index as u32), 0).with_context(|| format!("reading the kernel's {what}"))?;
        *sum = counts.iter().sum();
    }
    Ok(sums)
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map> {
    ebpf.take_map(name).ok_or_else(|| anyhow!("the kernel object has no map {name}"))
}

/// The same array by a descriptor of its own, for the other of two that write it.
fn again(map: &aya::maps::Map) -> Result<aya::maps::Map> {
    use std::os::fd::AsFd as _;
    let aya::maps::Map::Array(data) = map else { bail!("is no array") };
    let descriptor = data.fd().as_fd().try_clone_to_owned().context("duplicating its descriptor")?;
    Ok(aya::maps::Map::Array(MapData::from_fd(descriptor)?))
}

fn typed<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or_else(|| anyhow!("the kernel object has no program {name}"))?;
    program.try_into().with_context(|| format!("program {name}"))
}

fn explain_load(error: aya::EbpfError) -> anyhow::Error {
    let refused = permission_denied(&error);
    let error = anyhow!(one_line(&error));
    if refused {
        error.context(format!("the kernel lets this process load no eBPF: {}", privileges::way_out()))
    } else {
        error.context("the kernel took not all of the eBPF object; `api-exposure-monitor check` says what it lacks")
    }
}

fn explain_program(name: &str, error: ProgramError) -> anyhow::Error {
    // Without CAP_PERFMON the verifier is stricter, and its words say nothing of capabilities.
    let missing = if privileges::missing().is_empty() { String::new() } else { format!(": {}", privileges::way_out()) };
    if let ProgramError::LoadError { io_error, verifier_log } = &error {
        tracing::debug!(program = name, %verifier_log, "what the kernel's verifier said");
        let last = verifier_log.to_string();
        // Behind its verdict the verifier prints statistics.
        let statistics = ["processed ", "verification time", "stack depth", "insns processed"];
        let last = last
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty() && !statistics.iter().any(|statistic| line.starts_with(statistic)));
        return anyhow!(
            "the kernel refused program {name}{missing}: {io_error}{}; `--log-level debug` shows its verifier's words",
            last.map(|line| format!(" ({line})")).unwrap_or_default()
        );
    }
    anyhow!("the kernel refused program {name}{missing}: {}", one_line(&error))
}

/// The whole chain of causes in one line.
pub(crate) fn one_line(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_words = cause.to_string();
        if !words.contains(&cause_words) {
            words = format!("{words}: {cause_words}");
        }
        source = cause.source();
    }
    words.replace('\n', " ")
}

/// Whether the chain of causes ends in EPERM or EACCES.
pub(crate) fn permission_denied(error: &(dyn std::error::Error + 'static)) -> bool {
    os_error(error).is_some_and(|code| code == libc::EPERM || code == libc::EACCES)
}

/// The operating system's error number at the end of the chain of causes.
pub(super) fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut current = Some(error);
    while let Some(error) = current {
        if let Some(code) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error) {
            return Some(code);
        }
        current = error.source();
    }
    None
}

/// The types of the maps' values, so that a change on one side does not compile on the other.
const _: fn() = || {
    fn pod<T: Pod>() {}
    pod::<FlowKey>();
    pod::<Verdict>();
    pod::<PacketCount>();
};
