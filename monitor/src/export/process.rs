//! What this process costs, under the names that Prometheus' client libraries agree on.

use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::definitions::{self, Definition};
use super::family::{Samples, describe};

/// Reads `/proc/self` at each scrape; what cannot be read is left out.
pub struct ProcessCollector {
    descs: Vec<Desc>,
}

static DEFINITIONS: [&Definition; 5] = [
    &definitions::PROCESS_CPU_SECONDS,
    &definitions::PROCESS_OPEN_FDS,
    &definitions::PROCESS_RESIDENT_MEMORY_BYTES,
    &definitions::PROCESS_START_TIME_SECONDS,
    &definitions::PROCESS_VIRTUAL_MEMORY_BYTES,
];

impl ProcessCollector {
    /// Nothing is read yet.
    pub fn new() -> prometheus::Result<Self> {
        Ok(Self { descs: DEFINITIONS.into_iter().map(describe).collect::<prometheus::Result<_>>()? })
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let stat = fs::read_to_string("/proc/self/stat").ok().and_then(|text| Stat::parse(&text));
        let boot = fs::read_to_string("/proc/stat").ok().and_then(|text| boot_time(&text));
        // Besides the descriptors themselves the directory shows the one that reads it.
        let open = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1) as f64);
        let (ticks, page) = (system(libc::_SC_CLK_TCK), system(libc::_SC_PAGESIZE));
        let values = [
            stat.as_ref().map(|stat| stat.cpu_ticks as f64 / ticks),
            open,
            stat.as_ref().map(|stat| stat.resident_pages as f64 * page),
            stat.as_ref().zip(boot).map(|(stat, boot)| boot as f64 + stat.start_ticks as f64 / ticks),
            stat.as_ref().map(|stat| stat.virtual_bytes as f64),
        ];
        let mut families = Vec::new();
        for (definition, value) in DEFINITIONS.into_iter().zip(values) {
            let mut samples = Samples::new(definition);
            if let Some(value) = value {
                samples.push(&[], value);
            }
            families.extend(samples.finish());
        }
        families
    }
}

/// Fields of `/proc/PID/stat` (proc_pid_stat(5)).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    /// The second field is the program's name in parentheses and may hold anything: fields are counted after the last `)`.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

/// Seconds since 1970 at which the machine was started: the line `btime` of `/proc/stat`.
fn boot_time(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("btime ")).and_then(|seconds| seconds.trim().parse().ok())
}

fn system(name: libc::c_int) -> f64 {
    // SAFETY: sysconf takes a number and touches no memory of ours.
    let value = unsafe { libc::sysconf(name) };
    value as f64
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_name_with_parentheses_moves_no_field() {
        let text =
            "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 11 22 0 0 20 0 4 0 333 444555 666 18446744073709551615 1";
        let expected = Stat { cpu_ticks: 33, start_ticks: 333, virtual_bytes: 444_555, resident_pages: 666 };
        assert_eq!(Stat::parse(text), Some(expected));
        assert_eq!(Stat::parse("7 (a"), None);
        assert_eq!(Stat::parse("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_is_described() {
        let families = ProcessCollector::new().unwrap().collect();
        let value = |name: &str| {
            let family = families.iter().find(|family| family.name() == name).unwrap();
            family.get_metric()[0].get_gauge().get_value()
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let start = value("process_start_time_seconds");
        assert!(start <= now + 1.0 && start > now - 86_400.0, "{start} {now}");
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_open_fds") >= 3.0);
        assert_eq!(families.len(), DEFINITIONS.len());
    }
}
