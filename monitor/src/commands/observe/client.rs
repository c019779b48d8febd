//! The little of HTTP/1.1 that reading `/events` takes: one request, a head, a body in chunks.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::text::printable;
use crate::export::Filter;

/// Connecting and the answer's head have to be done within this time each.
const PATIENCE: Duration = Duration::from_secs(5);

/// An answer's head has this many bytes at the most.
const HEAD_BYTES: usize = 16 << 10;

/// Header fields that are read.
const HEADERS: usize = 64;

/// A line has this many bytes at the most: a connection with all its requests, each with the longest path, escaped.
const LINE_BYTES: usize = if cfg!(test) { 64 << 10 } else { 64 << 20 };

/// Where a monitor serves its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    host: String,
    port: u16,
    /// What stands before `/events`: empty, or a path without its last slash.
    prefix: String,
}

impl Url {
    /// Reads `http://HOST[:PORT][/PREFIX]`; the error names the way out.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let usage = "use http://HOST:PORT, as http://127.0.0.1:9464";
        let Some(rest) = text.strip_prefix("http://") else {
            if text.starts_with("https://") {
                bail!("--from {text}: a monitor serves plain HTTP; reach it through a tunnel of your own, and {usage}");
            }
            bail!("--from {text}: not an http:// URL; {usage}");
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if path.contains(['?', '#']) || authority.contains(['?', '#', '@']) || !text.is_ascii() {
            bail!("--from {text}: a URL with a user, a query or a fragment is not understood; {usage}");
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => {
                let port = port.parse().with_context(|| format!("--from {text}: {port:?} is no port; {usage}"))?;
                (host, port)
            }
            _ => (authority, 80),
        };
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => {
                address.parse::<Ipv6Addr>().with_context(|| format!("--from {text}: {address} is no IPv6 address"))?;
                address
            }
            None if host.contains(':') => {
                bail!("--from {text}: an IPv6 address stands in brackets, as http://[::1]:9464")
            }
            None => host,
        };
        if host.is_empty() || host.contains(|letter: char| letter.is_ascii_control() || letter == ' ') {
            bail!("--from {text}: no host; {usage}");
        }
        if path.contains(|letter: char| letter.is_ascii_control() || letter == ' ') {
            bail!("--from {text}: a path with spaces; {usage}");
        }
        let path = path.trim_end_matches('/');
        let prefix = path.strip_suffix("/events").unwrap_or(path);
        Ok(Self { host: host.into(), port, prefix: prefix.into() })
    }

    /// Of a monitor that listens there on this machine.
    pub fn of(listen: SocketAddr) -> Self {
        let host = match listen.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            address => address,
        };
        Self { host: host.to_string(), port: listen.port(), prefix: String::new() }
    }

    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    fn request(&self, filter: &Filter) -> String {
        let query = filter.to_query();
        let mark = if query.is_empty() { "" } else { "?" };
        format!(
            "GET {}/events{mark}{query} HTTP/1.1\r\nHost: {}\r\nAccept: application/x-ndjson\r\nConnection: close\r\n\r\n",
            self.prefix,
            self.authority()
        )
    }
}

impl fmt::Display for Url {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "http://{}{}/events", self.authority(), self.prefix)
    }
}

/// Why there are no events to read.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nobody listens there, or the host cannot be reached.
    #[error("{0}")]
    NobodyThere(String),
    /// Somebody answers, but not with events.
    #[error("{0}")]
    NoEvents(String),
}

/// A monitor's events.
#[derive(Debug)]
pub struct EventStream {
    stream: TcpStream,
    /// What was read and not decoded yet.
    buffer: BytesMut,
    body: Body,
    /// Decoded, the beginning of a line that has not ended.
    line: Vec<u8>,
}

impl EventStream {
    /// Asks the monitor for the events that the filter takes.
    pub async fn open(url: &Url, filter: &Filter) -> Result<Self, OpenError> {
        let nobody = |error: io::Error| {
            OpenError::NobodyThere(format!(
                "cannot reach {url}: {error}; is the monitor running, and is that its --listen address?"
            ))
        };
        let mut stream = within(TcpStream::connect((url.host.as_str(), url.port))).await.map_err(nobody)?;
        let not_http = |error: io::Error| OpenError::NoEvents(format!("{url} gives no answer: {error}"));
        within(stream.write_all(url.request(filter).as_bytes())).await.map_err(not_http)?;
        let mut buffer = BytesMut::with_capacity(HEAD_BYTES);
        let head = within(read_head(&mut stream, &mut buffer)).await.map_err(not_http)?;
        let mut opened = Self { stream, buffer, body: head.body, line: Vec::new() };
        if head.status == 200 && head.ndjson {
            return Ok(opened);
        }
        let said = within(async { Ok(opened.first_line().await) }).await.unwrap_or_default();
        let error = match head.status {
            400 | 429 | 503 if !said.is_empty() => format!("{url}: {said}"),
            status => format!("{url} answers with status {status} and no events: is an api-exposure-monitor there?"),
        };
        Err(OpenError::NoEvents(error))
    }

