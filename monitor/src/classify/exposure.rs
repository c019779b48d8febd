//! What should not have been possible, told from what was seen of one connection alone.

use monitor_common::{Role, SourceClass};

use super::{Connection, ExposureKind};
use crate::config::Settings;
use crate::inspect::{Credential, Observation, Protocol};

/// The names by which clients inside a cluster reach the API server: the `kubernetes` Service's, as they stand in every
/// serving certificate (kubeadm, cmd/kubeadm/app/util/pkiutil/pki_helpers.go, `GetAPIServerAltNames`, Kubernetes 1.37),
/// and `localhost`. Clients that connect to an address send no name.
const NAMES_INSIDE: [&str; 5] =
    ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"];

/// When a connection is an exposure. Stateless: each connection is judged by itself.
#[derive(Debug)]
pub struct Rules {
    private_is_external: bool,
    expected_sni: Vec<String>,
}

impl Rules {
    /// By the settings `private_is_external` and `expected_sni`.
    pub fn new(settings: &Settings) -> Self {
        Self { private_is_external: settings.private_is_external, expected_sni: settings.expected_sni.clone() }
    }

    /// Adds the exposures that the connection shows by now, and returns the new ones. Its requests from `unjudged` on
    /// were not there at the last call.
    pub fn exposures(&self, connection: &mut Connection, unjudged: usize) -> Vec<ExposureKind> {
        let mut new = Vec::new();
        // Each request is looked at once: a connection that is kept may carry a thousand of them. What came before the
        // API was known for what it is counts too.
        let api_was_known = connection.exposures.contains(&ExposureKind::PlaintextApi);
        let unjudged = if api_was_known { unjudged } else { 0 };
        for kind in ExposureKind::ALL {
            if !connection.exposures.contains(kind) && self.shows(connection, *kind, unjudged) {
                connection.exposures.push(*kind);
                new.push(*kind);
            }
        }
        new
    }

    fn shows(&self, connection: &Connection, kind: ExposureKind, unjudged: usize) -> bool {
        let observation = &connection.observation;
        match kind {
            ExposureKind::PlaintextApi => speaks_kubernetes(observation),
            ExposureKind::AnonymousRequest => {
                let mut requests = connection.requests.iter().skip(unjudged);
                // In the clear nothing is expected: a health check there is an exposure too.
                speaks_kubernetes(observation) && requests.any(|request| request.credential == Credential::None)
            }
            ExposureKind::ExternalSource => self.is_external(connection.source.class),
            ExposureKind::NodePort => connection.destination.role == Role::NodePort,
            ExposureKind::PlaintextToSecurePort => observation.refused_by_tls_server,
            // Of an address, not of a connection.
            ExposureKind::AnonymousProbing => false,
            ExposureKind::UnexpectedSni => {
                let sni = observation.tls.as_ref().and_then(|tls| tls.sni.as_deref());
                !is_inside(connection.source.class) && sni.is_some_and(|sni| !self.expects(sni))
            }
        }
    }

    fn is_external(&self, class: SourceClass) -> bool {
        class == SourceClass::Public || (class == SourceClass::Private && self.private_is_external)
    }

    fn expects(&self, sni: &str) -> bool {
        // Host names are compared without regard to case, and a dot at the end changes nothing (RFC 6066 section 3).
        let sni = sni.strip_suffix('.').unwrap_or(sni);
        NAMES_INSIDE.iter().any(|name| name.eq_ignore_ascii_case(sni))
            || self.expected_sni.iter().any(|name| name.eq_ignore_ascii_case(sni))
    }
}

/// HTTP in the clear with the Kubernetes API itself, and not a TLS port's refusal.
pub(super) fn speaks_kubernetes(observation: &Observation) -> bool {
    matches!(observation.protocol, Protocol::Http1 | Protocol::Http2)
        && observation.kubernetes
        && !observation.refused_by_tls_server
}

/// Whether the class says that the client is a part of the cluster.
fn is_inside(class: SourceClass) -> bool {
    match class {
        SourceClass::Loopback
        | SourceClass::Node
        | SourceClass::ClusterNode
        | SourceClass::Pod
        | SourceClass::Service => true,
        SourceClass::Trusted | SourceClass::Private | SourceClass::Public => false,
    }
}

#[cfg(test)]
#[path = "exposure_tests.rs"]
mod tests;
