//! What is spoken, from the first bytes: the cheapest test first, and each says found, need more, or not this.

use super::http1::head::RequestLine;

/// Longest beginning that is held while the tests still need more: a request line with a long path.
pub const LONGEST: usize = 16 * 1024;

/// Longest payload of a TLS record, RFC 5246 section 6.2.3: 2^14 + 2048.
pub const LONGEST_RECORD: u16 = 16_384 + 2_048;

/// First line and second of the preface of HTTP/2 with prior knowledge, RFC 9113 section 3.4.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a test says of the bytes so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<T> {
    /// It is this.
    Found(T),
    /// The bytes so far do not tell.
    NeedMore,
    /// It is not this.
    NotThis,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// A TLS (or SSL 3.0) record.
    Tls,
    /// A hello in the format of SSL 2.0 that offers SSL 3.0 or TLS (RFC 5246 appendix E.2), with its length in bytes.
    TlsInOldHello(u16),
    /// A request line of HTTP/1.0 or 1.1.
    Http1,
    /// The preface of HTTP/2.
    Http2,
}

/// What the client speaks.
pub fn client(bytes: &[u8]) -> Verdict<Spoken> {
    let mut more = false;
    for test in [tls, old_hello, http2, http1] {
        match test(bytes) {
            Verdict::Found(spoken) => return Verdict::Found(spoken),
            Verdict::NeedMore => more = true,
            Verdict::NotThis => {}
        }
    }
    if more && bytes.len() < LONGEST { Verdict::NeedMore } else { Verdict::NotThis }
}

/// A record header of TLS and, in a handshake record, a ClientHello behind it.
fn tls(bytes: &[u8]) -> Verdict<Spoken> {
    let kind = match bytes.first() {
        None => return Verdict::NeedMore,
        Some(kind @ (20..=22)) => *kind,
        Some(_) => return Verdict::NotThis,
    };
    if bytes.get(1).is_some_and(|major| *major != 3) || bytes.get(2).is_some_and(|minor| *minor > 4) {
        return Verdict::NotThis;
    }
    let Some((&[_, _, _, high, low], rest)) = bytes.split_first_chunk::<5>() else { return Verdict::NeedMore };
    let length = u16::from_be_bytes([high, low]);
    match (kind, length, rest.first()) {
        (20, 1, _) | (21, 2, _) => Verdict::Found(Spoken::Tls),
        (22, 1..=LONGEST_RECORD, Some(1)) => Verdict::Found(Spoken::Tls),
        (22, 1..=LONGEST_RECORD, None) => Verdict::NeedMore,
        _ => Verdict::NotThis,
    }
}

/// The fixed part of an SSL 2.0 CLIENT-HELLO: two bytes of length with the top bit set, type, version, three lengths.
fn old_hello(bytes: &[u8]) -> Verdict<Spoken> {
    match bytes {
        [] => return Verdict::NeedMore,
        [first, ..] if first & 0x80 == 0 => return Verdict::NotThis,
        [_, _, kind, ..] if *kind != 1 => return Verdict::NotThis,
        [_, _, _, major, ..] if *major != 3 => return Verdict::NotThis,
        _ => {}
    }
    let Some(&[high, low, _, _, minor, c1, c0, s1, s0, r1, r0]) = bytes.first_chunk::<11>() else {
        return Verdict::NeedMore;
    };
    let length = u16::from_be_bytes([high & 0x7f, low]);
    let [ciphers, session, challenge] = [[c1, c0], [s1, s0], [r1, r0]].map(u16::from_be_bytes);
    let parts = 9_u32 + u32::from(ciphers) + u32::from(session) + u32::from(challenge);
    if minor <= 4 && ciphers % 3 == 0 && ciphers > 0 && (16..=32).contains(&challenge) && parts == u32::from(length) {
        Verdict::Found(Spoken::TlsInOldHello(length + 2))
    } else {
        Verdict::NotThis
    }
}

/// The first line of the preface is enough: no other protocol has it.
fn http2(bytes: &[u8]) -> Verdict<Spoken> {
    let line = &PREFACE[..16];
    if bytes.len() >= line.len() {
        if bytes.starts_with(line) { Verdict::Found(Spoken::Http2) } else { Verdict::NotThis }
    } else if line.starts_with(bytes) {
        Verdict::NeedMore
    } else {
        Verdict::NotThis
    }
}

/// A method's token and a line that ends in the version, after empty lines.
pub fn http1(bytes: &[u8]) -> Verdict<Spoken> {
    let bytes = &bytes[bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count()..];
    let Some(token) = bytes.iter().take(RequestLine::LONGEST_METHOD + 1).position(|byte| !is_token(*byte)) else {
        return if bytes.len() <= RequestLine::LONGEST_METHOD { Verdict::NeedMore } else { Verdict::NotThis };
    };
    if token == 0 || bytes[token] != b' ' {
        return Verdict::NotThis;
    }
    match memchr::memchr(b'\n', bytes) {
        Some(end) if RequestLine::parse(&bytes[..end]).is_some() => Verdict::Found(Spoken::Http1),
        Some(_) => Verdict::NotThis,
        None if bytes.iter().any(|byte| *byte < b' ' && *byte != b'\r') => Verdict::NotThis,
        None => Verdict::NeedMore,
    }
}

