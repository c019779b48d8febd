//! Lines out of a stream: in place where they are whole, of a long one only the beginning.

use std::borrow::Cow;

/// Bytes of a line that are kept; of a longer one, the beginning. A path of 2,048 bytes with a long query fits, and what
/// matters of a header (its name, a scheme, a number) stands at its beginning.
pub const KEPT: usize = 4_096;

/// Collects one line at a time.
#[derive(Debug, Default)]
pub struct Lines {
    kept: Vec<u8>,
    /// A line has begun and is not ended.
    partial: bool,
}

impl Lines {
    /// The next line that these bytes complete, without its LF or CRLF; `bytes` is advanced behind it.
    pub fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            self.keep(bytes);
            self.partial |= !bytes.is_empty();
            *bytes = &[];
            return None;
        };
        let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
        *bytes = rest;
        if !self.partial {
            return Some(Cow::Borrowed(without_cr(&line[..line.len().min(KEPT)])));
        }
        self.keep(line);
        self.partial = false;
        let mut line = std::mem::take(&mut self.kept);
        line.truncate(without_cr(&line).len());
        Some(Cow::Owned(line))
    }

    /// Whether a line has begun and is not ended.
    pub const fn partial(&self) -> bool {
        self.partial
    }

    /// Memory that a line that has begun takes.
    pub const fn held(&self) -> usize {
        self.kept.capacity()
    }

    /// Forgets a line that has begun.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.kept.extend_from_slice(&bytes[..bytes.len().min(KEPT - self.kept.len())]);
    }
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(parts: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for part in parts {
            let mut bytes = *part;
            while let Some(line) = lines.next(&mut bytes) {
                found.push(line.into_owned());
            }
        }
        found
    }

    #[test]
    fn every_split_in_two_gives_the_same_lines() {
        let stream = b"GET / HTTP/1.1\r\nA: b\n\r\n\nrest";
        let whole = lines(&[stream]);
        assert_eq!(whole, [&b"GET / HTTP/1.1"[..], b"A: b", b"", b""]);
        for at in 0..=stream.len() {
            assert_eq!(lines(&[&stream[..at], &stream[at..]]), whole, "split at {at}");
        }
    }

    #[test]
    fn of_a_long_line_the_beginning_is_kept() {
        let long = [vec![b'a'; 3 * KEPT], b"\nx\n".to_vec()].concat();
        for parts in [vec![&long[..]], long.chunks(1_000).collect()] {
            let found = lines(&parts);
            assert_eq!((found[0].len(), &found[1][..]), (KEPT, &b"x"[..]));
        }
    }
}
