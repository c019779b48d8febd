//! configuration: what the API server's own configuration leaves open, read where it stands.
//!
//! [`system`] reads command lines, manifests, files and certificates; [`rules`] judges them, sans-IO; what was judged is
//! a [`Finding`] with what was read where, so that nobody has to believe it. Of files with secrets only their being named
//! is looked at.

pub mod arguments;
pub mod authentication;
pub mod certificate;
pub mod follow;
pub mod proxy;
pub mod release;
pub mod rules;
pub mod system;
#[cfg(test)]
mod tests;

use monitor_common::closed_set;
use serde::{Serialize, Serializer};

closed_set! {
    /// How much a finding matters.
    Severity {
        /// To be known.
        Info = "info",
        /// Hardening.
        Low = "low",
        /// It opens something together with another mistake.
        Medium = "medium",
        /// It opens something.
        High = "high",
        /// It opens everything.
        Critical = "critical",
    }
}

closed_set! {
    /// What is looked for.
    FindingKind {
        /// Requests without a credential are let in as `system:anonymous`.
        AnonymousAuthEnabled = "anonymous_auth_enabled",
        /// They are let in for some paths alone.
        AnonymousConditions = "anonymous_conditions",
        /// The insecure port is open.
        InsecurePort = "insecure_port",
        /// Every request is allowed, whoever makes it.
        AuthorizationAlwaysAllow = "authorization_always_allow",
        /// A node's credential is not limited to its own node and pods.
        NodeRestrictionMissing = "node_restriction_missing",
        /// The `kubernetes` Service is open on a port of every node.
        KubernetesServiceNodePort = "kubernetes_service_node_port",
        /// Tokens that never end stand in a file.
        TokenAuthFile = "token_auth_file",
        /// Profiles of the API server can be read.
        ProfilingEnabled = "profiling_enabled",
        /// The serving certificate names the API server as it is reached from outside.
        CertificatePublicName = "certificate_public_name",
        /// The serving certificate ends soon, or has ended.
        CertificateExpires = "certificate_expires",
        /// A `kubectl proxy` lends its credential to more than this machine.
        KubectlProxyExposed = "kubectl_proxy_exposed",
        /// Anonymous requests from public addresses were allowed: configuration and traffic together.
        AnonymousAllowedFromPublic = "anonymous_allowed_from_public",
    }
}

impl FindingKind {
    /// How much it matters where nothing makes it worse.
    pub const fn severity(self) -> Severity {
        match self {
            Self::AnonymousConditions => Severity::Info,
            Self::ProfilingEnabled => Severity::Low,
            Self::AnonymousAuthEnabled
            | Self::TokenAuthFile
            | Self::CertificatePublicName
            | Self::CertificateExpires => Severity::Medium,
            Self::InsecurePort | Self::NodeRestrictionMissing | Self::KubernetesServiceNodePort => Severity::High,
            Self::AuthorizationAlwaysAllow | Self::KubectlProxyExposed | Self::AnonymousAllowedFromPublic => {
                Severity::Critical
            }
        }
    }

    /// Its number in the CIS Kubernetes Benchmark, 1.12 where no other is named.
    pub const fn cis(self) -> Option<&'static str> {
        match self {
            Self::AnonymousAuthEnabled => Some("1.2.1"),
            Self::TokenAuthFile => Some("1.2.2"),
            Self::AuthorizationAlwaysAllow => Some("1.2.6"),
            Self::NodeRestrictionMissing => Some("1.2.14"),
            Self::ProfilingEnabled => Some("1.2.15"),
            Self::InsecurePort => Some("1.2.19 of CIS 1.6"),
            _ => None,
        }
    }

    /// What to do about it.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::AnonymousAuthEnabled => {
                "from Kubernetes 1.32 on, an AuthenticationConfiguration whose anonymous conditions name /livez, /readyz \
                 and /healthz alone (kubeadm join needs cluster-info beside them); before, --anonymous-auth=false with \
                 probes that bring a credential"
            }
            Self::AnonymousConditions => "nothing, as long as each path is meant to be open",
            Self::InsecurePort => "--insecure-port=0; and a release that has no such port any more (1.20 and later)",
            Self::AuthorizationAlwaysAllow => "--authorization-mode=Node,RBAC",
            Self::NodeRestrictionMissing => {
                "NodeRestriction among --enable-admission-plugins, and Node among --authorization-mode"
            }
            Self::KubernetesServiceNodePort => {
                "--kubernetes-service-node-port=0, and the Service default/kubernetes back to ClusterIP"
            }
            Self::TokenAuthFile => {
                "no --token-auth-file: certificates or OpenID Connect for people, ServiceAccounts for programs"
            }
            Self::ProfilingEnabled => "--profiling=false",
            Self::CertificatePublicName => {
                "names and addresses of the inside alone in the certificate (kubeadm: apiServer.certSANs), and clients \
                 from outside through a gateway; nothing where it is meant to be reached so"
            }
            Self::CertificateExpires => "renew it (kubeadm certs renew apiserver) and restart the API server",
            Self::KubectlProxyExposed => "end it, or start it without --address: then it listens on 127.0.0.1",
            Self::AnonymousAllowedFromPublic => {
                "close the network path first; then find what is bound to system:anonymous or system:unauthenticated \
                 (kubectl get clusterrolebindings,rolebindings -A -o wide) and take it away"
            }
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked for.
    #[serde(rename = "finding", serialize_with = "kind_label")]
    pub kind: FindingKind,
    /// Whether it is so.
    pub found: bool,
    /// How much it matters.
    #[serde(serialize_with = "severity_label")]
    pub severity: Severity,
    /// Its number in the CIS Kubernetes Benchmark.
    pub cis: Option<&'static str>,
    /// Whose configuration it is: a process, or a manifest.
    pub subject: String,
    /// What was read where.
    pub evidence: String,
    /// What to do; nothing where it is fine.
    pub advice: Option<&'static str>,
}

fn kind_label<S: Serializer>(kind: &FindingKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.label())
}

fn severity_label<S: Serializer>(severity: &Severity, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(severity.label())
}

closed_set! {
    /// Who is let in without a credential.
    AnonymousMode {
        /// Everybody, for every path; what is allowed is another matter.
        All = "all",
        /// Everybody, for some paths.
        Paths = "paths",
        /// Nobody.
        Off = "off",
        /// It cannot be told.
        Unknown = "unknown",
    }
}

closed_set! {
    /// What could not be read.
    Source {
        /// Processes of the node.
        Processes = "processes",
        /// The static pod's manifest.
        Manifest = "manifest",
        /// The file of `--authentication-config`.
        AuthenticationConfiguration = "authentication_configuration",
        /// The file of `--tls-cert-file`.
        Certificate = "certificate",
    }
}

/// All that was found on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What was looked at, API server by API server.
    pub findings: Vec<Finding>,
    /// What could not be read, and why.
    pub unreadable: Vec<(Source, String)>,
    /// API servers whose configuration was read: processes, or manifests where there is no process.
    pub subjects: Vec<String>,
    /// The most open of all of them.
    pub anonymous: Option<AnonymousMode>,
    /// The earliest end of a serving certificate, seconds since 1970.
    pub certificate_ends: Option<u64>,
}

impl Report {
    /// Those that are so, the worst first.
    pub fn found(&self) -> Vec<&Finding> {
        let mut found: Vec<_> = self.findings.iter().filter(|finding| finding.found).collect();
        found.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        found
    }
}
