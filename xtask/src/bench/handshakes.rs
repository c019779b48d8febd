//! A capture of TLS and HTTP handshakes, as large as is asked for: the captures of the tests, each again and again from
//! another client, many connections at a time.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::workspace;

/// Connections that go on at the same time.
const AT_A_TIME: usize = 1_000;

/// Microseconds from packet to packet: fifty thousand a second, some two thousand connections, a very busy server's.
const TICK: u64 = 20;

/// Ports that the monitor watches when nobody says others.
const PORTS: [u64; 2] = [6443, 8080];

/// Packets of a capture at the most: a few are downloads in small pieces, which would be all that is measured.
const LONGEST: usize = 600;

const FILE_HEADER: usize = 24;
const PACKET_HEADER: usize = 16;
/// A pcap header: little-endian, microseconds, version 2.4, Ethernet.
const HEADER: [u8; FILE_HEADER] = [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];

/// A frame, and where its client's address is to be written over.
struct Template {
    frame: Vec<u8>,
    address: usize,
}

/// How much, and of what.
#[derive(Clone, Copy)]
pub enum Traffic {
    /// At least so many packets, of connections of all kinds.
    Packets(u64),
    /// So many connections, all of them TLS.
    Tls(u64),
}

/// What was written.
pub struct Capture {
    /// The file.
    pub path: PathBuf,
    /// Packets in it.
    pub packets: u64,
    /// Bytes of it.
    pub bytes: u64,
}

/// Writes a capture of whole connections.
pub fn write(directory: &Path, name: &str, traffic: Traffic) -> Result<Capture> {
    let templates = templates(matches!(traffic, Traffic::Tls(_)))?;
    let path = directory.join(name);
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut out = Writer { file: BufWriter::with_capacity(1 << 20, file), packets: 0, bytes: FILE_HEADER as u64 };
    out.file.write_all(&HEADER)?;
    let mut begun = 0_usize;
    let more = |packets: u64, begun: usize| match traffic {
        Traffic::Packets(wanted) => packets < wanted,
        Traffic::Tls(wanted) => (begun as u64) < wanted,
    };
    let mut slots: Vec<(usize, usize)> = Vec::new();
    while more(out.packets, begun) || !slots.is_empty() {
        while slots.len() < AT_A_TIME && more(out.packets, begun) {
            slots.push((begun, 0));
            begun += 1;
        }
        for (instance, next) in &mut slots {
            let template = &templates[*instance % templates.len()];
            if let Some(packet) = template.get(*next) {
                out.packet(packet, *instance as u32)?;
            }
            *next += 1;
        }
        slots.retain(|(instance, next)| *next < templates[*instance % templates.len()].len());
    }
    out.file.flush().with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Capture { path, packets: out.packets, bytes: out.bytes })
}

struct Writer {
    file: BufWriter<File>,
    packets: u64,
    bytes: u64,
}

impl Writer {
    fn packet(&mut self, template: &Template, client: u32) -> Result<()> {
        const EPOCH: u64 = 1_700_000_000;
        let time = self.packets * TICK;
        let length = (template.frame.len() as u32).to_le_bytes();
        let mut header = [0; PACKET_HEADER];
        header[..4].copy_from_slice(&((EPOCH + time / 1_000_000) as u32).to_le_bytes());
        header[4..8].copy_from_slice(&((time % 1_000_000) as u32).to_le_bytes());
        header[8..12].copy_from_slice(&length);
        header[12..].copy_from_slice(&length);
        self.file.write_all(&header)?;
        // The client's network stays what it was: its first byte, or all but the last three of an IPv6 address.
        let (before, rest) = template.frame.split_at(template.address);
        self.file.write_all(before)?;
        self.file.write_all(&client.to_be_bytes()[1..])?;
        self.file.write_all(&rest[3..])?;
        self.packets += 1;
        self.bytes += (PACKET_HEADER + template.frame.len()) as u64;
        Ok(())
    }
}

