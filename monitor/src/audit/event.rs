//! One audit event: what of it is taken, and what it says.
//!
//! The fields are those of staging/src/k8s.io/apiserver/pkg/apis/audit/v1/types.go, Kubernetes 1.37. Objects of requests
//! and responses are passed over, and a query string is not kept.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

use monitor_common::closed_set;
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};

use super::node_restriction::{NodeRefusal, NodeResource};
use super::position::checksum;
use super::time;
use crate::inspect::{QueryHints, path_and_hints};

/// Whom the API server calls a request without a credential.
const ANONYMOUS: &str = "system:anonymous";

/// Whom it calls a request at the insecure port.
const UNSECURED: &str = "system:unsecured";

/// What nodes' names begin with.
const NODE: &str = "system:node:";

/// Verbs that write.
const WRITES: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];

closed_set! {
    /// At which point of a request an event was made.
    Stage {
        /// Before anything was done.
        RequestReceived = "RequestReceived",
        /// Its answer has begun: of requests that last (watch, exec), and of what was refused with 401, which has no
        /// other event (staging/src/k8s.io/apiserver/pkg/endpoints/filters/authn_audit.go).
        ResponseStarted = "ResponseStarted",
        /// Its answer is complete.
        ResponseComplete = "ResponseComplete",
        /// The API server panicked.
        Panic = "Panic",
    }
}

closed_set! {
    /// Why a request was refused with 401.
    UnauthenticatedReason {
        /// It carried no credential, and the API server lets nobody in without one.
        NoCredentials = "no_credentials",
        /// It carried one that is not accepted.
        BadCredential = "bad_credential",
        /// The event does not tell; it does not in the API server's own, whose answer takes the place of that word.
        Unknown = "unknown",
    }
}

/// What one line says.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// At which point it was made.
    pub stage: Stage,
    /// Tells a request from others, where one has several events.
    pub request: u64,
    /// What it is about.
    pub subject: Subject,
}

/// Whose request it was, as far as that is of interest.
#[derive(Clone, Debug, PartialEq)]
pub enum Subject {
    /// Nobody's: it carried no credential and was let in as such.
    Anonymous(Request),
    /// Nobody's, at the insecure port: it may do anything.
    Unsecured(Request),
    /// It was refused with 401.
    Unauthenticated(Request, UnauthenticatedReason),
    /// A node's, whose write NodeRestriction refused.
    NodeRestriction(NodeResource, NodeRefusal),
    /// A node's, whose write the authorizer or another admission plugin refused.
    NodeRefused,
    /// Anybody else's.
    Other,
}

/// One request as the API server saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// When the API server received it.
    pub time: Option<SystemTime>,
    /// Whose connection it came by. What a client or a proxy says of addresses behind it is not taken.
    pub source: Option<IpAddr>,
    /// Its method, as far as the event's verb tells: HEAD is GET.
    pub method: String,
    /// Its path as it was sent, without query; at most 2,048 bytes of it.
    pub path: String,
    /// What its query says about the verb.
    pub query: QueryHints,
    /// The answer's status code.
    pub code: Option<u16>,
    /// Whether it was allowed; `None` where authorization was not asked.
    pub allowed: Option<bool>,
}

impl Event {
    /// Reads one line.
    ///
    /// # Errors
    /// It is no audit event in JSON.
    pub fn from_json(line: &[u8]) -> Result<Self, Malformed> {
        let fields: Fields<'_> = serde_json::from_slice(line).map_err(|_| Malformed)?;
        if fields.kind != "Event" || !fields.api_version.starts_with("audit.k8s.io/") {
            return Err(Malformed);
        }
        let stage = Stage::from_label(&fields.stage).ok_or(Malformed)?;
        let identity = [&*fields.audit_id, &fields.verb, &fields.request_uri].map(str::as_bytes).join(&0);
        Ok(Self { stage, request: checksum(&identity), subject: fields.subject() })
    }
}

/// A line that is no audit event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no audit event in JSON")]
pub struct Malformed;

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow, rename = "apiVersion")]
    api_version: Cow<'a, str>,
    #[serde(borrow, rename = "auditID")]
    audit_id: Cow<'a, str>,
    #[serde(borrow)]
    stage: Cow<'a, str>,
    #[serde(borrow, rename = "requestURI")]
    request_uri: Cow<'a, str>,
    #[serde(borrow)]
    verb: Cow<'a, str>,
    #[serde(borrow, default)]
    user: User<'a>,
    #[serde(borrow, default, rename = "sourceIPs")]
    source_ips: Last<'a>,
    #[serde(borrow, default, rename = "objectRef")]
    object: Option<Object<'a>>,
    #[serde(borrow, default, rename = "responseStatus")]
    response: Option<Response<'a>>,
    #[serde(borrow, default, rename = "requestReceivedTimestamp")]
    received: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    annotations: Option<Annotations<'a>>,
}

