//! Attaching in each way, a connection through it, and nothing left behind.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::{SchedClassifier, TcAttachType, XdpMode, loaded_programs};
use aya::util::KernelVersion;
use futures_util::TryStreamExt as _;
use monitor::attach::interfaces::{self, Interface, Patterns};
use monitor::attach::object::KernelHalf;
use monitor::attach::{AttachMode, Attacher, Change, Policy};

use crate::connection::{Counted, PATIENCE, check_records, source, talk, watch};
use crate::frames::any_xdp;
use crate::network::{Namespace, OURS, SERVER, with_netlink};
use crate::report::{Outcome, Report};

/// The release in which the chain of TC programs came.
const TCX: KernelVersion = KernelVersion::new(6, 6, 0);

/// A way to attach, and what has to come of it.
struct Way {
    interface: &'static str,
    policy: Policy,
    xdp: AttachMode,
    tc: AttachMode,
}

/// Rows for each way.
pub fn rows(report: &mut Report, client: &Namespace) -> Result<()> {
    let has_tcx = KernelVersion::current()? >= TCX;
    let newest = if has_tcx { AttachMode::Tcx } else { AttachMode::Clsact };
    let veth =
        |tcx, tc| Way { interface: OURS, policy: Policy { xdp_generic: false, tcx }, xdp: AttachMode::Native, tc };
    report.row("veth: native XDP, tcx", || {
        // Where there is no tcx, it is asked for all the same: clsact has to come of it.
        let outcome = attach(&veth(true, newest), &SERVER, Some(client))?;
        if has_tcx { Ok(outcome) } else { Ok(Outcome::Absent("from 6.6; clsact taken")) }
    })?;
    report.row("veth: native XDP, clsact", || attach(&veth(false, AttachMode::Clsact), &SERVER, Some(client)))?;
    report.row("veth: generic XDP", || generic(client))?;
    let loopback =
        Way { interface: "lo", policy: Policy { xdp_generic: true, tcx: true }, xdp: AttachMode::Generic, tc: newest };
    report.row("lo: generic XDP, newest TC", || attach(&loopback, &[IpAddr::V4(Ipv4Addr::LOCALHOST)], None))
}

/// Attaches, has a connection with each server address, detaches, looks for what is left.
fn attach(way: &Way, servers: &[IpAddr], client: Option<&Namespace>) -> Result<Outcome> {
    let programs = program_count()?;
    let (kernel, mut reading, counters) = KernelHalf::load()?;
    let mut attacher = Attacher::new(kernel, Patterns(vec![way.interface.to_owned()]), way.policy);
    attacher.kernel().watch(&watch()?)?;
    let there = with_netlink(async |handle| interfaces::list(&handle).await)?;
    match attacher.reconcile(&there).as_slice() {
        [Change::Attached(_, tc, Ok(xdp))] if (*tc, *xdp) == (way.tc, way.xdp) => {}
        other => bail!("attaching: {other:?}"),
    }
    let mut records = 0;
    for server in servers {
        let before = Counted::before(&counters, source(*server))?;
        let said = talk(*server, client)?;
        records += check_records(&mut reading, &counters, &said).with_context(|| format!("{server}"))?;
        before.check(&counters).with_context(|| format!("{server}"))?;
    }
    drop((attacher, reading, counters));
    all_gone(way.interface, programs)?;
    Ok(Outcome::Works(format!("{records} records")))
}

/// Generic XDP where native were to be had is nothing that the monitor does by itself: only the program is tried.
fn generic(client: &Namespace) -> Result<Outcome> {
    let programs = program_count()?;
    let (mut kernel, reading, counters) = KernelHalf::load()?;
    kernel.watch(&watch()?)?;
    let index = interface(OURS)?.index;
    let xdp = any_xdp(&mut kernel)?;
    let id = xdp.attach_to_if_index(index, XdpMode::Skb).context("attaching generic XDP")?;
    let link = xdp.take_link(id)?;
    for server in SERVER {
        let before = Counted::before(&counters, source(server))?;
        talk(server, Some(client))?;
        before.check(&counters)?;
    }
    drop((link, kernel, reading, counters));
    all_gone(OURS, programs)?;
    Outcome::works()
}

fn interface(name: &str) -> Result<Interface> {
    let there = with_netlink(async |handle| interfaces::list(&handle).await)?;
    there.into_iter().find(|interface| interface.name == name).with_context(|| format!("no interface {name} is up"))
}

fn program_count() -> Result<usize> {
    let programs: Vec<_> = loaded_programs().collect::<Result<_, _>>().context("listing the kernel's programs")?;
    Ok(programs.len())
}

/// Neither programs nor filters are left. The kernel frees a program a moment after its last user is gone.
fn all_gone(name: &str, programs: usize) -> Result<()> {
    let interface = interface(name)?;
    ensure!(interface.xdp_program.is_none(), "an XDP program is left on {name}");
    let index = i32::try_from(interface.index)?;
    let filters = with_netlink(async |handle| {
        let ingress: Vec<_> = handle.traffic_filter(index).get().ingress().execute().try_collect().await?;
        let egress: Vec<_> = handle.traffic_filter(index).get().egress().execute().try_collect().await?;
        Ok(ingress.len() + egress.len())
    })?;
    ensure!(filters == 0, "{filters} filters are left on {name}");
    if KernelVersion::current()? >= TCX {
        for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
            let (_, chain) = SchedClassifier::query_tcx(name, direction).context("asking for the tcx chain")?;
            ensure!(chain.is_empty(), "{} programs are left in a chain of {name}", chain.len());
        }
    }
    let started = Instant::now();
    loop {
        let left = program_count()?;
        if left <= programs {
            return Ok(());
        }
        ensure!(started.elapsed() < PATIENCE, "{} programs are left in the kernel", left - programs);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
