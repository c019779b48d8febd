//! What a request means to the API server, from its method, path and query.
//!
//! As the API server's own RequestInfo (staging/src/k8s.io/apiserver/pkg/endpoints/request/requestinfo.go, Kubernetes
//! 1.37), with the prefixes `api` (without group) and `apis`. Like Go's net/http it works on the decoded path and does
//! not clean it: `%2F` separates, slashes at both ends are trimmed, an empty or dotted segment is a segment. What
//! net/http refuses before any handler (a path that does not begin with a slash, a bad escape, a control character)
//! means nothing to the API server: verb and path class `other`.

use std::borrow::Cow;

use super::{PathClass, RequestMeaning, Verb};
use crate::inspect::{Credential, QueryHints, Request};

/// Subresources that connect to something behind the API server.
const CONNECTING: [&str; 4] = ["exec", "attach", "portforward", "proxy"];

/// Subresources of a namespace itself; anything else below a namespace is a resource in it (requestinfo.go,
/// `namespaceSubresources`).
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

/// From here on a path may have been cut by the inspector (see [`Request::path`]), in the middle of an escape.
const MAY_BE_CUT: usize = 2_040;

impl RequestMeaning {
    /// What this request means to the API server. Never fails: what means nothing has the words `other`.
    pub fn of(request: &Request) -> Self {
        let found = match decode(&request.path) {
            Some(path) => request_info(&request.method, &path, request.query),
            None => Found::no_resource(Verb::Other, PathClass::Other),
        };
        found.with(request.credential)
    }

    /// What a request without a credential means whose path the API server has decoded already, and whose query is not
    /// known: a watch is told by its path only, and is a list otherwise.
    pub fn of_decoded(method: &str, path: &str) -> Self {
        let found = if path.starts_with('/') {
            request_info(method, path, QueryHints::default())
        } else {
            Found::no_resource(Verb::Other, PathClass::Other)
        };
        found.with(Credential::None)
    }
}

struct Found {
    verb: Verb,
    resource: Option<String>,
    subresource: Option<String>,
    namespace: Option<String>,
    path_class: PathClass,
}

impl Found {
    fn no_resource(verb: Verb, path_class: PathClass) -> Self {
        Self { verb, resource: None, subresource: None, namespace: None, path_class }
    }

    fn with(self, credential: Credential) -> RequestMeaning {
        let Self { verb, resource, subresource, namespace, path_class } = self;
        RequestMeaning { verb, resource, subresource, namespace, path_class, credential }
    }
}

