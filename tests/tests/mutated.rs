//! Real captures, damaged in every way that comes to mind, through `replay`: no panic, memory that stays bounded, lines
//! that are JSON, and never a token in one.
//!
//! It takes some ten seconds; `API_EXPOSURE_TEST_MUTATED=600` makes it ten minutes, with other damage than before.
#![expect(clippy::unwrap_used, reason = "what a test cannot do without fails it")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use monitor::config::Settings;
use monitor::export::{KernelCounts, Metrics, json};
use monitor::replay::{Capture, replay};
use monitor_tests::random::Random;

/// How the bearer tokens of the captures begin.
const TOKENS: [&str; 4] = ["static-admin-tok", "static-bob-tok", "no-such-tok", "eyJhbGci"];
/// Bytes of a file's header, and of one before each packet (pcap, draft-ietf-opsawg-pcap).
const FILE_HEADER: usize = 24;
const PACKET_HEADER: usize = 16;
/// What a run over a few small captures may add to what the first ones took.
const GROWTH: u64 = 64 << 20;

/// A capture, packet by packet: each with its header.
struct Parts {
    header: Vec<u8>,
    packets: Vec<Vec<u8>>,
}

#[test]
fn damaged_captures_give_whole_lines_and_no_token() {
    let seconds = std::env::var("API_EXPOSURE_TEST_MUTATED").ok().map_or(10, |words| words.parse().unwrap());
    let captures = captures();
    assert!(captures.len() > 100, "{} captures", captures.len());
    let started = Instant::now();
    let (mut files, mut lines, mut refused, mut first) = (0_u64, 0, 0, None);
    while started.elapsed() < Duration::from_secs(seconds) || files < 200 {
        files += 1;
        let mut random = Random::new(files);
        let file = damaged(&captures, &mut random);
        let outcome = std::panic::catch_unwind(|| replayed(file));
        let (text, whole) = outcome.unwrap_or_else(|panic| {
            eprintln!("seed {files}");
            std::panic::resume_unwind(panic)
        });
        refused += u64::from(!whole);
        for line in text.lines() {
            let value: Result<serde_json::Value, _> = serde_json::from_str(line);
            assert!(value.is_ok_and(|value| value["type"] == "connection"), "seed {files}: {line}");
            lines += 1;
        }
        for token in TOKENS {
            assert!(!text.contains(token), "seed {files}: {token} in {text}");
        }
        if files == 100 {
            first = Some(resident_bytes());
        }
    }
    let (first, last) = (first.unwrap(), resident_bytes());
    eprintln!("{files} files, {lines} lines, {refused} files refused in part, {first} then {last} bytes resident");
    assert!(lines > files / 2 && refused > 0, "{files} files gave {lines} lines, {refused} were refused in part");
    assert!(last < first + GROWTH, "memory grew from {first} to {last}");
}

/// Every capture in the classic format, those with tokens several times.
fn captures() -> Vec<Parts> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/captures");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .flat_map(|release| std::fs::read_dir(release.unwrap().path()).into_iter().flatten())
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "pcap"))
        .collect();
    paths.sort();
    let mut captures = Vec::new();
    for path in paths {
        let bytes = std::fs::read(&path).unwrap();
        if bytes.len() == FILE_HEADER {
            continue;
        }
        let secret = TOKENS.iter().any(|token| bytes.windows(token.len()).any(|window| window == token.as_bytes()));
        for _ in 0..if secret { 10 } else { 1 } {
            captures.push(parts(&bytes));
        }
    }
    captures
}

fn parts(bytes: &[u8]) -> Parts {
    let (header, mut rest) = bytes.split_at(FILE_HEADER);
    let mut packets = Vec::new();
    while rest.len() > PACKET_HEADER {
        let length = u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
        let (packet, behind) = rest.split_at(PACKET_HEADER + length);
        packets.push(packet.to_vec());
        rest = behind;
    }
    Parts { header: header.to_vec(), packets }
}

