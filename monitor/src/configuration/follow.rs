//! Looks again and again: metrics and events of what changed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::system::{self, Places};
use super::{AnonymousMode, Finding, FindingKind, Report};
use crate::export::Metrics;

/// Configuration is read so often. A changed flag restarts the API server, which takes longer.
const EVERY: Duration = Duration::from_secs(60);

/// Looks until `shutdown` becomes true. `tell` gets each finding that appears, and each that is no longer so.
pub async fn follow(
    places: Places,
    metrics: Arc<Metrics>,
    mut tell: impl FnMut(&Finding),
    mut shutdown: watch::Receiver<bool>,
) {
    let mut known = Known::default();
    let mut said = Vec::new();
    loop {
        let places = places.clone();
        let Ok(mut report) = tokio::task::spawn_blocking(move || system::look(&places, SystemTime::now())).await else {
            tracing::error!("reading the API server's configuration panicked; it is read no more");
            return;
        };
        report.findings.extend(with_traffic(report.anonymous, metrics.anonymous_allowed_from_public()));
        metrics.configuration(&report, SystemTime::now());
        for (_, why) in report.unreadable.iter().filter(|unreadable| !said.contains(*unreadable)) {
            tracing::warn!("configuration: {why}");
        }
        for finding in known.changes(&report) {
            let state = if finding.found { "found" } else { "closed" };
            tracing::info!(
                "configuration {state}: {} ({}): {}",
                finding.kind.label(),
                finding.subject,
                finding.evidence
            );
            tell(&finding);
        }
        said = report.unreadable;
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = shutdown.wait_for(|end| *end) => return,
        }
    }
}

/// Configuration and traffic together are one finding: who is let in, and that from public addresses somebody was, and
/// was allowed. `allowed` counts requests since the monitor started.
pub fn with_traffic(mode: Option<AnonymousMode>, allowed: u64) -> Option<Finding> {
    let mode = mode.filter(|mode| *mode != AnonymousMode::Off)?;
    let kind = FindingKind::AnonymousAllowedFromPublic;
    let mode = match mode {
        AnonymousMode::All => "anonymous authentication is on",
        AnonymousMode::Paths => "anonymous authentication is on for some paths",
        AnonymousMode::Unknown | AnonymousMode::Off => "whether anonymous authentication is on is not known",
    };
    Some(Finding {
        kind,
        found: allowed > 0,
        severity: kind.severity(),
        cis: kind.cis(),
        subject: "configuration and traffic".to_owned(),
        evidence: format!(
            "{mode}, and {allowed} anonymous requests from public addresses were allowed since this monitor started"
        ),
        advice: (allowed > 0).then(|| kind.advice()),
    })
}

/// What was found last.
#[derive(Debug, Default)]
pub struct Known(HashMap<(FindingKind, String), Finding>);

impl Known {
    /// Findings that are new, and those that are no longer so, as closed.
    pub fn changes(&mut self, report: &Report) -> Vec<Finding> {
        let now: HashMap<_, _> = report
            .findings
            .iter()
            .filter(|finding| finding.found)
            .map(|finding| ((finding.kind, finding.subject.clone()), finding.clone()))
            .collect();
        let mut changes: Vec<Finding> =
            now.iter().filter(|(key, _)| !self.0.contains_key(key)).map(|(_, finding)| finding.clone()).collect();
        // Only what was judged to be fine is closed: an API server that is gone, or that cannot be read now, is not.
        let judged: HashMap<_, _> =
            report.findings.iter().map(|finding| ((finding.kind, finding.subject.as_str()), finding.found)).collect();
        let closed =
            self.0.values().filter(|finding| judged.get(&(finding.kind, finding.subject.as_str())) == Some(&false));
        changes.extend(closed.map(|finding| Finding { found: false, advice: None, ..finding.clone() }));
        changes.sort_by(|one, other| (one.kind, &one.subject).cmp(&(other.kind, &other.subject)));
        self.0 = now;
        changes
    }
}
