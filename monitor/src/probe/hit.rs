//! Hits out of the ring buffer's bytes, and what became of them.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use monitor_common::{HitHeader, HitKind, HitRecord, Unread, limits};

/// Hits that wait for their answer at the most. An answer comes microseconds after its hit: more of them wait only
/// when answers are lost.
const PENDING: usize = 4_096;

/// Nanoseconds after which no answer is waited for any more.
const ANSWER: u64 = 1_000_000_000;

/// A request that reached the API server without a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// When, nanoseconds of CLOCK_MONOTONIC.
    pub time: u64,
    /// The API server's process.
    pub process: u32,
    /// The attachment that saw it; [`super::Status::attachment`].
    pub attachment: u32,
    /// The request's method; empty where it could not be read.
    pub method: String,
    /// The request's path, decoded, without query; it may hold any character. `None` where it could not be read.
    pub path: Option<String>,
    /// The path goes on behind what is in `path`.
    pub path_cut: bool,
    /// The protocol's major version, 1 or 2; 0 where it could not be read.
    pub proto_major: u8,
    /// The client; `None` where the server gives no address and port (a socket that is not TCP).
    pub remote: Option<SocketAddr>,
    /// Whether the request was let in as anonymous; `None` where that was not seen.
    pub accepted: Option<bool>,
}

/// One record of the ring buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The authenticator was entered.
    Entered {
        /// The hit; `accepted` is known where there are no conditions.
        hit: Hit,
        /// The goroutine that carries the request.
        goroutine: u64,
        /// Whether conditions on paths are in force.
        conditional: bool,
    },
    /// It returned.
    Answered {
        /// When.
        time: u64,
        /// In which process.
        process: u32,
        /// On which goroutine.
        goroutine: u64,
        /// Seen by which attachment.
        attachment: u32,
        /// Whether the request was let in.
        accepted: bool,
    },
}

impl Message {
    /// The attachment that it comes from, the process and the time.
    pub fn origin(&self) -> (u32, u32, u64) {
        match self {
            Self::Entered { hit, .. } => (hit.attachment, hit.process, hit.time),
            Self::Answered { attachment, process, time, .. } => (*attachment, *process, *time),
        }
    }

    /// The message in these bytes of the ring buffer; `None` when they are none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (head, texts) = bytes.split_at_checked(HitHeader::SIZE)?;
        // SAFETY: `head` has the size of `HitHeader`, which is `repr(C)`, made of integers without padding, so any bit
        // pattern is valid; the read needs no alignment.
        let header = unsafe { head.as_ptr().cast::<HitHeader>().read_unaligned() };
        match HitKind::from_value(header.kind)? {
            HitKind::Entered => Self::entered(header, texts.get(..HitRecord::SIZE - HitHeader::SIZE)?),
            HitKind::Answered => Some(Self::Answered {
                time: header.time,
                process: header.process,
                goroutine: header.goroutine,
                attachment: header.attachment,
                accepted: header.accepted != 0,
            }),
        }
    }

    fn entered(header: HitHeader, texts: &[u8]) -> Option<Self> {
        let (method, texts) = texts.split_at_checked(limits::HIT_METHOD)?;
        let (path, remote) = texts.split_at_checked(limits::HIT_PATH)?;
        let read = |bit| header.unread & bit == 0;
        let method = text(method, header.method_length).filter(|_| read(Unread::METHOD));
        let path = text(path, header.path_length).filter(|_| read(Unread::PATH));
        let remote = text(remote, header.remote_length).filter(|_| read(Unread::REMOTE));
        let conditional = header.conditions != 0 || !read(Unread::CONDITIONS);
        let hit = Hit {
            time: header.time,
            process: header.process,
            attachment: header.attachment,
            method: method.unwrap_or_default(),
            path_cut: path.is_some() && header.path_length as usize > limits::HIT_PATH,
            path,
            proto_major: header.proto_major,
            remote: remote.and_then(|remote| remote_address(&remote)),
            accepted: (!conditional).then_some(true),
        };
        Some(Self::Entered { hit, goroutine: header.goroutine, conditional })
    }
}

