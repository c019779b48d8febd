//! classify: from what was observed to what it means for the API server.

use std::net::IpAddr;
use std::time::SystemTime;

use monitor_common::{Role, SourceClass, closed_set};

use crate::inspect::{Credential, Observation};

closed_set! {
    /// What should not have been possible.
    ExposureKind {
        /// The Kubernetes API spoken in the clear: no authentication stands between (or a `kubectl proxy` lends its own).
        PlaintextApi = "plaintext_api",
        /// A plaintext request to the Kubernetes API without a credential.
        AnonymousRequest = "anonymous_request",
        /// The source is public (or private, by the switch `private_is_external`).
        ExternalSource = "external_source",
        /// Payload arrived through the NodePort of the `kubernetes` Service.
        NodePort = "node_port",
        /// HTTP in the clear sent to a TLS port and answered with 400: a scan or a misconfiguration, no bypass.
        PlaintextToSecurePort = "plaintext_to_secure_port",
        /// An SNI that nobody inside the cluster uses.
        UnexpectedSni = "unexpected_sni",
    }
}

/// One classified connection: the unit of JSON lines, metrics and events.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Time of its first payload byte.
    pub time: SystemTime,
    /// Name of the interface on which it was first seen, where that is known.
    pub interface: Option<std::sync::Arc<str>>,
    /// Who asked, with the class that the longest prefix gave.
    pub source: Source,
    /// The API's side.
    pub destination: Destination,
    /// Whether the handshake was seen.
    pub outcome: Outcome,
    /// What was spoken.
    pub observation: Observation,
    /// What the requests mean, index by index beside `observation.requests`.
    pub requests: Vec<RequestMeaning>,
    /// What should not have been possible.
    pub exposures: Vec<ExposureKind>,
}

/// The client's end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its address; IPv4-mapped addresses as IPv4.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
    /// By the longest prefix.
    pub class: SourceClass,
}

/// The API's end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Its address.
    pub ip: IpAddr,
    /// The watched port.
    pub port: u16,
    /// What the port is meant to be.
    pub role: Role,
}

closed_set! {
    /// Whether a connection's start was seen.
    Outcome {
        /// SYN or its answer was seen and fits the first payload.
        Established = "established",
        /// It was there before us, or its handshake was not seen.
        Midstream = "midstream",
    }
}

closed_set! {
    /// Verb of a request as the API server's RequestInfo derives it, `connect` for its connecting subresources.
    Verb {
        /// One object, or a path that is no resource.
        Get = "get",
        /// A collection.
        List = "list",
        /// A collection or object over time.
        Watch = "watch",
        /// POST.
        Create = "create",
        /// PUT.
        Update = "update",
        /// PATCH.
        Patch = "patch",
        /// DELETE of one object.
        Delete = "delete",
        /// DELETE of a collection.
        DeleteCollection = "deletecollection",
        /// exec, attach, portforward, proxy.
        Connect = "connect",
        /// Any other method.
        Other = "other",
    }
}

closed_set! {
    /// What a path leads to.
    PathClass {
        /// /healthz, /livez, /readyz and below.
        Health = "health",
        /// /version.
        Version = "version",
        /// The ConfigMap kube-public/cluster-info, read anonymously by `kubeadm join`.
        ClusterInfo = "cluster_info",
        /// /api, /apis, their groups and versions, /openapi, /swagger.json, /.well-known/openid-configuration.
        Discovery = "discovery",
        /// Any resource that is not named below.
        Resource = "resource",
        /// Secrets.
        Secret = "secret",
        /// exec, attach, portforward, proxy.
        Exec = "exec",
        /// Anything else.
        Other = "other",
    }
}

/// What one request means to the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestMeaning {
    /// What is done.
    pub verb: Verb,
    /// The resource (`pods`), where the path names one.
    pub resource: Option<String>,
    /// The subresource (`exec`), where the path names one.
    pub subresource: Option<String>,
    /// The namespace, where the path names one.
    pub namespace: Option<String>,
    /// What the path leads to.
    pub path_class: PathClass,
    /// The credential, by the API server's own rule.
    pub credential: Credential,
}

/// Stub.
pub struct Classifier;
impl Classifier {
    /// Stub.
    pub fn new(_: &crate::config::Settings) -> Self {
        Self
    }
    /// Stub.
    pub fn classify(&mut self, _: &mut Connection) -> Vec<ExposureKind> {
        Vec::new()
    }
}
