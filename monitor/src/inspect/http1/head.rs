//! Request lines, status lines and the headers that decide about framing (RFC 9112), as leniently as Go's server reads
//! them. Line by line, so that a head of a megabyte needs no more room than its longest line: that is why the heads are
//! not given to httparse, which wants them whole.

use super::body::Body;
use crate::inspect::credential::{CredentialReader, has_item};
use crate::inspect::detect::is_token;

/// Bytes of a head at the most: Go's DefaultMaxHeaderBytes and its slack of 4,096 (net/http/server.go).
pub const LONGEST_HEAD: u32 = (1 << 20) + 4_096;

/// Method and target of a request line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLine<'a> {
    /// The method, a token.
    pub method: &'a [u8],
    /// The target, as sent.
    pub target: &'a [u8],
}

impl<'a> RequestLine<'a> {
    /// Longest method. None of the registry is longer than `UPDATEREDIRECTREF`.
    pub const LONGEST_METHOD: usize = 32;

    /// Parses a line that is whole; `None` where it is no request line of HTTP/1.0 or 1.1.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (rest, version) = line.split_at_checked(line.len().checked_sub(9)?)?;
        if !matches!(version, [b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'..=b'9']) {
            return None;
        }
        Self::unversioned(rest)
    }

    /// Parses the beginning of a line that is longer than what is kept of it.
    pub fn parse_cut(line: &'a [u8]) -> Option<Self> {
        Self::unversioned(line).filter(|line| !line.target.contains(&b' '))
    }

    fn unversioned(line: &'a [u8]) -> Option<Self> {
        let space = line.iter().take(Self::LONGEST_METHOD + 1).position(|byte| *byte == b' ')?;
        let (method, target) = (&line[..space], line[space + 1..].trim_ascii());
        let valid = !method.is_empty() && method.iter().all(|byte| is_token(*byte)) && !target.is_empty();
        valid.then_some(Self { method, target })
    }
}

/// The status code of a status line; `None` where it is none of HTTP/1.
pub fn status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let [minor, b' ', a, b, c, rest @ ..] = rest else { return None };
    let digits = [a, b, c];
    if !minor.is_ascii_digit()
        || !digits.iter().all(|digit| digit.is_ascii_digit())
        || rest.first().is_some_and(|byte| *byte != b' ')
    {
        return None;
    }
    let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(**digit - b'0'));
    (100..=999).contains(&code).then_some(code)
}

/// What a request asks to be upgraded to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Upgrade {
    /// Nothing.
    #[default]
    None,
    /// `h2c`: HTTP/2 (RFC 7540 section 3.2).
    H2c,
    /// SPDY, WebSocket or anything else that is not read.
    Other,
}

/// What the headers of one head have said so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Headers {
    /// The credential, of requests.
    pub credential: CredentialReader,
    /// `Upgrade`.
    pub upgrade: Upgrade,
    /// The body is encoded: its bytes are not text.
    pub encoded: bool,
    /// A header that only the Kubernetes API sends was seen.
    pub kubernetes: bool,
    length: Option<u64>,
    chunked: bool,
    last: Last,
}

/// The last header, where a continuation line of it could matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Last {
    #[default]
    Other,
    Authorization,
    EmptyLength,
    EmptyEncoding,
}

