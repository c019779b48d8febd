//! The rules: one function for each kind of finding, over what was read of one API server. Sans-IO.
//!
//! An absent flag means the default of that release, and the evidence says so. Where a default depends on a release that
//! is not known, the rule of releases from 1.24 on holds, which all that are maintained are.

use std::time::{Duration, SystemTime};

use super::arguments::Arguments;
use super::authentication::Anonymous;
use super::certificate::Certificate;
use super::release::Release;
use super::{AnonymousMode, Finding, FindingKind, Severity};

/// A serving certificate that ends within this is a finding; kubeadm's last a year and are renewed by every upgrade.
const ENDS_SOON: Duration = Duration::from_secs(30 * 86_400);

/// From here on it is a severe one.
const ENDS_VERY_SOON: Duration = Duration::from_secs(7 * 86_400);

/// A file that the command line names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named<T> {
    /// No flag names one.
    No,
    /// It is named, and could not be read.
    Unreadable,
    /// What it says, and its path.
    Read(T, String),
}

/// What was read of one API server.
#[derive(Clone, Debug)]
pub struct Server {
    /// What it is called in the findings: `kube-apiserver (process 812)`.
    pub subject: String,
    /// Its command line.
    pub arguments: Arguments,
    /// Which release it is.
    pub release: Option<Release>,
    /// The file of `--authentication-config`.
    pub authentication: Named<Anonymous>,
    /// The file of `--tls-cert-file`.
    pub certificate: Named<Certificate>,
}

/// What a rule says.
enum Verdict {
    Fine(String),
    Found(String),
    Worse(Severity, String),
    /// It does not apply, or cannot be told.
    Silent,
}

use Verdict::{Fine, Found, Silent, Worse};

/// One rule.
type Rule = fn(&Server, SystemTime) -> Verdict;

/// Every rule about an API server's own configuration.
const RULES: &[(FindingKind, Rule)] = &[
    (FindingKind::AnonymousAuthEnabled, anonymous_auth),
    (FindingKind::AnonymousConditions, anonymous_conditions),
    (FindingKind::InsecurePort, insecure_port),
    (FindingKind::AuthorizationAlwaysAllow, authorization),
    (FindingKind::NodeRestrictionMissing, node_restriction),
    (FindingKind::KubernetesServiceNodePort, node_port),
    (FindingKind::TokenAuthFile, token_auth_file),
    (FindingKind::ProfilingEnabled, profiling),
    (FindingKind::CertificatePublicName, certificate_names),
    (FindingKind::CertificateExpires, certificate_end),
];

/// Judges one API server.
pub fn judge(server: &Server, now: SystemTime) -> Vec<Finding> {
    let findings = RULES.iter().filter_map(|(kind, rule)| {
        let (found, severity, evidence) = match rule(server, now) {
            Fine(evidence) => (false, kind.severity(), evidence),
            Found(evidence) => (true, kind.severity(), evidence),
            Worse(severity, evidence) => (true, severity, evidence),
            Silent => return None,
        };
        Some(Finding {
            kind: *kind,
            found,
            severity,
            cis: kind.cis(),
            subject: server.subject.clone(),
            evidence,
            advice: found.then(|| kind.advice()),
        })
    });
    findings.collect()
}

