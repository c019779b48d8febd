//! The daemon's thread around the probe: it follows the API servers, hands on what they tell, and tests itself.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use monitor_common::LossReason;

use super::process::Component;
use super::self_test::{self, Outcome};
use super::{Hit, NotProbed, Probe, ProbeLoss, Refusal, Settings, Status};
use crate::anonymous::{Decision, Evident, Told};
use crate::classify::RequestMeaning;
use crate::clock;
use crate::export::{Metrics, Tier, TierReason};
use crate::inspect::Evidence;

/// API servers are looked for so often.
const LOOK: Duration = Duration::from_secs(3);

/// A probe that cannot start is tried again so often.
const RETRY: Duration = Duration::from_secs(60);

/// Hits, and whether the end was asked for, are looked at so often: only a burst of hits wakes us.
const POLL: Duration = Duration::from_millis(50);

/// An API server that was found is tested so often; one that failed, the second time.
const TEST: Duration = Duration::from_secs(600);
const TEST_AGAIN: Duration = Duration::from_secs(60);

/// An API server that does not listen yet is tried again so often, and so many times before that is a failure: it
/// listens once that it has reached etcd.
const TEST_STARTING: Duration = Duration::from_secs(2);
const STARTS: u32 = 30;

/// One that listens may still be starting, too: so many tests have to fail before that is a failure.
const TRIES: u32 = 5;

/// A hit of our own test that comes so late is still ours.
const OURS: Duration = Duration::from_secs(30);

/// The thread, until it is dropped.
pub struct Follower {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Starts it. Nothing that goes wrong with the probe ends it: it is logged, and stands in the tier and the metrics.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(settings: Settings, to: SyncSender<Told>, metrics: Arc<Metrics>) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let following = Following {
            to,
            metrics,
            stop: Arc::clone(&stop),
            queue_full: AtomicU64::new(0),
            known: Vec::new(),
            looked: false,
            tests: HashMap::new(),
            ours: Vec::new(),
            lost: 0,
            complete: false,
        };
        let thread = std::thread::Builder::new().name("probe".to_owned());
        let thread = thread.spawn(move || following.run(&settings))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A panic was printed where it happened.
            let _ = thread.join();
        }
    }
}

struct Following {
    to: SyncSender<Told>,
    metrics: Arc<Metrics>,
    stop: Arc<AtomicBool>,
    queue_full: AtomicU64,
    /// What was said of API servers last; `looked`: whether anything was.
    known: Vec<Status>,
    looked: bool,
    /// By process: when it is tested next.
    tests: HashMap<u32, Test>,
    /// Our own requests' addresses.
    ours: Vec<(SocketAddr, Instant)>,
    /// Hits lost so far, whatever the reason.
    lost: u64,
    /// Every anonymous request is seen, as far as is known.
    complete: bool,
}

#[derive(Debug)]
struct Test {
    due: Instant,
    attempts: u32,
    /// `None`: not yet, or there is nothing to be tested.
    passed: Option<bool>,
}

impl Test {
    fn again_soon(&mut self) {
        self.due = Instant::now() + TEST_STARTING;
    }
}

impl Following {
    fn run(mut self, settings: &Settings) {
        let mut said = String::new();
        while !self.stopping() {
            match Probe::start(settings.clone()) {
                Ok(mut probe) => return self.follow(&mut probe),
                Err(error) => {
                    let refusal = Refusal::of(&error);
                    self.metrics.tier(Tier::Probe, tier_reason(refusal.reason));
                    if refusal.words != said {
                        tracing::warn!("no probe, going on without: {refusal}");
                        said = refusal.words;
                    }
                }
            }
            let until = Instant::now() + RETRY;
            while !self.stopping() && Instant::now() < until {
                std::thread::sleep(POLL);
            }
        }
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn follow(&mut self, probe: &mut Probe) {
        self.changed(probe.status());
        let mut looked = Instant::now();
        while !self.stopping() {
            wait(probe);
            while let Some(hit) = probe.next_hit() {
                self.hit(hit);
            }
            self.count_losses(probe);
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                match probe.reconcile() {
                    // A look for a process that was not known may have changed it too.
                    Ok(_) => self.changed(probe.status()),
                    Err(error) => tracing::warn!("cannot look for API servers: {error:#}"),
                }
                self.ours.retain(|(_, since)| since.elapsed() < OURS);
            }
            self.test(probe);
        }
    }