    /// Waits for the next whole lines; `None` when the monitor has ended the stream.
    pub async fn lines(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            // What was there before is the beginning of a line, in which there is no end to look for again.
            let before = self.line.len();
            let ended = self.body.decode(&mut self.buffer, &mut self.line)?;
            let decoded = self.line.get(before..).unwrap_or_default();
            if let Some(end) = decoded.iter().rposition(|byte| *byte == b'\n') {
                let rest = self.line.split_off(before + end + 1);
                return Ok(Some(std::mem::replace(&mut self.line, rest).into()));
            }
            if ended {
                return Ok(None);
            }
            if self.line.len() > LINE_BYTES {
                return Err(invalid("a line is too long"));
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return match self.body {
                    Body::UntilClose => Ok(None),
                    _ => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }

    /// The first line of an answer that is not events; a reason for people.
    async fn first_line(&mut self) -> String {
        let mut text = Vec::new();
        while text.len() < HEAD_BYTES && !text.contains(&b'\n') {
            let ended = self.body.decode(&mut self.buffer, &mut text).unwrap_or(true);
            if ended || !matches!(self.stream.read_buf(&mut self.buffer).await, Ok(1..)) {
                break;
            }
        }
        let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
        printable(String::from_utf8_lossy(line).trim())
    }
}

async fn within<T>(future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn read_head(stream: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<Head> {
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(head) = Head::take(buffer)? {
            return Ok(head);
        }
        if buffer.len() > HEAD_BYTES {
            return Err(invalid("the head of the answer is too long"));
        }
    }
}

/// What of an answer's head is of interest.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    ndjson: bool,
    body: Body,
}

impl Head {
    /// Takes the head off the buffer, `None` while it is not whole.
    fn take(buffer: &mut BytesMut) -> io::Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(length) = response.parse(buffer).map_err(|_| invalid("it is no HTTP"))? else {
            return Ok(None);
        };
        let value = |name: &str| {
            let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(header.value).ok().map(str::trim)
        };
        let body = if value("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            Body::Chunked(Chunk::Size)
        } else if let Some(length) = value("content-length") {
            Body::Length(length.parse().map_err(|_| invalid("its length is no number"))?)
        } else {
            Body::UntilClose
        };
        let ndjson = value("content-type").is_some_and(|content| content.starts_with("application/x-ndjson"));
        let head = Self { status: response.code.unwrap_or_default(), ndjson, body };
        drop(buffer.split_to(length));
        Ok(Some(head))
    }
}

/// How the body's end is known (RFC 9112 section 6), and how far it was read.
#[derive(Debug, PartialEq, Eq)]
enum Body {
    Chunked(Chunk),
    /// So many bytes are missing.
    Length(u64),
    UntilClose,
}

/// Where in a chunked body (RFC 9112 section 7.1) the next byte stands.
#[derive(Debug, PartialEq, Eq)]
enum Chunk {
    Size,
    Data(u64),
    /// Before the line end that follows a chunk's data.
    DataEnd,
    /// After the last chunk; trailers are not waited for, since the connection is closed anyway.
    Ended,
}

impl Body {
    /// Moves what can be decoded from `input` to the end of `output`. Whether the body has ended.
    fn decode(&mut self, input: &mut BytesMut, output: &mut Vec<u8>) -> io::Result<bool> {
        match self {
            Self::UntilClose => {
                output.extend_from_slice(&input.split());
                Ok(false)
            }
            Self::Length(missing) => {
                *missing -= move_bytes(input, output, *missing);
                Ok(*missing == 0)
            }
            Self::Chunked(chunk) => chunk.decode(input, output),
        }
    }
}

impl Chunk {
    fn decode(&mut self, input: &mut BytesMut, output: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            *self = match self {
                Self::Size => match httparse::parse_chunk_size(input) {
                    Ok(httparse::Status::Complete((length, size))) => {
                        drop(input.split_to(length));
                        if size == 0 { Self::Ended } else { Self::Data(size) }
                    }
                    Ok(httparse::Status::Partial) if input.len() <= HEAD_BYTES => return Ok(false),
                    _ => return Err(invalid("a chunk's size cannot be read")),
                },
                Self::Data(missing) => {
                    *missing -= move_bytes(input, output, *missing);
                    if *missing > 0 {
                        return Ok(false);
                    }
                    Self::DataEnd
                }
                Self::DataEnd => match input.get(..2) {
                    Some(b"\r\n") => {
                        drop(input.split_to(2));
                        Self::Size
                    }
                    Some(_) => return Err(invalid("a chunk does not end where it should")),
                    None => return Ok(false),
                },
                Self::Ended => return Ok(true),
            };
        }
    }
}