/// The first `length` bytes as text. A character that the end of the room cuts is left away.
fn text(bytes: &[u8], length: u32) -> Option<String> {
    let whole = length as usize <= bytes.len();
    let bytes = bytes.get(..(length as usize).min(bytes.len()))?;
    match std::str::from_utf8(bytes) {
        Err(error) if !whole && error.error_len().is_none() => {
            bytes.get(..error.valid_up_to()).map(|valid| String::from_utf8_lossy(valid).into_owned())
        }
        _ => Some(String::from_utf8_lossy(bytes).into_owned()),
    }
}

/// The address in Go's `ip:port` or `[ip%zone]:port` (src/net/ip.go, JoinHostPort). The zone is an interface's name,
/// of which an address knows only the number: it is left away. An IPv4 address written as IPv6 becomes IPv4.
pub fn remote_address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.rsplit_once(':')?;
    let address: IpAddr = match host.strip_prefix('[') {
        Some(rest) => {
            let inner = rest.strip_suffix(']')?;
            IpAddr::V6(inner.split_once('%').map_or(inner, |(address, _)| address).parse().ok()?)
        }
        None => IpAddr::V4(host.parse().ok()?),
    };
    // `parse` of a number would also take a sign.
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(SocketAddr::new(address.to_canonical(), port.parse().ok()?))
}

/// Joins hits to the answers that they got. A hit that needs none, or whose attachment sees none, goes on at once.
#[derive(Debug, Default)]
pub struct Answers {
    pending: HashMap<(u32, u64), Hit>,
}

impl Answers {
    /// The hit that is complete with this message. `seen`: whether this attachment sees answers.
    pub fn message(&mut self, message: Message, seen: bool) -> Option<Hit> {
        match message {
            Message::Entered { hit, goroutine, conditional } => {
                if !conditional || !seen || self.pending.len() >= PENDING {
                    return Some(hit);
                }
                // A hit that is still there has lost its answer.
                self.pending.insert((hit.process, goroutine), hit)
            }
            Message::Answered { process, goroutine, accepted, .. } => {
                let hit = self.pending.remove(&(process, goroutine))?;
                Some(Hit { accepted: Some(accepted), ..hit })
            }
        }
    }

