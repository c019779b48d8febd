//! Why an object cannot be followed: a closed set of reasons, and words that hold no secret. What errors of the client
//! say themselves is not printed: it may quote answers, and the output of a kubeconfig's credential plugin.

use std::error::Error as StdError;
use std::fmt;
use std::io::ErrorKind;

use kube::runtime::watcher;
use monitor_common::closed_set;

use super::Object;

closed_set! {
    /// Why an object cannot be followed.
    Reason {
        /// RBAC does not allow it (403).
        Forbidden = "forbidden",
        /// The credentials are not taken (401).
        Unauthorized = "unauthorized",
        /// Nobody answers.
        Unreachable = "unreachable",
        /// The API does not have it (404).
        NotFound = "not_found",
        /// No answer came in time.
        Timeout = "timeout",
        /// Anything else.
        Other = "other",
    }
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its kind.
    pub reason: Reason,
    /// In words; of [`Reason::Other`] what is known.
    words: &'static str,
    /// The status code of the answer, 0 where there was none.
    status: u16,
}

impl Problem {
    /// Of a watch's error; `None` where it is its ordinary way: what it knew is too old, and it lists anew.
    pub fn of(error: &watcher::Error) -> Option<Self> {
        match error {
            watcher::Error::WatchError(status) if status.code == 410 => None,
            watcher::Error::WatchError(status) => Some(Self::answered(status.code)),
            watcher::Error::NoResourceVersion => Some(Self::other("the answer is not a Kubernetes API server's")),
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => match error {
                kube::Error::Api(status) if status.code == 410 => None,
                error => Some(Self::failed(error)),
            },
        }
    }

    fn failed(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::answered(status.code),
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
                Self::other("the answer is not a Kubernetes API server's")
            }
            kube::Error::Auth(_) => Self::other("the credentials cannot be read or renewed"),
            error => Self::unanswered(error),
        }
    }

    fn answered(status: u16) -> Self {
        let (reason, words) = match status {
            401 => (Reason::Unauthorized, "the API server does not take the credentials"),
            403 => (Reason::Forbidden, "the API server refuses it"),
            404 => (Reason::NotFound, "the API server does not have it"),
            408 | 504 => (Reason::Timeout, "the API server says that it took too long"),
            _ => (Reason::Other, "the API server answers with an error"),
        };
        Self { reason, words, status }
    }

    fn unanswered(error: &(dyn StdError + 'static)) -> Self {
        let mut current = Some(error);
        while let Some(error) = current {
            let io = error.downcast_ref::<std::io::Error>();
            match io.map(std::io::Error::kind) {
                Some(ErrorKind::TimedOut) => return Self::late(),
                Some(ErrorKind::InvalidData) => {
                    return Self::other(
                        "TLS fails: is its certificate authority the right one, and the name in its certificate?",
                    );
                }
                _ if error.is::<tokio::time::error::Elapsed>() => return Self::late(),
                _ => {}
            }
            // An error of input and output that is made of another one leaves that out of its sources.
            current = match io.and_then(std::io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        Self { reason: Reason::Unreachable, words: "the API server does not answer", status: 0 }
    }

    fn late() -> Self {
        Self { reason: Reason::Timeout, words: "no answer in time", status: 0 }
    }

    fn other(words: &'static str) -> Self {
        Self { reason: Reason::Other, words, status: 0 }
    }

    /// Whether this is no failure: the API of ServiceCIDRs is not there before Kubernetes 1.33, and the flag is as good.
    pub fn is_expected(&self, object: Object) -> bool {
        object == Object::ServiceCidrs && matches!(self.reason, Reason::NotFound | Reason::Forbidden)
    }

    /// What it is and, where somebody can do something about it, what.
    pub fn explain(self, object: Object) -> impl fmt::Display {
        fmt::from_fn(move |f| {
            f.write_str(self.words)?;
            if self.status != 0 {
                write!(f, " ({})", self.status)?;
            }
            match (self.reason, object) {
                (Reason::Forbidden | Reason::NotFound, Object::ServiceCidrs) => {
                    write!(f, ": name the ranges with --service-cidr")?;
                    if self.reason == Reason::Forbidden {
                        write!(f, ", or {}", rule(object))?;
                    }
                    Ok(())
                }
                (Reason::Forbidden, object) => write!(f, ": {}", rule(object)),
                (Reason::Unauthorized, _) => f.write_str(": is the token expired, or the service account gone?"),
                _ => Ok(()),
            }
        })
    }
}

/// The rule of RBAC that following an object needs.
pub const fn rule(object: Object) -> &'static str {
    match object {
        Object::Nodes => "clusterrole needs get,list,watch on nodes",
        Object::Service => "role in namespace default needs get,list,watch on services (resourceNames: kubernetes)",
        Object::EndpointSlices => "role in namespace default needs get,list,watch on endpointslices.discovery.k8s.io",
        Object::ServiceCidrs => "clusterrole needs get,list,watch on servicecidrs.networking.k8s.io",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_rule_that_is_missing() {
        let forbidden = Problem::answered(403);
        assert_eq!(
            forbidden.explain(Object::Nodes).to_string(),
            "the API server refuses it (403): clusterrole needs get,list,watch on nodes"
        );
        for object in Object::ALL {
            assert!(forbidden.explain(*object).to_string().contains(rule(*object)));
        }
        let absent = Problem::answered(404);
        assert!(absent.explain(Object::ServiceCidrs).to_string().contains("--service-cidr"));
        assert!(absent.is_expected(Object::ServiceCidrs) && !absent.is_expected(Object::Nodes));
        assert!(!Problem::answered(500).is_expected(Object::ServiceCidrs));
    }

    #[test]
    fn errors_have_a_reason() {
        let io = |kind| watcher::Error::WatchStartFailed(kube::Error::Service(std::io::Error::from(kind).into()));
        let api = |code| {
            let status = kube::core::Status { code, ..kube::core::Status::failure("", "") };
            watcher::Error::InitialListFailed(kube::Error::Api(status.boxed()))
        };
        let event = |code| {
            let status = kube::core::Status { code, ..kube::core::Status::failure("", "") };
            watcher::Error::WatchError(status.boxed())
        };
        let garbled = serde_json::from_str::<u8>("secret").unwrap_err();
        let nested = std::io::Error::other(std::io::Error::new(ErrorKind::InvalidData, "no certificate"));
        let table = [
            (api(401), Some(Reason::Unauthorized)),
            (api(403), Some(Reason::Forbidden)),
            (api(404), Some(Reason::NotFound)),
            (api(504), Some(Reason::Timeout)),
            (api(500), Some(Reason::Other)),
            (api(410), None),
            (event(410), None),
            (event(403), Some(Reason::Forbidden)),
            (io(ErrorKind::ConnectionRefused), Some(Reason::Unreachable)),
            (io(ErrorKind::TimedOut), Some(Reason::Timeout)),
            (io(ErrorKind::InvalidData), Some(Reason::Other)),
            (watcher::Error::WatchFailed(kube::Error::Service(nested.into())), Some(Reason::Other)),
            (watcher::Error::WatchFailed(kube::Error::SerdeError(garbled)), Some(Reason::Other)),
            (watcher::Error::NoResourceVersion, Some(Reason::Other)),
        ];
        for (error, reason) in table {
            assert_eq!(Problem::of(&error).map(|problem| problem.reason), reason, "{error:?}");
        }
    }
}
