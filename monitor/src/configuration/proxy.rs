//! `kubectl proxy`: it lends its own credential to whoever reaches its port.
//!
//! It listens on 127.0.0.1 unless `--address` says otherwise, and answers hosts that `--accept-hosts` matches
//! (Kubernetes 1.37, staging/src/k8s.io/kubectl/pkg/cmd/proxy/proxy.go).

use std::net::IpAddr;

use super::arguments::Arguments;
use super::{Finding, FindingKind};

/// The finding about a process with this command line; `None` where it is no `kubectl proxy`.
pub fn judge(process: u32, words: &[String]) -> Option<Finding> {
    let (program, rest) = words.split_first()?;
    let name = program.rsplit('/').next()?;
    if !(name == "kubectl" || name.starts_with("kubectl-") || name == "oc") {
        return None;
    }
    if command(rest)? != "proxy" {
        return None;
    }
    let arguments = Arguments::read(rest.iter().map(String::as_str));
    let address = arguments.get("address").unwrap_or("127.0.0.1");
    // Go's net.Listen: an empty host is every address, and one of IPv6 stands in brackets. What is no address is a name,
    // of which nothing is known but that `localhost` is this machine.
    let loopback = match address.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback(),
        Err(_) => address == "localhost",
    };
    let beyond = !loopback && arguments.get("unix-socket").is_none();
    let port = short(rest, "-p").or(arguments.get("port")).unwrap_or("8001");
    let kind = FindingKind::KubectlProxyExposed;
    Some(Finding {
        kind,
        found: beyond,
        severity: kind.severity(),
        cis: kind.cis(),
        subject: format!("kubectl proxy (process {process})"),
        evidence: match arguments.get("address") {
            Some(_) => format!("flag --address={address}, port {port}"),
            None => format!("flag --address absent; the default is 127.0.0.1; port {port}"),
        },
        advice: beyond.then(|| kind.advice()),
    })
}

/// Global flags of kubectl that take the next word as their value (`kubectl options`, Kubernetes 1.37).
const WITH_VALUES: [&str; 22] = [
    "-n",
    "--namespace",
    "-s",
    "--server",
    "-v",
    "--v",
    "--kubeconfig",
    "--context",
    "--cluster",
    "--user",
    "--token",
    "--as",
    "--as-group",
    "--as-uid",
    "--cache-dir",
    "--certificate-authority",
    "--client-certificate",
    "--client-key",
    "--request-timeout",
    "--tls-server-name",
    "--profile",
    "--profile-output",
];

/// The command: the first word that is neither a flag nor a flag's value.
fn command(words: &[String]) -> Option<&str> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if !word.starts_with('-') {
            return Some(word);
        }
        if WITH_VALUES.contains(&word.as_str()) {
            words.next();
        }
    }
    None
}

/// The value of a flag of one letter: `-p 8080`, `-p=8080` or `-p8080`.
fn short<'a>(words: &'a [String], flag: &str) -> Option<&'a str> {
    let at = words.iter().position(|word| word.starts_with(flag) && !word.starts_with("--"))?;
    match words[at][flag.len()..].trim_start_matches('=') {
        "" => words.get(at + 1).map(String::as_str),
        value => Some(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_that_listens_beyond_loopback_is_found() {
        for (line, expected) in [
            ("kubectl proxy", Some(false)),
            ("kubectl proxy -p", Some(false)),
            ("/usr/bin/kubectl --kubeconfig /a proxy --port=8080 --address=0.0.0.0 --accept-hosts=.*", Some(true)),
            ("kubectl proxy --address 192.0.2.7 -p 9000", Some(true)),
            ("kubectl proxy --address=[::]", Some(true)),
            ("kubectl proxy --address=", Some(true)),
            ("kubectl proxy --address=localhost", Some(false)),
            ("kubectl -n proxy port-forward --address=0.0.0.0 pod/a 1", None),
            ("kubectl -n default proxy --address=0.0.0.0", Some(true)),
            ("kubectl proxy --address=::1", Some(false)),
            ("kubectl proxy --address=0.0.0.0 --unix-socket=/run/x", Some(false)),
            ("kubectl get pods", None),
            ("kube-proxy --address=0.0.0.0", None),
            ("kubelet proxy", None),
            ("", None),
        ] {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(judge(7, &words).map(|finding| finding.found), expected, "{line}");
        }
    }
}
