//! An executable's sections and segments, read in pieces: an API server's binary has 100 MB, of which little is needed.

use std::io::{Read, Seek, SeekFrom};

use object::elf::{EM_AARCH64, EM_X86_64, FileHeader64, PF_X, PT_LOAD};
use object::read::ReadCache;
use object::read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _};
use object::{LittleEndian, ReadRef as _};

/// Sections that a binary may have: Go's linker makes about 25. More than this is no binary of Go's.
const SECTIONS: usize = 4_096;

/// Bytes read at a time where a region is gone through.
const WINDOW: usize = 256 << 10;

/// Why nothing can be told of a binary; each in words for people.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    /// Reading failed, or the file is gone.
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// Not a 64-bit little-endian ELF file.
    #[error("is no 64-bit ELF executable")]
    NotElf,
    /// Made for another machine.
    #[error("is made for another machine (ELF machine {0}); the probe knows x86-64 (62) and arm64 (183)")]
    Machine(u16),
    /// Its section table is missing.
    #[error("has no section table: packed or obfuscated binaries cannot be probed")]
    NoSections,
    /// A section that every Go binary has is missing.
    #[error("is no Go program: it has no section {0}")]
    NotGo(&'static str),
    /// Made with a Go release whose layout is not known.
    #[error("was made with {0}; the probe knows Go 1.{oldest} to 1.{newest}", oldest = super::layout::OLDEST, newest = super::layout::NEWEST)]
    GoVersion(String),
    /// Its line table is of an unknown kind.
    #[error("has a Go line table of an unknown kind (magic {0:#010x})")]
    LineTable(u32),
    /// Something in it contradicts something else.
    #[error("is damaged: {0}")]
    Damaged(&'static str),
    /// There is no anonymous authenticator in it.
    #[error("has no anonymous authenticator: it is no API server, or its names were changed")]
    NoAuthenticator,
}

/// A machine that the probe knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// x86-64.
    X86_64,
    /// arm64.
    Arm64,
}

/// A section that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Virtual address of its first byte.
    pub address: u64,
    /// Where it begins in the file.
    pub offset: u64,
    /// Its bytes.
    pub size: u64,
}

/// What is needed of an executable's headers.
#[derive(Clone, Debug)]
pub struct Elf {
    /// The machine that it is made for.
    pub machine: Machine,
    sections: Vec<(String, Region)>,
    segments: Vec<Region>,
}

