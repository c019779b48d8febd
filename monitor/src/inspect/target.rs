//! A request's target: its path, and what the query says about the verb. The query itself is not kept.

use std::borrow::Cow;

use super::QueryHints;

/// Bytes of a path that are kept.
pub const LONGEST_PATH: usize = 2_048;

/// Path and hints of a request target: origin form, absolute form, `*` or an authority (RFC 9112 section 3.2).
pub fn path_and_hints(target: &[u8]) -> (String, QueryHints) {
    let target = match absolute(target) {
        Some(rest) => rest,
        None => target,
    };
    let target = target.split(|byte| *byte == b'#').next().unwrap_or_default();
    let (path, query) = match target.iter().position(|byte| *byte == b'?') {
        Some(mark) => (&target[..mark], &target[mark + 1..]),
        None => (target, &[][..]),
    };
    let path = if path.is_empty() { b"/" } else { &path[..path.len().min(LONGEST_PATH)] };
    (String::from_utf8_lossy(path).into_owned(), hints(query))
}

/// What follows scheme and authority.
fn absolute(target: &[u8]) -> Option<&[u8]> {
    if target.starts_with(b"/") {
        return None;
    }
    let scheme = target.windows(3).take(16).position(|part| part == b"://")?;
    let rest = &target[scheme + 3..];
    Some(&rest[rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len())..])
}

/// `watch` and `fieldSelector` as RequestInfo reads them
/// (staging/src/k8s.io/apiserver/pkg/endpoints/request/requestinfo.go, Kubernetes 1.37).
fn hints(query: &[u8]) -> QueryHints {
    let (mut watch, mut names_one) = (None, None);
    for pair in query.split(|byte| *byte == b'&') {
        let mut parts = pair.splitn(2, |byte| *byte == b'=');
        let key = decoded(parts.next().unwrap_or_default());
        let value = parts.next().unwrap_or_default();
        match &*key {
            b"watch" if watch.is_none() => watch = Some(is_true(&decoded(value))),
            b"fieldSelector" if names_one.is_none() => names_one = Some(selects_one(&decoded(value))),
            _ => {}
        }
    }
    QueryHints { watch: watch.unwrap_or_default(), names_one: names_one.unwrap_or_default() }
}

/// Anything but `false` and `0` is true, nothing too: Convert_Slice_string_To_bool of
/// staging/src/k8s.io/apimachinery/pkg/runtime/conversion.go.
fn is_true(value: &[u8]) -> bool {
    !(value == b"0" || value.eq_ignore_ascii_case(b"false"))
}

/// A term that requires `metadata.name` to be one name.
fn selects_one(selector: &[u8]) -> bool {
    selector.split(|byte| *byte == b',').any(|term| {
        term.trim_ascii()
            .strip_prefix(b"metadata.name=")
            .is_some_and(|name| !name.strip_prefix(b"=").unwrap_or(name).is_empty())
    })
}

/// Without percent and plus.
fn decoded(part: &[u8]) -> Cow<'_, [u8]> {
    if !part.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(part);
    }
    let mut out = Vec::with_capacity(part.len());
    let mut rest = part;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let hex = |digit: &u8| char::from(*digit).to_digit(16).map(|value| value as u8);
        match (byte, after) {
            (b'+', _) => out.push(b' '),
            (b'%', [high, low, after @ ..]) => match (hex(high), hex(low)) {
                (Some(high), Some(low)) => {
                    out.push(high << 4 | low);
                    rest = after;
                }
                _ => out.push(byte),
            },
            _ => out.push(byte),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_what_stands_before_the_query() {
        for (target, expected) in [
            ("/api/v1/pods?limit=500", "/api/v1/pods"),
            ("/", "/"),
            ("http://x/version", "/version"),
            ("http://x:8080/api?watch=1", "/api"),
            ("http://x", "/"),
            ("http://x?a", "/"),
            ("*", "*"),
            ("10.0.0.1:443", "10.0.0.1:443"),
            ("/proxy/http://inner/x", "/proxy/http://inner/x"),
            ("/a#b?c", "/a"),
            ("", "/"),
        ] {
            assert_eq!(path_and_hints(target.as_bytes()).0, expected, "{target}");
        }
        assert_eq!(path_and_hints(&[b'/'; 5_000]).0.len(), LONGEST_PATH);
    }

    #[test]
    fn the_query_says_watch_and_one_name() {
        for (query, watch, names_one) in [
            ("watch=true", true, false),
            ("watch=1", true, false),
            ("watch", true, false),
            ("watch=", true, false),
            ("watch=0", false, false),
            ("watch=False", false, false),
            ("watch=0&watch=1", false, false),
            ("%77atch=1", true, false),
            ("Watch=1", false, false),
            ("allowWatchBookmarks=true", false, false),
            ("limit=1&fieldSelector=metadata.name%3Dx", false, true),
            ("fieldSelector=a%3Db%2Cmetadata.name%3D%3Dx&watch=true", true, true),
            ("fieldSelector=metadata.name!%3Dx", false, false),
            ("fieldSelector=metadata.name%3D", false, false),
            ("", false, false),
        ] {
            let (_, hints) = path_and_hints(format!("/api/v1/pods?{query}").as_bytes());
            assert_eq!((hints.watch, hints.names_one), (watch, names_one), "{query}");
        }
    }
}
