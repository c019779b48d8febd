//! What the Kubernetes API knows of the cluster, followed by watches: addresses of nodes, ranges of pods and Services,
//! where the API server is reached. (Ports that nobody named are found in [`crate::discover`], from packets.)
//!
//! Three parts: [`access`] (which API, with which credentials), [`follow`] (one watch an object), and [`known`], the
//! part without clocks and sockets: objects in, ports and prefixes out.

pub mod access;
pub mod follow;
pub mod grace;
pub mod known;
pub mod local;
mod objects;
mod problem;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use monitor_common::closed_set;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use known::{Facts, Known, ThisNode};
pub use local::Local;
pub use problem::{Problem, Reason};

use crate::config::Settings;
use crate::export::Metrics;

closed_set! {
    /// What is followed.
    Object {
        /// Nodes: their addresses and the ranges of their pods.
        Nodes = "nodes",
        /// The Service `kubernetes` in the namespace `default`.
        Service = "service",
        /// Its EndpointSlices: the API servers.
        EndpointSlices = "endpoint_slices",
        /// ServiceCIDRs (networking.k8s.io/v1, from Kubernetes 1.33 on): the ranges of Services.
        ServiceCidrs = "service_cidrs",
    }
}

/// What is known now, and how well.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// What the API said last.
    pub known: Known,
    /// Counts the changes of `known`.
    version: u64,
    progress: [Progress; Object::COUNT],
}

/// How well one object is followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    /// No answer yet.
    #[default]
    Waiting,
    /// All that there is was listed, and changes come.
    Synced,
    /// Not followed now; what was known last is kept.
    Failing(Problem),
}

impl State {
    /// How well this object is followed.
    pub fn progress(&self, object: Object) -> Progress {
        self.progress[object as usize]
    }

    /// Whether each object was listed, or could not be.
    pub fn settled(&self) -> bool {
        !self.progress.contains(&Progress::Waiting)
    }
}

/// The cluster, followed until this is dropped.
pub struct Cluster {
    state: watch::Receiver<State>,
    /// None where nothing is followed.
    tasks: Option<JoinSet<()>>,
}

impl Cluster {
    /// Begins to follow the cluster as the settings say.
    ///
    /// # Errors
    /// The settings ask for the Kubernetes API, and there is no way to it: no kubeconfig or one that cannot be read.
    pub fn follow(settings: &Settings, metrics: &Arc<Metrics>) -> Result<Self> {
        let (sender, state) = watch::channel(State::default());
        let Some(client) = access::client(settings)? else {
            return Ok(Self { state, tasks: None });
        };
        let tasks = follow::all(&client, &Arc::new(follow::Shared::new(sender, Arc::clone(metrics))));
        Ok(Self { state, tasks: Some(tasks) })
    }

    /// Whether there is an API that is followed.
    pub fn is_followed(&self) -> bool {
        self.tasks.is_some()
    }

    /// What is known now; what comes meanwhile waits until this is dropped.
    pub fn state(&self) -> watch::Ref<'_, State> {
        self.state.borrow()
    }

    /// Waits until everything was listed or could not be, for `limit` at the most.
    pub async fn settle(&mut self, limit: Duration) {
        if self.is_followed() {
            // Later is as good: then it comes as a change.
            let _ = tokio::time::timeout(limit, self.state.wait_for(State::settled)).await;
        }
    }

    /// Comes back when something is known that was not before; never where nothing is followed.
    pub async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
