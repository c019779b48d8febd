//! The node's interfaces and addresses, followed.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::Result;
use monitor_common::Hook;
use rtnetlink::Handle;

use crate::attach::object::ProgramTimes;
use crate::attach::{Attacher, Change, Standing, interfaces};
use crate::config::Settings;
use crate::discovery::{Cluster, Local};
use crate::export::Metrics;
use crate::watch::Watch;

/// Lines about interfaces in each [`TALK_SPAN`]; the others are summed up in one. Pods may come and go by the dozen.
const TALK_LINES: u32 = 32;
const TALK_SPAN: Duration = Duration::from_secs(60);

/// What follows the node's interfaces and addresses.
pub struct Node {
    pub attacher: Attacher,
    pub settings: Settings,
    pub watch: Watch,
    /// The same, for the reader of records.
    pub shared_watch: Arc<RwLock<Arc<Watch>>>,
    pub metrics: Arc<Metrics>,
    pub times: Arc<Mutex<Option<ProgramTimes>>>,
    pub handle: Handle,
    pub talk: Talk,
    pub local: Local,
    /// What is watched has to be looked at again.
    pub stale: bool,
}

impl Node {
    /// Brings tables and attachments to what the node has now, and the cluster.
    pub async fn reconcile(&mut self, cluster: &Cluster) -> Result<()> {
        let own = interfaces::addresses(&self.handle).await?;
        self.stale |= self.local.update(&cluster.state(), &own, Instant::now());
        if self.stale {
            let watch = Watch::in_cluster(&self.settings, &own, self.local.words());
            if watch != self.watch {
                self.attacher.kernel().watch(&watch)?;
                *self.shared_watch.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(watch.clone());
                self.watch = watch;
            }
            self.stale = false;
        }
        let changes = self.attacher.reconcile(&interfaces::list(&self.handle).await?);
        for change in &changes {
            self.tell(change);
        }
        self.talk.sum_up();
        if changes.is_empty() {
            return Ok(());
        }
        let times = self.attacher.kernel().program_times()?;
        *self.times.lock().unwrap_or_else(PoisonError::into_inner) = Some(times);
        Ok(())
    }

    fn tell(&mut self, change: &Change) {
        let aloud = self.talk.may();
        match change {
            Change::Attached(interface, tc, xdp) => {
                let name = interface.name.as_str();
                self.metrics.attached(name, Hook::Tc, *tc);
                match xdp {
                    Ok(mode) => self.metrics.attached(name, Hook::Xdp, *mode),
                    Err(refusal) => self.metrics.not_attached(name, Hook::Xdp, refusal.reason),
                }
                match xdp {
                    _ if !aloud => {}
                    Ok(mode) => tracing::info!(interface = name, tc = tc.label(), xdp = mode.label(), "attached"),
                    Err(refusal) => {
                        tracing::info!(interface = name, tc = tc.label(), no_xdp = %refusal.words, "attached; TC counts");
                    }
                }
            }
            Change::XdpAttached(interface, mode) => {
                let name = interface.name.as_str();
                self.metrics.attached(name, Hook::Xdp, *mode);
                if aloud {
                    tracing::info!(interface = name, xdp = mode.label(), "XDP has become free and counts from now on");
                }
            }
            Change::Standing(interface, standing) => {
                let name = interface.name.as_str();
                self.metrics.behind_others(name, Hook::Tc, matches!(standing, Standing::Behind(_)));
                match standing {
                    _ if !aloud => {}
                    Standing::First => tracing::info!(interface = name, "our TC programs see every packet again"),
                    Standing::Behind(others) => tracing::warn!(
                        interface = name,
                        others = %others.join(", "),
                        "others see packets before our TC programs; what they keep is not seen"
                    ),
                    Standing::Gone => {
                        tracing::warn!(interface = name, "somebody removed our TC programs; attaching them again");
                    }
                }
            }
            Change::Released(interface) => {
                self.metrics.detached(&interface.name);
                if aloud {
                    tracing::info!(interface = %interface.name, "released");
                }
            }
            Change::Refused(interface, refusal) => {
                self.metrics.not_attached(&interface.name, Hook::Tc, refusal.reason);
                if aloud {
                    tracing::warn!(interface = %interface.name, "not attached: {}", refusal.words);
                }
            }
        }
    }
}

/// How much may still be said about interfaces.
#[derive(Default)]
pub struct Talk {
    since: Option<Instant>,
    lines: u32,
    unsaid: u32,
}

impl Talk {
    /// Whether one more line may be logged.
    fn may(&mut self) -> bool {
        self.since.get_or_insert_with(Instant::now);
        self.lines += 1;
        let may = self.lines <= TALK_LINES;
        self.unsaid += u32::from(!may);
        may
    }

    /// Says how much was not said, once the span is over.
    fn sum_up(&mut self) {
        if self.since.is_none_or(|since| since.elapsed() < TALK_SPAN) {
            return;
        }
        if self.unsaid > 0 {
            tracing::info!(changes = self.unsaid, "more changes of interfaces, not listed one by one");
        }
        *self = Self::default();
    }
}
