//! The kernel half at work on this node: attached to its interfaces, its records read and handed through the pipeline.

mod node;

use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use futures_util::StreamExt as _;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::sync::watch;

use crate::anonymous::Told;
use crate::attach::object::{Counters, Discovered, KernelHalf, ProgramTimes, Reading};
use crate::attach::{Attacher, Names, Policy, interfaces};
use crate::audit;
use crate::classify::Classifier;
use crate::clock;
use crate::config::{OnOff, Settings, UnauthenticatedGoaway};
use crate::discover::PortState;
use crate::discovery::{Cluster, Local};
use crate::export::{Health, KernelCounts, KernelSource, Metrics, Tier, TierReason};
use crate::pipeline::{Event, Pipeline};
use crate::probe;
use crate::receive::Record;
use crate::watch::Watch;
use node::{Node, Talk};

/// Changes of interfaces come in bursts: wait this long for the rest of one.
const SETTLE: Duration = Duration::from_millis(100);

/// Interfaces are listed so often even when the kernel says nothing: its messages can be lost when they are many.
const RELIST: Duration = Duration::from_secs(10);

/// The Kubernetes API is waited for so long before the first packet is looked at.
const SETTLE_CLUSTER: Duration = Duration::from_secs(3);

/// An XDP hook that may become free soon is tried so often.
const RETRY: Duration = Duration::from_secs(1);

/// The reader of records looks up this often when none come.
const POLL: Duration = Duration::from_millis(200);

/// What waits at the most of what the API server told: as much as 40,000 requests a second while nothing else wakes the
/// reader.
const TOLD: usize = 8_192;

/// Records in a row before the reader says that it is alive.
const BEAT: usize = 4_096;

