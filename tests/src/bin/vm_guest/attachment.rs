//! Attaching in each way, a connection through it, and nothing left behind.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::{SchedClassifier, TcAttachType, XdpMode, loaded_programs};
use aya::util::KernelVersion;
use futures_util::TryStreamExt as _;
use monitor::attach::interfaces::{self, Interface, Patterns};
use monitor::attach::object::{Counters, KernelHalf, Reading};
use monitor::attach::{AttachMode, Attacher, Change, Policy};

use crate::connection::{Counted, PATIENCE, check_records, source, talk, watch};
use crate::frames::any_xdp;
use crate::network::{Namespace, OURS, SERVER, with_netlink};
use crate::report::{Outcome, Report};

/// The release in which the chain of TC programs came.
const TCX: KernelVersion = KernelVersion::new(6, 6, 0);

/// The kernel half, loaded once for all ways: on an emulated computer 5.10 takes seconds to verify each program.
pub struct Loaded {
    /// Away while it is attached.
    kernel: Option<KernelHalf>,
    reading: Reading,
    counters: Counters,
    /// Programs in the kernel before.
    programs: usize,
}

impl Loaded {
    /// Loads it.
    pub fn new() -> Result<Self> {
        let programs = program_count()?;
        let (mut kernel, reading, counters) = KernelHalf::load()?;
        kernel.watch(&watch()?)?;
        Ok(Self { kernel: Some(kernel), reading, counters, programs })
    }

    /// Its parts.
    pub fn parts(&mut self) -> Result<(&mut KernelHalf, &mut Reading, &Counters)> {
        Ok((self.kernel.as_mut().context("lost by a test that panicked")?, &mut self.reading, &self.counters))
    }
}

/// A way to attach, and what has to come of it.
struct Way {
    interface: &'static str,
    policy: Policy,
    xdp: AttachMode,
    tc: AttachMode,
}

/// Rows for each way, and for the end.
pub fn rows(report: &mut Report, mut loaded: Loaded, client: &Namespace) -> Result<()> {
    let has_tcx = KernelVersion::current()? >= TCX;
    let newest = if has_tcx { AttachMode::Tcx } else { AttachMode::Clsact };
    let veth =
        |tcx, tc| Way { interface: OURS, policy: Policy { xdp_generic: false, tcx }, xdp: AttachMode::Native, tc };
    report.row("veth: native XDP, tcx", || {
        // Where there is no tcx, it is asked for all the same: clsact has to come of it.
        let outcome = attach(&mut loaded, &veth(true, newest), &SERVER, Some(client))?;
        if has_tcx { Ok(outcome) } else { Ok(Outcome::Absent("from 6.6; clsact taken")) }
    })?;
    report.row("veth: native XDP, clsact", || {
        attach(&mut loaded, &veth(false, AttachMode::Clsact), &SERVER, Some(client))
    })?;
    report.row("veth: generic XDP", || generic(&mut loaded, client))?;
    let loopback =
        Way { interface: "lo", policy: Policy { xdp_generic: true, tcx: true }, xdp: AttachMode::Generic, tc: newest };
    report.row("lo: generic XDP, newest TC", || {
        attach(&mut loaded, &loopback, &[IpAddr::V4(Ipv4Addr::LOCALHOST)], None)
    })?;
    report.row("all programs gone afterwards", || {
        let programs = loaded.programs;
        drop(loaded);
        programs_gone(programs)
    })
}

/// Attaches, has a connection with each server address, detaches, looks for what is left.
fn attach(loaded: &mut Loaded, way: &Way, servers: &[IpAddr], client: Option<&Namespace>) -> Result<Outcome> {
    let kernel = loaded.kernel.take().context("lost by a test that panicked")?;
    let mut attacher = Attacher::new(kernel, Patterns(vec![way.interface.to_owned()]), way.policy);
    let outcome = attached(&mut attacher, loaded, way, servers, client);
    loaded.kernel = Some(attacher.into_kernel());
    let records = outcome?;
    nothing_attached(way.interface)?;
    Ok(Outcome::Works(format!("{records} records")))
}

fn attached(
    attacher: &mut Attacher,
    loaded: &mut Loaded,
    way: &Way,
    servers: &[IpAddr],
    client: Option<&Namespace>,
) -> Result<usize> {
    let there = with_netlink(async |handle| interfaces::list(&handle).await)?;
    match attacher.reconcile(&there).as_slice() {
        [Change::Attached(_, tc, Ok(xdp))] if (*tc, *xdp) == (way.tc, way.xdp) => {}
        other => bail!("attaching: {other:?}"),
    }
    let Loaded { reading, counters, .. } = loaded;
    let mut records = 0;
    for server in servers {
        // What came of an earlier connection after both of its sides had ended.
        while reading.records.next().is_some() {}
        let before = Counted::before(counters, source(*server))?;
        let said = talk(*server, client)?;
        records += check_records(reading, counters, &said).with_context(|| format!("{server}"))?;
        before.check(counters).with_context(|| format!("{server}"))?;
    }
    Ok(records)
}

/// Generic XDP where native were to be had is nothing that the monitor does by itself: only the program is tried.
fn generic(loaded: &mut Loaded, client: &Namespace) -> Result<Outcome> {
    let (kernel, _, counters) = loaded.parts()?;
    let index = interface(OURS)?.index;
    let xdp = any_xdp(kernel)?;
    let id = xdp.attach_to_if_index(index, XdpMode::Skb).context("attaching generic XDP")?;
    let link = xdp.take_link(id)?;
    for server in SERVER {
        let before = Counted::before(counters, source(server))?;
        talk(server, Some(client))?;
        before.check(counters)?;
    }
    drop(link);
    nothing_attached(OURS)?;
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

/// Neither XDP nor filters nor links are left on the interface.
fn nothing_attached(name: &str) -> Result<()> {
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
    Ok(())
}

/// The kernel frees a program a moment after its last user is gone.
fn programs_gone(before: usize) -> Result<Outcome> {
    let started = Instant::now();
    loop {
        let left = program_count()?;
        if left <= before {
            return Outcome::works();
        }
        ensure!(started.elapsed() < PATIENCE, "{} programs are left in the kernel", left - before);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