/// Whether an unfinished beginning can hardly be anything but HTTP/1: a known method and a path.
pub fn begins_like_http1(bytes: &[u8]) -> bool {
    [&b"GET "[..], b"POST ", b"PUT ", b"PATCH ", b"DELETE ", b"HEAD ", b"OPTIONS "].iter().any(|method| {
        bytes.strip_prefix(*method).is_some_and(|target| target.starts_with(b"/") || target.starts_with(b"http://"))
    })
}

/// Whether these bytes, from the middle of a stream, are a chain of TLS records: one that ends with them, or two headers.
pub fn tls_records(mut bytes: &[u8]) -> bool {
    for seen in 0.. {
        let Some((&[kind, major, minor, high, low], rest)) = bytes.split_first_chunk::<5>() else {
            return seen > 0 && bytes.is_empty();
        };
        let length = u16::from_be_bytes([high, low]);
        if !(20..=23).contains(&kind) || major != 3 || minor > 4 || length == 0 || length > LONGEST_RECORD {
            return false;
        }
        if seen == 1 {
            return true;
        }
        let Some(rest) = rest.get(usize::from(length)..) else { return false };
        bytes = rest;
    }
    false
}

/// tchar of RFC 9110 section 5.6.2.
pub const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD_HELLO: &[u8] =
        &[0x80, 0x1c, 1, 3, 1, 0, 3, 0, 0, 0, 16, 0, 0, 0x2f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

    #[test]
    fn first_bytes_tell() {
        for (description, bytes, expected) in [
            ("TLS 1.0 record version", &b"\x16\x03\x01\x02\x00\x01\x00"[..], Verdict::Found(Spoken::Tls)),
            ("SSL 3.0", b"\x16\x03\x00\x00\x50\x01", Verdict::Found(Spoken::Tls)),
            ("an alert first", b"\x15\x03\x01\x00\x02\x02\x28", Verdict::Found(Spoken::Tls)),
            ("a handshake that begins with a ServerHello", b"\x16\x03\x01\x02\x00\x02\x00", Verdict::NotThis),
            ("a record of no length", b"\x16\x03\x01\x00\x00\x01", Verdict::NotThis),
            ("a record that is too long", b"\x16\x03\x01\xff\xff\x01", Verdict::NotThis),
            ("SSL 2.0 format offering TLS 1.0", OLD_HELLO, Verdict::Found(Spoken::TlsInOldHello(30))),
            ("SSL 2.0 itself", b"\x80\x1c\x01\x00\x02\x00\x03\x00\x00\x00\x10", Verdict::NotThis),
            ("a request", b"GET /version HTTP/1.1\r\n", Verdict::Found(Spoken::Http1)),
            ("ended by LF only", b"GET /version HTTP/1.0\n", Verdict::Found(Spoken::Http1)),
            ("after an empty line", b"\r\nGET / HTTP/1.1\r\n", Verdict::Found(Spoken::Http1)),
            ("a method of one's own", b"SUBSCRIBE /x HTTP/1.1\r\n", Verdict::Found(Spoken::Http1)),
            ("prior knowledge", b"PRI * HTTP/2.0\r\n\r\nSM", Verdict::Found(Spoken::Http2)),
            ("RTSP", b"OPTIONS / RTSP/1.0\r\n\r\n", Verdict::NotThis),
            ("SIP", b"OPTIONS sip:nm SIP/2.0\r\n", Verdict::NotThis),
            ("HTTP/0.9", b"GET /\r\n", Verdict::NotThis),
            ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n", Verdict::NotThis),
            ("a name and no request", b"HELP\r\n", Verdict::NotThis),
            ("binary", b"\x00\x00\x00\x0c", Verdict::NotThis),
            ("half a line", b"GET /api/v1/na", Verdict::NeedMore),
            ("half a header", b"\x16\x03", Verdict::NeedMore),
        ] {
            assert_eq!(client(bytes), expected, "{description}");
        }
    }

    #[test]
    fn every_prefix_needs_more() {
        for whole in [&b"\x16\x03\x01\x02\x00\x01"[..], OLD_HELLO, b"GET /version HTTP/1.1\n", &PREFACE[..16]] {
            let needed = if whole == OLD_HELLO { 11 } else { whole.len() };
            for length in 0..needed {
                assert_eq!(client(&whole[..length]), Verdict::NeedMore, "{length} of {whole:x?}");
            }
        }
    }

    #[test]
    fn nothing_is_held_for_ever() {
        let mut long = b"GET /".to_vec();
        long.resize(LONGEST, b'a');
        assert_eq!(client(&long), Verdict::NotThis);
        assert!(begins_like_http1(&long));
    }

    #[test]
    fn records_in_the_middle_of_a_stream_have_to_chain() {
        assert!(tls_records(b"\x17\x03\x03\x00\x02ab"), "one that ends with the bytes");
        assert!(tls_records(b"\x17\x03\x03\x00\x02ab\x17\x03\x03\x40\x00"), "two headers");
        assert!(!tls_records(b"\x17\x03\x03\x00\x09ab"), "one that does not end here says too little");
        assert!(!tls_records(b"\x17\x03\x03\x00\x02ab\x00\x03\x03\x40\x00"));
        assert!(!tls_records(b""));
    }
}
