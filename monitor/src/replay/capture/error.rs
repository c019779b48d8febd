//! What can be wrong with a capture file: each one line that names it and, where there is one, the way out.

use std::io;
use std::sync::Arc;

use super::link;

/// What errors call the capture that comes through standard input.
pub(super) const STANDARD_INPUT: &str = "standard input";

/// Why a capture could not be read, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// There is no such file.
    #[error("{name}: no such file")]
    Absent {
        /// The file.
        name: Arc<str>,
    },
    /// It is a directory.
    #[error("{name}: is a directory; name the capture files in it")]
    Directory {
        /// The directory.
        name: Arc<str>,
    },
    /// It may not be read.
    #[error("{name}: permission denied; make it readable for this user")]
    NoPermission {
        /// The file.
        name: Arc<str>,
    },
    /// Reading failed.
    #[error("{name}: cannot be read: {source}")]
    Unreadable {
        /// The file.
        name: Arc<str>,
        /// What the system said.
        source: io::Error,
    },
    /// It has no bytes.
    #[error("{name}: is empty; a capture has at least a header")]
    Empty {
        /// The file.
        name: Arc<str>,
    },
    /// It is compressed.
    #[error("{name}: compressed with {compression}; decompress first: {command} | api-exposure-monitor replay -")]
    Compressed {
        /// The file.
        name: Arc<str>,
        /// The format, as people call it.
        compression: &'static str,
        /// The command that decompresses it.
        command: String,
    },
    /// It is neither pcap nor pcapng.
    #[error("{name}: neither pcap nor pcapng")]
    NotACapture {
        /// The file.
        name: Arc<str>,
    },
    /// Packets of a link type that is not read.
    #[error("{name}: link type {number}{known} is not read; supported are {supported}", supported = link::SUPPORTED)]
    LinkType {
        /// The file.
        name: Arc<str>,
        /// Number of the link type (<https://www.tcpdump.org/linktypes.html>).
        number: u32,
        /// Its name in parentheses behind a space, where it is known.
        known: &'static str,
    },
    /// It ends within a packet or header; everything before that was given.
    #[error("{name}: cut short: the record at byte {position} is not whole; what came before was read")]
    CutShort {
        /// The file.
        name: Arc<str>,
        /// Where that record is, bytes from the file's beginning.
        position: u64,
    },
    /// It contradicts its own format; everything before that was given.
    #[error("{name}: corrupt at byte {position}: {what}; what came before was read")]
    Corrupt {
        /// The file.
        name: Arc<str>,
        /// Where, bytes from its beginning.
        position: u64,
        /// The contradiction.
        what: &'static str,
    },
}

/// A [`CaptureError`] before it knows its file.
#[derive(Debug)]
pub(super) enum Fault {
    Read(io::Error),
    Empty,
    Compressed(&'static Compression),
    NotACapture,
    LinkType(u32),
    CutShort,
    Corrupt(&'static str),
}

impl Fault {
    /// The error for this file; `position` is where the record at fault begins.
    pub fn of(self, name: &Arc<str>, position: u64) -> CaptureError {
        let name = name.clone();
        match self {
            Self::Read(source) => match source.kind() {
                io::ErrorKind::NotFound => CaptureError::Absent { name },
                io::ErrorKind::PermissionDenied => CaptureError::NoPermission { name },
                io::ErrorKind::IsADirectory => CaptureError::Directory { name },
                _ => CaptureError::Unreadable { name, source },
            },
            Self::Empty => CaptureError::Empty { name },
            Self::Compressed(compression) => {
                let command = match &*name {
                    STANDARD_INPUT => format!("... | {}", compression.command),
                    file => format!("{} {file}", compression.command),
                };
                CaptureError::Compressed { name, compression: compression.name, command }
            }
            Self::NotACapture => CaptureError::NotACapture { name },
            Self::LinkType(number) => CaptureError::LinkType { name, number, known: link::unsupported_name(number) },
            Self::CutShort => CaptureError::CutShort { name, position },
            Self::Corrupt(what) => CaptureError::Corrupt { name, position, what },
        }
    }
}

/// A compressed file's first bytes and what to do about it.
#[derive(Debug)]
pub(super) struct Compression {
    pub magic: &'static [u8],
    name: &'static str,
    command: &'static str,
}

pub(super) const COMPRESSIONS: &[Compression] = &[
    Compression { magic: &[0x1f, 0x8b], name: "gzip", command: "gzip -dc" },
    Compression { magic: &[0x28, 0xb5, 0x2f, 0xfd], name: "zstd", command: "zstd -dc" },
    Compression { magic: &[0xfd, b'7', b'z', b'X', b'Z', 0], name: "xz", command: "xz -dc" },
    Compression { magic: b"BZh", name: "bzip2", command: "bzip2 -dc" },
    Compression { magic: &[0x04, 0x22, 0x4d, 0x18], name: "lz4", command: "lz4 -dc" },
];
