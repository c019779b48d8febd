//! How the inference from packets does, told by the probe: what was inferred of a connection's first request or
//! certificate, beside whether that request came without a credential.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use monitor_common::{Role, SourceClass, closed_set};

use super::Anonymous;
use crate::classify::{Connection, Destination};
use crate::inspect::{ClientCertificate, FirstRequest, TlsHandshake};
use crate::watch::Watch;

/// Words of the label `inferred`.
pub const INFERRED: &[&str] = &[
    "anonymous",
    "refused",
    "accepted",
    "presented",
    "absent",
    "not_requested",
    "resumed_presented",
    "resumed_absent",
];

/// How long after a verdict a hit is waited for: from the handshake to the first request, and from there to here. A
/// connection whose first request comes later than that counts as not anonymous.
const WINDOW: Duration = Duration::from_secs(5);

/// Verdicts that wait at the most; those beyond are not compared.
const WAITING: usize = 65_536;

closed_set! {
    /// What the probe says of a connection's first request.
    Actual {
        /// It came without a credential.
        Anonymous = "anonymous",
        /// The probe did not see it: it came with one, or not at all.
        NotAnonymous = "not_anonymous",
    }
}

/// One verdict beside the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// A word of [`INFERRED`].
    pub inferred: &'static str,
    /// What the probe says.
    pub actual: Actual,
}

/// Verdicts that wait for the end of their window.
#[derive(Debug, Default)]
pub struct Judgements {
    /// From when on the probe has seen every anonymous request of this node's API servers; `None`: it does not now.
    complete_since: Option<SystemTime>,
    waiting: VecDeque<Judgement>,
}

#[derive(Debug)]
struct Judgement {
    key: (IpAddr, u16),
    began: SystemTime,
    inferred: &'static str,
    /// A hit that came later is none of the first request.
    until: SystemTime,
    due: SystemTime,
}

impl Anonymous {
    /// From when on the probe sees every anonymous request of this node's API servers; `None` where it does not, or
    /// where some were lost just now.
    pub fn set_probe_complete(&mut self, since: Option<SystemTime>) {
        self.judgements.complete_since = since;
    }

    /// A connection was read to its verdict, which is known from packets up to `now`.
    pub fn judged(&mut self, connection: &Connection, now: SystemTime, watch: &Watch) {
        let Judgements { complete_since, waiting } = &mut self.judgements;
        let Some(tls) = &connection.observation.tls else { return };
        // Of another node's API server this one's probe says nothing; and behind a NodePort the API server may see a
        // translated address.
        let Destination { ip, role, .. } = connection.destination;
        let own = matches!(watch.class(ip), SourceClass::Loopback | SourceClass::Node);
        if complete_since.is_none_or(|since| connection.time < since)
            || !own
            || role != Role::Secure
            || tls.handshake != TlsHandshake::Completed
            || waiting.len() >= WAITING
        {
            return;
        }
        let key = (connection.source.ip, connection.source.port);
        let due = now + WINDOW;
        let judgement = |inferred, until| Judgement { key, began: connection.time, inferred, until, due };
        if connection.first_request != FirstRequest::Unknown {
            // The verdict follows from the response, and the authenticator was asked before that.
            waiting.push_back(judgement(connection.first_request.label(), now));
        }
        if tls.client_certificate != ClientCertificate::Unknown {
            waiting.push_back(judgement(tls.client_certificate.label(), due));
        }
    }

    /// The connection has an exposure as an anonymous request by what was read of it: evidence from elsewhere is then
    /// no new one.
    pub fn exposed(&mut self, connection: &Connection) {
        if let Some(peer) = self.peers.get_mut(&(connection.source.ip, connection.source.port)) {
            peer.exposed = true;
        }
    }

    /// The connection from this address and port is one of our own.
    pub fn own(&mut self, client: SocketAddr) {
        if let Some(peer) = self.peers.get_mut(&(client.ip(), client.port())) {
            peer.own = true;
        }
    }

    /// The verdicts whose window has ended by `now`.
    pub fn agreements(&mut self, now: SystemTime) -> Vec<Agreement> {
        let mut agreements = Vec::new();
        while let Some(judgement) = self.judgements.waiting.pop_front_if(|judgement| judgement.due <= now) {
            let Some(since) = self.judgements.complete_since else { continue };
            let Some(peer) = self.peers.peek(&judgement.key) else { continue };
            if judgement.began < since || peer.began != judgement.began || peer.own {
                continue;
            }
            let anonymous = peer.first.is_some_and(|first| first <= judgement.until);
            let actual = if anonymous { Actual::Anonymous } else { Actual::NotAnonymous };
            agreements.push(Agreement { inferred: judgement.inferred, actual });
        }
        agreements
    }
}
