//! export: what was found, as metrics, as lines of JSON, and over HTTP.

pub mod definitions;
pub mod events;
pub mod family;
pub mod filter;
pub mod health;
pub mod json;
pub mod kernel;
pub mod metrics;
pub mod process;
pub mod server;
pub mod time;

#[cfg(test)]
pub(crate) mod examples;

pub use definitions::{Tier, TierReason};
pub use events::Events;
pub use filter::Filter;
pub use health::Health;
pub use kernel::{KernelCounts, KernelSource};
pub use metrics::Metrics;
pub use server::Server;

use crate::classify::Connection;
use crate::inspect::{Evidence, FirstRequest, TlsObservation};

/// What became of a connection's first request over HTTP/2 inside TLS, and where that is known from.
pub(crate) struct FirstRequestFacts {
    /// A word of [`definitions::FIRST_REQUEST`].
    pub verdict: &'static str,
    /// `None` while the verdict is unknown.
    pub evidence: Option<Evidence>,
}

/// The one place where the verdict on the first request enters JSON and metrics.
pub(crate) fn first_request(connection: &Connection) -> FirstRequestFacts {
    let verdict = connection.first_request;
    FirstRequestFacts {
        verdict: verdict.label(),
        evidence: (verdict != FirstRequest::Unknown).then_some(Evidence::Goaway),
    }
}

/// The one place where the evidence of an inferred ALPN enters JSON; what is read in the clear needs none.
pub(crate) fn alpn_evidence(tls: &TlsObservation) -> Option<Evidence> {
    tls.alpn_evidence
}
