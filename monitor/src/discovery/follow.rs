//! One watch an object: lists it, then takes its changes as they come, and begins again when that ends.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::runtime::watcher::{self, DefaultBackoff, Event};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::known::{Change, Listing};
use super::objects::{EndpointSlice, Followed, Node, Service, ServiceCIDR};
use super::{Problem, Progress, State};
use crate::export::Metrics;

/// The API server ends a watch after so many seconds, and it is begun again where it ended: one of which nothing is heard
/// for longer is dead.
pub const WATCH_SECONDS: u32 = 120;

/// What failed counts as followed again once it has been listed and nothing has failed for so long.
const PROOF: Duration = Duration::from_secs(1);

/// What the watches share: what is known, and where it is told.
pub struct Shared {
    state: watch::Sender<State>,
    metrics: Arc<Metrics>,
}

impl Shared {
    /// Of these two.
    pub fn new(state: watch::Sender<State>, metrics: Arc<Metrics>) -> Self {
        Self { state, metrics }
    }
}

/// Begins to follow everything; dropping what this gives ends it.
pub fn all(client: &Client, shared: &Arc<Shared>) -> JoinSet<()> {
    let config = watcher::Config::default().timeout(WATCH_SECONDS);
    let kubernetes = config.clone().fields("metadata.name=kubernetes");
    let of_kubernetes = config.clone().labels("kubernetes.io/service-name=kubernetes");
    let mut tasks = JoinSet::new();
    tasks.spawn(follow(Api::<Node>::all(client.clone()), config.clone(), Arc::clone(shared)));
    tasks.spawn(follow(Api::<Service>::namespaced(client.clone(), "default"), kubernetes, Arc::clone(shared)));
    tasks.spawn(follow(Api::<EndpointSlice>::namespaced(client.clone(), "default"), of_kubernetes, Arc::clone(shared)));
    tasks.spawn(follow(Api::<ServiceCIDR>::all(client.clone()), config, Arc::clone(shared)));
    tasks
}

/// Follows the objects of one kind. After an error they are listed anew: a watch that goes on where it was says nothing
/// of that before the next change.
async fn follow<K>(api: Api<K>, config: watcher::Config, shared: Arc<Shared>)
where
    K: Followed + Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut backoff = DefaultBackoff::default();
    loop {
        let mut listing = Listing::default();
        let mut events = std::pin::pin!(kube::runtime::watcher(api.clone(), config.clone()));
        let mut proof = None;
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = until(proof) => {
                    proof = None;
                    shared.synced::<K>();
                    continue;
                }
            };
            match event {
                Some(Ok(event)) => {
                    if shared.take::<K>(&mut listing, event) {
                        proof = Some(shared.proof_of_sync::<K>());
                    }
                }
                Some(Err(error)) => {
                    if let Some(problem) = Problem::of(&error) {
                        shared.failed::<K>(problem);
                    }
                    break;
                }
                None => break,
            }
        }
        tokio::time::sleep(backoff.next().unwrap_or_default()).await;
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

impl Shared {
    /// Takes what happened, and says whether all that there is was listed.
    fn take<K: Followed>(&self, listing: &mut Listing, event: Event<K>) -> bool {
        let change = match event {
            Event::Init => Change::Begin,
            Event::InitApply(object) | Event::Apply(object) => Change::Apply(object.name_any(), object.facts()),
            Event::Delete(object) => Change::Delete(object.name_any()),
            Event::InitDone => Change::Done,
        };
        let listed = change == Change::Done;
        self.state.send_if_modified(|state| {
            let left_out = state.known.left_out();
            let changed = listing.take(&mut state.known, K::OBJECT, change);
            if changed {
                state.version += 1;
                self.metrics.discovery_changed(K::OBJECT, state.known.objects(K::OBJECT).len());
                if state.known.left_out() > left_out {
                    tracing::warn!(
                        object = K::OBJECT.label(),
                        "some addresses or ranges that the Kubernetes API names are left out: no address, too wide, or too many"
                    );
                }
            }
            changed
        });
        listed
    }

    /// When an object that was listed counts as followed: what failed before, after a while without another failure, or
    /// one that may be listed and not watched would be told at each attempt.
    fn proof_of_sync<K: Followed>(&self) -> Instant {
        let failing = matches!(self.state.borrow().progress(K::OBJECT), Progress::Failing(_));
        Instant::now() + if failing { PROOF } else { Duration::ZERO }
    }

    fn synced<K: Followed>(&self) {
        self.state.send_if_modified(|state| self.progress::<K>(state, Progress::Synced));
    }

    fn failed<K: Followed>(&self, problem: Problem) {
        if !problem.is_expected(K::OBJECT) {
            self.metrics.discovery_failed(K::OBJECT, problem.reason);
        }
        self.state.send_if_modified(|state| self.progress::<K>(state, Progress::Failing(problem)));
    }

    /// Takes how well an object is followed, and tells it where that has changed.
    fn progress<K: Followed>(&self, state: &mut State, progress: Progress) -> bool {
        let before = std::mem::replace(&mut state.progress[K::OBJECT as usize], progress);
        let same = match (before, progress) {
            (Progress::Failing(before), Progress::Failing(now)) => before.reason == now.reason,
            (before, now) => before == now,
        };
        if same {
            return false;
        }
        self.metrics.discovery_synced(K::OBJECT, progress == Progress::Synced);
        let object = K::OBJECT.label();
        match progress {
            Progress::Waiting => {}
            Progress::Synced => {
                let count = state.known.objects(K::OBJECT).len();
                tracing::info!(object, count, "followed by the Kubernetes API");
            }
            Progress::Failing(problem) if problem.is_expected(K::OBJECT) => {
                tracing::info!(object, "not followed: {}", problem.explain(K::OBJECT));
            }
            Progress::Failing(problem) => {
                tracing::warn!(object, "not followed, what was known last is kept: {}", problem.explain(K::OBJECT));
            }
        }
        true
    }
}
