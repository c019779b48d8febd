//! anonymous: exact evidence of requests without a credential (the probe, the audit log), joined with the connections
//! that packets showed.
//!
//! The API server knows a client by address and port; packets add the interface, the role of the port, and the class of
//! the address. Sans-IO: it is told of connections and of evidence, and its results are values.

mod agreement;
mod decisions;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lru::LruCache;
use monitor_common::{Role, SourceClass, closed_set, limits};

use crate::audit::event::Subject;
use crate::classify::{Connection, Destination, ExposureKind, RequestMeaning, expected};
use crate::inspect::Evidence;
use crate::watch::Watch;

use agreement::Judgements;
pub use agreement::{Actual, Agreement, INFERRED};
pub use decisions::Decisions;

/// Addresses of which the connection begun last is remembered, and clients without a connection that were told of.
const ADDRESSES: usize = 4_096;

/// An address without a port is joined with a connection that it began at most so long before.
const RECENT: Duration = Duration::from_secs(600);

closed_set! {
    /// What became of an anonymous request.
    Decision {
        /// Nothing tells.
        Unknown = "unknown",
        /// It was let in, and allowed.
        Allowed = "allowed",
        /// It was refused: not let in as anonymous (401), or not allowed (403).
        Denied = "denied",
    }
}

/// Exact evidence of one request without a credential.
#[derive(Clone, Debug)]
pub struct Evident {
    /// When.
    pub time: SystemTime,
    /// The client as the API server saw it, where that is known.
    pub ip: Option<IpAddr>,
    /// Its port, where that is known.
    pub port: Option<u16>,
    /// The request's method.
    pub method: String,
    /// Its path, without query.
    pub path: String,
    /// What it means.
    pub meaning: RequestMeaning,
    /// What became of it.
    pub decision: Decision,
    /// Whether it passed authentication as anonymous; false where it was refused with 401.
    pub let_in: bool,
    /// Where it is known from: `probe` or `audit`.
    pub evidence: Evidence,
}

/// What comes to the pipeline from those who listen to the API server itself.
#[derive(Clone, Debug)]
pub enum Told {
    /// A request without a credential.
    Request(Evident),
    /// A request in the audit log.
    Audited(Subject),
    /// From when on the probe sees every anonymous request of this node's API servers; `None` where it does not.
    ProbeComplete(Option<SystemTime>),
    /// A request of our own came from this address and port: what was inferred of it is compared with nothing.
    Own(std::net::SocketAddr),
    /// A request of our own has shown that the API server at this port of this node sends GOAWAY.
    SendsGoaway(u16),
}

/// One anonymous request with what packets add.
#[derive(Clone, Debug)]
pub struct AnonymousRequest {
    /// What is known from the API server.
    pub request: Evident,
    /// Class of the client's address; `None` where that is not known.
    pub class: Option<SourceClass>,
    /// Interface and destination of its connection; `None` where none was seen.
    pub flow: Option<(Option<Arc<str>>, Destination)>,
    /// What should not have been possible.
    pub exposures: Vec<ExposureKind>,
    /// Those of them that are the first of their kind on this connection.
    pub new_exposures: Vec<ExposureKind>,
}

/// Joins evidence with connections.
pub struct Anonymous {
    /// Connections by the client's address and port, of which evidence may come.
    peers: LruCache<(IpAddr, u16), Peer>,
    /// The port of the connection that an address began last.
    latest: LruCache<IpAddr, u16>,
    /// Clients without a connection of which an exposure was told.
    told: LruCache<(IpAddr, Option<u16>), ()>,
    /// Clients of the insecure port without a connection, of which that was told.
    unsecured: LruCache<IpAddr, ()>,
    judgements: Judgements,
}

/// What is remembered of a connection.
struct Peer {
    began: SystemTime,
    class: SourceClass,
    interface: Option<Arc<str>>,
    destination: Destination,
    exposed: bool,
    /// It is one of our own.
    own: bool,
    /// When the probe saw the first anonymous request on it.
    first: Option<SystemTime>,
}

impl Default for Anonymous {
    fn default() -> Self {
        Self::new()
    }
}