impl Elf {
    /// Reads the headers.
    ///
    /// # Errors
    /// It is no ELF file of a machine that the probe knows, or has no sections.
    pub fn read<R: Read + Seek>(reader: &mut R) -> Result<Self, BinaryError> {
        // `object` says only that a read failed: see first whether the file can be read at all.
        reader.seek(SeekFrom::Start(0))?;
        let mut magic = [0; 4];
        match reader.read_exact(&mut magic) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Err(BinaryError::NotElf),
            outcome => outcome?,
        }
        if magic != object::elf::ELFMAG {
            return Err(BinaryError::NotElf);
        }
        let cache = ReadCache::new(reader);
        let data = &cache;
        let header = FileHeader64::<LittleEndian>::parse(data).map_err(|_| BinaryError::NotElf)?;
        let endian = header.endian().map_err(|_| BinaryError::NotElf)?;
        let machine = match header.e_machine(endian) {
            EM_X86_64 => Machine::X86_64,
            EM_AARCH64 => Machine::Arm64,
            other => return Err(BinaryError::Machine(other)),
        };
        // The count is checked before the table is read, so that a damaged one asks for no memory.
        match header.shnum(endian, data) {
            Ok(0) => return Err(BinaryError::NoSections),
            Ok(1..=SECTIONS) => {}
            _ => return Err(BinaryError::Damaged("its section table")),
        }
        let damaged = |_| BinaryError::Damaged("its section table");
        let table = header.sections(endian, data).map_err(damaged)?;
        let length = data.len().map_err(|()| BinaryError::NotElf)?;
        let mut sections = Vec::new();
        for section in table.iter() {
            let (Ok(name), Some((offset, size))) = (table.section_name(endian, section), section.file_range(endian))
            else {
                continue;
            };
            if offset.checked_add(size).is_some_and(|end| end <= length) {
                let name = String::from_utf8_lossy(name).into_owned();
                sections.push((name, Region { address: section.sh_addr(endian), offset, size }));
            }
        }
        let headers =
            header.program_headers(endian, data).map_err(|_| BinaryError::Damaged("its program header table"))?;
        let segments = headers
            .iter()
            .filter(|segment| segment.p_type(endian) == PT_LOAD && segment.p_flags(endian) & PF_X != 0)
            .map(|segment| Region {
                address: segment.p_vaddr(endian),
                offset: segment.p_offset(endian),
                size: segment.p_filesz(endian),
            })
            .collect();
        Ok(Self { machine, sections, segments })
    }

    /// The section of this name.
    pub fn section(&self, name: &str) -> Option<Region> {
        self.sections.iter().find(|(known, _)| known == name).map(|(_, region)| *region)
    }

    /// The first section whose name ends so: linkers put `.data.rel.ro` before some names.
    pub fn section_ending(&self, end: &str) -> Option<Region> {
        self.sections.iter().find(|(known, _)| known.ends_with(end)).map(|(_, region)| *region)
    }

    /// Where the `size` bytes of code at a virtual address stand in the file.
    pub fn file_offset(&self, address: u64, size: u64) -> Option<u64> {
        self.segments.iter().find_map(|segment| {
            let into = address.checked_sub(segment.address)?;
            let end = into.checked_add(size)?;
            (end <= segment.size).then(|| segment.offset.checked_add(into)).flatten()
        })
    }
}

/// A part of a file that is gone through from its beginning to its end, a window at a time.
pub struct Window<'r, R> {
    reader: &'r mut R,
    region: Region,
    /// Where in the region the window begins.
    start: u64,
    bytes: Vec<u8>,
    /// How often it may still be moved: offsets of an honest table ascend, so that each byte is read about once.
    moves: u64,
}

impl<'r, R: Read + Seek> Window<'r, R> {
    /// A window onto `region`.
    pub fn new(reader: &'r mut R, region: Region) -> Self {
        let moves = 64 + 4 * (region.size / WINDOW as u64);
        Self { reader, region, start: 0, bytes: Vec::new(), moves }
    }

    /// As [`Window::new`], to be moved as often as another that went through the same region before may still be.
    pub fn following(reader: &'r mut R, region: Region, moves: u64) -> Self {
        Self { moves, ..Self::new(reader, region) }
    }

    /// How often the window may still be moved.
    pub fn moves(&self) -> u64 {
        self.moves
    }

    /// Bytes of the region.
    pub fn size(&self) -> u64 {
        self.region.size
    }

    /// `length` bytes of the region from `offset` on.
    ///
    /// # Errors
    /// The region ends before, or reading fails.
    pub fn bytes(&mut self, offset: u64, length: usize) -> Result<&[u8], BinaryError> {
        let outside = BinaryError::Damaged("an offset leads out of its line table");
        let end = offset.checked_add(length as u64).filter(|end| *end <= self.region.size && length <= WINDOW);
        let Some(end) = end else { return Err(outside) };
        if offset < self.start || end > self.start + self.bytes.len() as u64 {
            self.load(offset)?;
        }
        let into = (offset - self.start) as usize;
        self.bytes.get(into..into + length).ok_or(outside)
    }

    /// What there is from `offset` on, at most a window.
    ///
    /// # Errors
    /// As [`Window::bytes`].
    pub fn rest(&mut self, offset: u64) -> Result<&[u8], BinaryError> {
        let length = self.region.size.saturating_sub(offset).min(WINDOW as u64 / 2) as usize;
        self.bytes(offset, length)
    }

