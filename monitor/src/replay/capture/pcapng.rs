//! The pcapng format: sections of blocks (<https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-05.html>).

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use pcap_parser::pcapng::{OptionCode, parse_interfacedescriptionblock_be, parse_interfacedescriptionblock_le};

use super::error::Fault;
use super::link::LinkType;
use super::window::Window;
use super::{PACKET_BYTES, Packet};

/// First bytes: the type of a Section Header Block, the same in both byte orders.
pub(super) const MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

const SECTION_HEADER: u32 = u32::from_le_bytes(MAGIC);
const INTERFACE_DESCRIPTION: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// Type and length before a block's body.
const HEAD: usize = 8;
/// The length again, behind it.
const TAIL: usize = 4;
/// Bytes of an enhanced (and of an obsolete) packet's block before the packet.
const PACKET_HEAD: usize = HEAD + 20;

/// Largest block that is read as a whole: the largest packet, with a quarter of a MiB for its options.
const BLOCK_BYTES: u32 = PACKET_BYTES + (256 << 10);

/// Interfaces in one section, and names in one file: more than any machine has, and a bound on what a file can make us
/// remember.
const INTERFACES: usize = 65_536;

/// Reader of the blocks.
#[derive(Default)]
pub(super) struct Pcapng {
    big_endian: bool,
    in_section: bool,
    /// Those of the current section.
    interfaces: Vec<Interface>,
    names: Names,
    /// Time of the last packet.
    time: u64,
}

/// An Interface Description Block.
struct Interface {
    /// The number, where it is no link type that is read.
    link_type: Result<LinkType, u32>,
    snapshot_length: u32,
    clock: Clock,
    number: u32,
}

impl Pcapng {
    /// The next packet and where its bytes stand in the window; all other blocks are read or skipped.
    #[inline]
    pub fn next(&mut self, window: &mut Window) -> Result<Option<(Packet, Range<usize>)>, Fault> {
        loop {
            match window.fill(HEAD + TAIL)? {
                0 => return Ok(None),
                n if n < HEAD + TAIL => return Err(self.cut_or_garbage(window)),
                _ => {}
            }
            let kind = self.word(window, 0);
            if kind == SECTION_HEADER {
                self.section(window)?;
                continue;
            }
            if !self.in_section {
                return Err(Fault::Corrupt("no section header where one was expected"));
            }
            let length = self.word(window, 4);
            if (length as usize) < HEAD + TAIL || !length.is_multiple_of(4) {
                return Err(Fault::Corrupt("a block's length is no multiple of 4 or too small"));
            }
            if !matches!(kind, INTERFACE_DESCRIPTION | OBSOLETE_PACKET | SIMPLE_PACKET | ENHANCED_PACKET) {
                self.skip(window, length)?;
                continue;
            }
            if length > BLOCK_BYTES {
                return Err(Fault::Corrupt("a block claims more than 1.25 MiB"));
            }
            let length = length as usize;
            window.require(length)?;
            if self.word(window, length - TAIL) != length as u32 {
                return Err(Fault::Corrupt("a block's two lengths differ"));
            }
            match kind {
                INTERFACE_DESCRIPTION => {
                    self.interface(window, length)?;
                    window.pass(length, 0..0);
                }
                SIMPLE_PACKET => return self.simple_packet(window, length).map(Some),
                _ => return self.packet(window, kind, length).map(Some),
            }
        }
    }

    /// The name that the capture gives to an interface.
    pub fn interface_name(&self, number: u32) -> Option<&Arc<str>> {
        self.names.names.get(number.checked_sub(1)? as usize)?.as_ref()
    }

    /// A Section Header Block: the byte order, and an end to the interfaces before.
    fn section(&mut self, window: &mut Window) -> Result<(), Fault> {
        window.require(16)?;
        self.big_endian = match window.array(8) {
            [0x1a, 0x2b, 0x3c, 0x4d] => true,
            [0x4d, 0x3c, 0x2b, 0x1a] => false,
            _ => return Err(Fault::Corrupt("a section header's byte order magic is wrong")),
        };
        let length = self.word(window, 4);
        // Type, length, magic, version, section length, length.
        if length < 28 || !length.is_multiple_of(4) {
            return Err(Fault::Corrupt("a section header's length is no multiple of 4 or too small"));
        }
        let version: [u8; 2] = window.array(12);
        let major = if self.big_endian { u16::from_be_bytes(version) } else { u16::from_le_bytes(version) };
        if major != 1 {
            return Err(Fault::Corrupt("a section's version is not 1"));
        }
        self.in_section = true;
        self.interfaces.clear();
        self.skip(window, length)
    }