    fn hit(&mut self, hit: Hit) {
        if self.ours.iter().any(|(address, _)| hit.remote == Some(*address)) {
            return;
        }
        self.tell(Told::Request(evident(hit)));
    }

    fn tell(&self, told: Told) {
        match self.to.try_send(told) {
            // Nobody listens any more when the daemon is ending.
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => {
                self.queue_full.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn count_losses(&mut self, probe: &Probe) {
        let queue_full = self.queue_full.load(Ordering::Relaxed);
        let mut lost = queue_full + probe.malformed();
        self.metrics.set_probe_lost(ProbeLoss::QueueFull, queue_full);
        self.metrics.set_probe_lost(ProbeLoss::Malformed, probe.malformed());
        match probe.losses() {
            Ok(losses) => {
                for (index, reason) in
                    [(LossReason::RingFull, ProbeLoss::RingFull), (LossReason::Unreadable, ProbeLoss::Unreadable)]
                {
                    let count = losses.get(index as usize).copied().unwrap_or_default();
                    self.metrics.set_probe_lost(reason, count);
                    lost += count;
                }
            }
            Err(error) => tracing::debug!("{error:#}"),
        }
        if lost > self.lost {
            self.lost = lost;
            self.tell_complete();
        }
    }

    /// Takes over what is known of API servers now, and says what is new.
    fn changed(&mut self, status: Vec<Status>) {
        let outline = |status: &Status| (status.processes.clone(), status.attachment, status.outcome.clone().err());
        let same = self.known.iter().map(outline).eq(status.iter().map(outline));
        if std::mem::replace(&mut self.looked, true) && same {
            return;
        }
        for status in &status {
            let told = self
                .known
                .iter()
                .any(|known| known.executable == status.executable && outline(known) == outline(status));
            if !told {
                say(status);
            }
        }
        for &component in Component::ALL {
            let of = |attached: bool| -> usize {
                let of = status.iter().filter(|status| status.component == component && status.is_here());
                of.filter(|status| status.outcome.is_ok() == attached).map(|status| status.processes.len()).sum()
            };
            self.metrics.set_probed(component, of(true), of(false));
        }
        let probed = status.iter().filter(|status| status.outcome.is_ok());
        let running: HashMap<u32, SocketAddr> = probed.flat_map(|status| status.endpoints.iter().copied()).collect();
        self.tests.retain(|process, _| running.contains_key(process));
        for process in running.into_keys() {
            self.tests.entry(process).or_insert(Test { due: Instant::now(), attempts: 0, passed: None });
        }
        self.known = status;
        self.tell_tier();
        self.tell_complete();
    }

    /// Says from when on every anonymous request is seen: from now, if at all.
    fn tell_complete(&mut self) {
        let mut serving = self.known.iter().filter(|status| status.is_here()).peekable();
        self.complete = serving.peek().is_some() && serving.all(|status| status.outcome.is_ok());
        self.tell(Told::ProbeComplete(self.complete.then(SystemTime::now)));
    }

    fn tell_tier(&self) {
        let reason = if self.tests.values().any(|test| test.passed == Some(false)) {
            TierReason::Failed
        } else if self.known.iter().any(|status| status.is_here() && status.outcome.is_ok()) {
            TierReason::Working
        } else {
            let refusal =
                self.known.iter().filter(|status| status.is_here()).find_map(|status| status.outcome.as_ref().err());
            refusal.map_or(TierReason::NotSeen, |refusal| tier_reason(refusal.reason))
        };
        self.metrics.tier(Tier::Probe, reason);
    }

    /// Tests one API server whose time has come.
    fn test(&mut self, probe: &mut Probe) {
        let due = self.tests.iter().find(|(_, test)| test.due <= Instant::now()).map(|(process, _)| *process);
        let Some(process) = due else { return };
        let endpoints = self.known.iter().flat_map(|status| &status.endpoints);
        let endpoint = endpoints.clone().find(|(number, _)| *number == process).map(|(_, endpoint)| *endpoint);
        let Some(endpoint) = endpoint else {
            self.tests.remove(&process);
            return;
        };
        let mut others = Vec::new();
        let (local, outcome) = self_test::run(probe, endpoint, &mut |hit| others.push(hit));
        if let Some(local) = local {
            self.ours.push((local, Instant::now()));
            self.tell(Told::Own(local));
        }
        others.into_iter().for_each(|hit| self.hit(hit));
        let Some(test) = self.tests.get_mut(&process) else { return };
        test.attempts += 1;
        let before = test.passed;
        let (passed, pause) = match &outcome {
            Outcome::Passed { .. } => (Some(true), TEST),
            Outcome::NoAnonymous => (None, TEST),
            Outcome::NotListening(_) if before.is_none() && test.attempts < STARTS => return test.again_soon(),
            Outcome::Failed(_) if before.is_none() && test.attempts < TRIES => return test.again_soon(),
            Outcome::NotListening(_) | Outcome::Failed(_) => (Some(false), TEST_AGAIN),
        };
        (test.passed, test.due) = (passed, Instant::now() + pause);
        let first = before.is_none() || before != passed;
        match &outcome {
            Outcome::Passed { took, answer } => {
                if first {
                    let took = took.as_micros();
                    tracing::info!(process, microseconds = took, "the probe's own request came back through it");
                }
                if answer.is_some_and(|answer| answer.goaway == Some(true)) {
                    self.tell(Told::SendsGoaway(endpoint.port()));
                }
            }
            Outcome::NoAnonymous if first => {
                tracing::info!(
                    process,
                    "this API server refuses anonymous requests: there is nothing for the probe to see"
                );
            }
            Outcome::NotListening(words) | Outcome::Failed(words) if first => {
                tracing::warn!(process, "the probe's self-test failed: {words}");
            }
            _ => {}
        }
        let results: Vec<bool> = self.tests.values().filter_map(|test| test.passed).collect();
        if results.is_empty() {
            self.metrics.no_self_test();
        } else {
            self.metrics.self_test(results.iter().all(|passed| *passed), SystemTime::now());
        }
        self.tell_tier();
    }
}

fn say(status: &Status) {
    let Status { executable, component, processes, outcome, .. } = status;
    let component = component.label();
    match outcome {
        _ if processes.is_empty() => tracing::info!(%executable, "this API server has ended"),
        Ok(probed) => tracing::info!(
            %executable, component, ?processes, go = %probed.go_version, way = probed.way.label(),
            "probed for anonymous requests"
        ),
        Err(refusal) if refusal.reason == NotProbed::Elsewhere => {
            tracing::debug!(%executable, component, ?processes, "not probed: {refusal}");
        }
        Err(refusal) => tracing::warn!(%executable, component, ?processes, "not probed: {refusal}"),
    }
}

/// What a hit says.
fn evident(hit: Hit) -> Evident {
    let path = hit.path.unwrap_or_default();
    let refused = hit.accepted == Some(false);
    Evident {
        time: clock::wall(hit.time),
        ip: hit.remote.map(|remote| remote.ip()),
        port: hit.remote.map(|remote| remote.port()),
        meaning: RequestMeaning::of_decoded(&hit.method, &path),
        method: hit.method,
        path,
        // What authorization said is not seen.
        decision: if refused { Decision::Denied } else { Decision::Unknown },
        let_in: !refused,
        evidence: Evidence::Probe,
    }
}

/// The reason in the tier's own words.
pub fn tier_reason(reason: NotProbed) -> TierReason {
    match reason {
        NotProbed::NotPermitted => TierReason::NotPermitted,
        NotProbed::Unsupported => TierReason::Unsupported,
        NotProbed::NotBelieved | NotProbed::Elsewhere => TierReason::NotSeen,
        NotProbed::Failed => TierReason::Failed,
    }
}

/// Waits until there are hits, or a while.
fn wait(probe: &Probe) {
    let mut descriptor = libc::pollfd { fd: probe.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: the pointer is to one `pollfd`, as the count says. What poll says is of no matter: all is looked at.
    unsafe { libc::poll(&raw mut descriptor, 1, POLL.as_millis() as libc::c_int) };
}