#[derive(Default, Deserialize)]
struct User<'a> {
    #[serde(borrow, default)]
    username: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Object<'a> {
    #[serde(borrow, default)]
    resource: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Response<'a> {
    #[serde(default)]
    code: u16,
    #[serde(borrow, default)]
    message: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Annotations<'a> {
    #[serde(borrow, default, rename = "authorization.k8s.io/decision")]
    decision: Option<Cow<'a, str>>,
}

/// The last text of a list. Of addresses it is the only one that a client cannot choose.
#[derive(Default)]
struct Last<'a>(Option<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for Last<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;

        #[derive(Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

        impl<'de> Visitor<'de> for Texts {
            type Value = Last<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list of texts")
            }

            fn visit_unit<E>(self) -> Result<Last<'de>, E> {
                Ok(Last(None))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut texts: A) -> Result<Last<'de>, A::Error> {
                let mut last = None;
                while let Some(Text(text)) = texts.next_element()? {
                    last = Some(text);
                }
                Ok(Last(last))
            }
        }

        deserializer.deserialize_any(Texts)
    }
}

impl Fields<'_> {
    fn subject(&self) -> Subject {
        let code = self.code();
        match &*self.user.username {
            ANONYMOUS => Subject::Anonymous(self.request()),
            UNSECURED => Subject::Unsecured(self.request()),
            "" if code == Some(401) => Subject::Unauthenticated(self.request(), self.reason()),
            user if user.starts_with(NODE) && code == Some(403) && WRITES.contains(&&*self.verb) => self.refused(),
            _ => Subject::Other,
        }
    }

    fn code(&self) -> Option<u16> {
        self.response.as_ref().map(|response| response.code).filter(|code| *code != 0)
    }

    fn request(&self) -> Request {
        let (path, query) = path_and_hints(self.request_uri.as_bytes());
        Request {
            time: self.received.as_deref().and_then(time::parse),
            source: self.source_ips.0.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok()).map(|ip| ip.to_canonical()),
            method: method(&self.verb),
            path,
            query,
            code: self.code(),
            allowed: self.allowed(),
        }
    }

    /// staging/src/k8s.io/apiserver/pkg/endpoints/filters/authorization.go.
    fn allowed(&self) -> Option<bool> {
        match self.annotations.as_ref().and_then(|annotations| annotations.decision.as_deref()) {
            Some("allow") => Some(true),
            Some("forbid") => Some(false),
            _ => matches!(self.code(), Some(401 | 403)).then_some(false),
        }
    }

    /// The words of `getAuthMethods` in staging/src/k8s.io/apiserver/pkg/endpoints/filters/authn_audit.go. Basic and
    /// `access_token` are none to the API server.
    fn reason(&self) -> UnauthenticatedReason {
        let message = self.response.as_ref().map_or("", |response| &*response.message);
        match message.strip_prefix("Authentication failed, ") {
            Some("no credentials provided") => UnauthenticatedReason::NoCredentials,
            Some(attempted) => match attempted.strip_prefix("attempted: ") {
                Some(methods) if methods.split(", ").any(|method| matches!(method, "bearer" | "x509")) => {
                    UnauthenticatedReason::BadCredential
                }
                Some(_) => UnauthenticatedReason::NoCredentials,
                None => UnauthenticatedReason::Unknown,
            },
            None => UnauthenticatedReason::Unknown,
        }
    }

    fn refused(&self) -> Subject {
        let message = self.response.as_ref().map_or("", |response| &*response.message);
        match (self.allowed(), NodeRefusal::of(message)) {
            // Only what is authorized comes to admission.
            (Some(true), Some(refusal)) => {
                let resource = self.object.as_ref().map_or("", |object| &*object.resource);
                Subject::NodeRestriction(NodeResource::of(resource), refusal)
            }
            _ => Subject::NodeRefused,
        }
    }
}

/// The method of a request with this verb: `RequestInfo`'s verbs, or the method in lower case where the path is no
/// resource (staging/src/k8s.io/apiserver/pkg/endpoints/request/requestinfo.go).
fn method(verb: &str) -> String {
    match verb {
        "get" | "list" | "watch" | "head" => "GET".to_owned(),
        "create" => "POST".to_owned(),
        "update" => "PUT".to_owned(),
        "deletecollection" => "DELETE".to_owned(),
        verb => verb.chars().take(16).collect::<String>().to_ascii_uppercase(),
    }
}

#[cfg(test)]
#[path = "event_tests.rs"]
mod tests;