    /// Passes a block of any length.
    fn skip(&self, window: &mut Window, length: u32) -> Result<(), Fault> {
        window.skip(u64::from(length) - TAIL as u64)?;
        window.require(TAIL)?;
        if self.word(window, 0) != length {
            return Err(Fault::Corrupt("a block's two lengths differ"));
        }
        window.pass(TAIL, 0..0);
        Ok(())
    }

    /// An Interface Description Block.
    #[cold]
    fn interface(&mut self, window: &Window, length: usize) -> Result<(), Fault> {
        let parse =
            if self.big_endian { parse_interfacedescriptionblock_be } else { parse_interfacedescriptionblock_le };
        let (_, block) =
            parse(window.peek(length)).map_err(|_| Fault::Corrupt("an interface description cannot be read"))?;
        let mut clock = Clock::default();
        let mut name = None;
        for option in &block.options {
            let Ok(value) = option.as_bytes() else { continue };
            match option.code {
                OptionCode::EndOfOpt => break,
                OptionCode::IfName => name = Some(String::from_utf8_lossy(value).trim_end_matches('\0').into()),
                OptionCode::IfTsresol => clock.resolution = value.first().copied().unwrap_or(clock.resolution),
                OptionCode::IfTsoffset => {
                    // The library reads it as little-endian always.
                    if let Ok(value) = value.try_into() {
                        let order = if self.big_endian { i64::from_be_bytes } else { i64::from_le_bytes };
                        clock.offset = order(value);
                    }
                }
                _ => {}
            }
        }
        let number = block.linktype.0 as u32;
        if self.interfaces.len() >= INTERFACES {
            return Err(Fault::Corrupt("a section has more than 65,536 interfaces"));
        }
        let key = match name.filter(|name: &Arc<str>| !name.is_empty()) {
            Some(name) => Key::Name(name),
            None => Key::Position(self.interfaces.len() as u32),
        };
        self.interfaces.push(Interface {
            link_type: LinkType::from_number(number).ok_or(number),
            snapshot_length: block.snaplen,
            clock,
            number: self.names.number(key)?,
        });
        Ok(())
    }

    /// An Enhanced Packet Block, or the Packet Block that it replaced: they differ in the first word only.
    #[inline]
    fn packet(&mut self, window: &mut Window, kind: u32, length: usize) -> Result<(Packet, Range<usize>), Fault> {
        if length < PACKET_HEAD + TAIL {
            return Err(Fault::Corrupt("a packet's block is too small"));
        }
        let interface = if kind == ENHANCED_PACKET {
            self.word(window, 8)
        } else {
            let id: [u8; 2] = window.array(8);
            u32::from(if self.big_endian { u16::from_be_bytes(id) } else { u16::from_le_bytes(id) })
        };
        let time = u64::from(self.word(window, 12)) << 32 | u64::from(self.word(window, 16));
        let (captured, original_length) = (self.word(window, 20) as usize, self.word(window, 24));
        if captured > length - PACKET_HEAD - TAIL || captured > PACKET_BYTES as usize {
            return Err(Fault::Corrupt("a packet is longer than its block"));
        }
        let interface = self.interface_of(interface)?;
        let link_type = interface.link_type.map_err(Fault::LinkType)?;
        let time = interface.clock.nanoseconds(time);
        let number = interface.number;
        self.time = time;
        let bytes = window.pass(length, PACKET_HEAD..PACKET_HEAD + captured);
        let interface = self.kernel_interface(number, link_type, window.get(bytes.clone()))?;
        Ok((Packet { time, interface, link_type, original_length }, bytes))
    }

