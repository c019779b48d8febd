//! What the monitor said beside what the audit log and the cases say.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::e2e::audit::{Actor, Request};
use crate::e2e::monitor::{Counts, Seen};

use super::cases::Case;
use super::play;

/// How often the monitor said what, by what was so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matrix(BTreeMap<(String, String), u64>);

impl Matrix {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Counts one more.
    pub fn add(&mut self, truth: &str, said: &str) {
        *self.0.entry((truth.to_owned(), said.to_owned())).or_default() += 1;
    }

    /// Adds another one.
    pub fn extend(&mut self, other: &Self) {
        for (key, count) in &other.0 {
            *self.0.entry(key.clone()).or_default() += count;
        }
    }

    /// How often this was said where that was so.
    pub fn count(&self, truth: &str, said: &str) -> u64 {
        self.0.get(&(truth.to_owned(), said.to_owned())).copied().unwrap_or(0)
    }

    /// How often something was so.
    pub fn total(&self, truth: &str) -> u64 {
        self.0.iter().filter(|((row, _), _)| row == truth).map(|(_, count)| count).sum()
    }
}

/// Rows are what was so, columns are what was said.
impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: BTreeSet<&str> = self.0.keys().map(|(truth, _)| truth.as_str()).collect();
        let columns: BTreeSet<&str> = self.0.keys().map(|(_, said)| said.as_str()).collect();
        let first = rows.iter().map(|row| row.len()).chain(["is \\ said".len()]).max().unwrap_or(0);
        write!(f, "  {:first$}", "is \\ said")?;
        for column in &columns {
            write!(f, "  {column}")?;
        }
        for row in rows {
            write!(f, "\n  {row:first$}")?;
            for column in &columns {
                write!(f, "  {:>width$}", self.count(row, column), width = column.len())?;
            }
        }
        Ok(())
    }
}

/// What came of a session with one server.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Of the client's certificate.
    pub certificates: Matrix,
    /// Of the first request over HTTP/2.
    pub first_requests: Matrix,
    /// As the monitor itself counts it, where the probe knows better.
    pub agreement: Matrix,
    /// Requests of which exact evidence was compared, one by one.
    pub exact: usize,
    /// What was not as it has to be, a line each.
    pub failures: Vec<String>,
}

impl Outcome {
    /// Counts what was said of a first request. That one without a credential was accepted is not told here but in
    /// [`Matrix`]: the server is free to leave its GOAWAY out, and on a busy machine it does.
    pub fn first_request(&mut self, truth: &str, said: &str, name: &str) {
        if said != "unknown" && said != truth && !(said == "accepted" && ["anonymous", "refused"].contains(&truth)) {
            self.failures.push(format!("{name}: first request `{said}` instead of `{truth}`"));
        }
        self.first_requests.add(truth, said);
    }
}

/// Compares the requests of a case with what had to become of them, and its connections with what was said of them.
pub fn case(
    outcome: &mut Outcome,
    case: &Case,
    actor: Actor,
    said: &str,
    requests: &[&Request],
    connections: &[&Seen],
) {
    let told = |text: String| format!("{}: {text}; the client said: {said}", case.name);
    let taken: Vec<(Actor, &str)> = requests.iter().map(|request| (request.actor, request.path.as_str())).collect();
    if taken != vec![(actor, case.path); case.connections.len()] {
        let wanted = (case.connections.len(), actor.word(), case.path);
        return outcome.failures.push(told(format!("the audit log has {taken:?} and has to have {wanted:?}")));
    }
    if connections.len() != case.connections.len() {
        let (seen, wanted) = (connections.len(), case.connections.len());
        return outcome.failures.push(told(format!("{seen} connections seen instead of {wanted}")));
    }
    for (expected, seen) in case.connections.iter().zip(connections) {
        let facts = [
            ("/tls/version", expected.tls.to_owned()),
            ("/tls/resumed", expected.resumed.to_string()),
            ("/tls/handshake", "completed".to_owned()),
            ("/outcome", "established".to_owned()),
            ("/source/class", play::class_of(&seen.source).to_owned()),
        ];
        for (pointer, wanted) in facts {
            if seen.word(pointer) != wanted {
                let word = seen.word(pointer);
                outcome.failures.push(told(format!("{pointer} is `{word}` instead of `{wanted}`")));
            }
        }
        let certificate = seen.word("/tls/client_certificate");
        // In TLS 1.2 the certificate goes in the clear.
        if certificate != expected.client_certificate()
            && (certificate != "unknown" || expected.tls == "1.2" && !expected.resumed)
        {
            let wanted = expected.client_certificate();
            outcome.failures.push(told(format!("certificate `{certificate}` instead of `{wanted}`")));
        }
        let first = seen.word("/tls/first_request");
        let truth = if expected.http2 { actor.word() } else { "over HTTP/1.1" };
        outcome.certificates.add(expected.client_certificate(), &certificate);
        outcome.first_request(truth, &first, &case.name);
    }
}