/// The captures that are recorded handshakes, as their labels tell.
fn templates(only_tls: bool) -> Result<Vec<Vec<Template>>> {
    let captures = workspace::root().join("tests/fixtures/captures");
    let mut templates = Vec::new();
    let folders = fs::read_dir(&captures).with_context(|| format!("cannot read {}", captures.display()))?;
    let mut folders = folders.map(|folder| Ok(folder?.path())).collect::<Result<Vec<_>>>()?;
    folders.sort();
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        let labels = folder.join("labels.jsonl");
        let labels = fs::read_to_string(&labels).with_context(|| format!("cannot read {}", labels.display()))?;
        for line in labels.lines() {
            let label: Value = serde_json::from_str(line).context("a label is no JSON")?;
            let recorded =
                label["group"].as_str().is_some_and(|group| !group.starts_with("derived") && group != "scan");
            let spoken = match label["transport"].as_str() {
                Some("tls") => true,
                Some("plaintext") => !only_tls,
                _ => false,
            };
            let (Some(port), Some(file)) = (label["port"].as_u64(), label["file"].as_str()) else { continue };
            if recorded && spoken && PORTS.contains(&port) {
                let packets = read(&folder.join(file), port as u16)?;
                if (1..=LONGEST).contains(&packets.len()) {
                    templates.push(packets);
                }
            }
        }
    }
    if templates.is_empty() {
        bail!("no capture in {} is a handshake", captures.display());
    }
    Ok(templates)
}

/// The frames of a capture that go to or from this port.
fn read(path: &Path, port: u16) -> Result<Vec<Template>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut rest = bytes.get(FILE_HEADER..).with_context(|| format!("{} is cut short", path.display()))?;
    let mut packets = Vec::new();
    while let Some((header, behind)) = rest.split_first_chunk::<PACKET_HEADER>() {
        let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let (frame, behind) =
            behind.split_at_checked(length).with_context(|| format!("{} is cut short", path.display()))?;
        packets.extend(client_address(frame, port).map(|address| Template { frame: frame.to_vec(), address }));
        rest = behind;
    }
    Ok(packets)
}

/// Where the last three bytes of the client's address are, in a TCP segment over IPv4 or IPv6 of this port.
fn client_address(frame: &[u8], port: u16) -> Option<usize> {
    const NETWORK: usize = 14;
    const TCP: u8 = 6;
    let (source, destination, transport, protocol) = match frame.get(12..14)? {
        [8, 0] => {
            let header = usize::from(frame.get(NETWORK)? & 0x0f) * 4;
            (NETWORK + 13, NETWORK + 17, NETWORK + header, *frame.get(NETWORK + 9)?)
        }
        [0x86, 0xdd] => (NETWORK + 21, NETWORK + 37, NETWORK + 40, *frame.get(NETWORK + 6)?),
        _ => return None,
    };
    if protocol != TCP {
        return None;
    }
    let ports = frame.get(transport..transport + 4)?;
    let from = u16::from_be_bytes([ports[0], ports[1]]);
    let to = u16::from_be_bytes([ports[2], ports[3]]);
    match (from == port, to == port) {
        (false, true) => Some(source),
        (true, false) => Some(destination),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_connections_from_clients_of_their_own() {
        let directory = std::env::temp_dir().join(format!("handshakes-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let capture = write(&directory, "handshakes.pcap", Traffic::Packets(20_000)).unwrap();
        let bytes = fs::read(&capture.path).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(bytes.len() as u64, capture.bytes);
        let (mut rest, mut packets, mut syns) = (&bytes[FILE_HEADER..], 0, std::collections::HashSet::new());
        while let Some((header, behind)) = rest.split_first_chunk::<PACKET_HEADER>() {
            let length = u32::from_le_bytes(header[8..12].try_into().unwrap()) as usize;
            let frame = &behind[..length];
            if frame[12..14] == [8, 0] && frame[14] == 0x45 && frame[47] & 0x12 == 2 {
                syns.insert((frame[26..38].to_vec(), frame[38..42].to_vec()));
            }
            rest = &behind[length..];
            packets += 1;
        }
        assert_eq!(packets, capture.packets);
        assert!(packets >= 20_000 && syns.len() > 500, "{packets} packets, {} connections", syns.len());
    }
}
