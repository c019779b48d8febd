//! Frames of HTTP/2: headers of nine bytes, payloads in place.
//!
//! ```text
//! HTTP Frame { Length (24), Type (8), Flags (8), Reserved (1), Stream Identifier (31), Frame Payload (..) }   RFC 9113 section 4.1
//! ```

/// Frame types, RFC 9113 section 6.
pub mod kind {
    /// DATA.
    pub const DATA: u8 = 0;
    /// HEADERS.
    pub const HEADERS: u8 = 1;
    /// RST_STREAM.
    pub const RST_STREAM: u8 = 3;
    /// PUSH_PROMISE.
    pub const PUSH_PROMISE: u8 = 5;
    /// CONTINUATION.
    pub const CONTINUATION: u8 = 9;
}

/// Flags, RFC 9113 section 6.
pub mod flag {
    /// END_STREAM of DATA and HEADERS.
    pub const END_STREAM: u8 = 0x1;
    /// END_HEADERS of HEADERS, PUSH_PROMISE and CONTINUATION.
    pub const END_HEADERS: u8 = 0x4;
    /// PADDED of DATA, HEADERS and PUSH_PROMISE.
    pub const PADDED: u8 = 0x8;
    /// PRIORITY of HEADERS.
    pub const PRIORITY: u8 = 0x20;
}

/// A frame header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the payload.
    pub length: u32,
    /// Frame type.
    pub kind: u8,
    /// Flags of that type.
    pub flags: u8,
    /// Stream identifier.
    pub stream: u32,
}

impl Head {
    /// Bytes of a frame header.
    pub const SIZE: usize = 9;

    /// From the wire.
    pub const fn parse([l2, l1, l0, kind, flags, s3, s2, s1, s0]: [u8; Self::SIZE]) -> Self {
        Self {
            length: u32::from_be_bytes([0, l2, l1, l0]),
            kind,
            flags,
            stream: u32::from_be_bytes([s3, s2, s1, s0]) & 0x7fff_ffff,
        }
    }

    /// Whether this flag is set.
    pub const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The header block, or its fragment, in this frame's payload: without padding, priority and promised stream.
    pub fn block<'a>(&self, payload: &'a [u8]) -> Option<&'a [u8]> {
        let (mut payload, mut padding) = (payload, 0);
        if self.kind == kind::CONTINUATION {
            return Some(payload);
        }
        if self.has(flag::PADDED) {
            let (length, rest) = payload.split_first()?;
            (payload, padding) = (rest, usize::from(*length));
        }
        let fields = match self.kind {
            kind::PUSH_PROMISE => 4,
            kind::HEADERS if self.has(flag::PRIORITY) => 5,
            _ => 0,
        };
        payload.get(fields..payload.len().checked_sub(padding)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_of_nine_bytes() {
        let head = Head::parse([0, 1, 2, 1, 0x24, 0x80, 0, 0, 3]);
        assert_eq!(head, Head { length: 258, kind: kind::HEADERS, flags: 0x24, stream: 3 });
        assert!(head.has(flag::END_HEADERS) && head.has(flag::PRIORITY) && !head.has(flag::PADDED));
    }

    #[test]
    fn a_block_without_what_stands_around_it() {
        let head = |kind, flags| Head { kind, flags, ..Head::default() };
        for (head, payload, expected) in [
            (head(kind::HEADERS, 0), &b"block"[..], Some(&b"block"[..])),
            (head(kind::HEADERS, flag::PADDED), b"\x02blockpp", Some(b"block")),
            (head(kind::HEADERS, flag::PADDED | flag::PRIORITY), b"\x01dddd\x10blockp", Some(b"block")),
            (head(kind::PUSH_PROMISE, 0), b"\0\0\0\x02block", Some(b"block")),
            (head(kind::CONTINUATION, flag::PADDED), b"block", Some(b"block")),
            (head(kind::HEADERS, flag::PADDED), b"\x09block", None),
            (head(kind::HEADERS, flag::PRIORITY), b"ddd", None),
            (head(kind::HEADERS, flag::PADDED), b"", None),
        ] {
            assert_eq!(head.block(payload), expected, "{head:?} {payload:?}");
        }
    }
}
