//! One file on its way from a position to its end.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::lines::{Line, Lines};
use super::position::{Identity, Position, Tail};

/// Bytes that are read at once.
pub const PIECE: usize = 64 << 10;

/// A file that is read as it grows.
#[derive(Debug)]
pub struct Reading {
    file: File,
    identity: Identity,
    /// Of the next byte to read.
    position: u64,
    /// What stands before it.
    tail: Tail,
    /// Where the last whole line ended.
    whole: u64,
    /// What stands before that.
    whole_tail: Tail,
    lines: Lines,
}

/// How far a reading came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// Everything that is there was read.
    ToTheEnd,
    /// There is more.
    NotYet,
    /// What was read before is no longer there: the file was cut, and perhaps written anew.
    Cut,
}

impl Reading {
    /// From the file's beginning.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn from_start(file: File) -> io::Result<Self> {
        Self::from(file, 0, Lines::default())
    }

    /// From this position on, where a line begins.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn from_position(file: File, position: u64) -> io::Result<Self> {
        Self::from(file, position, Lines::default())
    }

    /// From the file's end on; a line that is being written there is none.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn from_end(file: File) -> io::Result<Self> {
        let end = file.metadata()?.len();
        let mut last = [b'\n'];
        if let Some(before) = end.checked_sub(1) {
            file.read_exact_at(&mut last, before)?;
        }
        Self::from(file, end, if last == *b"\n" { Lines::default() } else { Lines::from_middle() })
    }

    fn from(file: File, position: u64, lines: Lines) -> io::Result<Self> {
        let identity = Identity::of(&file.metadata()?);
        let tail = Tail::read(&file, position)?;
        Ok(Self { file, identity, position, whole: position, whole_tail: tail.clone(), tail, lines })
    }

    /// This reading goes on in a copy of its file. The file itself is given back.
    ///
    /// # Errors
    /// The copy cannot be looked at.
    pub fn go_on_in(&mut self, copy: File) -> io::Result<File> {
        self.identity = Identity::of(&copy.metadata()?);
        Ok(std::mem::replace(&mut self.file, copy))
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Which file it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Whether another file has before this reading's position what this one read there. Nothing stands before the
    /// beginning, so a reading that is there knows no other file.
    pub fn is_copied_in(&self, other: &File) -> bool {
        self.position > 0 && self.tail.stands_before(other, self.position)
    }

    /// What is to be kept over a restart.
    pub fn kept(&self, begun: Vec<u64>) -> Position {
        Position::new(self.identity, self.whole, &self.whole_tail, begun)
    }

    /// Reads on, `budget` bytes or a piece more, and hands on each whole line.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&mut self, budget: &mut usize, take: &mut impl FnMut(Line<'_>)) -> io::Result<Came> {
        let mut piece = vec![0; PIECE];
        loop {
            let count = self.file.read_at(&mut piece, self.position)?;
            // After the bytes are read, so that they are those that followed what is compared here.
            if !self.tail.stands_before(&self.file, self.position) {
                return Ok(Came::Cut);
            }
            if count == 0 {
                return Ok(if self.file.metadata()?.len() < self.position { Came::Cut } else { Came::ToTheEnd });
            }
            let bytes = &piece[..count];
            if let Some(end) = memchr::memrchr(b'\n', bytes) {
                self.whole = self.position + end as u64 + 1;
                self.whole_tail.clone_from(&self.tail);
                self.whole_tail.push(&bytes[..=end]);
            }
            self.lines.push(bytes, take);
            self.position += count as u64;
            self.tail.push(bytes);
            *budget = budget.saturating_sub(count);
            if *budget == 0 {
                return Ok(Came::NotYet);
            }
        }
    }

    /// The file has no more: a last line without an end is one.
    pub fn finish(mut self, take: &mut impl FnMut(Line<'_>)) {
        self.lines.finish(take);
    }
}
