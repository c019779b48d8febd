//! `check`: what would work here and what not, before anything is attached.

use std::io::{self, Write as _};
use std::net::TcpListener;

use anyhow::Context as _;
use aya::programs::{SchedClassifier, TcAttachType};
use aya::util::KernelVersion;
use futures_util::TryStreamExt as _;
use monitor_common::closed_set;
use rtnetlink::Handle;
use serde::Serialize;

use super::arguments::CheckArgs;
use crate::attach::interfaces::{self, Interface, Patterns};
use crate::attach::object::{KernelHalf, program};
use crate::attach::privileges;
use crate::config::{Output, Settings};

/// The oldest kernel that is supported: what the kernel half needs (ring buffer 5.8, CAP_BPF 5.8) and is tested on.
const OLDEST: KernelVersion = KernelVersion::new(5, 10, 0);

/// From here on TC programs are attached by tcx links, in a defined order and gone with the process.
const TCX: KernelVersion = KernelVersion::new(6, 6, 0);

closed_set! {
    /// How a check came out.
    Status {
        /// It works.
        Ok = "ok",
        /// It works less well than it could, or something cannot be seen.
        Limited = "limited",
        /// It does not work: `run` would fail, or see nothing there.
        Failed = "failed",
    }
}

/// One line of the answer.
#[derive(Debug, Serialize)]
struct Finding {
    /// What was looked at.
    check: String,
    #[serde(serialize_with = "word")]
    status: Status,
    /// What was found, and the way out where it is not well.
    found: String,
}

fn word<S: serde::Serializer>(status: &Status, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(status.label())
}

/// Prints what would work.
///
/// # Errors
/// Something does not: `run` would fail.
pub fn run(_args: &CheckArgs, settings: Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let findings = runtime.context("starting the async runtime")?.block_on(look(&settings))?;
    let mut out = io::stdout().lock();
    match settings.output {
        Some(Output::Json) => {
            serde_json::to_writer(&mut out, &findings).map_err(io::Error::from)?;
            writeln!(out)?;
        }
        _ => {
            let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
            for Finding { check, status, found } in &findings {
                writeln!(out, "{check:width$}  {:7}  {found}", status.label())?;
            }
        }
    }
    out.flush()?;
    let failed = findings.iter().filter(|finding| finding.status == Status::Failed).count();
    anyhow::ensure!(failed == 0, "{failed} of {} checks failed", findings.len());
    Ok(())
}

async fn look(settings: &Settings) -> anyhow::Result<Vec<Finding>> {
    let mut findings = vec![kernel(), capabilities(), listen(settings)];
    findings.extend(programs());
    let (connection, handle, _) = rtnetlink::new_connection().context("opening a netlink socket")?;
    tokio::spawn(connection);
    let up = interfaces::list(&handle).await?;
    let patterns = Patterns(settings.interface.clone());
    if let Err(error) = patterns.check(&up) {
        findings.push(finding("interfaces", Status::Failed, error.to_string()));
    }
    for interface in up.iter().filter(|interface| patterns.wants(&interface.name)) {
        findings.extend(hooks(interface, &handle, settings).await);
    }
    Ok(findings)
}

fn finding(check: impl Into<String>, status: Status, found: impl Into<String>) -> Finding {
    Finding { check: check.into(), status, found: found.into() }
}

fn kernel() -> Finding {
    let version = match KernelVersion::current() {
        Ok(version) => version,
        Err(error) => return finding("kernel", Status::Limited, format!("its version cannot be read: {error}")),
    };
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    if version < OLDEST {
        finding("kernel", Status::Failed, format!("{release} is too old: 5.10 or later is needed"))
    } else if version < TCX {
        finding("kernel", Status::Ok, format!("{release}; TC by clsact, since tcx comes with 6.6"))
    } else {
        finding("kernel", Status::Ok, format!("{release}; TC by tcx"))
    }
}

fn capabilities() -> Finding {
    let missing = privileges::missing();
    if missing.is_empty() {
        finding("capabilities", Status::Ok, "CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON are there")
    } else {
        let found = format!("missing: {}; run as root, or give them", missing.join(", "));
        finding("capabilities", Status::Failed, found)
    }
}

fn listen(settings: &Settings) -> Finding {
    match TcpListener::bind(settings.listen) {
        Ok(_) => finding("listen", Status::Ok, format!("{} is free", settings.listen)),
        Err(error) => finding(
            "listen",
            Status::Failed,
            format!("{}: {error}; choose another address with --listen ADDRESS:PORT", settings.listen),
        ),
    }
}

/// Loads the programs, which changes nothing, and unloads them.
fn programs() -> Vec<Finding> {
    let mut kernel = match KernelHalf::load() {
        Ok((kernel, ..)) => kernel,
        Err(error) => return vec![finding("TC programs", Status::Failed, format!("{error:#}"))],
    };
    let frags = kernel.xdp(program::XDP).map(|_| ());
    let linear = kernel.xdp(program::XDP_LINEAR).map(|_| ());
    let xdp = match (frags, linear) {
        (Ok(()), _) => finding("XDP programs", Status::Ok, "load, also for packets in several buffers"),
        (Err(_), Ok(())) => {
            finding("XDP programs", Status::Ok, "load; packets in several buffers are known from kernel 5.18 on")
        }
        (Err(error), Err(_)) => finding("XDP programs", Status::Limited, format!("TC counts instead: {error:#}")),
    };
    vec![finding("TC programs", Status::Ok, "load"), xdp]
}

async fn hooks(interface: &Interface, handle: &Handle, settings: &Settings) -> Vec<Finding> {
    let name = &interface.name;
    let xdp = match interface.xdp_program {
        Some(id) => finding(
            format!("{name} XDP"),
            Status::Limited,
            format!("taken by somebody else's program (id {id}), which stays; TC counts instead"),
        ),
        None if interface.loopback && !settings.xdp_generic => {
            finding(format!("{name} XDP"), Status::Ok, "none on a loopback interface; TC counts")
        }
        None if !interface.ethernet => {
            finding(format!("{name} XDP"), Status::Ok, "none without Ethernet headers; TC counts")
        }
        None => finding(format!("{name} XDP"), Status::Ok, "free"),
    };
    let mut findings = vec![xdp];
    for (direction, word) in [(TcAttachType::Ingress, "ingress"), (TcAttachType::Egress, "egress")] {
        let check = format!("{name} TC {word}");
        let tcx = SchedClassifier::query_tcx(name, direction);
        let clsact = filters(handle, interface.index, direction).await;
        let found = match tcx {
            Ok((_, programs)) if programs.is_empty() => finding(check, Status::Ok, "free"),
            Ok((_, programs)) => {
                let names: Vec<&str> = programs.iter().filter_map(|program| program.name_as_str()).collect();
                finding(check, Status::Ok, format!("shared with {}; we go first", names.join(", ")))
            }
            Err(_) if clsact == 0 => finding(check, Status::Ok, "free"),
            Err(_) => finding(
                check,
                Status::Limited,
                format!("{clsact} filters of others are there; packets that one before ours keeps are not seen"),
            ),
        };
        findings.push(found);
    }
    findings
}

/// Filters on a clsact qdisc; 0 where there is none.
async fn filters(handle: &Handle, index: u32, direction: TcAttachType) -> usize {
    let mut filters = handle.traffic_filter(index as i32);
    let request = match direction {
        TcAttachType::Egress => filters.get().egress(),
        _ => filters.get().ingress(),
    };
    // Without a clsact qdisc the kernel answers with an error.
    let found: Vec<_> = request.execute().try_collect().await.unwrap_or_default();
    found.len()
}