/// Requests by (source, verb, class of path).
pub fn requests<'a>(requests: impl Iterator<Item = &'a Request>) -> Counts {
    let mut counts = Counts::new();
    for request in requests {
        let words = [play::class_of(&request.source), &request.verb, path_class(&request.path)];
        *counts.entry(words.map(str::to_owned).into()).or_default() += 1;
    }
    counts
}

/// The monitor's word for the paths of the cases.
fn path_class(path: &str) -> &'static str {
    let first = path.split('/').nth(1).unwrap_or_default();
    match first {
        "livez" | "readyz" | "healthz" => "health",
        "version" => "version",
        "api" | "apis" if path.split('/').count() < 5 && !path.contains("/v1/") => "discovery",
        _ if path.ends_with("/configmaps/cluster-info") => "cluster_info",
        _ if path.contains("/secrets") => "secret",
        "api" | "apis" => "resource",
        _ => "other",
    }
}

/// Where two counts differ, a line each.
pub fn differences(name: &str, truth: &Counts, said: &Counts) -> Vec<String> {
    let keys: BTreeSet<_> = truth.keys().chain(said.keys()).collect();
    let count = |counts: &Counts, key: &Vec<String>| counts.get(key).copied().unwrap_or(0);
    let differing = keys.into_iter().filter(|key| count(truth, key) != count(said, key));
    differing.map(|key| format!("{name} {key:?}: {} instead of {}", count(said, key), count(truth, key))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_counts_what_was_said_of_what() {
        let mut matrix = Matrix::default();
        for (truth, said) in [("absent", "absent"), ("absent", "unknown"), ("presented", "absent")] {
            matrix.add(truth, said);
        }
        assert_eq!((matrix.total("absent"), matrix.count("absent", "absent")), (2, 1));
        let text = matrix.to_string();
        assert_eq!(text.lines().last().unwrap(), "  presented       1        0");
    }

    #[test]
    fn differences_go_in_both_directions() {
        let counts = |entries: &[(&str, u64)]| entries.iter().map(|(key, n)| (vec![(*key).to_owned()], *n)).collect();
        let lines = differences("x", &counts(&[("a", 1), ("b", 2)]), &counts(&[("b", 2), ("c", 3)]));
        assert_eq!(lines, ["x [\"a\"]: 0 instead of 1", "x [\"c\"]: 3 instead of 0"]);
    }

    #[test]
    fn the_paths_of_the_cases_have_their_class() {
        for (path, class) in [
            ("/livez", "health"),
            ("/version", "version"),
            ("/apis", "discovery"),
            ("/api/v1/nodes", "resource"),
            ("/api/v1/namespaces/default/secrets", "secret"),
            ("/api/v1/namespaces/kube-public/configmaps/cluster-info", "cluster_info"),
            ("/favicon.ico", "other"),
        ] {
            assert_eq!(path_class(path), class, "{path}");
        }
    }
}
