//! The pcap format: one header, then a header of 16 bytes before each packet
//! (<https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-06.html>).

use std::ops::Range;

use super::error::Fault;
use super::link::LinkType;
use super::window::Window;
use super::{PACKET_BYTES, Packet};

/// First bytes: microseconds and nanoseconds, in both byte orders; and the variant of old Linux systems, whose packet
/// headers are 8 bytes longer (Kuznetzov's libpcap).
pub(super) const MAGICS: [[u8; 4]; 5] = [
    [0xd4, 0xc3, 0xb2, 0xa1],
    [0xa1, 0xb2, 0xc3, 0xd4],
    [0x4d, 0x3c, 0xb2, 0xa1],
    [0xa1, 0xb2, 0x3c, 0x4d],
    [0x34, 0xcd, 0xb2, 0xa1],
];

const FILE_HEADER: usize = 24;
const PACKET_HEADER: usize = 16;
const LONGER_PACKET_HEADER: usize = PACKET_HEADER + 8;

/// Reader of the packets.
pub(super) struct Pcap {
    big_endian: bool,
    /// Nanoseconds in a unit of the time's fraction.
    unit: u64,
    link_type: LinkType,
    packet_header: usize,
}

impl Pcap {
    /// Reads the file's header.
    pub fn new(window: &mut Window) -> Result<Self, Fault> {
        window.require(FILE_HEADER)?;
        let (_, header) = pcap_parser::parse_pcap_header(window.peek(FILE_HEADER)).map_err(|_| Fault::NotACapture)?;
        if header.version_major != 2 {
            return Err(Fault::Corrupt("the file's version is not 2"));
        }
        // The upper half says how long the frame check sequence is; what is behind the packet is not read anyway.
        let number = header.network.0 as u32 & 0xffff;
        let link_type = LinkType::from_number(number).ok_or(Fault::LinkType(number))?;
        window.pass(FILE_HEADER, 0..0);
        let unit = if header.is_nanosecond_precision() { 1 } else { 1_000 };
        let packet_header = if header.is_modified_format() { LONGER_PACKET_HEADER } else { PACKET_HEADER };
        Ok(Self { big_endian: header.is_bigendian(), unit, link_type, packet_header })
    }

    /// The next packet and where its bytes stand in the window.
    #[inline]
    pub fn next(&mut self, window: &mut Window) -> Result<Option<(Packet, Range<usize>)>, Fault> {
        match window.fill(self.packet_header)? {
            0 => return Ok(None),
            there if there < self.packet_header => return Err(Fault::CutShort),
            _ => {}
        }
        let word = |offset: usize| {
            let word = window.array(offset);
            if self.big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
        };
        let (seconds, fraction, captured, original_length) = (word(0), word(4), word(8), word(12));
        if captured > PACKET_BYTES {
            return Err(Fault::Corrupt("a packet claims more than 1 MiB"));
        }
        let length = self.packet_header + captured as usize;
        window.require(length)?;
        let bytes = window.pass(length, self.packet_header..length);
        let time = u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * self.unit;
        let interface = self.link_type.interface(window.get(bytes.clone())).unwrap_or(0);
        Ok(Some((Packet { time, interface, link_type: self.link_type, original_length }, bytes)))
    }
}
