//! The thread that follows the audit log of a daemon.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::event::Subject;
use super::follower::{Change, Trouble};
use super::log::{AuditKind, AuditLog, Read};
use crate::anonymous::Told;
use crate::export::metrics::Metrics;
use crate::export::{Tier, TierReason};

/// How often the log is looked at. An event is thus told a quarter of a second after it was written.
const LOOK: Duration = Duration::from_millis(250);

/// Where a log is, and where the position in it is kept.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The log.
    pub log: PathBuf,
    /// The position.
    pub state: Option<PathBuf>,
}

/// The thread, until it is dropped.
pub struct Follower {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Starts it: it counts the log's events, and hands on what concerns requests that are of interest. Nothing that goes
    /// wrong with the log ends it: it is logged, and stands in the tier and the metrics.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(paths: Paths, to: SyncSender<Told>, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let follow = move || {
            let mut following = Following::new(paths, metrics);
            let started = Instant::now();
            // Waits where there is no room: the log can be read later. Should nobody listen any more, we end.
            let mut tell = |subject| drop(to.send(Told::Audited(subject)));
            loop {
                // Read before the log is: what was in it when this was set is then still read.
                let stopping = stopped.load(Ordering::Acquire);
                let more = following.turn(started.elapsed(), stopping, &mut tell);
                if stopping {
                    break;
                }
                if !more {
                    std::thread::park_timeout(LOOK);
                }
            }
        };
        let thread = Builder::new().name("audit log".to_owned()).spawn(follow);
        Ok(Self { stop, thread: Some(thread.context("starting the thread that follows the audit log")?) })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic was printed where it happened.
            let _ = thread.join();
        }
    }
}

struct Following {
    paths: Paths,
    log: AuditLog,
    metrics: Arc<Metrics>,
    /// What was last said about the log; `None`: nothing yet.
    said: Option<Standing>,
    /// That the position cannot be kept is said once, until it can.
    store_failed: bool,
}

/// How the log is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    Readable,
    /// It can be read, and has no events.
    NoLog,
    Trouble(Trouble),
}

impl Following {
    fn new(paths: Paths, metrics: Arc<Metrics>) -> Self {
        let (log, error) = AuditLog::open(paths.log.clone(), paths.state.clone());
        if let Some(error) = error {
            let state = paths.state.as_deref().unwrap_or(Path::new(""));
            tracing::warn!("--audit-state {}: {error}; what it said is given up", state.display());
        }
        Self { paths, log, metrics, said: None, store_failed: false }
    }

    /// Whether there is more to read at once.
    fn turn(&mut self, now: Duration, stopping: bool, sink: &mut impl FnMut(Subject)) -> bool {
        let metrics = &self.metrics;
        let turn = self.log.turn(now, &mut |read| match read {
            Read::Request(subject) => {
                metrics.audit_event(AuditKind::of(&subject));
                match subject {
                    Subject::NodeRestriction(resource, refusal) => metrics.node_restriction_refused(resource, refusal),
                    Subject::NodeRefused | Subject::Other => {}
                    Subject::Anonymous(_) | Subject::Unsecured(_) | Subject::Unauthenticated(..) => sink(subject),
                }
            }
            Read::OtherStage => metrics.audit_event(AuditKind::OtherStage),
            Read::Malformed => metrics.audit_malformed_line(),
        });
        for change in turn.changes {
            self.tell(change);
        }
        self.stand(match turn.trouble {
            Some(trouble) => Standing::Trouble(trouble),
            None if self.log.is_none() => Standing::NoLog,
            None => Standing::Readable,
        });
        self.store(now, stopping);
        turn.more
    }

    fn tell(&self, change: Change) {
        self.metrics.audit_log_change(change);
        let path = self.paths.log.display();
        match change {
            Change::FromEnd => tracing::info!("audit log {path}: followed from its end"),
            Change::FromStart => tracing::info!("audit log {path}: followed from its beginning"),
            Change::Resumed => tracing::info!("audit log {path}: followed from where an earlier process left off"),
            Change::Rotated => tracing::debug!("audit log {path}: rotated"),
            Change::RestLost => tracing::warn!(
                "audit log {path}: it was rotated or cut, and the rest of the old one was not found beside it: events may be \
                 missing"
            ),
        }
    }

    /// Says how the log stands, when that has changed.
    fn stand(&mut self, standing: Standing) {
        if self.said.as_ref() == Some(&standing) {
            return;
        }
        let path = self.paths.log.display();
        match &standing {
            Standing::Readable if self.said.is_some() => tracing::info!("audit log {path}: it can be read again"),
            Standing::Readable => {}
            Standing::NoLog => tracing::warn!(
                "audit log {path}: no line of it is an audit event in JSON; is it the file of the API server's \
                 --audit-log-path, and --audit-log-format json?"
            ),
            Standing::Trouble(trouble) => tracing::warn!("audit log {path}: {trouble}; tried again"),
        }
        self.metrics.set_audit_log_readable(standing == Standing::Readable);
        self.metrics.tier(
            Tier::Audit,
            match &standing {
                Standing::Readable => TierReason::Working,
                Standing::NoLog => TierReason::Unsupported,
                Standing::Trouble(Trouble::Missing) => TierReason::NotSeen,
                Standing::Trouble(Trouble::NotPermitted) => TierReason::NotPermitted,
                Standing::Trouble(Trouble::NoFile | Trouble::Other(_)) => TierReason::Failed,
            },
        );
        self.said = Some(standing);
    }

    fn store(&mut self, now: Duration, stopping: bool) {
        let outcome = self.log.store(now, stopping);
        if let Err(error) = &outcome
            && !self.store_failed
        {
            let state = self.paths.state.as_deref().unwrap_or(Path::new(""));
            tracing::warn!(
                "--audit-state {}: {error}; events may be missing or count twice after a restart",
                state.display()
            );
        }
        self.store_failed = outcome.is_err();
    }
}
