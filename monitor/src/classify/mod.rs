//! classify: from what was observed to what it means for the API server.

mod expected;
mod exposure;
mod first_request;
mod probing;
mod request;

use std::net::IpAddr;
use std::time::SystemTime;

use monitor_common::{Role, SourceClass, closed_set};

use crate::config::Settings;
use crate::inspect::{Credential, Evidence, FirstRequest, Observation, Request};
pub use expected::expected;
use exposure::Rules;
use first_request::GoawayServers;
use probing::Refusals;
pub use probing::{Probing, REFUSALS as PROBING_REFUSALS, WINDOW as PROBING_WINDOW};
pub use request::decoded_path;

/// Gives connections their meaning. One for all connections: it learns which servers send GOAWAY.
#[derive(Debug)]
pub struct Classifier {
    rules: Rules,
    servers: GoawayServers,
    refusals: Refusals,
}

impl Classifier {
    /// By the settings `private_is_external`, `expected_sni` and `unauthenticated_goaway`.
    pub fn new(settings: &Settings) -> Self {
        Self {
            rules: Rules::new(settings),
            servers: GoawayServers::new(settings.unauthenticated_goaway),
            refusals: Refusals::default(),
        }
    }

    /// A request of our own has shown that the server at these addresses sends GOAWAY to unauthenticated clients.
    pub fn learn_goaway(&mut self, addresses: impl IntoIterator<Item = IpAddr>, port: u16) {
        for address in addresses {
            self.servers.learn((address, port));
        }
    }

    /// Whether a server is known to send GOAWAY to unauthenticated clients.
    pub fn knows_goaway(&self) -> bool {
        self.servers.knows_one()
    }

    /// Brings the connection's `requests`, `first_request` and `exposures` to what its observation says by now, and
    /// returns the exposures that are new. Called again with nothing new observed it changes nothing; cheap enough to be
    /// called after every chunk.
    pub fn classify(&mut self, connection: &mut Connection) -> Vec<ExposureKind> {
        let unjudged = connection.requests.len();
        for request in connection.observation.requests.iter().skip(unjudged) {
            connection.requests.push(RequestMeaning::of(request));
        }
        if let Some(tls) = &connection.observation.tls {
            let server = (connection.destination.ip, connection.destination.port);
            connection.first_request = self.servers.first_request(server, tls.first_response);
        }
        self.rules.exposures(connection, unjudged)
    }
}

impl Classifier {
    /// A request of this address was refused, as this evidence says. Gives a burst of such, once in a while.
    pub fn refused(&mut self, ip: IpAddr, class: SourceClass, evidence: Evidence, time: SystemTime) -> Option<Probing> {
        self.refusals.refused(ip, class, evidence, time)
    }

    /// A request in the clear, with its answer seen at `now`: whether it was refused, and one of a burst.
    pub fn refused_request(
        &mut self,
        connection: &Connection,
        request: &Request,
        meaning: &RequestMeaning,
        now: SystemTime,
    ) -> Option<Probing> {
        let refused = match request.status {
            Some(401) => true,
            Some(403) => meaning.credential == Credential::None,
            _ => false,
        };
        let Source { ip, class, .. } = connection.source;
        let counts = refused && exposure::speaks_kubernetes(&connection.observation) && !expected(Some(class), meaning);
        counts.then(|| self.refused(ip, class, Evidence::Plaintext, now))?
    }

    /// A connection has ended at `now`: whether its first request was refused, as its packets say, and one of a burst.
    /// Of that request nothing else is known: kubelet's and the load balancers' are left out by their addresses.
    pub fn refused_first_request(&mut self, connection: &Connection, now: SystemTime) -> Option<Probing> {
        let Source { ip, class, .. } = connection.source;
        let expected = matches!(class, SourceClass::Loopback | SourceClass::Node | SourceClass::Trusted);
        let counts = connection.first_request == FirstRequest::Refused && !expected;
        counts.then(|| self.refused(ip, class, Evidence::Goaway, now))?
    }
}

closed_set! {
    /// What should not have been possible.
    ExposureKind {
        /// The Kubernetes API spoken in the clear, told by the content of its replies: nobody authenticates the client
        /// (the insecure port of releases before 1.20), or a `kubectl proxy` or a side proxy lends it its own credential.
        /// HTTP in the clear that is not the Kubernetes API (etcd, a web server) never counts.
        PlaintextApi = "plaintext_api",
        /// A request to the Kubernetes API in the clear without a credential that the API server would look at. What it
        /// may do there depends on who lends what: behind the insecure port everything, behind a proxy whatever the
        /// proxy's own credential may.
        AnonymousRequest = "anonymous_request",
        /// The client's address is public, or private where `private_is_external` is set, and payload was seen.
        ExternalSource = "external_source",
        /// Payload arrived through the NodePort of the `kubernetes` Service.
        NodePort = "node_port",
        /// HTTP in the clear sent to a port that speaks TLS and refused there (Go answers 400 "Client sent an HTTP
        /// request to an HTTPS server"): a scan or a misconfiguration, no bypass.
        PlaintextToSecurePort = "plaintext_to_secure_port",
        /// From elsewhere than inside the cluster, a server name (SNI) that nobody inside uses: there is another name,
        /// and so another way, by which the API server is reached.
        UnexpectedSni = "unexpected_sni",
        /// Many requests of one address were refused within a minute (401, or 403 without a credential): somebody tries
        /// what they may not. Told once in a minute for each address, not for each connection.
        AnonymousProbing = "anonymous_probing",
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
    /// What the server made of the first request over HTTP/2 inside TLS.
    pub first_request: FirstRequest,
    /// What should not have been possible, in the order in which it was found, each once.
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