/// Who is let in without a credential, and why that is known.
///
/// The file excludes the flag (Kubernetes 1.37, pkg/kubeapiserver/options/authentication.go, `validateAnonymousConfig`).
/// The flag's default is true; with `--authorization-mode=AlwaysAllow` alone anonymous requests are switched off
/// (`ApplyAuthorization` there).
pub fn anonymous(server: &Server) -> (AnonymousMode, String) {
    match &server.authentication {
        Named::Read(Anonymous::Off, path) => {
            return (AnonymousMode::Off, format!("{path} says anonymous enabled: false"));
        }
        Named::Read(Anonymous::Everywhere, path) => {
            return (AnonymousMode::All, format!("{path} says anonymous enabled: true, without conditions"));
        }
        Named::Read(Anonymous::Paths(paths), path) => {
            return (AnonymousMode::Paths, format!("{path} lets anonymous requests in for {}", paths.join(", ")));
        }
        Named::Unreadable if server.arguments.get("anonymous-auth").is_none() => {
            return (AnonymousMode::Unknown, "the file of --authentication-config cannot be read".to_owned());
        }
        Named::No | Named::Unreadable | Named::Read(Anonymous::NotSaid, _) => {}
    }
    if server.arguments.switch("anonymous-auth") != Some(false) && always_allow(server).is_some() {
        return (
            AnonymousMode::Off,
            "switched off by authorization AlwaysAllow, whatever --anonymous-auth says".to_owned(),
        );
    }
    match (server.arguments.switch("anonymous-auth"), server.arguments.get("anonymous-auth")) {
        (Some(false), _) => (AnonymousMode::Off, "flag --anonymous-auth=false".to_owned()),
        (Some(true), _) => (AnonymousMode::All, "flag --anonymous-auth=true".to_owned()),
        (None, Some(_)) => (AnonymousMode::Unknown, "flag --anonymous-auth says neither true nor false".to_owned()),
        (None, None) => {
            (AnonymousMode::All, format!("flag --anonymous-auth absent; default of {} is true", of(server)))
        }
    }
}

fn anonymous_auth(server: &Server, _: SystemTime) -> Verdict {
    match anonymous(server) {
        (AnonymousMode::All, evidence) => Found(evidence),
        (AnonymousMode::Off | AnonymousMode::Paths, evidence) => Fine(evidence),
        (AnonymousMode::Unknown, _) => Silent,
    }
}

fn anonymous_conditions(server: &Server, _: SystemTime) -> Verdict {
    match anonymous(server) {
        (AnonymousMode::Paths, evidence) => Found(evidence),
        _ => Silent,
    }
}

/// Served up to 1.19 (default 8080 on 127.0.0.1); from 1.20 on the flag may be 0 alone; gone with 1.24
/// (kubernetes/kubernetes#95856, #106859).
fn insecure_port(server: &Server, _: SystemTime) -> Verdict {
    let arguments = &server.arguments;
    let said = arguments.get("insecure-port");
    if server.release.is_none_or(|release| release >= Release::minor(20)) {
        // Where the release is not known, a port that is named is one of a release that opens it.
        return match (server.release, said, arguments.get("insecure-bind-address")) {
            (Some(_), ..) => Fine(format!("{} has no insecure port", of(server))),
            (None, Some("0"), _) => Fine("flag --insecure-port=0".to_owned()),
            (None, Some(port), _) => Found(format!("flag --insecure-port={port}")),
            (None, None, Some(address)) => Found(format!("flag --insecure-bind-address={address}")),
            // It may be one of before 1.20, where the absent flag means 8080.
            (None, None, None) => Silent,
        };
    }
    let address = arguments.get("insecure-bind-address").unwrap_or("127.0.0.1");
    let beyond = address.parse().is_ok_and(|ip: std::net::IpAddr| !ip.is_loopback());
    let port = said.unwrap_or("8080");
    if port == "0" {
        return Fine("flag --insecure-port=0".to_owned());
    }
    let from = if said.is_some() { "flag --insecure-port" } else { "flag --insecure-port absent; the default" };
    let evidence = format!("{from}: port {port} of {address}, without authentication and authorization");
    if beyond { Worse(Severity::Critical, evidence) } else { Found(evidence) }
}

/// Why every request is allowed. Without the flag the mode is AlwaysAllow (Kubernetes 1.37,
/// pkg/kubeapiserver/options/authorization.go); `--authorization-config` (1.29) replaces it.
fn always_allow(server: &Server) -> Option<String> {
    match server.arguments.list("authorization-mode") {
        Some(modes) if modes.contains(&"AlwaysAllow") => Some(format!("flag --authorization-mode={}", modes.join(","))),
        Some(_) => None,
        None if server.arguments.get("authorization-config").is_some() => None,
        None => Some(format!("flag --authorization-mode absent; default of {} is AlwaysAllow", of(server))),
    }
}