    /// Hits whose answers will not come any more, given the time (of CLOCK_MONOTONIC).
    pub fn expire(&mut self, now: u64) -> Vec<Hit> {
        if self.pending.is_empty() {
            return Vec::new();
        }
        self.pending.extract_if(|_, hit| now.saturating_sub(hit.time) > ANSWER).map(|(_, hit)| hit).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(path: &[u8], remote: &str, conditions: u32) -> Vec<u8> {
        let header = HitHeader {
            time: 7,
            goroutine: 0xc000_0001,
            process: 42,
            attachment: 3,
            conditions,
            method_length: 3,
            path_length: path.len() as u32,
            remote_length: remote.len() as u32,
            proto_major: 2,
            kind: HitKind::Entered as u8,
            ..HitHeader::default()
        };
        let mut bytes = header_bytes(&header);
        // What is behind a text's length is of an earlier record.
        bytes.extend(room(b"GET", limits::HIT_METHOD));
        bytes.extend(room(path, limits::HIT_PATH));
        bytes.extend(room(remote.as_bytes(), limits::HIT_REMOTE));
        bytes
    }

    fn header_bytes(header: &HitHeader) -> Vec<u8> {
        // SAFETY: the header is made of integers without padding.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(header).cast::<u8>(), HitHeader::SIZE) }.to_vec()
    }

    fn room(text: &[u8], size: usize) -> Vec<u8> {
        let mut bytes = text[..text.len().min(size)].to_vec();
        bytes.resize(size, b'#');
        bytes
    }

    fn answer(accepted: u8) -> Message {
        let header = HitHeader {
            time: 9,
            goroutine: 0xc000_0001,
            process: 42,
            attachment: 3,
            accepted,
            kind: HitKind::Answered as u8,
            ..HitHeader::default()
        };
        Message::from_bytes(&header_bytes(&header)).expect("an answer")
    }

    fn hit(bytes: &[u8]) -> Hit {
        match Message::from_bytes(bytes) {
            Some(Message::Entered { hit, .. }) => hit,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_hit_is_read_and_every_prefix_of_it_is_none() {
        let bytes = record(b"/livez", "[::1]:40000", 0);
        assert_eq!(bytes.len(), HitRecord::SIZE);
        let expected = Hit {
            time: 7,
            process: 42,
            attachment: 3,
            method: "GET".to_owned(),
            path: Some("/livez".to_owned()),
            path_cut: false,
            proto_major: 2,
            remote: Some("[::1]:40000".parse().expect("an address")),
            accepted: Some(true),
        };
        assert_eq!(hit(&bytes), expected);
        for length in 0..bytes.len() {
            assert_eq!(Message::from_bytes(&bytes[..length]), None, "{length}");
        }
        let mut unknown = bytes;
        unknown[std::mem::offset_of!(HitHeader, kind)] = HitKind::COUNT as u8;
        assert_eq!(Message::from_bytes(&unknown), None);
    }

    #[test]
    fn what_could_not_be_read_is_not_made_up() {
        let mut bytes = record(b"/livez", "10.0.0.1:1", 0);
        bytes[std::mem::offset_of!(HitHeader, unread)] =
            Unread::METHOD | Unread::PATH | Unread::REMOTE | Unread::CONDITIONS;
        let hit = hit(&bytes);
        assert_eq!((hit.method.as_str(), hit.path, hit.remote, hit.accepted), ("", None, None, None));
    }

    #[test]
    fn a_path_that_is_too_long_is_cut_between_characters() {
        let mut long = vec![b'a'; limits::HIT_PATH - 1];
        long.extend("é/rest".as_bytes());
        let cut = hit(&record(&long, "10.0.0.1:1", 0));
        assert_eq!((cut.path.expect("read").len(), cut.path_cut), (limits::HIT_PATH - 1, true));
        let exact = hit(&record(&[b'a'; limits::HIT_PATH], "10.0.0.1:1", 0));
        assert_eq!((exact.path.expect("read").len(), exact.path_cut), (limits::HIT_PATH, false));
        let foreign = hit(&record(b"/\xff\n", "10.0.0.1:1", 0));
        assert_eq!(foreign.path.as_deref(), Some("/\u{fffd}\n"));
    }

    #[test]
    fn remote_addresses_are_as_go_writes_them() {
        let table = [
            ("127.0.0.1:6443", Some("127.0.0.1:6443")),
            ("[2001:db8::7]:1", Some("[2001:db8::7]:1")),
            ("[fe80::1%eth0]:65535", Some("[fe80::1]:65535")),
            ("[::ffff:10.0.0.1]:80", Some("10.0.0.1:80")),
            ("2001:db8::7:1", None),
            ("[2001:db8::7]", None),
            ("[2001:db8::7:1", None),
            ("[127.0.0.1]:80", None),
            ("127.0.0.1:65536", None),
            ("127.0.0.1:+80", None),
            ("127.0.0.1:", None),
            ("localhost:80", None),
            (":80", None),
            ("@", None),
            ("pipe", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(remote_address(text), expected.map(|text| text.parse().expect(text)), "{text}");
        }
    }

    #[test]
    fn under_conditions_a_hit_waits_for_its_answer() {
        let entered = || Message::from_bytes(&record(b"/livez", "10.0.0.1:1", 2)).expect("a hit");
        let accepted = |hit: Option<Hit>| hit.map(|hit| hit.accepted);
        let mut answers = Answers::default();
        assert_eq!(answers.message(entered(), true), None);
        assert_eq!(accepted(answers.message(answer(1), true)), Some(Some(true)));
        assert_eq!(answers.message(entered(), true), None);
        assert_eq!(accepted(answers.message(answer(0), true)), Some(Some(false)));
        assert_eq!(answers.message(answer(0), true), None, "an answer to nothing");

        assert_eq!(accepted(answers.message(entered(), false)), Some(None), "no answers are seen");
        assert_eq!(answers.message(entered(), true), None);
        assert_eq!(accepted(answers.message(entered(), true)), Some(None), "the first one's answer was lost");
        assert!(answers.expire(7 + ANSWER).is_empty());
        assert_eq!(answers.expire(8 + ANSWER).len(), 1);
        assert!(answers.expire(u64::MAX).is_empty());
    }
}
