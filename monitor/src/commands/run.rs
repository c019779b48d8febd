//! `run`: the daemon. Attaches, classifies, and serves `/metrics`, `/livez`, `/readyz` and `/events` until it is told to
//! stop.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::arguments::RunArgs;
use crate::attach::Policy;
use crate::config::Settings;
use crate::configuration::system::Places;
use crate::configuration::{self, Finding};
use crate::export::{Events, Health, Metrics, Server};
use crate::live;
use crate::pipeline::Event;

/// Runs until SIGINT or SIGTERM.
///
/// # Errors
/// The address is taken, the kernel half cannot be loaded or attached, or reading ends of itself.
pub fn run(_args: &RunArgs, settings: Settings) -> anyhow::Result<()> {
    // Two are enough for scrapes, events and signals: records have a thread of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("starting the async runtime")?.block_on(serve(settings))
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let metrics = Arc::new(Metrics::new());
    metrics.watch_process().context("metrics of this process")?;
    let events = Events::new(Arc::clone(&metrics));
    let health = Arc::new(Health::new());
    let (shutdown, ended) = watch::channel(false);

    let server = Server::bind(settings.listen).await?;
    tracing::info!("serving /metrics, /livez, /readyz and /events on http://{}", server.address());
    let serving = tokio::spawn(server.run(Arc::clone(&metrics), events.clone(), Arc::clone(&health), ended.clone()));

    let policy = Policy { xdp_generic: settings.xdp_generic, tcx: settings.tcx };
    let places = Places { proc: "/proc".into(), manifest: settings.manifest.clone() };
    let tell = events.clone();
    let tell = move |finding: &Finding| tell.publish(&Event::Finding(finding));
    let audit = tokio::spawn(configuration::follow::follow(places, Arc::clone(&metrics), tell, ended.clone()));

    let publish = events.clone();
    let live = live::run(&settings, policy, metrics, health, move |event| publish.publish(&event), ended);
    let mut live = std::pin::pin!(live);
    let outcome = tokio::select! {
        outcome = &mut live => outcome,
        _ = interrupt.recv() => { shutdown.send_replace(true); live.await }
        _ = terminate.recv() => { shutdown.send_replace(true); live.await }
    };
    shutdown.send_replace(true);
    audit.await.context("the reader of the API server's configuration panicked")?;
    serving.await.context("the HTTP server panicked")?;
    outcome
}
