//! Plays what two sides say to an inspector, whole and in pieces.

use monitor_common::Side;

use super::{Inspector, Observation};
use crate::reassemble::{Chunk, GapReason};

/// What one side says next, or what becomes of it.
#[derive(Clone, Debug)]
pub enum Said {
    Bytes(Side, Vec<u8>),
    Gap(Side, u64),
    End(Side),
}

/// What an inspector makes of it, and whether it was settled before the end. Each side has received all that was said
/// before it speaks.
pub fn play(start_known: bool, said: &[Said]) -> (Observation, bool) {
    let (mut inspector, mut observation, mut offsets) = (Inspector::new(start_known), Observation::default(), [0; 2]);
    for said in said {
        match said {
            Said::Bytes(_, bytes) if bytes.is_empty() => {}
            Said::Bytes(side, bytes) => {
                let (offset, acknowledged) = (offsets[*side as usize], Some(offsets[side.other() as usize]));
                offsets[*side as usize] += bytes.len() as u64;
                inspector.chunk(&Chunk::Bytes { side: *side, offset, bytes, acknowledged }, &mut observation);
            }
            Said::Gap(side, length) => {
                let offset = offsets[*side as usize];
                offsets[*side as usize] += length;
                let gap = Chunk::Gap { side: *side, offset, length: *length, reason: GapReason::Lost };
                inspector.chunk(&gap, &mut observation);
            }
            Said::End(side) => {
                inspector.chunk(&Chunk::End { side: *side }, &mut observation);
            }
        }
    }
    let settled = inspector.settled();
    inspector.finish(&mut observation);
    assert!(inspector.settled());
    (observation, settled)
}

/// Plays a connection as it is, with every chunk split in two at every place, and byte by byte: all say the same.
pub fn observe(said: &[Said]) -> (Observation, bool) {
    let whole = play(true, said);
    for (place, part) in said.iter().enumerate() {
        let Said::Bytes(side, bytes) = part else { continue };
        for at in 1..bytes.len() {
            let halves = [Said::Bytes(*side, bytes[..at].to_vec()), Said::Bytes(*side, bytes[at..].to_vec())];
            let split = [&said[..place], &halves, &said[place + 1..]].concat();
            assert_eq!(play(true, &split), whole, "chunk {place} split at {at}");
        }
    }
    let single: Vec<Said> = said
        .iter()
        .flat_map(|part| match part {
            Said::Bytes(side, bytes) => bytes.iter().map(|byte| Said::Bytes(*side, vec![*byte])).collect(),
            other => vec![other.clone()],
        })
        .collect();
    assert_eq!(play(true, &single), whole, "byte by byte");
    whole
}
