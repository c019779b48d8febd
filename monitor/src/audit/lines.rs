//! Lines out of pieces of a file, with a cap on what is held.

/// Bytes of a line at the most. The API server writes request and response into an event where its policy says so, and
/// takes requests of up to 3 MiB; twice that and the quoting of it stay below.
pub const LONGEST_LINE: usize = 10 << 20;

/// A buffer that one long line has made larger than this is given back.
const KEPT: usize = 64 << 10;

/// What stands between two ends of lines.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A line, without its end.
    Whole(&'a [u8]),
    /// A line of more than [`LONGEST_LINE`] bytes; it was not kept.
    TooLong,
}

/// Cuts a file into lines, however its bytes come.
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
    skipping: Option<Skipping>,
}

#[derive(Debug)]
enum Skipping {
    /// The rest of a line that is too long.
    TooLong,
    /// The rest of a line whose beginning was not read.
    Fragment,
}

impl Lines {
    /// From the middle of a line on: what comes before the next end of a line is none.
    pub fn from_middle() -> Self {
        Self { partial: Vec::new(), skipping: Some(Skipping::Fragment) }
    }

    /// Takes the next bytes, and hands on each line that ends in them. Empty lines are none.
    pub fn push(&mut self, bytes: &[u8], take: &mut impl FnMut(Line<'_>)) {
        let mut rest = self.behind_hole(bytes);
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, after) = (&rest[..end], &rest[end + 1..]);
            match self.skipping.take() {
                Some(Skipping::TooLong) => take(Line::TooLong),
                Some(Skipping::Fragment) => {}
                None if self.partial.is_empty() => hand_on(line, take),
                None => {
                    self.partial.extend_from_slice(line);
                    hand_on(&self.partial, take);
                    self.forget();
                }
            }
            rest = self.behind_hole(after);
        }
        if self.skipping.is_some() {
            return;
        }
        if self.partial.len() + rest.len() > LONGEST_LINE {
            self.skipping = Some(Skipping::TooLong);
            self.forget();
        } else {
            self.partial.extend_from_slice(rest);
        }
    }

    /// A writer that does not append leaves a hole where a file was cut under it (zeros, to whoever reads them); no line
    /// begins with one.
    fn behind_hole<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        if self.is_within_one() {
            return bytes;
        }
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        &bytes[zeros..]
    }

    /// The file has no more: what is held is its last line.
    pub fn finish(&mut self, take: &mut impl FnMut(Line<'_>)) {
        match self.skipping.take() {
            Some(Skipping::TooLong) => take(Line::TooLong),
            Some(Skipping::Fragment) => {}
            None => hand_on(&self.partial, take),
        }
        self.forget();
    }

    /// Whether a line has begun that did not end yet.
    fn is_within_one(&self) -> bool {
        self.skipping.is_some() || !self.partial.is_empty()
    }

    fn forget(&mut self) {
        self.partial.clear();
        self.partial.shrink_to(KEPT);
    }
}

fn hand_on(line: &[u8], take: &mut impl FnMut(Line<'_>)) {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > LONGEST_LINE {
        take(Line::TooLong);
    } else if !line.is_empty() {
        take(Line::Whole(line));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(lines: &mut Lines, pieces: &[&[u8]]) -> Vec<Option<Vec<u8>>> {
        let mut read = Vec::new();
        let mut take = |line: Line<'_>| {
            read.push(match line {
                Line::Whole(bytes) => Some(bytes.to_vec()),
                Line::TooLong => None,
            });
        };
        for piece in pieces {
            lines.push(piece, &mut take);
        }
        lines.finish(&mut take);
        read
    }

    #[test]
    fn a_line_as_long_as_may_be_is_whole_and_a_longer_one_is_counted_once() {
        let long = vec![b'x'; LONGEST_LINE];
        let piece = 1 << 16;
        let mut pieces: Vec<&[u8]> = long.chunks(piece).collect();
        pieces.extend([&b"\n"[..], b"short\n"]);
        let mut lines = Lines::default();
        assert_eq!(read(&mut lines, &pieces), [Some(long.clone()), Some(b"short".to_vec())]);
        assert!(lines.partial.capacity() <= KEPT, "{} bytes kept", lines.partial.capacity());

        let mut pieces: Vec<&[u8]> = long.chunks(piece).collect();
        pieces.extend([&b"y"[..], b"more", b"\nshort\n"]);
        assert_eq!(read(&mut Lines::default(), &pieces), [None, Some(b"short".to_vec())]);
        assert_eq!(
            read(&mut Lines::default(), &[&[&long[..], b"yy\nshort"].concat()]),
            [None, Some(b"short".to_vec())]
        );
    }

    #[test]
    fn no_more_is_held_than_a_line_may_have() {
        let mut lines = Lines::default();
        for _ in 0..1_000 {
            lines.push(&[b'x'; 1 << 16], &mut |_| {});
            assert!(lines.partial.len() <= LONGEST_LINE);
        }
        assert!(lines.is_within_one());
        assert_eq!(read(&mut lines, &[b"\n"]), [None]);
        assert!(!lines.is_within_one());
    }

    #[test]
    fn from_the_middle_the_first_piece_is_no_line() {
        assert_eq!(read(&mut Lines::from_middle(), &[b"end of one", b"\nnext\n"]), [Some(b"next".to_vec())]);
        assert_eq!(read(&mut Lines::from_middle(), &[b"end of one"]), []);
    }

    #[test]
    fn a_hole_before_a_line_is_nothing() {
        let hole = vec![0; 2 * LONGEST_LINE];
        assert_eq!(
            read(&mut Lines::default(), &[&hole, b"\0one\n\0\0two\0\n"]),
            [Some(b"one".to_vec()), Some(b"two\0".to_vec())]
        );
    }

    proptest! {
        #[test]
        fn however_the_bytes_come(
            text in "([a-z]{0,9}\r?\n?){0,20}",
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let text = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&text[from..cut]);
                from = cut;
            }
            pieces.push(&text[from..]);
            let expected: Vec<_> = text
                .split(|byte| *byte == b'\n')
                .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
                .filter(|line| !line.is_empty())
                .map(|line| Some(line.to_vec()))
                .collect();
            prop_assert_eq!(read(&mut Lines::default(), &pieces), expected);
        }
    }
}
