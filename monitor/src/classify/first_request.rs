//! What the API server made of a connection's first request over HTTP/2 inside TLS.
//!
//! From Kubernetes 1.29 on the API server tells an unauthenticated client of HTTP/2 to go away before it answers
//! (staging/src/k8s.io/apiserver/pkg/endpoints/filters/authentication.go, feature
//! UnauthenticatedHTTP2DOSMitigation). A GOAWAY therefore counts by itself; that there was none says that the
//! credential was accepted only of a server that is known to send it.

use std::net::IpAddr;
use std::num::NonZeroUsize;

use lru::LruCache;

use crate::config::UnauthenticatedGoaway;
use crate::inspect::{FirstRequest, FirstResponse};

/// Address and port of a server.
pub type Server = (IpAddr, u16);

/// Servers that are remembered; a node sees a handful of them: its own addresses, Services, the other control planes.
const SERVERS: NonZeroUsize = NonZeroUsize::new(1_024).expect("more than zero");

/// Which servers are known to send GOAWAY to unauthenticated clients.
#[derive(Debug)]
pub struct GoawayServers {
    setting: UnauthenticatedGoaway,
    seen: LruCache<Server, ()>,
}

impl GoawayServers {
    /// By the setting; with `auto` no server is known yet.
    pub fn new(setting: UnauthenticatedGoaway) -> Self {
        Self { setting, seen: LruCache::new(SERVERS) }
    }

    /// What this server's first response says of the first request. Learns from each GOAWAY.
    pub fn first_request(&mut self, server: Server, response: FirstResponse) -> FirstRequest {
        if response.goaway() {
            self.learn(server);
        }
        // Asked after every chunk of a connection: the servers are looked up only where it matters.
        let sends_goaway = response == FirstResponse::NoGoaway && self.sends_goaway(server);
        response.first_request(sends_goaway)
    }

    /// This server was seen to send GOAWAY to an unauthenticated client: by a connection, or by a request of our own.
    pub fn learn(&mut self, server: Server) {
        self.seen.put(server, ());
    }

    /// Whether there is a server that is known to send it.
    pub fn knows_one(&self) -> bool {
        match self.setting {
            UnauthenticatedGoaway::On => true,
            UnauthenticatedGoaway::Off => false,
            UnauthenticatedGoaway::Auto => !self.seen.is_empty(),
        }
    }

    fn sends_goaway(&mut self, server: Server) -> bool {
        match self.setting {
            UnauthenticatedGoaway::On => true,
            UnauthenticatedGoaway::Off => false,
            UnauthenticatedGoaway::Auto => self.seen.get(&server).is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use FirstResponse::{Goaway, GoawayLong, GoawayShort, NoGoaway, Unclear, Unseen};

    use super::*;

    const SERVER: Server = (IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 6443);

    fn verdicts(servers: &mut GoawayServers) -> Vec<&'static str> {
        // Those that teach come last, so that they are told of a server that taught nothing yet.
        let responses = [Unseen, Unclear, NoGoaway, GoawayShort, GoawayLong, Goaway, NoGoaway];
        responses.iter().map(|response| servers.first_request(SERVER, *response).label()).collect()
    }

    #[test]
    fn absence_of_goaway_counts_only_where_it_is_known_to_be_sent() {
        let mut auto = GoawayServers::new(UnauthenticatedGoaway::Auto);
        let told = ["unknown", "unknown", "unknown", "refused", "anonymous", "unknown", "accepted"];
        assert_eq!(verdicts(&mut auto), told);
        let mut on = GoawayServers::new(UnauthenticatedGoaway::On);
        let told = ["unknown", "unknown", "accepted", "refused", "anonymous", "unknown", "accepted"];
        assert_eq!(verdicts(&mut on), told);
        let mut off = GoawayServers::new(UnauthenticatedGoaway::Off);
        let told = ["unknown", "unknown", "unknown", "refused", "anonymous", "unknown", "unknown"];
        assert_eq!(verdicts(&mut off), told);
    }

    #[test]
    fn what_one_server_sends_says_nothing_of_another() {
        let mut servers = GoawayServers::new(UnauthenticatedGoaway::Auto);
        servers.learn(SERVER);
        assert_eq!(servers.first_request(SERVER, NoGoaway), FirstRequest::Accepted);
        for other in [(SERVER.0, 6444), (IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), SERVER.1)] {
            assert_eq!(servers.first_request(other, NoGoaway), FirstRequest::Unknown);
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_latest() {
        let mut servers = GoawayServers::new(UnauthenticatedGoaway::Auto);
        for port in 0..=SERVERS.get() as u16 {
            servers.learn((SERVER.0, port));
            // Asked for again and again, the first one stays.
            assert_eq!(servers.first_request((SERVER.0, 0), NoGoaway), FirstRequest::Accepted);
        }
        assert_eq!(servers.seen.len(), SERVERS.get());
        assert_eq!(servers.first_request((SERVER.0, 1), NoGoaway), FirstRequest::Unknown);
    }
}
