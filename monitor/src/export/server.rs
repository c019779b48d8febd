//! The daemon over HTTP: `/metrics`, `/livez`, `/readyz`, `/events`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use axum::Router;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::events::{Events, Filter, Refused};
pub use super::health::Health;
use super::metrics::Metrics;

/// Connections at the most; more wait in the kernel's backlog. Readers of `/events` are a quarter of them.
const CONNECTIONS: usize = 64;

/// A request's head has to come within this time, the next request on a kept connection too.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// A request's head may have this many bytes; the least that hyper takes.
const HEADER_BYTES: usize = 8 << 10;

/// A peer that takes nothing of what was sent to it for this long is disconnected, so that it keeps no place.
const STALLED: Duration = Duration::from_secs(300);

/// What is under way when the daemon ends may take this long.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// What the server shows.
#[derive(Clone)]
struct Shown {
    metrics: Arc<Metrics>,
    events: Events,
    health: Arc<Health>,
    /// One scrape at a time: each reads the kernel's maps.
    scrape: Arc<tokio::sync::Mutex<()>>,
}

/// A bound listener.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Binds the address of `--listen`; the error names it and the way out.
    pub async fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await.map_err(|error| unbindable(address, &error))?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Where it listens; tells the port where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` becomes true or its sender is gone; then ends the event streams and what is under way.
    pub async fn run(
        self,
        metrics: Arc<Metrics>,
        events: Events,
        health: Arc<Health>,
        mut shutdown: watch::Receiver<bool>,
    ) {
        let shown = Shown { metrics, events: events.clone(), health, scrape: Arc::default() };
        let router = router(shown);
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = accept(&self.listener, &places) => accepted,
                _ = shutdown.wait_for(|end| *end) => break,
            };
            while connections.try_join_next().is_some() {}
            match accepted {
                Ok((stream, place)) => {
                    let (router, shutdown) = (router.clone(), shutdown.clone());
                    connections.spawn(async move {
                        serve(stream, router, shutdown).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of descriptors, for one: trying again at once would only burn the CPU.
                    tracing::warn!("cannot accept a connection on {}: {error}", self.address);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(self.listener);
        events.close();
        let ended = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, ended).await.is_err() {
            tracing::debug!("connections that did not end in time were cut");
        }
    }
}

fn unbindable(address: SocketAddr, error: &io::Error) -> anyhow::Error {
    let way_out = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process listens there, perhaps another monitor: end it, or choose another address with --listen ADDRESS:PORT"
        }
        io::ErrorKind::AddrNotAvailable => {
            "no interface of this machine has that address: choose one that it has with --listen ADDRESS:PORT"
        }
        io::ErrorKind::PermissionDenied => {
            "ports under 1024 need the capability NET_BIND_SERVICE: choose a higher one with --listen ADDRESS:PORT"
        }
        _ => "choose another address with --listen ADDRESS:PORT",
    };
    anyhow!("cannot listen on {address}: {error}; {way_out}")
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

async fn serve(stream: TcpStream, router: Router, mut shutdown: watch::Receiver<bool>) {
    limit_stalling(&stream);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    // Errors are the peer's (it went away, it spoke no HTTP): nothing that an operator could act on.
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _ = shutdown.wait_for(|end| *end) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection of the metrics server ended: {error}");
    }
}

/// The kernel cuts the connection when nothing that was sent is taken for [`STALLED`] (tcp(7), TCP_USER_TIMEOUT).
fn limit_stalling(stream: &TcpStream) {
    let milliseconds = STALLED.as_millis() as libc::c_uint;
    // SAFETY: the descriptor is open while `stream` lives; the option's value is read from a live integer of that size.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_USER_TIMEOUT,
            (&raw const milliseconds).cast(),
            size_of::<libc::c_uint>() as libc::socklen_t,
        )
    };
    if result != 0 {
        tracing::debug!("cannot limit stalling peers: {}", io::Error::last_os_error());
    }
}

fn router(shown: Shown) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/events", get(events))
        .fallback(async || (StatusCode::NOT_FOUND, INDEX))
        .with_state(shown)
}

const INDEX: &str = "api-exposure-monitor\n\
    /metrics  what was counted, for Prometheus\n\
    /livez    200 while packets can be read\n\
    /readyz   200 while attached to an interface\n\
    /events   connections, requests and exposures as they happen, a line of JSON each\n          \
    (?source=public,private&exposure=plaintext_api&role=secure)\n";

async fn index() -> &'static str {
    INDEX
}

async fn metrics(State(shown): State<Shown>) -> Response {
    let turn = shown.scrape.clone().lock_owned().await;
    let encoded = tokio::task::spawn_blocking(move || {
        let text = shown.metrics.encode();
        drop(turn);
        text
    });
    match encoded.await {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be read\n").into_response(),
    }
}

async fn livez(State(shown): State<Shown>) -> Response {
    answer(shown.health.live())
}

async fn readyz(State(shown): State<Shown>) -> Response {
    answer(shown.health.ready())
}

fn answer(healthy: Result<(), String>) -> Response {
    match healthy {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n").into_response(),
    }
}

async fn events(State(shown): State<Shown>, RawQuery(query): RawQuery) -> Response {
    let filter = match Filter::from_query(query.as_deref().unwrap_or_default()) {
        Ok(filter) => filter,
        Err(error) => return (StatusCode::BAD_REQUEST, error + "\n").into_response(),
    };
    match shown.events.subscribe(filter) {
        Ok(subscription) => {
            let lines = futures_util::stream::unfold(subscription, |mut subscription| async {
                subscription.next().await.map(|lines| (Ok::<_, std::convert::Infallible>(lines), subscription))
            });
            ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
        }
        Err(refused @ (Refused::TooMany | Refused::Closed)) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{refused}\n")).into_response()
        }
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