impl Headers {
    /// One line of the head behind its first.
    pub fn line(&mut self, line: &[u8]) {
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return self.continuation(line);
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            self.last = Last::Other;
            return;
        };
        let (name, value) = (line[..colon].trim_ascii_end(), line[colon + 1..].trim_ascii());
        let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
        self.last = Last::Other;
        match name.len() {
            14 if is(b"content-length") => self.content_length(value),
            17 if is(b"transfer-encoding") => self.transfer_encoding(value),
            16 if is(b"content-encoding") => {
                self.encoded |= !value.is_empty() && !value.eq_ignore_ascii_case(b"identity")
            }
            7 if is(b"upgrade") => {
                self.upgrade = if has_item(value, b"h2c") { Upgrade::H2c } else { Upgrade::Other };
            }
            13 if is(b"authorization") => self.last = Last::Authorization,
            _ => {}
        }
        self.kubernetes |= crate::inspect::kubernetes::header(name);
        self.credential.header(name, value);
    }

    /// How the body of this request ends.
    pub fn request_body(&self) -> Body {
        self.body().unwrap_or(Body::Length(0))
    }

    /// How the body of a response with this status to such a request ends (RFC 9112 section 6.3).
    pub fn response_body(&self, status: u16, to_head: bool) -> Body {
        if to_head || status < 200 || status == 204 || status == 304 {
            return Body::Length(0);
        }
        self.body().unwrap_or(Body::UntilClose)
    }

    fn body(&self) -> Option<Body> {
        if self.chunked { Some(Body::chunked()) } else { self.length.map(Body::Length) }
    }

    /// A line that continues the one before it (obs-fold, RFC 9112 section 5.2).
    fn continuation(&mut self, line: &[u8]) {
        match self.last {
            Last::Other => {}
            Last::Authorization => self.credential.continued_authorization(line),
            Last::EmptyLength => self.content_length(line.trim_ascii()),
            Last::EmptyEncoding => self.transfer_encoding(line.trim_ascii()),
        }
    }

    fn content_length(&mut self, value: &[u8]) {
        self.last = if value.is_empty() { Last::EmptyLength } else { Last::Other };
        let number = std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
        self.length = self.length.or(number);
    }

    fn transfer_encoding(&mut self, value: &[u8]) {
        self.last = if value.is_empty() { Last::EmptyEncoding } else { Last::Other };
        self.chunked |= has_item(value, b"chunked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_lines() {
        for (line, expected) in [
            ("GET / HTTP/1.1", Some(("GET", "/"))),
            ("GET / HTTP/1.0\r", Some(("GET", "/"))),
            ("M-SEARCH * HTTP/1.1", Some(("M-SEARCH", "*"))),
            ("GET http://x/a HTTP/1.1", Some(("GET", "http://x/a"))),
            ("GET /a b HTTP/1.1", Some(("GET", "/a b"))),
            ("GET  / HTTP/1.1", Some(("GET", "/"))),
            ("GET / HTTP/2.0", None),
            ("GET / HTTP/1.2", Some(("GET", "/"))),
            ("GET / HTTP/1.10", None),
            ("OPTIONS / RTSP/1.0", None),
            ("GET HTTP/1.1", None),
            (" HTTP/1.1", None),
            ("G(T / HTTP/1.1", None),
            ("", None),
        ] {
            let parsed = RequestLine::parse(line.as_bytes());
            let expected =
                expected.map(|(method, target)| RequestLine { method: method.as_bytes(), target: target.as_bytes() });
            assert_eq!(parsed, expected, "{line}");
        }
    }

    #[test]
    fn status_lines() {
        for (line, expected) in [
            ("HTTP/1.1 200 OK", Some(200)),
            ("HTTP/1.0 404", Some(404)),
            ("HTTP/1.1 101 Switching Protocols", Some(101)),
            ("HTTP/1.1 2000", None),
            ("HTTP/1.1 099 x", None),
            ("HTTP/2 200", None),
            ("HTTP/1.1 2x0 OK", None),
            ("", None),
        ] {
            assert_eq!(status(line.as_bytes()), expected, "{line}");
        }
    }

    fn headers(lines: &[&str]) -> Headers {
        let mut headers = Headers::default();
        lines.iter().for_each(|line| headers.line(line.as_bytes()));
        headers
    }

    #[test]
    fn framing() {
        assert_eq!(headers(&["Content-Length: 5"]).request_body(), Body::Length(5));
        assert_eq!(headers(&["content-length:", "  7"]).request_body(), Body::Length(7));
        assert_eq!(headers(&["Content-Length: 5", "Transfer-Encoding: gzip, chunked"]).request_body(), Body::chunked());
        assert_eq!(headers(&["Content-Length: -1"]).request_body(), Body::Length(0));
        assert_eq!(headers(&[]).response_body(200, false), Body::UntilClose);
        for (status, to_head) in [(200, true), (101, false), (204, false), (304, false)] {
            assert_eq!(headers(&["Content-Length: 5"]).response_body(status, to_head), Body::Length(0), "{status}");
        }
    }

    #[test]
    fn upgrades() {
        assert_eq!(headers(&["Upgrade: h2c"]).upgrade, Upgrade::H2c);
        assert_eq!(headers(&["Upgrade: SPDY/3.1"]).upgrade, Upgrade::Other);
        assert_eq!(headers(&["Connection: close"]).upgrade, Upgrade::None);
    }
}