fn authorization(server: &Server, _: SystemTime) -> Verdict {
    match (always_allow(server), server.arguments.get("authorization-mode")) {
        (Some(evidence), _) => Found(evidence),
        (None, Some(modes)) => Fine(format!("flag --authorization-mode={modes}")),
        // A file: it may hold AlwaysAllow, which is not read.
        (None, None) => Silent,
    }
}

/// NodeRestriction is not among the default plugins (Kubernetes 1.37, pkg/kubeapiserver/options/plugins.go).
fn node_restriction(server: &Server, _: SystemTime) -> Verdict {
    let arguments = &server.arguments;
    let on = arguments.list("enable-admission-plugins").or_else(|| arguments.list("admission-control"));
    let off = arguments.list("disable-admission-plugins").unwrap_or_default();
    match on {
        _ if off.contains(&"NodeRestriction") => {
            Found("flag --disable-admission-plugins names NodeRestriction".to_owned())
        }
        Some(plugins) if plugins.contains(&"NodeRestriction") => {
            Fine(format!("flag --enable-admission-plugins={}", plugins.join(",")))
        }
        Some(plugins) => {
            Found(format!("flag --enable-admission-plugins={} without NodeRestriction", plugins.join(",")))
        }
        None => Found(format!(
            "flag --enable-admission-plugins absent; NodeRestriction is none of the defaults of {}",
            of(server)
        )),
    }
}

fn node_port(server: &Server, _: SystemTime) -> Verdict {
    match server.arguments.get("kubernetes-service-node-port") {
        Some("0") => Fine("flag --kubernetes-service-node-port=0".to_owned()),
        Some(port) => Found(format!("flag --kubernetes-service-node-port={port}")),
        None => Fine("flag --kubernetes-service-node-port absent; the default is 0".to_owned()),
    }
}

fn token_auth_file(server: &Server, _: SystemTime) -> Verdict {
    match server.arguments.get("token-auth-file") {
        Some(_) => Found("flag --token-auth-file names a file".to_owned()),
        None => Fine("flag --token-auth-file absent".to_owned()),
    }
}

fn profiling(server: &Server, _: SystemTime) -> Verdict {
    match server.arguments.switch("profiling") {
        Some(false) => Fine("flag --profiling=false".to_owned()),
        Some(true) => Found("flag --profiling=true".to_owned()),
        None => Found(format!("flag --profiling absent; default of {} is true", of(server))),
    }
}

fn certificate_names(server: &Server, _: SystemTime) -> Verdict {
    let Named::Read(certificate, path) = &server.certificate else { return Silent };
    let public = certificate.public();
    if public.is_empty() {
        Fine(format!("{path} names nothing public"))
    } else {
        Found(format!("{path}, issued by {}, names {}", certificate.issuer, public.join(", ")))
    }
}

fn certificate_end(server: &Server, now: SystemTime) -> Verdict {
    let Named::Read(certificate, path) = &server.certificate else { return Silent };
    let days = |time: Duration| time.as_secs() / 86_400;
    match certificate.ends.duration_since(now) {
        Err(_) => Worse(Severity::High, format!("{path}, issued by {}, has ended", certificate.issuer)),
        Ok(left) if left < ENDS_VERY_SOON => {
            Worse(Severity::High, format!("{path}, issued by {}, ends in {} days", certificate.issuer, days(left)))
        }
        Ok(left) if left < ENDS_SOON => {
            Found(format!("{path}, issued by {}, ends in {} days", certificate.issuer, days(left)))
        }
        Ok(left) => Fine(format!("{path}, issued by {}, ends in {} days", certificate.issuer, days(left))),
    }
}

/// The release in words.
fn of(server: &Server) -> String {
    server.release.map_or_else(|| "its release, which is not known,".to_owned(), |release| release.to_string())
}
