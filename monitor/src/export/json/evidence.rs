//! Lines of what the API server itself told: they have no connection, or need none.

use std::net::IpAddr;

use serde::Serialize;

use super::super::time::Timestamp;
use super::{DestinationObject, Exposures};
use crate::anonymous::AnonymousRequest;
use crate::classify::{ExposureKind, PROBING_REFUSALS, PROBING_WINDOW, Probing};

/// A request without a credential of which the API server itself told.
#[derive(Serialize)]
pub struct AnonymousLine<'a> {
    r#type: &'static str,
    time: Timestamp,
    /// `null` where no connection was seen.
    interface: Option<&'a str>,
    source: ClientObject,
    /// `null` where no connection was seen.
    destination: Option<DestinationObject>,
    method: &'a str,
    path: &'a str,
    verb: &'static str,
    resource: Option<&'a str>,
    subresource: Option<&'a str>,
    namespace: Option<&'a str>,
    path_class: &'static str,
    decision: &'static str,
    evidence: &'static str,
    exposures: Exposures<'a>,
}

/// A burst of refused requests: an exposure of an address, not of a connection.
#[derive(Serialize)]
pub struct ProbingLine {
    r#type: &'static str,
    time: Timestamp,
    interface: Option<&'static str>,
    source: ClientObject,
    destination: Option<DestinationObject>,
    kind: &'static str,
    evidence: &'static str,
    /// So many refusals at least came within the window.
    refusals: usize,
    window_seconds: u64,
}

impl ProbingLine {
    /// Its line.
    pub fn new(probing: &Probing) -> Self {
        Self {
            r#type: "exposure",
            time: Timestamp(probing.time),
            interface: None,
            source: ClientObject { ip: Some(probing.ip), port: None, class: probing.class.label() },
            destination: None,
            kind: ExposureKind::AnonymousProbing.label(),
            evidence: probing.evidence.label(),
            refusals: PROBING_REFUSALS,
            window_seconds: PROBING_WINDOW.as_secs(),
        }
    }
}

/// The client as the API server knows it.
#[derive(Serialize)]
struct ClientObject {
    ip: Option<IpAddr>,
    port: Option<u16>,
    class: &'static str,
}

impl<'a> AnonymousLine<'a> {
    /// Its line.
    pub fn new(joined: &'a AnonymousRequest) -> Self {
        let AnonymousRequest { request, class, flow, exposures, .. } = joined;
        Self {
            r#type: "anonymous_request",
            time: Timestamp(request.time),
            interface: flow.as_ref().and_then(|(interface, _)| interface.as_deref()),
            source: ClientObject {
                ip: request.ip,
                port: request.port,
                class: class.map_or("unknown", |class| class.label()),
            },
            destination: flow.as_ref().map(|(_, to)| DestinationObject {
                ip: to.ip,
                port: to.port,
                role: to.role.label(),
            }),
            method: &request.method,
            path: &request.path,
            verb: request.meaning.verb.label(),
            resource: request.meaning.resource.as_deref(),
            subresource: request.meaning.subresource.as_deref(),
            namespace: request.meaning.namespace.as_deref(),
            path_class: request.meaning.path_class.label(),
            decision: request.decision.label(),
            evidence: request.evidence.label(),
            exposures: Exposures(exposures),
        }
    }
}
