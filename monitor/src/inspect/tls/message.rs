//! Handshake messages out of the fragments of handshake records: over several records and segments, in place where they
//! are whole.
//!
//! ```text
//! struct { HandshakeType msg_type; uint24 length; ... }   RFC 8446 section 4
//! ```

use std::borrow::Cow;

/// Handshake types, RFC 8446 appendix B.3 and RFC 5246 section 7.4.
pub mod kind {
    /// client_hello.
    pub const CLIENT_HELLO: u8 = 1;
    /// server_hello, and hello_retry_request in TLS 1.3.
    pub const SERVER_HELLO: u8 = 2;
    /// certificate.
    pub const CERTIFICATE: u8 = 11;
    /// server_key_exchange.
    pub const SERVER_KEY_EXCHANGE: u8 = 12;
    /// certificate_request.
    pub const CERTIFICATE_REQUEST: u8 = 13;
    /// server_hello_done.
    pub const SERVER_HELLO_DONE: u8 = 14;
    /// client_key_exchange.
    pub const CLIENT_KEY_EXCHANGE: u8 = 16;
}

/// Longest hello that is read. Post-quantum key shares make 2 kB of one, a full list of tickets some more.
pub const LONGEST_HELLO: u32 = 32 * 1024;

/// A hello that is longer than [`LONGEST_HELLO`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// One handshake message: a hello in full, of any other the first bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Handshake type.
    pub kind: u8,
    /// Bytes of its body.
    pub length: u32,
    /// The body, or its first four bytes at the most.
    pub body: Cow<'a, [u8]>,
}

/// Where one direction's handshake stands in its messages.
#[derive(Clone, Debug, Default)]
pub struct Messages {
    header: [u8; 4],
    have: u8,
    /// Body bytes that have not come yet.
    remaining: u32,
    /// Of these, how many are still wanted.
    wanted: u32,
    /// What came of a body that is not whole.
    kept: Vec<u8>,
}

impl Messages {
    /// The next message that these bytes complete; `bytes` is advanced behind what was used.
    pub fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Message<'a>>, TooLong> {
        if self.have < 4 {
            if bytes.is_empty() {
                return Ok(None);
            }
            // What is left of a body that nobody wants to the end comes first.
            let skipped = bytes.len().min(self.remaining as usize);
            self.remaining -= skipped as u32;
            *bytes = &bytes[skipped..];
            let have = usize::from(self.have);
            let (head, rest) = bytes.split_at(bytes.len().min(4 - have));
            self.header[have..have + head.len()].copy_from_slice(head);
            self.have += head.len() as u8;
            *bytes = rest;
            if self.have < 4 {
                return Ok(None);
            }
            self.remaining = self.length();
            self.wanted = match self.header[0] {
                kind::CLIENT_HELLO | kind::SERVER_HELLO if self.remaining > LONGEST_HELLO => return Err(TooLong),
                kind::CLIENT_HELLO | kind::SERVER_HELLO => self.remaining,
                _ => self.remaining.min(4),
            };
        }
        let (part, rest) = bytes.split_at(bytes.len().min(self.wanted as usize));
        self.wanted -= part.len() as u32;
        self.remaining -= part.len() as u32;
        *bytes = rest;
        if self.wanted > 0 {
            self.kept.extend_from_slice(part);
            return Ok(None);
        }
        self.have = 0;
        let body = if self.kept.is_empty() {
            Cow::Borrowed(part)
        } else {
            let mut body = std::mem::take(&mut self.kept);
            body.extend_from_slice(part);
            Cow::Owned(body)
        };
        Ok(Some(Message { kind: self.header[0], length: self.length(), body }))
    }

    /// Memory that a message that is not whole takes.
    pub const fn held(&self) -> usize {
        self.kept.capacity()
    }

    /// Leaves out `length` bytes; false when something that is wanted was among them.
    pub fn skip(&mut self, length: u64) -> bool {
        if self.have > 0 || length > u64::from(self.remaining) {
            return false;
        }
        self.remaining -= length as u32;
        true
    }

    fn length(&self) -> u32 {
        let [_, high, middle, low] = self.header;
        u32::from_be_bytes([0, high, middle, low])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(parts: &[&[u8]]) -> Vec<(u8, u32, Vec<u8>)> {
        let (mut messages, mut found) = (Messages::default(), Vec::new());
        for part in parts {
            let mut bytes = *part;
            while let Some(message) = messages.next(&mut bytes).expect("short messages") {
                found.push((message.kind, message.length, message.body.into_owned()));
            }
        }
        found
    }

    #[test]
    fn every_split_in_two_gives_the_same_messages() {
        let stream = b"\x02\0\0\x06hello!\x0b\0\0\x08\0\0\x05rest!\x0e\0\0\0\x10\0\0\x02ab";
        let whole = messages(&[stream]);
        assert_eq!(
            whole,
            [(2, 6, b"hello!".to_vec()), (11, 8, b"\0\0\x05r".to_vec()), (14, 0, vec![]), (16, 2, b"ab".to_vec())]
        );
        for at in 0..=stream.len() {
            assert_eq!(messages(&[&stream[..at], &stream[at..]]), whole, "split at {at}");
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(messages(&bytes), whole, "byte by byte");
    }

    #[test]
    fn a_hello_is_held_to_its_limit() {
        assert_eq!(Messages::default().next(&mut &b"\x01\xff\xff\xff"[..]), Err(TooLong));
    }

    #[test]
    fn a_gap_may_fall_where_nothing_is_wanted() {
        let mut of = Messages::default();
        let mut bytes = &b"\x0b\0\x01\0\0\0\xfd12"[..];
        assert_eq!(of.next(&mut bytes).expect("short").map(|message| message.kind), Some(11));
        assert_eq!(of.next(&mut bytes), Ok(None));
        assert!(!of.skip(252), "the next header is among them");
        assert!(of.skip(251));
        let mut bytes = &b"\x0e\0\0\0"[..];
        assert_eq!(of.next(&mut bytes).expect("short").map(|message| message.kind), Some(14));
    }
}
