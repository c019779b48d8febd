//! What is counted of the API server's configuration.

use std::time::SystemTime;

use monitor_common::SourceClass;

use super::Metrics;
use crate::anonymous::Decision;
use crate::classify::{PathClass, Verb};
use crate::configuration::{AnonymousMode, FindingKind, Report};
use crate::inspect::Evidence;

impl Metrics {
    /// What was read of the configuration now; series of before that say nothing any more are gone.
    pub fn configuration(&self, report: &Report, time: SystemTime) {
        self.configuration_finding.remove(|_| true);
        for kind in FindingKind::ALL {
            let of_kind = report.findings.iter().filter(|finding| finding.kind == *kind);
            // Of several API servers the worst.
            let Some(worst) = of_kind.max_by_key(|finding| (finding.found, finding.severity)) else { continue };
            let words = [kind.label(), worst.severity.label()];
            self.configuration_finding.set(&words, if worst.found { 1.0 } else { 0.0 });
        }
        self.configuration_unreadable.remove(|_| true);
        for (source, _) in &report.unreadable {
            let of_source = report.unreadable.iter().filter(|(other, _)| other == source).count();
            self.configuration_unreadable.set(&[source.label()], of_source as f64);
        }
        self.anonymous_auth_mode.remove(|_| true);
        for mode in report.anonymous.iter().flat_map(|_| AnonymousMode::ALL) {
            let is = report.anonymous == Some(*mode);
            self.anonymous_auth_mode.set(&[mode.label()], if is { 1.0 } else { 0.0 });
        }
        self.serving_certificate_expiry.remove(|_| true);
        if let Some(ends) = report.certificate_ends {
            self.serving_certificate_expiry.set(&[], ends as f64);
        }
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.configuration_checked.set(&[], since.as_secs_f64());
    }

    /// Anonymous requests from public addresses that were allowed, beyond those that anybody may make. The probe and the
    /// audit log see the same requests: the larger of both.
    pub fn anonymous_allowed_from_public(&self) -> u64 {
        let meant = [PathClass::Discovery, PathClass::Resource, PathClass::Secret, PathClass::Exec, PathClass::Other];
        let of = |evidence: Evidence| -> u64 {
            let verbs =
                Verb::ALL.iter().flat_map(|verb| meant.iter().map(move |path| (*verb as usize, *path as usize)));
            verbs
                .map(|(verb, path)| {
                    let (source, decision) = (SourceClass::Public as usize, Decision::Allowed as usize);
                    self.anonymous_requests.get([source, verb, path, decision, super::evidence(Some(evidence))])
                })
                .sum()
        };
        of(Evidence::Probe).max(of(Evidence::Audit))
    }
}
