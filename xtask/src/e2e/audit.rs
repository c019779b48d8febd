//! The API server's audit log: what the monitor is compared with.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// As whom a request was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Actor {
    /// `system:anonymous`.
    Anonymous,
    /// Nobody: 401.
    Refused,
    /// Anybody who showed a credential.
    Accepted,
    /// `system:unsecured`, on the port in the clear.
    Unsecured,
}

impl Actor {
    /// The word for it, which is also the monitor's for a first request.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Refused => "refused",
            Self::Accepted => "accepted",
            Self::Unsecured => "unsecured",
        }
    }
}

/// One request, when it was over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The last of the source addresses: the peer of the connection.
    pub source: IpAddr,
    /// As whom.
    pub actor: Actor,
    /// Kubernetes' verb.
    pub verb: String,
    /// Without query.
    pub path: String,
    /// Status of the answer.
    pub code: u16,
    /// `allow` or `forbid`; empty where nobody decided.
    pub decision: String,
}

/// All finished requests of a log, in its order. A last line that is not whole yet is left out.
pub fn read(path: &Path) -> Result<Vec<Request>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().filter_map(|line| request(line).transpose()).collect()
}

/// The request of a line. One that is answered at length has two lines, of which the last counts; one that was refused
/// for want of a good credential has only the first.
fn request(line: &str) -> Result<Option<Request>> {
    let event: Value = serde_json::from_str(line).with_context(|| format!("no audit event: {line}"))?;
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let code = event.pointer("/responseStatus/code").and_then(Value::as_u64).unwrap_or(0);
    let actor = match text("/user/username") {
        "system:anonymous" => Actor::Anonymous,
        "system:unsecured" => Actor::Unsecured,
        _ if code == 401 => Actor::Refused,
        _ => Actor::Accepted,
    };
    match text("/stage") {
        "ResponseComplete" | "Panic" => {}
        "ResponseStarted" if actor == Actor::Refused => {}
        _ => return Ok(None),
    }
    let source = event.pointer("/sourceIPs").and_then(Value::as_array).and_then(|sources| sources.last()?.as_str());
    let uri = text("/requestURI");
    Ok(Some(Request {
        source: source.and_then(|source| source.parse().ok()).context("an audit event without a source")?,
        actor,
        verb: text("/verb").to_owned(),
        path: uri.split('?').next().unwrap_or(uri).to_owned(),
        code: u16::try_from(code).unwrap_or(0),
        decision: text("/annotations/authorization.k8s.io~1decision").to_owned(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: &str = r#"{"stage":"ResponseStarted","requestURI":"/api/v1/secrets?limit=5","verb":"list","user":{},
        "sourceIPs":["1.2.3.4","203.0.113.7"],"responseStatus":{"code":401}}"#;

    #[test]
    fn a_request_counts_once_with_its_peer_and_without_its_query() {
        let refused = request(REFUSED).unwrap().unwrap();
        assert_eq!((refused.actor, refused.code, refused.path.as_str()), (Actor::Refused, 401, "/api/v1/secrets"));
        assert_eq!(refused.source, "203.0.113.7".parse::<IpAddr>().unwrap());
        let watch = REFUSED.replace(r#""user":{}"#, r#""user":{"username":"system:admin"}"#).replace("401", "200");
        assert_eq!(request(&watch).unwrap(), None);
        let ended = watch.replace("ResponseStarted", "ResponseComplete");
        assert_eq!(request(&ended).unwrap().unwrap().actor, Actor::Accepted);
        assert!(request("no JSON").is_err());
    }
}
