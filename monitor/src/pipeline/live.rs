//! One connection as it is read: what is new about it is told, once.

use std::time::Duration;

use monitor_common::{Asked, Role};

use super::{Event, Live, evidence};
use crate::classify::{Classifier, Destination, PathClass, RequestMeaning};
use crate::discover::{Discovery, OtherReply};
use crate::export::metrics::Metrics;
use crate::inspect::{Observation, Protocol};
use crate::reassemble::Chunk;

impl Live {
    /// Whether anything is told of this connection. On a port that nobody named its replies decide that.
    pub(super) fn is_told(&mut self, discovery: &mut Discovery) -> bool {
        let Destination { port, role, .. } = self.connection.destination;
        if role != Role::Discovered {
            return true;
        }
        let observation = &self.connection.observation;
        if observation.kubernetes {
            discovery.is_kubernetes(port, self.last_heard);
        } else if observation.other_reply && !self.told {
            discovery.is_other(port, other_reply(observation), self.last_heard);
        }
        self.told |= discovery.is_found(port);
        self.told
    }

    /// Brings what is known of the connection to its meaning, and tells what is new about it.
    pub(super) fn classify(
        &mut self,
        classifier: &mut Classifier,
        metrics: &Metrics,
        ended: bool,
        output: &mut impl FnMut(Event<'_>),
    ) {
        let found = classifier.classify(&mut self.connection);
        let now = self.connection.time + Duration::from_nanos(self.last_heard.saturating_sub(self.began));
        if !self.counted && (ended || self.connection.observation.protocol != Protocol::None) {
            self.counted = true;
            metrics.connection(&self.connection);
        }
        for kind in found {
            metrics.exposure(&self.connection, kind);
            output(Event::Exposure(&self.connection, kind));
        }
        if ended {
            evidence::tell_probing(classifier.refused_first_request(&self.connection, now), metrics, output);
        }
        while let Some(request) = self.connection.observation.requests.get(self.requests_reported)
            && (ended || request.status.is_some())
        {
            metrics.request(&self.connection, self.requests_reported);
            output(Event::Request(&self.connection, self.requests_reported));
            if let Some(meaning) = self.connection.requests.get(self.requests_reported) {
                let probing = classifier.refused_request(&self.connection, request, meaning, now);
                evidence::tell_probing(probing, metrics, output);
            }
            self.requests_reported += 1;
        }
        for request in self.connection.observation.take_overflow() {
            let meaning = RequestMeaning::of(&request);
            metrics.unlisted_request(&self.connection, &request, &meaning);
            let probing = classifier.refused_request(&self.connection, &request, &meaning, now);
            evidence::tell_probing(probing, metrics, output);
        }
    }

    /// The connection's last word.
    pub(super) fn close(
        &mut self,
        classifier: &mut Classifier,
        discovery: &mut Discovery,
        metrics: &Metrics,
        output: &mut impl FnMut(Event<'_>),
    ) {
        let Self { streams, inspector, connection, reset, .. } = self;
        streams.finish(&mut |chunk: Chunk<'_>| {
            count_gap(metrics, &chunk);
            inspector.chunk(&chunk, &mut connection.observation);
        });
        if let Some((_, side)) = *reset {
            inspector.chunk(&Chunk::End { side }, &mut connection.observation);
        }
        inspector.finish(&mut connection.observation);
        metrics.reassembly(&streams.take_counts());
        if !self.is_told(discovery) {
            return discovery.ended(self.connection.destination.port, self.last_heard);
        }
        self.classify(classifier, metrics, true, output);
        metrics.handshake(&self.connection);
        if let Some(reason) = self.connection.observation.unclassified {
            metrics.unclassified(reason);
        }
        output(Event::Connection(&self.connection));
    }
}

/// What the first answer of a server that is not the Kubernetes API's says.
fn other_reply(observation: &Observation) -> OtherReply {
    let answered = observation.requests.iter().find(|request| request.status.is_some());
    let health = answered.is_some_and(|request| RequestMeaning::of(request).path_class == PathClass::Health);
    OtherReply {
        asked: if health { Asked::Health } else { Asked::Api },
        error: !answered.and_then(|request| request.status).is_some_and(|status| (200..300).contains(&status)),
    }
}

pub(super) fn count_gap(metrics: &Metrics, chunk: &Chunk<'_>) {
    if let Chunk::Gap { length, reason, .. } = chunk {
        metrics.gap(*reason, *length);
    }
}