    /// The 32-bit number at `offset`.
    ///
    /// # Errors
    /// As [`Window::bytes`].
    pub fn u32(&mut self, offset: u64) -> Result<u32, BinaryError> {
        let bytes = self.bytes(offset, 4)?;
        Ok(bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes)))
    }

    /// The 64-bit number at `offset`.
    ///
    /// # Errors
    /// As [`Window::bytes`].
    pub fn u64(&mut self, offset: u64) -> Result<u64, BinaryError> {
        let bytes = self.bytes(offset, 8)?;
        Ok(bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)))
    }

    /// The text at `offset` up to its zero byte.
    ///
    /// # Errors
    /// As [`Window::bytes`], or it does not end within a window.
    pub fn text(&mut self, offset: u64) -> Result<String, BinaryError> {
        let bytes = self.rest(offset)?;
        let end = bytes.iter().position(|byte| *byte == 0).ok_or(BinaryError::Damaged("a name has no end"))?;
        Ok(String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned())
    }

    /// The reader underneath, for another window.
    pub fn reader(&mut self) -> &mut R {
        self.reader
    }

    fn load(&mut self, offset: u64) -> Result<(), BinaryError> {
        let moves = self.moves.checked_sub(1);
        self.moves = moves.ok_or(BinaryError::Damaged("the functions of its line table are in disorder"))?;
        let length = (self.region.size - offset).min(WINDOW as u64) as usize;
        let position = self.region.offset.checked_add(offset).ok_or(BinaryError::Damaged("an offset is too large"))?;
        self.bytes.resize(length, 0);
        self.start = offset;
        self.reader.seek(SeekFrom::Start(position))?;
        let read = self.reader.read_exact(&mut self.bytes);
        if read.is_err() {
            self.bytes.clear();
        }
        Ok(read?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    const SIZE: usize = 8 * WINDOW;

    fn region(size: usize) -> Region {
        Region { address: 0, offset: 0, size: size as u64 }
    }

    #[test]
    fn a_window_gives_what_is_there_and_nothing_behind_it() {
        let bytes: Vec<u8> = (0..SIZE / 4).flat_map(|number| (number as u32).to_le_bytes()).collect();
        let mut reader = Cursor::new(&bytes);
        let mut window = Window::new(&mut reader, region(SIZE - 3));
        // Across the end of a window too.
        for number in (0..SIZE / 4 - 1).step_by(1_021).chain([WINDOW / 4 - 1, WINDOW / 4]) {
            assert_eq!(window.u32(number as u64 * 4).expect("there"), number as u32);
        }
        assert!(window.u32(SIZE as u64 - 6).is_err());
        assert!(window.u32(u64::MAX - 1).is_err());
        assert!(window.bytes(0, WINDOW + 1).is_err());
        assert!(window.rest(SIZE as u64).is_err());
    }

    #[test]
    fn going_to_and_fro_is_given_up() {
        let bytes = vec![0; SIZE];
        let mut reader = Cursor::new(&bytes);
        let mut window = Window::new(&mut reader, region(SIZE));
        let moves = (0..1_000_u64).take_while(|turn| window.u32(turn % 2 * (SIZE as u64 - 8)).is_ok()).count();
        assert!((SIZE / WINDOW..200).contains(&moves), "{moves}");
    }

    #[test]
    fn a_file_that_ends_while_it_is_read_is_an_error() {
        let bytes = vec![0; SIZE / 2];
        let mut reader = Cursor::new(&bytes);
        let mut window = Window::new(&mut reader, region(SIZE));
        assert!(window.u32(0).is_ok());
        assert!(matches!(window.u32(SIZE as u64 - 8), Err(BinaryError::Read(_))));
        assert!(window.u32(0).is_ok(), "what is there can still be read");
    }
}
