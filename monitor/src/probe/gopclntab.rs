//! The table that Go's linker puts into every binary, stripped ones too: for each function its address, name and file
//! (`.gopclntab`; src/runtime/symtab.go and src/debug/gosym/pclntab.go of Go 1.26).

use std::collections::HashSet;
use std::io::{Read, Seek};

use super::elf::{BinaryError, Elf, Region, Window};

/// Go 1.18 and 1.19.
const MAGIC_118: u32 = 0xffff_fff0;
/// Go 1.20 and later.
const MAGIC_120: u32 = 0xffff_fff1;

/// Bytes of the header: magic, two zeros, quantum, size of a pointer, eight words.
const HEADER: usize = 8 + 8 * 8;

/// Offset of `text` in runtime.moduledata: word 22. Go 1.26 and later keep it in a section of its own.
const MODULE_TEXT: u64 = 22 * 8;

/// Bytes of a table that is looked through; a large API server's has 25 MB.
const LARGEST: u64 = 256 << 20;

/// Names that may be wanted at once; the rule of the probe gives one to three.
const NAMES: usize = 64;

/// A function of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its whole name, with the path of its package.
    pub name: String,
    /// The file that its first instruction comes from.
    pub file: String,
    /// Virtual address of its first instruction.
    pub address: u64,
    /// Bytes up to the next function.
    pub size: u64,
}

/// The table's header.
#[derive(Clone, Debug)]
pub struct LineTable {
    region: Region,
    /// Address that the table's addresses count from.
    text: u64,
    functions: u64,
    names: Region,
    units: Region,
    files: Region,
    values: Region,
    entries: Region,
}

impl LineTable {
    /// Finds the table in a binary and reads its header.
    ///
    /// # Errors
    /// There is none, it is of an unknown kind, or damaged.
    pub fn read<R: Read + Seek>(reader: &mut R, elf: &Elf) -> Result<Self, BinaryError> {
        let region = elf.section_ending(".gopclntab").ok_or(BinaryError::NotGo(".gopclntab"))?;
        if region.size > LARGEST {
            return Err(BinaryError::Damaged("its line table is larger than any"));
        }
        let mut window = Window::new(reader, region);
        let header = window.bytes(0, HEADER).map_err(|error| match error {
            BinaryError::Damaged(_) => BinaryError::Damaged("its line table is shorter than a header"),
            other => other,
        })?;
        let magic = header.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        if magic != MAGIC_118 && magic != MAGIC_120 {
            return Err(BinaryError::LineTable(magic));
        }
        if header.get(4..6) != Some(&[0, 0]) || header.get(7) != Some(&8) {
            return Err(BinaryError::Damaged("the header of its line table"));
        }
        let mut words = [0; 8];
        for (index, word) in words.iter_mut().enumerate() {
            *word = window.u64(8 + 8 * index as u64)?;
        }
        let [functions, _, text_start, names, units, files, values, entries] = words;
        // The parts follow each other.
        let part = |from: u64, to: u64| {
            if from > to || to > region.size {
                return Err(BinaryError::Damaged("the parts of its line table"));
            }
            Ok(Region { address: region.address + from, offset: region.offset + from, size: to - from })
        };
        let table = Self {
            region,
            text: 0,
            functions,
            names: part(names, units)?,
            units: part(units, files)?,
            files: part(files, values)?,
            values: part(values, entries)?,
            entries: part(entries, region.size)?,
        };
        if functions == 0 || functions.checked_mul(8).is_none_or(|size| size.saturating_add(4) > table.entries.size) {
            return Err(BinaryError::Damaged("the number of functions in its line table"));
        }
        Ok(Self { text: text_address(reader, elf, text_start)?, ..table })
    }

    /// How many functions there are.
    pub fn len(&self) -> u64 {
        self.functions
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.functions == 0
    }

    /// Bytes of the table.
    pub fn size(&self) -> u64 {
        self.region.size
    }