/// Moves as many bytes as there are, `most` at the most, and says how many.
fn move_bytes(input: &mut BytesMut, output: &mut Vec<u8>, most: u64) -> u64 {
    let count = input.len().min(usize::try_from(most).unwrap_or(usize::MAX));
    output.extend_from_slice(&input.split_to(count));
    count as u64
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_are_understood() {
        let cases = [
            ("http://127.0.0.1:9464", "http://127.0.0.1:9464/events"),
            ("http://127.0.0.1:9464/", "http://127.0.0.1:9464/events"),
            ("http://127.0.0.1:9464/events", "http://127.0.0.1:9464/events"),
            ("http://control-plane-1", "http://control-plane-1:80/events"),
            ("http://[::1]:9464", "http://[::1]:9464/events"),
            ("http://[::1]", "http://[::1]:80/events"),
            ("http://gateway:8080/monitors/cp1/", "http://gateway:8080/monitors/cp1/events"),
        ];
        for (text, shown) in cases {
            assert_eq!(Url::parse(text).unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn urls_that_are_not() {
        let cases = [
            ("127.0.0.1:9464", "not an http:// URL"),
            ("https://127.0.0.1:9464", "plain HTTP"),
            ("http://", "no host"),
            ("http://:9464", "no host"),
            ("http://host:port", "no port"),
            ("http://host:70000", "no port"),
            ("http://::1:9464", "brackets"),
            ("http://[::x]:9464", "no IPv6 address"),
            ("http://user@host", "user"),
            ("http://host/events?source=public", "query"),
            ("http://host/a b", "spaces"),
            ("http://host\r\n", "no host"),
        ];
        for (text, reason) in cases {
            let error = format!("{:#}", Url::parse(text).unwrap_err());
            assert!(error.contains(reason) && error.contains("--from"), "{text}: {error}");
        }
    }

    #[test]
    fn an_unspecified_address_is_reached_over_loopback() {
        assert_eq!(Url::of("0.0.0.0:9464".parse().unwrap()).to_string(), "http://127.0.0.1:9464/events");
        assert_eq!(Url::of("[::]:9464".parse().unwrap()).to_string(), "http://[::1]:9464/events");
        assert_eq!(Url::of("10.0.0.1:1".parse().unwrap()).to_string(), "http://10.0.0.1:1/events");
    }

    const ANSWER: &[u8] =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n\
        6\r\n{\"a\":1\r\n3;x=y\r\n}\n{\r\n5\r\n}\n\r\n\n\r\n0\r\n\r\n";

    #[test]
    fn every_split_gives_the_same_body() {
        for split in 0..=ANSWER.len() {
            let (first, second) = ANSWER.split_at(split);
            let (mut input, mut output) = (BytesMut::from(first), Vec::new());
            let mut head = Head::take(&mut input).unwrap();
            let mut ended = match &mut head {
                Some(head) => head.body.decode(&mut input, &mut output).unwrap(),
                None => false,
            };
            input.extend_from_slice(second);
            let mut head = head.or_else(|| Head::take(&mut input).unwrap()).unwrap();
            ended |= head.body.decode(&mut input, &mut output).unwrap();
            assert_eq!((head.status, head.ndjson, ended), (200, true, true), "split at {split}");
            assert_eq!(output, b"{\"a\":1}\n{}\n\r\n\n", "split at {split}");
        }
    }

    #[test]
    fn a_prefix_is_never_taken_for_the_end() {
        let body_end = ANSWER.len() - 2;
        for length in 0..body_end {
            let (mut input, mut output) = (BytesMut::from(&ANSWER[..length]), Vec::new());
            if let Some(mut head) = Head::take(&mut input).unwrap() {
                assert!(!head.body.decode(&mut input, &mut output).unwrap(), "{length} bytes");
            }
        }
    }

    #[test]
    fn bad_chunks_are_errors() {
        for bad in [&b"zz\r\n"[..], b"1\r\nab\r\n", b"fffffffffffffffff\r\n"] {
            let mut chunk = Chunk::Size;
            assert!(chunk.decode(&mut BytesMut::from(bad), &mut Vec::new()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_body_with_a_length_ends_there() {
        let mut input = BytesMut::from(&b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nno\n..."[..]);
        let mut head = Head::take(&mut input).unwrap().unwrap();
        assert_eq!(head, Head { status: 400, ndjson: false, body: Body::Length(3) });
        let mut output = Vec::new();
        assert!(head.body.decode(&mut input, &mut output).unwrap());
        assert_eq!(output, b"no\n");
    }
}
