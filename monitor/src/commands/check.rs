//! `check`: what would work here and what not, before anything is attached.

mod audit;
mod configuration;
mod probe;

use std::io::{self, Write as _};
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use aya::programs::TcAttachType;
use aya::util::KernelVersion;
use monitor_common::closed_set;
use serde::Serialize;

use super::arguments::CheckArgs;
use crate::attach::hooks::CLSACT_PRIORITY;
use crate::attach::interfaces::{self, Interface, Patterns};
use crate::attach::object::{KernelHalf, program};
use crate::attach::{privileges, traffic_control};
use crate::config::{DiscoveryMode, Output, Settings};
use crate::configuration::Severity;
use crate::discovery::{Cluster, Object, Progress, ThisNode, local};
use crate::export::Metrics;

/// The oldest kernel that is supported: what the kernel half needs (ring buffer 5.8, CAP_BPF 5.8) and is tested on.
const OLDEST: KernelVersion = KernelVersion::new(5, 10, 0);

/// From here on TC programs are attached by tcx links, in a defined order and gone with the process.
const TCX: KernelVersion = KernelVersion::new(6, 6, 0);

/// The Kubernetes API is waited for so long.
const CLUSTER: Duration = Duration::from_secs(10);

pub use configuration::Exposed;

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
    /// About the API server's configuration: all that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    configuration: Option<crate::configuration::Finding>,
}

fn word<S: serde::Serializer>(status: &Status, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(status.label())
}

/// Prints what would work.
///
/// # Errors
/// Something does not: `run` would fail.
pub fn run(args: &CheckArgs, settings: Settings) -> anyhow::Result<()> {
    let output = settings.output_of("check", CheckArgs::FORMATS)?;
    let mut findings = Vec::new();
    if !args.configuration_only {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        findings = runtime.context("starting the async runtime")?.block_on(look(&settings))?;
    }
    let report = configuration::look(&settings);
    findings.extend(configuration::lines(&report));
    let mut out = io::stdout().lock();
    match output {
        Output::Json => {
            serde_json::to_writer(&mut out, &findings).map_err(io::Error::from)?;
            writeln!(out)?;
        }
        _ => {
            let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
            for Finding { check, status, found, .. } in &findings {
                writeln!(out, "{check:width$}  {:7}  {found}", status.label())?;
            }
        }
    }
    out.flush()?;
    let failed = findings.iter().filter(|finding| finding.status == Status::Failed).count();
    anyhow::ensure!(failed == 0, "{failed} of {} checks failed", findings.len());
    // A script that asks for nothing else must not take silence for a pass.
    anyhow::ensure!(
        !args.configuration_only || !report.subjects.is_empty(),
        "no API server's configuration could be judged: see the lines above"
    );
    configuration::judge(&report, Severity::from_label(&args.fail_on))
}

async fn look(settings: &Settings) -> anyhow::Result<Vec<Finding>> {
    let mut findings = vec![kernel(), capabilities(), listen(settings)];
    findings.extend(programs());
    findings.extend(probe::look(settings));
    findings.extend(audit::look(settings));
    let (connection, handle, _) = rtnetlink::new_connection().context("opening a netlink socket")?;
    tokio::spawn(connection);
    let up = interfaces::list(&handle).await?;
    let patterns = Patterns(settings.interface.clone());
    if let Err(error) = patterns.check(&up) {
        findings.push(finding("interfaces", Status::Failed, error.to_string()));
    }
    for interface in up.iter().filter(|interface| patterns.wants(&interface.name)) {
        findings.extend(hooks(interface, settings));
    }
    findings.extend(cluster(settings, interfaces::addresses(&handle).await?).await);
    Ok(findings)
}

fn finding(check: impl Into<String>, status: Status, found: impl Into<String>) -> Finding {
    Finding { check: check.into(), status, found: found.into(), configuration: None }
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

fn hooks(interface: &Interface, settings: &Settings) -> Vec<Finding> {
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
        findings.push(match others(interface, direction, settings) {
            Ok(Others { before, behind }) if before.is_empty() && behind.is_empty() => {
                finding(check, Status::Ok, "free")
            }
            Ok(Others { before, behind }) if before.is_empty() => {
                finding(check, Status::Ok, format!("shared with {}; we go first", behind.join(", ")))
            }
            Ok(Others { before, .. }) => finding(
                check,
                Status::Limited,
                format!(
                    "{} go first and stay; packets that they drop, redirect or end the chain for are not seen",
                    before.join(", ")
                ),
            ),
            Err(error) => finding(check, Status::Limited, format!("cannot tell what is there: {error}")),
        });
    }
    findings
}

/// What the Kubernetes API says of the cluster.
async fn cluster(settings: &Settings, addresses: Vec<IpAddr>) -> Vec<Finding> {
    const CHECK: &str = "Kubernetes API";
    let mut cluster = match Cluster::follow(settings, &Arc::new(Metrics::new())) {
        Ok(cluster) => cluster,
        Err(error) => return vec![finding(CHECK, Status::Failed, format!("{error:#}"))],
    };
    if !cluster.is_followed() {
        let (status, found) = match (settings.discovery, &settings.kubeconfig) {
            (DiscoveryMode::None, _) => (Status::Ok, "not asked, by --discovery none"),
            (_, Some(_)) => {
                (Status::Limited, "not asked: the --kubeconfig cannot be used; the flags say what the cluster is")
            }
            (_, None) => (Status::Ok, "not asked: there are no credentials for it; the flags say what the cluster is"),
        };
        return vec![finding(CHECK, status, found)];
    }
    cluster.settle(CLUSTER).await;
    let state = cluster.state();
    let this = ThisNode { name: local::node_name(), addresses };
    let of = |object: &Object| {
        let (status, found) = match state.progress(*object) {
            Progress::Synced => (Status::Ok, state.known.describe(*object, &this)),
            Progress::Waiting => (Status::Limited, format!("no answer within {} s", CLUSTER.as_secs())),
            Progress::Failing(problem) if problem.is_expected(*object) => {
                (Status::Ok, problem.explain(*object).to_string())
            }
            Progress::Failing(problem) => (Status::Limited, problem.explain(*object).to_string()),
        };
        finding(format!("{CHECK} {}", object.label()), status, found)
    };
    Object::ALL.iter().map(of).collect()
}

/// Programs of others on a TC hook, by name.
struct Others {
    /// Those that would see packets before ours.
    before: Vec<String>,
    /// Those that see them after ours.
    behind: Vec<String>,
}

/// What is on this hook beside programs of a running monitor.
fn others(interface: &Interface, direction: TcAttachType, settings: &Settings) -> io::Result<Others> {
    let by_tcx = settings.tcx && KernelVersion::current().is_ok_and(|version| version >= TCX);
    let mut others = Others { before: Vec::new(), behind: Vec::new() };
    let of_chain = if by_tcx { &mut others.behind } else { &mut others.before };
    for id in traffic_control::tcx_programs(interface.index, direction)? {
        let name = traffic_control::program_name(id);
        // The kernel keeps 15 bytes of a name.
        if !program::TC.iter().any(|ours| ours.starts_with(&name)) {
            of_chain.push(name);
        }
    }
    for filter in traffic_control::filters(interface.index, direction)? {
        if program::TC.contains(&filter.name()) {
            continue;
        }
        let first = !by_tcx && filter.priority <= CLSACT_PRIORITY;
        let name = format!("filter {} of priority {}", filter.name(), filter.priority);
        if first { &mut others.before } else { &mut others.behind }.push(name);
    }
    Ok(others)
}
