//! A window on a stream of bytes: large reads into one buffer, parts of it borrowed.

use std::io::{ErrorKind, Read};
use std::ops::Range;

use super::error::Fault;

/// Bytes of one read: few system calls, and the buffer stays in the processor's second-level cache.
const READ: usize = 256 << 10;

/// The bytes that were read and not passed yet. Holds at least what was asked for last, grows only for that.
pub(super) struct Window {
    reader: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    /// The part of `buffer` that was read and not passed.
    start: usize,
    end: usize,
    /// Bytes before `start`.
    passed: u64,
}

impl Window {
    pub fn new(reader: Box<dyn Read + Send>) -> Self {
        Self { reader, buffer: vec![0; READ], start: 0, end: 0, passed: 0 }
    }

    /// Bytes that were passed, from the stream's beginning.
    pub fn position(&self) -> u64 {
        self.passed
    }

    /// Bytes that can be had without reading.
    pub fn available(&self) -> usize {
        self.end - self.start
    }

    /// Reads until `count` bytes are there or the stream ends; gives how many of them are there.
    #[inline]
    pub fn fill(&mut self, count: usize) -> Result<usize, Fault> {
        if self.available() < count {
            self.read(count)?;
        }
        Ok(self.available().min(count))
    }

    /// Like [`Window::fill`], but it is a fault when the stream ends before.
    #[inline]
    pub fn require(&mut self, count: usize) -> Result<(), Fault> {
        if self.fill(count)? == count { Ok(()) } else { Err(Fault::CutShort) }
    }

    /// The first `count` bytes, or as many as are there.
    #[inline]
    pub fn peek(&self, count: usize) -> &[u8] {
        self.buffer.get(self.start..self.end.min(self.start + count)).unwrap_or_default()
    }

    /// The `N` bytes at `offset`, zeros where they are not there.
    #[inline]
    pub fn array<const N: usize>(&self, offset: usize) -> [u8; N] {
        let at = self.start + offset;
        self.buffer.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
    }

    /// Passes `count` bytes that are there, and gives where the part `range` of them stands until the next read.
    #[inline]
    pub fn pass(&mut self, count: usize, range: Range<usize>) -> Range<usize> {
        let start = self.start;
        let count = count.min(self.available());
        self.start += count;
        self.passed += count as u64;
        start + range.start..start + range.end
    }

    /// What [`Window::pass`] gave.
    #[inline]
    pub fn get(&self, range: Range<usize>) -> &[u8] {
        self.buffer.get(range).unwrap_or_default()
    }

    /// Passes `count` bytes without keeping them; a fault when the stream ends before.
    pub fn skip(&mut self, mut count: u64) -> Result<(), Fault> {
        while count > 0 {
            let some = self.fill(count.min(READ as u64) as usize)?;
            if some == 0 {
                return Err(Fault::CutShort);
            }
            self.pass(some, 0..0);
            count -= some as u64;
        }
        Ok(())
    }

    #[cold]
    fn read(&mut self, count: usize) -> Result<(), Fault> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.buffer.len() < count {
            self.buffer.resize(count.next_multiple_of(READ), 0);
        }
        while self.end < count {
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::Read(error)),
            }
        }
        Ok(())
    }
}
