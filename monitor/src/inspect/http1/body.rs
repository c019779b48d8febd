//! Where a message body ends: by length, by chunks (RFC 9112 section 7.1), or with the connection.

use super::line::Lines;

/// What is left of one body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked(Chunked),
    /// Everything up to the end of the connection.
    UntilClose,
}

/// Where a chunked body stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunked {
    /// Before the line with the next chunk's size.
    Size,
    /// So many bytes of the chunk are left.
    Data(u64),
    /// Before the line end that follows a chunk.
    DataEnd,
    /// Behind the last chunk, before the empty line.
    Trailer,
}

/// What the next bytes of a body are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// Content.
    Content(&'a [u8]),
    /// The body is over.
    Over,
    /// All bytes are used up.
    NeedMore,
    /// No chunk's size where one had to be.
    Malformed,
}

impl Body {
    /// Before the first chunk.
    pub const fn chunked() -> Self {
        Self::Chunked(Chunked::Size)
    }

    /// The next part; `bytes` is advanced behind it.
    pub fn next<'a>(&mut self, lines: &mut Lines, bytes: &mut &'a [u8]) -> Part<'a> {
        loop {
            match self {
                Self::Length(0) => return Part::Over,
                Self::UntilClose if bytes.is_empty() => return Part::NeedMore,
                Self::UntilClose => return Part::Content(std::mem::take(bytes)),
                Self::Length(left) | Self::Chunked(Chunked::Data(left @ 1..)) => {
                    if bytes.is_empty() {
                        return Part::NeedMore;
                    }
                    let length = usize::try_from(*left).map_or(bytes.len(), |left| bytes.len().min(left));
                    let (content, rest) = bytes.split_at(length);
                    *bytes = rest;
                    *left -= length as u64;
                    return Part::Content(content);
                }
                Self::Chunked(Chunked::Data(0)) => *self = Self::Chunked(Chunked::DataEnd),
                Self::Chunked(state) => {
                    let Some(line) = lines.next(bytes) else { return Part::NeedMore };
                    *state = match state {
                        Chunked::Size => match size(&line) {
                            Some(0) => Chunked::Trailer,
                            Some(size) => Chunked::Data(size),
                            None => return Part::Malformed,
                        },
                        Chunked::DataEnd if line.is_empty() => Chunked::Size,
                        Chunked::Trailer if line.is_empty() => {
                            *self = Self::Length(0);
                            return Part::Over;
                        }
                        Chunked::Trailer => Chunked::Trailer,
                        Chunked::DataEnd | Chunked::Data(_) => return Part::Malformed,
                    };
                }
            }
        }
    }

    /// Leaves out `length` bytes; false when the framing was among them.
    pub fn skip(&mut self, length: u64) -> bool {
        match self {
            Self::UntilClose => true,
            Self::Length(left) | Self::Chunked(Chunked::Data(left)) if length <= *left => {
                *left -= length;
                true
            }
            _ => false,
        }
    }
}

/// chunk-size of a line `chunk-size [ chunk-ext ]`.
fn size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b';').next()?.trim_ascii();
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    digits.iter().try_fold(0_u64, |size, digit| Some(size << 4 | u64::from(char::from(*digit).to_digit(16)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(mut body: Body, parts: &[&[u8]]) -> (Vec<u8>, bool, usize) {
        let (mut lines, mut content, mut left) = (Lines::default(), Vec::new(), 0);
        let mut over = false;
        for part in parts {
            let mut bytes = *part;
            loop {
                match body.next(&mut lines, &mut bytes) {
                    Part::Content(part) => content.extend_from_slice(part),
                    Part::Over => {
                        over = true;
                        break;
                    }
                    Part::NeedMore => break,
                    Part::Malformed => panic!("malformed"),
                }
            }
            left += bytes.len();
        }
        (content, over, left)
    }

    #[test]
    fn every_split_in_two_gives_the_same_content() {
        for (body, stream, expected) in [
            (Body::Length(4), &b"abcd|"[..], &b"abcd"[..]),
            (Body::chunked(), b"3\r\nabc\r\n0a;x=y\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n|", b"abc0123456789"),
            (Body::chunked(), b"1\na\n0\n\n|", b"a"),
            (Body::Length(0), b"|", b""),
        ] {
            for at in 0..=stream.len() {
                let (content, over, left) = content(body, &[&stream[..at], &stream[at..]]);
                assert_eq!((&content[..], over, left), (expected, true, 1), "{body:?} split at {at}");
            }
        }
    }

    #[test]
    fn a_gap_is_harmless_where_the_end_is_known() {
        assert!(Body::Length(5).skip(5));
        assert!(!Body::Length(5).skip(6));
        assert!(!Body::chunked().skip(1));
        assert!(Body::Chunked(Chunked::Data(9)).skip(9));
        assert!(Body::UntilClose.skip(1 << 40));
    }

    #[test]
    fn sizes() {
        for (line, expected) in [("a", Some(10)), ("1F;x", Some(31)), ("", None), ("-1", None), ("x", None)] {
            assert_eq!(size(line.as_bytes()), expected, "{line}");
        }
        assert_eq!(size(b"11112222333344445"), None, "more than 64 bits");
    }
}
