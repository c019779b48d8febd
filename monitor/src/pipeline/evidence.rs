//! What the API server itself tells of requests: the probe's hits and the audit log's events, joined with connections.

use std::sync::Arc;
use std::time::SystemTime;

use super::{Event, Pipeline};
use crate::anonymous::{AnonymousRequest, Decision, Evident, Told};
use crate::audit::event::{Request, Subject, UnauthenticatedReason};
use crate::classify::{Probing, RequestMeaning, decoded_path, expected};
use crate::export::metrics::Metrics;
use crate::inspect::{self, Credential, Evidence};
use crate::watch::Watch;

impl Pipeline {
    /// What is watched from now on: it says where addresses belong of which no packet was seen.
    pub fn set_watch(&mut self, watch: Arc<Watch>) {
        self.watch = watch;
    }

    /// From now on connections are remembered for evidence that may come of them.
    pub fn expect_evidence(&mut self) {
        self.anonymous.get_or_insert_default();
    }

    /// From now on the probe's hits wait for what the audit log says of them.
    pub fn expect_decisions(&mut self) {
        self.decisions.get_or_insert_default();
    }

    /// Takes what the API server itself told. Call it once that all records of before are taken, so that a request's
    /// connection is known.
    pub fn told(&mut self, told: Told, output: &mut impl FnMut(Event<'_>)) {
        match told {
            Told::Request(request) => self.evident(request, output),
            Told::Audited(subject) => self.audited(subject, output),
            Told::ProbeComplete(since) => self.anonymous.get_or_insert_default().set_probe_complete(since),
            Told::Own(client) => self.anonymous.get_or_insert_default().own(client),
            Told::SendsGoaway(port) => self.classifier.learn_goaway(self.watch.own_addresses(), port),
        }
    }

    fn evident(&mut self, request: Evident, output: &mut impl FnMut(Event<'_>)) {
        let joined = self.anonymous.get_or_insert_default().join(request, &self.watch);
        let joined = match &mut self.decisions {
            Some(decisions) if joined.request.evidence == Evidence::Probe => decisions.hit(joined),
            _ => Some(joined),
        };
        if let Some(joined) = joined {
            self.tell_anonymous(&joined, output);
        }
    }

    fn audited(&mut self, subject: Subject, output: &mut impl FnMut(Event<'_>)) {
        match subject {
            Subject::Anonymous(request) => {
                let evident = evident(request);
                let path = decoded_path(&evident.path);
                if let (Some(decisions), Some(ip), Some(path)) = (&mut self.decisions, evident.ip, path)
                    && let Some(hit) = decisions.event(ip, &evident.method, &path, evident.time, evident.decision)
                {
                    self.tell_anonymous(&hit, output);
                }
                self.evident(evident, output);
            }
            Subject::Unsecured(request) => {
                let joined = self.anonymous.get_or_insert_default().join_unsecured(evident(request), &self.watch);
                self.metrics.unsecured_request(&joined);
                output(Event::Anonymous(&joined));
            }
            Subject::Unauthenticated(request, reason) => self.unauthenticated(request, reason, output),
            Subject::NodeRestriction(..) | Subject::NodeRefused | Subject::Other => {}
        }
    }

    fn unauthenticated(&mut self, request: Request, reason: UnauthenticatedReason, output: &mut impl FnMut(Event<'_>)) {
        let class = request.source.map(|ip| self.watch.class(ip));
        self.metrics.unauthenticated_response(class, reason);
        let evident = evident(request);
        self.refused(&evident, output);
    }

    fn tell_anonymous(&mut self, joined: &AnonymousRequest, output: &mut impl FnMut(Event<'_>)) {
        self.metrics.anonymous_request(joined);
        output(Event::Anonymous(joined));
        if joined.request.decision == Decision::Denied {
            self.refused(&joined.request, output);
        }
    }

    /// A request was refused. What a healthy cluster asks for is no probing, refused or not.
    fn refused(&mut self, request: &Evident, output: &mut impl FnMut(Event<'_>)) {
        let Some(ip) = request.ip else { return };
        let class = self.watch.class(ip);
        if !expected(Some(class), &request.meaning) {
            let probing = self.classifier.refused(ip, class, request.evidence, request.time);
            tell_probing(probing, &self.metrics, output);
        }
    }

    /// Tells the hits that have waited for the audit log's word for too long.
    pub(super) fn tell_expired(&mut self, now: SystemTime, output: &mut impl FnMut(Event<'_>)) {
        for hit in self.decisions.as_mut().map(|decisions| decisions.expire(now)).unwrap_or_default() {
            self.tell_anonymous(&hit, output);
        }
    }

    /// Tells the hits that still wait for the audit log's word.
    pub(super) fn tell_undecided(&mut self, output: &mut impl FnMut(Event<'_>)) {
        for hit in self.decisions.as_mut().map(|decisions| decisions.finish()).unwrap_or_default() {
            self.tell_anonymous(&hit, output);
        }
    }

    /// Whether a server is known to send GOAWAY, so that requests that were accepted are told too.
    pub fn knows_goaway(&self) -> bool {
        self.classifier.knows_goaway()
    }
}

/// Tells a burst, should there be one.
pub(super) fn tell_probing(probing: Option<Probing>, metrics: &Metrics, output: &mut impl FnMut(Event<'_>)) {
    if let Some(probing) = probing {
        metrics.probing(&probing);
        output(Event::Probing(&probing));
    }
}

/// A request of the audit log as evidence.
fn evident(request: Request) -> Evident {
    let Request { time, source, method, path, query, code: status, allowed } = request;
    let sent = inspect::Request { method, path, query, credential: Credential::None, status, reported: false };
    let meaning = RequestMeaning::of(&sent);
    Evident {
        time: time.unwrap_or_else(SystemTime::now),
        ip: source,
        port: None,
        method: sent.method,
        path: sent.path,
        meaning,
        decision: match allowed {
            None => Decision::Unknown,
            Some(true) => Decision::Allowed,
            Some(false) => Decision::Denied,
        },
        let_in: true,
        evidence: Evidence::Audit,
    }
}