    /// A Simple Packet Block: of the first interface, without a time, as long as it and the snapshot length say.
    fn simple_packet(&mut self, window: &mut Window, length: usize) -> Result<(Packet, Range<usize>), Fault> {
        const PACKET_HEAD: usize = HEAD + 4;
        if length < PACKET_HEAD + TAIL {
            return Err(Fault::Corrupt("a packet's block is too small"));
        }
        let original_length = self.word(window, 8);
        let interface = self.interface_of(0)?;
        let link_type = interface.link_type.map_err(Fault::LinkType)?;
        let number = interface.number;
        let snapshot = if interface.snapshot_length == 0 { u32::MAX } else { interface.snapshot_length };
        let captured = (original_length.min(snapshot) as usize).min(length - PACKET_HEAD - TAIL);
        let time = self.time;
        let bytes = window.pass(length, PACKET_HEAD..PACKET_HEAD + captured);
        let interface = self.kernel_interface(number, link_type, window.get(bytes.clone()))?;
        Ok((Packet { time, interface, link_type, original_length }, bytes))
    }

    fn interface_of(&self, id: u32) -> Result<&Interface, Fault> {
        self.interfaces.get(id as usize).ok_or(Fault::Corrupt("a packet of an interface that was not described"))
    }

    /// The number of the interface that a frame itself names, else of the capture's.
    #[inline]
    fn kernel_interface(&mut self, number: u32, link_type: LinkType, bytes: &[u8]) -> Result<u32, Fault> {
        match link_type.interface(bytes) {
            Some(kernel) => self.names.number(Key::Kernel(number, kernel)),
            None => Ok(number),
        }
    }

    /// The stream ends within a block's first bytes.
    fn cut_or_garbage(&self, window: &Window) -> Fault {
        let known = window.available();
        let section = MAGIC.starts_with(window.peek(known.min(4)));
        if self.in_section || section { Fault::CutShort } else { Fault::NotACapture }
    }

    #[inline]
    fn word(&self, window: &Window, offset: usize) -> u32 {
        let word = window.array(offset);
        if self.big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
    }
}

/// The file's interfaces over all its sections, numbered from 1.
#[derive(Default)]
struct Names {
    names: Vec<Option<Arc<str>>>,
    numbers: HashMap<Key, u32>,
}

/// What makes an interface the same.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Name(Arc<str>),
    /// Its place in its section, where it has no name.
    Position(u32),
    /// The kernel's number of an interface, within a capture interface of several ("any").
    Kernel(u32, u32),
}

impl Names {
    fn number(&mut self, key: Key) -> Result<u32, Fault> {
        if let Some(number) = self.numbers.get(&key) {
            return Ok(*number);
        }
        if self.names.len() >= INTERFACES {
            return Err(Fault::Corrupt("more than 65,536 interfaces"));
        }
        self.names.push(match &key {
            Key::Name(name) => Some(name.clone()),
            Key::Position(_) | Key::Kernel(..) => None,
        });
        let number = self.names.len() as u32;
        self.numbers.insert(key, number);
        Ok(number)
    }
}

/// How an interface counts time.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    /// `if_tsresol`: units of 10^-n seconds, or 2^-n with the highest bit set.
    pub resolution: u8,
    /// `if_tsoffset`: seconds to add.
    pub offset: i64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { resolution: 6, offset: 0 }
    }
}

impl Clock {
    /// Nanoseconds since 1970 of a time in this clock's units; what cannot be told so becomes the nearest that can.
    #[inline]
    pub fn nanoseconds(self, time: u64) -> u64 {
        match self {
            Self { resolution: 6, offset: 0 } => time.saturating_mul(1_000),
            Self { resolution: 9, offset: 0 } => time,
            _ => self.nanoseconds_slowly(time),
        }
    }

    fn nanoseconds_slowly(self, time: u64) -> u64 {
        let nanoseconds = u128::from(time) * 1_000_000_000;
        let exponent = u32::from(self.resolution & 0x7f);
        let since = if self.resolution & 0x80 != 0 {
            nanoseconds >> exponent
        } else {
            10_u128.checked_pow(exponent).map_or(0, |units| nanoseconds / units)
        };
        let offset = i128::from(self.offset) * 1_000_000_000;
        (since as i128).saturating_add(offset).clamp(0, i128::from(u64::MAX)) as u64
    }
}