impl Anonymous {
    /// Knows no connection yet.
    pub fn new() -> Self {
        Self {
            peers: LruCache::unbounded(),
            latest: LruCache::unbounded(),
            told: LruCache::unbounded(),
            unsecured: LruCache::unbounded(),
            judgements: Judgements::default(),
        }
    }

    /// A connection began.
    pub fn began(&mut self, connection: &Connection) {
        let source = connection.source;
        let peer = Peer {
            began: connection.time,
            class: source.class,
            interface: connection.interface.clone(),
            destination: connection.destination,
            exposed: false,
            own: false,
            first: None,
        };
        put(&mut self.peers, (source.ip, source.port), peer, limits::FLOWS as usize);
        put(&mut self.latest, source.ip, source.port, ADDRESSES);
    }

    /// Joins what is evident with its connection. Tell it only once that every record of before was taken: a connection
    /// is known then before its requests are.
    pub fn join(&mut self, request: Evident, watch: &Watch) -> AnonymousRequest {
        let key = request.ip.and_then(|ip| Some((ip, request.port.or_else(|| self.recent(ip, request.time))?)));
        let peer = key.and_then(|key| self.peers.get_mut(&key));
        let class = match (&peer, request.ip) {
            (Some(peer), _) => Some(peer.class),
            (None, Some(ip)) => Some(watch.class(ip)),
            (None, None) => None,
        };
        let exposes = request.let_in && !expected(class, &request.meaning);
        let exposures = if exposes { vec![ExposureKind::AnonymousRequest] } else { Vec::new() };
        let (flow, first_time) = match peer {
            Some(peer) => {
                if request.evidence == Evidence::Probe {
                    peer.first = Some(peer.first.map_or(request.time, |first| first.min(request.time)));
                }
                let first_time = exposes && !peer.exposed;
                peer.exposed |= exposes;
                (Some((peer.interface.clone(), peer.destination)), first_time)
            }
            None if exposes => {
                let new = request.ip.is_none_or(|ip| put(&mut self.told, (ip, request.port), (), ADDRESSES));
                (None, new)
            }
            None => (None, false),
        };
        let new_exposures = if first_time { exposures.clone() } else { Vec::new() };
        AnonymousRequest { request, class, flow, exposures, new_exposures }
    }

    /// Joins a request at the insecure port, which may do anything, with its connection. Where that was seen, it tells
    /// itself that the API is spoken there in the clear.
    pub fn join_unsecured(&mut self, request: Evident, watch: &Watch) -> AnonymousRequest {
        let port = request.ip.and_then(|ip| self.recent(ip, request.time));
        let peer = request.ip.zip(port).and_then(|key| self.peers.get(&key));
        let peer = peer.filter(|peer| peer.destination.role != Role::Secure);
        let class = peer.map(|peer| peer.class).or(request.ip.map(|ip| watch.class(ip)));
        let flow = peer.map(|peer| (peer.interface.clone(), peer.destination));
        let exposures = vec![ExposureKind::PlaintextApi];
        let new = flow.is_none() && request.ip.is_none_or(|ip| put(&mut self.unsecured, ip, (), ADDRESSES));
        let new_exposures = if new { exposures.clone() } else { Vec::new() };
        AnonymousRequest { request, class, flow, exposures, new_exposures }
    }

    /// The port of the connection that this address began last before this time.
    fn recent(&mut self, ip: IpAddr, time: SystemTime) -> Option<u16> {
        let port = *self.latest.peek(&ip)?;
        let began = self.peers.peek(&(ip, port))?.began;
        // An audit log's time is of the same clock, but was taken elsewhere: a second is no matter.
        let age = time.duration_since(began).unwrap_or_default();
        (age <= RECENT).then_some(port)
    }
}

/// Puts in a value, and takes out the least recently used one where there are more than `most`. Whether the key is new.
fn put<K: std::hash::Hash + Eq, V>(cache: &mut LruCache<K, V>, key: K, value: V, most: usize) -> bool {
    let new = cache.put(key, value).is_none();
    if cache.len() > most {
        cache.pop_lru();
    }
    new
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