    /// The functions whose names are wanted, in the order of their addresses.
    ///
    /// # Errors
    /// The table is damaged, or the file cannot be read.
    pub fn find<R: Read + Seek>(
        &self,
        reader: &mut R,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<Function>, BinaryError> {
        let names = self.find_names(reader, wanted)?;
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for entry in self.find_entries(reader, &names)? {
            let name = Window::new(reader, self.names).text(u64::from(entry.name))?;
            let file = self.file(reader, &entry)?;
            let address = self.text.checked_add(u64::from(entry.start));
            let address = address.ok_or(BinaryError::Damaged("the address of a function"))?;
            found.push(Function { name, file, address, size: u64::from(entry.end - entry.start) });
        }
        Ok(found)
    }

    /// Where the wanted names stand in the names.
    fn find_names<R: Read + Seek>(
        &self,
        reader: &mut R,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<HashSet<u32>, BinaryError> {
        let mut window = Window::new(reader, self.names);
        let mut found = HashSet::new();
        let mut offset = 0;
        while offset < window.size() {
            let bytes = window.rest(offset)?;
            let mut position = 0;
            while let Some(length) = bytes.get(position..).and_then(|rest| rest.iter().position(|byte| *byte == 0)) {
                if bytes.get(position..position + length).is_some_and(&wanted) {
                    if found.len() == NAMES {
                        return Err(BinaryError::Damaged("too many functions have the authenticator's name"));
                    }
                    let start = u32::try_from(offset + position as u64);
                    found.insert(start.map_err(|_| BinaryError::Damaged("its names are too many"))?);
                }
                position += length + 1;
            }
            // What is left is the beginning of a name that the window cuts, or a name longer than any.
            offset += if position == 0 { bytes.len() as u64 } else { position as u64 };
        }
        Ok(found)
    }

    /// The functions with these names.
    fn find_entries<R: Read + Seek>(&self, reader: &mut R, names: &HashSet<u32>) -> Result<Vec<Entry>, BinaryError> {
        let mut found = Vec::new();
        // Addresses first, in a piece small enough to keep: then the functions themselves are gone through once.
        let mut addresses = Window::new(reader, self.entries);
        let mut moves = Window::new(&mut *addresses.reader(), self.entries).moves();
        let mut index = 0;
        while index < self.functions {
            let count = (self.functions - index).min(8_192);
            // One more: it is the end of the last.
            let bytes = addresses.bytes(index * 8, count as usize * 8 + 4)?.to_vec();
            let word = |at: usize| -> Option<u32> {
                bytes.get(at..)?.first_chunk().map(|bytes: &[u8; 4]| u32::from_le_bytes(*bytes))
            };
            let mut functions = Window::following(&mut *addresses.reader(), self.entries, moves);
            for entry in 0..count as usize {
                let (Some(start), Some(offset), Some(end)) =
                    (word(entry * 8), word(entry * 8 + 4), word(entry * 8 + 8))
                else {
                    break;
                };
                let offset = u64::from(offset);
                let name = functions.u32(offset.saturating_add(4))?;
                if !names.contains(&name) {
                    continue;
                }
                if end <= start || found.len() == NAMES {
                    return Err(BinaryError::Damaged("the addresses in its line table"));
                }
                let (file, unit) = (functions.u32(offset + 20)?, functions.u32(offset + 32)?);
                found.push(Entry { start, end, name, file, unit });
            }
            moves = functions.moves();
            index += count;
        }
        Ok(found)
    }

    /// The file of a function's first instruction: the first value of its table of files, looked up in the files of
    /// its compilation unit.
    fn file<R: Read + Seek>(&self, reader: &mut R, entry: &Entry) -> Result<String, BinaryError> {
        let number = first_value(Window::new(reader, self.values).rest(u64::from(entry.file))?)
            .ok_or(BinaryError::Damaged("a table of files"))?;
        let Ok(number) = u32::try_from(number) else {
            // -1: no file, as for what the linker made.
            return Ok(String::new());
        };
        let index = u64::from(entry.unit) + u64::from(number);
        let offset = Window::new(reader, self.units).u32(index * 4)?;
        if offset == u32::MAX {
            return Ok(String::new());
        }
        Window::new(reader, self.files).text(u64::from(offset))
    }
}

/// What is kept of `runtime._func`.
struct Entry {
    start: u32,
    end: u32,
    name: u32,
    /// Where its table of files stands in the values.
    file: u32,
    /// Where its compilation unit begins in the units.
    unit: u32,
}

/// Address of the first instruction of Go's code. The header has it up to Go 1.25; then it is zero and
/// runtime.moduledata has it, which stands in a section of its own. Where relocation fills in both at the program's
/// start, it is the section of the code.
fn text_address<R: Read + Seek>(reader: &mut R, elf: &Elf, text_start: u64) -> Result<u64, BinaryError> {
    if let Some(module) = elf.section_ending(".go.module").filter(|module| module.size >= MODULE_TEXT + 8) {
        let text = Window::new(reader, module).u64(MODULE_TEXT)?;
        if text != 0 {
            return Ok(text);
        }
    }
    if text_start != 0 {
        return Ok(text_start);
    }
    elf.section(".text").map(|text| text.address).ok_or(BinaryError::NotGo(".text"))
}

/// The first value of a table of (value, address) differences: it starts from -1 and is written as a zigzag varint.
fn first_value(table: &[u8]) -> Option<i64> {
    let mut difference = 0_u32;
    for (index, byte) in table.iter().take(5).enumerate() {
        difference |= u32::from(byte & 0x7f).checked_shl(7 * index as u32)?;
        if byte & 0x80 == 0 {
            let difference = if difference & 1 == 0 { difference >> 1 } else { !(difference >> 1) };
            return Some(i64::from(difference.wrapping_add(u32::MAX) as i32));
        }
    }
    None
}
