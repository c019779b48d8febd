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
    // The first word that is neither a flag nor a flag's value is the command; the values of global flags may come first.
    if !rest.iter().any(|word| word == "proxy") {
        return None;
    }
    let arguments = Arguments::read(rest.iter().map(String::as_str));
    let address = arguments.get("address").unwrap_or("127.0.0.1");
    let beyond = address.parse().is_ok_and(|ip: IpAddr| !ip.is_loopback()) && arguments.get("unix-socket").is_none();
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
            ("kubectl proxy --address=::", Some(true)),
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