/// Attaches as `settings` say, and hands what happens to `sink` until `shutdown` becomes true. All that was attached is
/// gone when this returns, whichever way.
///
/// # Errors
/// The kernel half cannot be loaded, no interface takes it, or reading ends of itself.
pub async fn run(
    settings: &Settings,
    policy: Policy,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    sink: impl FnMut(Event<'_>) + Send + 'static,
    mut shutdown: watch::Receiver<bool>,
) -> Result<()> {
    let mut cluster = Cluster::follow(settings, &metrics)?;
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (connection, handle, mut messages) =
        new_multicast_connection(&groups).context("opening a netlink socket to follow the interfaces")?;
    let netlink = tokio::spawn(connection);
    let patterns = interfaces::Patterns(settings.interface.clone());
    patterns.check(&interfaces::list(&handle).await?)?;

    let (kernel, reading, counters) = KernelHalf::load_with(settings.discover_plaintext == OnOff::On)?;
    let mut node = Node {
        attacher: Attacher::new(kernel, patterns, policy),
        settings: settings.clone(),
        watch: Watch::default(),
        shared_watch: Arc::default(),
        metrics: Arc::clone(&metrics),
        times: Arc::default(),
        handle,
        talk: Talk::default(),
        local: Local::new(),
        stale: true,
    };
    // Known from the start, a node with a public address is no exposure.
    cluster.settle(SETTLE_CLUSTER).await;
    node.reconcile(&cluster).await?;
    node.attacher.require_one()?;
    metrics.set_kernel_source(Some(Arc::new(Source { counters, times: Arc::clone(&node.times) })));
    let stop = Arc::new(AtomicBool::new(false));
    metrics.tier(
        Tier::Goaway,
        match settings.unauthenticated_goaway {
            UnauthenticatedGoaway::Off => TierReason::NotConfigured,
            UnauthenticatedGoaway::Auto | UnauthenticatedGoaway::On => TierReason::NotSeen,
        },
    );
    let tells = settings.probe == OnOff::On || settings.audit_log.is_some();
    let (tell, told) = tells.then(|| sync_channel(TOLD)).unzip();
    let mut reader = Reader::start(settings, (reading, told), &node, &stop, Arc::clone(&health), sink)?;
    for tier in [Tier::Plaintext, Tier::TlsClear, Tier::RecordLength] {
        metrics.tier(tier, TierReason::Working);
    }
    let audit = match (settings.audit_log.clone(), tell.clone()) {
        (Some(log), Some(tell)) => {
            let paths = audit::follow::Paths { log, state: settings.audit_state.clone() };
            Some(audit::follow::Follower::start(paths, tell, Arc::clone(&metrics))?)
        }
        _ => {
            metrics.tier(Tier::Audit, TierReason::NotConfigured);
            None
        }
    };
    let probe = match (settings.probe, tell) {
        (OnOff::On, Some(tell)) => Some(
            probe::follow::Follower::start(probe::Settings::default(), tell, Arc::clone(&metrics))
                .context("starting the probe's thread")?,
        ),
        _ => {
            metrics.tier(Tier::Probe, TierReason::NotConfigured);
            None
        }
    };
    health.set_ready();
    tracing::info!(interfaces = node.attacher.count(), "attached");

    let outcome = loop {
        tokio::select! {
            _ = shutdown.wait_for(|end| *end) => break Ok(()),
            ended = &mut reader.ended => break ended.unwrap_or(Err(anyhow!("the reader of records panicked"))),
            message = messages.next() => if message.is_none() {
                break Err(anyhow!("the netlink socket that follows the interfaces was closed"));
            },
            () = cluster.changed() => {}
            () = tokio::time::sleep(if node.attacher.waits() { RETRY } else { RELIST }) => {}
        }
        tokio::time::sleep(SETTLE).await;
        while futures_util::FutureExt::now_or_never(messages.next()).flatten().is_some() {}
        if let Err(error) = node.reconcile(&cluster).await {
            tracing::warn!("cannot follow the interfaces: {error:#}");
        }
    };
    health.set_not_ready("shutting down");
    drop(probe);
    drop(audit);
    // Detach first, so that what is still in the ring buffer is all that there will be; then read that.
    drop(node);
    metrics.set_kernel_source(None);
    stop.store(true, Ordering::Release);
    let thread = reader.thread;
    let joined = tokio::task::spawn_blocking(move || thread.join()).await;
    netlink.abort();
    if !matches!(joined, Ok(Ok(()))) {
        return outcome.and(Err(anyhow!("the reader of records panicked")));
    }
    outcome
}

/// The kernel half's counters, for a scrape.
struct Source {
    counters: Counters,
    times: Arc<Mutex<Option<ProgramTimes>>>,
}

impl KernelSource for Source {
    fn read(&self) -> Result<KernelCounts> {
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let programs = times.as_ref().map(ProgramTimes::read).unwrap_or_default();
        Ok(KernelCounts {
            packets: self.counters.packets()?,
            skips: self.counters.skips()?,
            losses: self.counters.losses()?,
            events: self.counters.events()?,
            programs: programs.into_iter().map(|(name, runs, time)| (name.to_owned(), runs, time)).collect(),
        })
    }
}

/// The thread that reads records.
struct Reader {
    thread: std::thread::JoinHandle<()>,
    ended: tokio::sync::oneshot::Receiver<Result<()>>,
}

impl Reader {
    fn start(
        settings: &Settings,
        (mut reading, told): (Reading, Option<Receiver<Told>>),
        node: &Node,
        stop: &Arc<AtomicBool>,
        health: Arc<Health>,
        mut sink: impl FnMut(Event<'_>) + Send + 'static,
    ) -> Result<Self> {
        let names: Names = node.attacher.names();
        let interface_name =
            move |index: u32| names.read().unwrap_or_else(PoisonError::into_inner).get(&index).map(Arc::clone);
        let mut pipeline = Pipeline::new(
            Classifier::new(settings),
            Arc::clone(&node.metrics),
            Box::new(interface_name),
            clock::offset(),
        );
        if told.is_some() {
            pipeline.expect_evidence();
        }
        if settings.audit_log.is_some() {
            pipeline.expect_decisions();
        }
        let watch = Arc::clone(&node.shared_watch);
        let metrics = Arc::clone(&node.metrics);
        let mut goaway = false;
        let mut sink = move |event: Event<'_>| {
            log(&event);
            sink(event);
        };
        let stop = Arc::clone(stop);
        let (tell, ended) = tokio::sync::oneshot::channel();
        let read = move || {
            let outcome = loop {
                // Read before the ring buffer is: what was in it when this was set is then still read.
                let stopping = stop.load(Ordering::Acquire);
                // And so were the records of what is told now: its connections are known then.
                let told: Vec<Told> = told.iter().flat_map(Receiver::try_iter).take(TOLD).collect();
                pipeline.set_watch(Arc::clone(&watch.read().unwrap_or_else(PoisonError::into_inner)));
                read_all(&mut reading, &mut pipeline, &metrics, &health, &mut sink);
                pipeline.set_clock_offset(clock::offset());
                told.into_iter().for_each(|told| pipeline.told(told, &mut sink));
                pipeline.sweep(clock::monotonic(), &mut sink);
                if !std::mem::replace(&mut goaway, pipeline.knows_goaway()) && goaway {
                    metrics.tier(Tier::Goaway, TierReason::Working);
                }
                forget(&mut reading.discovered, &mut pipeline);
                health.beat();
                if stopping {
                    break Ok(());
                }
                if let Err(error) = wait(&reading) {
                    break Err(error);
                }
            };
            pipeline.finish(&mut sink);
            // Nobody listens any more when the daemon is ending: then it needs no telling.
            let _ = tell.send(outcome);
        };
        let thread = std::thread::Builder::new().name("records".to_owned()).spawn(read);
        Ok(Self { thread: thread.context("starting the thread that reads records")?, ended })
    }
}

fn read_all(
    reading: &mut Reading,
    pipeline: &mut Pipeline,
    metrics: &Metrics,
    health: &Health,
    sink: &mut impl FnMut(Event<'_>),
) {
    let mut read = 0;
    while let Some(item) = reading.records.next() {
        match Record::from_bytes(&item) {
            Some(record) => {
                if let Some(feedback) = pipeline.record(&record, sink) {
                    let verdict = monitor_common::Verdict::new(feedback.born, feedback.decision);
                    if let Err(error) = reading.verdicts.insert(feedback.key, verdict, 0) {
                        tracing::debug!(%error, "a decision did not reach the kernel");
                    }
                }
            }
            None => metrics.malformed(),
        }
        forget(&mut reading.discovered, pipeline);
        read += 1;
        if read % BEAT == 0 {
            health.beat();
        }
    }
}

/// Has the kernel side forget the ports that turned out to be of no interest.
fn forget(discovered: &mut Discovered, pipeline: &mut Pipeline) {
    for forget in pipeline.take_forget() {
        tracing::debug!(port = forget.port, "not watched: no Kubernetes API in the clear was found there");
        if let Err(error) = discovered.forget(&forget) {
            tracing::warn!("a port stays watched: {error:#}");
        }
    }
}

/// What an operator has to know even without a reader of events.
fn log(event: &Event<'_>) {
    if let Event::Port(change) = event {
        match change.state {
            PortState::Found => {
                tracing::warn!(port = change.port, "the Kubernetes API speaks there in the clear: watched")
            }
            PortState::Expired => {
                tracing::info!(port = change.port, "no Kubernetes API there for an hour: not watched")
            }
        }
    }
}

/// Waits until there are records, or a while.
fn wait(reading: &Reading) -> Result<()> {
    let mut descriptor = libc::pollfd { fd: reading.records.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: the pointer is to one `pollfd`, as the count says.
    let outcome = unsafe { libc::poll(&raw mut descriptor, 1, POLL.as_millis() as libc::c_int) };
    if outcome < 0 {
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error).context("waiting for records");
        }
    }
    Ok(())
}
