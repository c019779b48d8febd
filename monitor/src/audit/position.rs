//! Where a file was read to, in words that outlive the process.

use std::fs::{self, File, Metadata};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Bytes before a position by which it is known again. An audit event has its own id and times within as many.
pub const CHECKED: usize = 1_024;

/// Version of the state file's format.
const VERSION: u32 = 1;

/// A state file larger than this is none of ours: it holds a position and some numbers.
const LARGEST: u64 = 64 << 10;

/// Device and inode: the file itself, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Number of the device.
    pub device: u64,
    /// Number of the file on it.
    pub inode: u64,
}

impl Identity {
    /// Of this file.
    pub fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// The last bytes before a position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tail(Vec<u8>);

impl Tail {
    /// Those before this position of a file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(file: &File, position: u64) -> io::Result<Self> {
        let length = CHECKED.min(usize::try_from(position).unwrap_or(CHECKED));
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, position - length as u64)?;
        Ok(Self(bytes))
    }

    /// These bytes come next.
    pub fn push(&mut self, bytes: &[u8]) {
        let new = &bytes[bytes.len().saturating_sub(CHECKED)..];
        let over = (self.0.len() + new.len()).saturating_sub(CHECKED);
        self.0.drain(..over.min(self.0.len()));
        self.0.extend_from_slice(new);
    }

    /// Whether they stand before this position of the file.
    pub fn stands_before(&self, file: &File, position: u64) -> bool {
        Self::read(file, position).is_ok_and(|there| there == *self)
    }

    /// Of these bytes.
    pub fn checksum(&self) -> u64 {
        checksum(&self.0)
    }
}

/// FNV-1a of 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>): the same in every release of this program.
pub fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// What is kept over a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    version: u32,
    /// The file that was read.
    #[serde(flatten)]
    pub identity: Identity,
    /// Bytes that were read to whole lines.
    pub offset: u64,
    /// Of the [`Tail`] before `offset`.
    pub checksum: u64,
    /// Requests that were counted when they began and whose end is still to come.
    pub begun: Vec<u64>,
}

impl Position {
    /// As the arguments say.
    pub fn new(identity: Identity, offset: u64, tail: &Tail, begun: Vec<u64>) -> Self {
        Self { version: VERSION, identity, offset, checksum: tail.checksum(), begun }
    }

    /// The same position, with other requests that were counted when they began.
    pub fn with_begun(self, begun: Vec<u64>) -> Self {
        Self { begun, ..self }
    }

    /// Whether this file has at the position what stood there. A file of which nothing was read is known by its inode.
    pub fn is_of(&self, file: &File) -> bool {
        let Ok(metadata) = file.metadata() else { return false };
        match self.offset {
            0 => Identity::of(&metadata) == self.identity,
            offset if offset > metadata.len() => false,
            offset => Tail::read(file, offset).is_ok_and(|tail| tail.checksum() == self.checksum),
        }
    }

    /// What stands in this file; `None` where there is none.
    ///
    /// # Errors
    /// It cannot be read, or is none of ours.
    pub fn load(path: &Path) -> io::Result<Option<Self>> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if metadata.len() > LARGEST || !metadata.is_file() {
            return Err(io::Error::other("it is no state of this program"));
        }
        let state: Self =
            serde_json::from_slice(&fs::read(path)?).map_err(|_| io::Error::other("it is no state of this program"))?;
        if state.version != VERSION {
            return Err(io::Error::other("it is of another release of this program"));
        }
        Ok(Some(state))
    }

    /// Puts it into this file, so that whoever reads it finds the one before or this one, whole.
    ///
    /// # Errors
    /// The folder is not there or cannot be written to.
    pub fn store(&self, path: &Path) -> io::Result<()> {
        let mut name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_owned();
        name.push(".new");
        let new = path.with_file_name(name);
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        drop(file);
        fs::rename(&new, path)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity() -> Identity {
        Identity { device: 1, inode: 2 }
    }

    #[test]
    fn what_was_stored_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.state");
        assert_eq!(Position::load(&path).unwrap(), None);
        let mut tail = Tail::default();
        tail.push(b"words");
        for offset in [7, 8] {
            let position = Position::new(identity(), offset, &tail, vec![u64::MAX, 3]);
            position.store(&path).unwrap();
            assert_eq!(Position::load(&path).unwrap(), Some(position));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        assert!(Position::new(identity(), 1, &tail, vec![]).store(&folder.path().join("missing/state")).is_err());
    }

    #[test]
    fn what_is_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Position::load(folder.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        let path = folder.path().join("state");
        for text in [
            "",
            "{",
            "[]",
            r#"{"version":1}"#,
            r#"{"version":2,"device":1,"inode":1,"offset":0,"checksum":0,"begun":[]}"#,
        ] {
            fs::write(&path, text).unwrap();
            assert!(Position::load(&path).is_err(), "{text}");
        }
        File::create(&path).unwrap().set_len(LARGEST + 1).unwrap();
        assert!(Position::load(&path).is_err());
    }

    #[test]
    fn a_position_is_known_by_what_stands_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, b"one\ntwo\nthree\n").unwrap();
        let file = File::open(&path).unwrap();
        let position = Position::new(identity(), 8, &Tail::read(&file, 8).unwrap(), vec![]);
        assert!(position.is_of(&file));
        for other in [&b"one\ntwx\nthree\n"[..], b"one\n", b""] {
            fs::write(&path, other).unwrap();
            assert!(!position.is_of(&File::open(&path).unwrap()));
        }
        let start = Position::new(Identity::of(&file.metadata().unwrap()), 0, &Tail::default(), vec![]);
        assert!(start.is_of(&file));
        assert!(!Position::new(identity(), 0, &Tail::default(), vec![]).is_of(&file));
    }

    proptest! {
        #[test]
        fn a_tail_is_what_stands_before(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..900), 0..6)) {
            let all = pieces.concat();
            let mut tail = Tail::default();
            pieces.iter().for_each(|piece| tail.push(piece));
            prop_assert_eq!(&tail.0[..], &all[all.len().saturating_sub(CHECKED)..]);
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&all).unwrap();
            prop_assert!(tail.stands_before(&file, all.len() as u64));
        }
    }
}
