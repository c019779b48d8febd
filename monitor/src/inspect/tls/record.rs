//! The record layer: where each record begins and what it holds, without copying its bytes.
//!
//! ```text
//! struct { ContentType type; ProtocolVersion version; uint16 length; opaque fragment[length]; }   RFC 8446 section 5.1
//! ```

use crate::inspect::detect::LONGEST_RECORD;

/// Content types, RFC 8446 appendix B.1 and RFC 6520.
pub mod content {
    /// change_cipher_spec.
    pub const CHANGE_CIPHER_SPEC: u8 = 20;
    /// alert.
    pub const ALERT: u8 = 21;
    /// handshake.
    pub const HANDSHAKE: u8 = 22;
    /// application_data; in TLS 1.3 everything that is encrypted.
    pub const APPLICATION_DATA: u8 = 23;
    /// heartbeat.
    pub const HEARTBEAT: u8 = 24;
}

/// A header that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotARecord;

/// The next thing in one direction's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A record's header is complete.
    Header {
        /// Content type.
        kind: u8,
        /// Bytes of the fragment.
        length: u16,
    },
    /// More of the current record's fragment.
    Fragment(&'a [u8]),
}

/// Where one direction's stream stands in its records.
#[derive(Clone, Copy, Debug, Default)]
pub struct Records {
    header: [u8; 5],
    have: u8,
    remaining: u16,
}

impl Records {
    /// The next piece of `bytes`, which is advanced behind it; `None` when they are used up.
    pub fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Piece<'a>>, NotARecord> {
        if bytes.is_empty() {
            return Ok(None);
        }
        if self.remaining > 0 {
            let (fragment, rest) = bytes.split_at(bytes.len().min(usize::from(self.remaining)));
            self.remaining -= fragment.len() as u16;
            *bytes = rest;
            return Ok(Some(Piece::Fragment(fragment)));
        }
        let have = usize::from(self.have);
        let (head, rest) = bytes.split_at(bytes.len().min(self.header.len() - have));
        self.header[have..have + head.len()].copy_from_slice(head);
        self.have += head.len() as u8;
        *bytes = rest;
        let [kind, major, minor, high, low] = self.header;
        if !(content::CHANGE_CIPHER_SPEC..=content::HEARTBEAT).contains(&kind)
            || (self.have > 1 && major != 3)
            || (self.have > 2 && minor > 4)
        {
            return Err(NotARecord);
        }
        if self.have < 5 {
            return Ok(None);
        }
        self.have = 0;
        self.remaining = u16::from_be_bytes([high, low]);
        if self.remaining > LONGEST_RECORD {
            return Err(NotARecord);
        }
        Ok(Some(Piece::Header { kind, length: self.remaining }))
    }

    /// Whether the current record has come to its end.
    pub const fn whole(&self) -> bool {
        self.remaining == 0
    }

    /// First byte of the header that is being read, or of the last one.
    pub const fn first_byte(&self) -> u8 {
        self.header[0]
    }

    /// Leaves out `length` bytes; false when a header was among them and the place of the next is not known.
    pub fn skip(&mut self, length: u64) -> bool {
        if length > u64::from(self.remaining) {
            return false;
        }
        self.remaining -= length as u16;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(parts: &[&[u8]]) -> Vec<(u8, u16)> {
        let (mut records, mut found) = (Records::default(), Vec::new());
        for part in parts {
            let mut bytes = *part;
            while let Some(piece) = records.next(&mut bytes).expect("records") {
                if let Piece::Header { kind, length } = piece {
                    found.push((kind, length));
                }
            }
        }
        found
    }

    #[test]
    fn every_split_in_two_gives_the_same_records() {
        let stream = b"\x16\x03\x01\x00\x03abc\x14\x03\x03\x00\x01\x01\x17\x03\x03\x00\x00\x17\x03\x03\x00\x02xy";
        let whole = headers(&[stream]);
        assert_eq!(whole, [(22, 3), (20, 1), (23, 0), (23, 2)]);
        for at in 0..=stream.len() {
            assert_eq!(headers(&[&stream[..at], &stream[at..]]), whole, "split at {at}");
        }
    }

    #[test]
    fn what_is_no_record_is_told() {
        for bytes in [&b"HTTP/"[..], b"\x16\x02", b"\x16\x03\x05", b"\x17\x03\x03\xff\xff"] {
            assert_eq!(Records::default().next(&mut &bytes[..]), Err(NotARecord), "{bytes:x?}");
        }
    }

    #[test]
    fn a_gap_inside_a_fragment_is_harmless() {
        let mut records = Records::default();
        let mut bytes = &b"\x17\x03\x03\x00\x0a1234"[..];
        while records.next(&mut bytes).expect("a record").is_some() {}
        assert!(!records.skip(7), "the next header is among them");
        assert!(records.skip(6));
        assert_eq!(records.next(&mut &b"\x15\x03\x03\x00\x02"[..]), Ok(Some(Piece::Header { kind: 21, length: 2 })));
    }
}