/// `NewRequestInfo`, with the path decoded.
fn request_info(method: &str, path: &str, query: QueryHints) -> Found {
    let parts: Vec<&str> = match path.trim_matches('/') {
        "" => Vec::new(),
        trimmed => trimmed.split('/').collect(),
    };
    let (group, mut parts) = match parts.as_slice() {
        ["api", _version, rest @ ..] if !rest.is_empty() => ("", rest),
        ["apis", group, _version, rest @ ..] if !rest.is_empty() => (*group, rest),
        _ => return Found::no_resource(verb_without_resource(method), path_without_resource(&parts)),
    };

    // The deprecated /api/v1/watch/pods and /api/v1/proxy/nodes/name.
    let mut verb = match parts {
        ["watch" | "proxy"] => return Found::no_resource(verb_without_resource(method), PathClass::Other),
        ["watch", ..] => Verb::Watch,
        ["proxy", ..] => Verb::Connect,
        _ => match method {
            "GET" | "HEAD" => Verb::Get,
            "POST" => Verb::Create,
            "PUT" => Verb::Update,
            "PATCH" => Verb::Patch,
            "DELETE" => Verb::Delete,
            _ => Verb::Other,
        },
    };
    let proxy_by_path = verb == Verb::Connect;
    if let ["watch" | "proxy", rest @ ..] = parts {
        parts = rest;
    }

    let mut namespace = "";
    if let ["namespaces", name, ..] = parts {
        namespace = name;
        if parts.get(2).is_some_and(|next| !NAMESPACE_SUBRESOURCES.contains(next)) {
            parts = parts.get(2..).unwrap_or_default();
        }
    }
    let part = |at: usize| parts.get(at).copied().unwrap_or_default();
    let (resource, name) = (part(0), part(1));
    // What follows the name in /api/v1/proxy/... is a path of what is proxied.
    let subresource = if proxy_by_path { "" } else { part(2) };

    let connecting = proxy_by_path || CONNECTING.contains(&subresource);
    verb = match verb {
        Verb::Watch => Verb::Watch,
        _ if connecting => Verb::Connect,
        // A field selector that names one object fills RequestInfo's name, but leaves the verb `list` or `watch`.
        Verb::Get if name.is_empty() && query.watch => Verb::Watch,
        Verb::Get if name.is_empty() => Verb::List,
        Verb::Delete if name.is_empty() => Verb::DeleteCollection,
        verb => verb,
    };
    let path_class = match (group, namespace, resource, name, subresource) {
        _ if connecting => PathClass::Exec,
        ("", "kube-public", "configmaps", "cluster-info", "") => PathClass::ClusterInfo,
        ("", _, "secrets", ..) => PathClass::Secret,
        _ => PathClass::Resource,
    };
    let word = |word: &str| (!word.is_empty()).then(|| word.to_owned());
    Found { verb, resource: word(resource), subresource: word(subresource), namespace: word(namespace), path_class }
}

/// RequestInfo takes the method in lower case here; the verbs are a closed set, so a method takes the verb that it
/// would have on a resource.
fn verb_without_resource(method: &str) -> Verb {
    match method.to_ascii_lowercase().as_str() {
        "get" | "head" => Verb::Get,
        "post" => Verb::Create,
        "put" => Verb::Update,
        "patch" => Verb::Patch,
        "delete" => Verb::Delete,
        _ => Verb::Other,
    }
}

/// The classes that are often open to anybody are for paths that the API server serves as such: one with a dotted or
/// empty segment, which something on the way may clean to another path, is not among them.
fn path_without_resource(parts: &[&str]) -> PathClass {
    if parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
        return PathClass::Other;
    }
    match parts {
        ["healthz" | "livez" | "readyz", ..] => PathClass::Health,
        ["version"] => PathClass::Version,
        ["api"] | ["api", _] | ["apis"] | ["apis", _] | ["apis", _, _] => PathClass::Discovery,
        ["openapi", ..] | ["swagger.json"] | ["swaggerapi", ..] => PathClass::Discovery,
        // What the API server says about its tokens' issuer (ClusterRole system:service-account-issuer-discovery).
        [".well-known", "openid-configuration"] | ["openid", "v1", "jwks"] => PathClass::Discovery,
        _ => PathClass::Other,
    }
}

/// The path of a request as the API server decodes it; `None` where it refuses the request because of it.
pub fn decoded_path(path: &str) -> Option<Cow<'_, str>> {
    decode(path)
}

/// The path as net/url has it in `URL.Path` (Go 1.26, net/url/url.go: `parse`, `unescape`); `None` where net/http
/// answers 400 because of it. Bytes that are no UTF-8 become U+FFFD, which no known word has.
fn decode(path: &str) -> Option<Cow<'_, str>> {
    let refused = |byte: u8| byte < b' ' || byte == 0x7f;
    if !path.starts_with('/') || path.bytes().any(refused) {
        return None;
    }
    if !path.contains('%') {
        return Some(Cow::Borrowed(path));
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        let (byte, next) = match (first, after) {
            (b'%', [high, low, next @ ..]) => (hex(*high)? << 4 | hex(*low)?, next),
            (b'%', _) if path.len() >= MAY_BE_CUT => break,
            (b'%', _) => return None,
            (byte, next) => (*byte, next),
        };
        bytes.push(byte);
        rest = next;
    }
    Some(Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()))
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
