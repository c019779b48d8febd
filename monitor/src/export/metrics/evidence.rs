//! Counting what the API server itself tells: by the probe, and in its audit log.

use std::time::SystemTime;

use monitor_common::SourceClass;

use super::Metrics;
use crate::anonymous::{Agreement, AnonymousRequest, INFERRED};
use crate::audit::event::UnauthenticatedReason;
use crate::audit::follower::Change;
use crate::audit::log::AuditKind;
use crate::audit::node_restriction::{NodeRefusal, NodeResource};
use crate::classify::{ExposureKind, Probing};
use crate::inspect::Evidence;
use crate::probe::ProbeLoss;
use crate::probe::process::Component;

impl Metrics {
    /// A request without a credential of which the API server itself told.
    pub fn anonymous_request(&self, joined: &AnonymousRequest) {
        let AnonymousRequest { request, class, flow, new_exposures, .. } = joined;
        self.anonymous_requests.increment([
            class.map_or(SourceClass::COUNT, |class| class as usize),
            request.meaning.verb as usize,
            request.meaning.path_class as usize,
            request.decision as usize,
            request.evidence as usize,
        ]);
        if request.evidence == Evidence::Probe {
            self.probe_hits.increment([usize::from(flow.is_none())]);
        }
        for kind in new_exposures {
            // An exposure has a class; an address that is not known is nobody's inside.
            let class = class.unwrap_or(SourceClass::Public);
            self.exposures.increment([*kind as usize, class as usize]);
        }
    }

    /// A request at the insecure port of which the audit log told.
    pub fn unsecured_request(&self, joined: &AnonymousRequest) {
        let class = joined.class.unwrap_or(SourceClass::Public);
        for kind in &joined.new_exposures {
            self.exposures.increment([*kind as usize, class as usize]);
        }
    }

    /// A burst of refused requests from one address.
    pub fn probing(&self, probing: &Probing) {
        self.exposures.increment([ExposureKind::AnonymousProbing as usize, probing.class as usize]);
    }

    /// What was inferred of a connection, beside what the probe saw.
    pub fn agreement(&self, agreement: Agreement) {
        let inferred = INFERRED.iter().position(|word| *word == agreement.inferred).unwrap_or(INFERRED.len());
        self.inference_agreement.increment([inferred, agreement.actual as usize]);
    }

    /// How many processes of this kind of API server are probed now, and how many cannot be.
    pub fn set_probed(&self, component: Component, attached: usize, not_attached: usize) {
        self.probe_attached.set([component as usize], attached as u64);
        self.probe_not_attached.set([component as usize], not_attached as u64);
    }

    /// Requests that the probe saw were lost, or not wholly read; since the start.
    pub fn set_probe_lost(&self, reason: ProbeLoss, count: u64) {
        self.probe_lost.set([reason as usize], count);
    }

    /// A self-test ended.
    pub fn self_test(&self, success: bool, time: SystemTime) {
        self.self_test_success.set(&[], if success { 1.0 } else { 0.0 });
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.self_test_timestamp.set(&[], since.as_secs_f64());
    }

    /// No API server is there to be tested any more.
    pub fn no_self_test(&self) {
        self.self_test_success.remove(|_| true);
        self.self_test_timestamp.remove(|_| true);
    }

    /// An event of the audit log.
    pub fn audit_event(&self, kind: AuditKind) {
        self.audit_events.increment([kind as usize]);
    }

    /// A line of the audit log that is no event.
    pub fn audit_malformed_line(&self) {
        self.audit_malformed_lines.increment([]);
    }

    /// Whether the audit log can be read now.
    pub fn set_audit_log_readable(&self, readable: bool) {
        self.audit_log_readable.set(&[], f64::from(u8::from(readable)));
    }

    /// Something happened to the audit log's file.
    pub fn audit_log_change(&self, change: Change) {
        self.audit_log_changes.increment([change as usize]);
    }

    /// The API server refused a request of this client's with 401.
    pub fn unauthenticated_response(&self, source: Option<SourceClass>, reason: UnauthenticatedReason) {
        let source = source.map_or(SourceClass::COUNT, |source| source as usize);
        self.unauthenticated_responses.increment([source, reason as usize]);
    }

    /// NodeRestriction refused a node's write.
    pub fn node_restriction_refused(&self, resource: NodeResource, refusal: NodeRefusal) {
        self.node_restriction_refused.increment([resource as usize, refusal as usize]);
    }
}