/// A file out of one or two captures.
fn damaged(captures: &[Parts], random: &mut Random) -> Vec<u8> {
    let one = &captures[random.below(captures.len())];
    let mut packets = one.packets.clone();
    if random.chance(30) {
        let other = &captures[random.below(captures.len())];
        let from = random.below(other.packets.len());
        packets.extend_from_slice(&other.packets[from..]);
    }
    for _ in 0..1 + random.below(4) {
        damage(&mut packets, random);
    }
    let mut file = one.header.clone();
    packets.iter().for_each(|packet| file.extend_from_slice(packet));
    match random.below(12) {
        0 => file.truncate(random.below(file.len())),
        1 => {
            for _ in 0..1 + random.below(8) {
                let at = random.below(file.len());
                file[at] = random.next() as u8;
            }
        }
        _ => {}
    }
    file
}

/// One kind of damage, to some or all packets.
fn damage(packets: &mut Vec<Vec<u8>>, random: &mut Random) {
    if packets.is_empty() {
        return;
    }
    let percent = random.pick(&[2, 10, 50]);
    match random.below(9) {
        // Loss, repetition, disorder.
        0 => packets.retain(|_| !random.chance(percent)),
        1 => {
            for _ in 0..1 + packets.len() * percent / 100 {
                let again = packets[random.below(packets.len())].clone();
                packets.insert(random.below(packets.len()), again);
            }
        }
        2 => {
            for _ in 0..packets.len() {
                let (one, other) = (random.below(packets.len()), random.below(packets.len()));
                packets.swap(one, other);
            }
        }
        3 => packets.reverse(),
        // Only one of the directions, told by the source port's parity.
        4 => packets.retain(|packet| packet.get(PACKET_HEADER + 35).is_none_or(|byte| byte % 2 == 0)),
        // Packets cut short, with or without it being said.
        5 => {
            for packet in packets.iter_mut() {
                if !random.chance(percent) {
                    continue;
                }
                let keep = random.below(packet.len() - PACKET_HEADER + 1);
                packet.truncate(PACKET_HEADER + keep);
                packet[8..12].copy_from_slice(&(keep as u32).to_le_bytes());
                if random.chance(50) {
                    packet[12..16].copy_from_slice(&(keep as u32).to_le_bytes());
                }
            }
        }
        // Bytes of headers, or of anything.
        6 => {
            for packet in packets.iter_mut() {
                if !random.chance(percent) {
                    continue;
                }
                let headers = (packet.len() - PACKET_HEADER).min(70);
                let at = PACKET_HEADER + random.below(headers.max(1));
                if let Some(byte) = packet.get_mut(at) {
                    *byte = random.next() as u8;
                }
            }
        }
        7 => {
            for packet in packets.iter_mut() {
                if !random.chance(percent) {
                    continue;
                }
                for _ in 0..1 + random.below(4) {
                    let at = PACKET_HEADER + random.below(packet.len() - PACKET_HEADER + 1);
                    if let Some(byte) = packet.get_mut(at) {
                        *byte ^= 1 << random.below(8);
                    }
                }
            }
        }
        // Sequence numbers moved: overlaps and holes (IPv4 without options, where it is that).
        _ => {
            for packet in packets.iter_mut() {
                if !random.chance(percent) {
                    continue;
                }
                if let Some(number) = packet.get_mut(PACKET_HEADER + 38..PACKET_HEADER + 42) {
                    let by = random.pick(&[1, 7, 100, 1_448, 70_000, u32::MAX, u32::MAX - 500]);
                    let moved = u32::from_be_bytes([number[0], number[1], number[2], number[3]]).wrapping_add(by);
                    number.copy_from_slice(&moved.to_be_bytes());
                }
            }
        }
    }
}

/// What `replay --output json` prints, and whether the file was read to its end.
fn replayed(file: Vec<u8>) -> (String, bool) {
    let settings = Settings {
        secure_port: vec![6443, 8443, 9443, 2379],
        insecure_port: vec![8080, 8088, 8081, 12379, 2381],
        ..Settings::default()
    };
    let metrics = Arc::new(Metrics::new());
    let mut lines = Vec::new();
    let whole = Capture::from_reader("damaged", Box::new(std::io::Cursor::new(file)), None).is_ok_and(|mut capture| {
        replay(&mut capture, &settings, &metrics, &mut KernelCounts::default(), |event| {
            if let monitor::pipeline::Event::Connection(connection) = event {
                json::write_connection(&mut lines, connection).unwrap();
            }
        })
        .is_ok()
    });
    let scrape = metrics.encode();
    assert!(TOKENS.iter().all(|token| !scrape.contains(token)));
    (String::from_utf8(lines).unwrap(), whole)
}

/// Resident memory of this process.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
