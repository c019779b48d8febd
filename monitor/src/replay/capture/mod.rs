//! Capture files to frames: pcap and pcapng, from files and from standard input, in bounded memory.

mod error;
mod link;
mod pcap;
mod pcapng;
#[cfg(test)]
mod tests;
mod window;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

pub use error::CaptureError;
pub use link::Start;

use error::Fault;
use link::LinkType;
use pcap::Pcap;
use pcapng::Pcapng;
use window::Window;

/// The most that one packet may hold. Linux makes packets of up to 512 KiB (`GSO_MAX_SIZE`, BIG TCP); this is the next
/// power of two above that with its headers. A record that claims more is corrupt.
const PACKET_BYTES: u32 = 1 << 20;

/// One packet of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Nanoseconds since 1970. A pcapng packet without a time (Simple Packet Block) has that of the packet before.
    pub time: u64,
    /// Which interface: the same number for the same interface. 0 where the capture does not tell interfaces apart.
    pub interface: u32,
    /// The name that the capture gives to this interface.
    pub interface_name: Option<&'a Arc<str>>,
    /// It was on its way out of that interface; false where the capture does not say.
    pub outgoing: bool,
    /// Bytes that the packet had on the wire, of which `bytes` are at most as many.
    pub original_length: u32,
    /// How to begin reading.
    pub start: Start,
    /// The packet from its link layer's header on.
    pub bytes: &'a [u8],
}

/// An open capture file.
pub struct Capture {
    name: Arc<str>,
    total: Option<u64>,
    window: Window,
    format: Format,
    /// Set once nothing more is to be read.
    finished: bool,
}

enum Format {
    Pcap(Pcap),
    Pcapng(Box<Pcapng>),
}

impl Format {
    fn interface_name(&self, interface: u32) -> Option<&Arc<str>> {
        match self {
            Self::Pcap(_) => None,
            Self::Pcapng(pcapng) => pcapng.interface_name(interface),
        }
    }
}

/// A packet as a format's reader found it: `bytes` are at the window's front.
struct Packet {
    time: u64,
    interface: u32,
    link_type: LinkType,
    original_length: u32,
}

impl Capture {
    /// Opens a file, or standard input for `-`, and reads the capture's header.
    ///
    /// # Errors
    /// When it cannot be opened or is no capture that can be read; each error is one line that names the file.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        if path.as_os_str() == "-" {
            return Self::from_reader(error::STANDARD_INPUT, Box::new(std::io::stdin()), None);
        }
        let name: Arc<str> = path.to_string_lossy().into();
        let unreadable = |error| Fault::Read(error).of(&name, 0);
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if metadata.is_dir() {
            return Err(CaptureError::Directory { name });
        }
        let total = metadata.is_file().then_some(metadata.len());
        Self::from_reader(&name, Box::new(file), total)
    }

    /// Reads a capture from anywhere. `name` stands in errors; `total` is the number of bytes that will come, where
    /// that is known.
    ///
    /// # Errors
    /// As [`Capture::open`].
    pub fn from_reader(name: &str, reader: Box<dyn Read + Send>, total: Option<u64>) -> Result<Self, CaptureError> {
        let name: Arc<str> = name.into();
        let mut window = Window::new(reader);
        let format = detect(&mut window).map_err(|fault| fault.of(&name, window.position()))?;
        Ok(Self { name, total, window, format, finished: false })
    }

    /// The next packet, `None` at the end.
    ///
    /// # Errors
    /// [`CaptureError::CutShort`] when the capture ends within a packet: everything before it was given. After an error
    /// the capture is at its end.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, CaptureError> {
        if self.finished {
            return Ok(None);
        }
        let packet = match &mut self.format {
            Format::Pcap(pcap) => pcap.next(&mut self.window),
            Format::Pcapng(pcapng) => pcapng.next(&mut self.window),
        };
        match packet {
            Ok(Some((packet, bytes))) => {
                let bytes = self.window.get(bytes);
                let (start, outgoing) = packet.link_type.start(bytes);
                Ok(Some(Frame {
                    time: packet.time,
                    interface: packet.interface,
                    interface_name: self.format.interface_name(packet.interface),
                    outgoing,
                    original_length: packet.original_length.max(bytes.len() as u32),
                    start,
                    bytes,
                }))
            }
            Ok(None) => {
                self.finished = true;
                Ok(None)
            }
            Err(fault) => {
                self.finished = true;
                Err(fault.of(&self.name, self.window.position()))
            }
        }
    }

    /// What stands in errors for this capture.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of the file that were read so far.
    pub fn position(&self) -> u64 {
        self.window.position()
    }

    /// Bytes of the file, `None` for a stream.
    pub fn total(&self) -> Option<u64> {
        self.total
    }
}

impl std::fmt::Debug for Capture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capture").field("name", &self.name).field("position", &self.position()).finish_non_exhaustive()
    }
}

/// Tells the format by its first bytes and reads its header.
fn detect(window: &mut Window) -> Result<Format, Fault> {
    let known = window.fill(6)?;
    let first = window.peek(known);
    if first.is_empty() {
        return Err(Fault::Empty);
    }
    if let Some(compression) = error::COMPRESSIONS.iter().find(|compression| first.starts_with(compression.magic)) {
        return Err(Fault::Compressed(compression));
    }
    let magics = pcap::MAGICS.iter().chain([&pcapng::MAGIC]);
    let Some(magic) = magics.into_iter().find(|magic| magic.starts_with(window.peek(known.min(4)))) else {
        return Err(Fault::NotACapture);
    };
    if *magic == pcapng::MAGIC {
        return Ok(Format::Pcapng(Box::default()));
    }
    Pcap::new(window).map(Format::Pcap)
}
