//! A hash for flow keys: a few nanoseconds for 36 bytes, with a seed of this process, so that nobody outside can choose
//! addresses and ports that collide.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use monitor_common::FlowKey;

/// The hash function with this process' seed.
#[derive(Clone, Debug)]
pub struct KeyHashing([u64; 2]);

impl Default for KeyHashing {
    fn default() -> Self {
        let seed = || RandomState::new().build_hasher().finish();
        Self([seed(), seed() | 1])
    }
}

impl KeyHashing {
    /// The hash of a key.
    #[inline]
    pub fn of(&self, key: &FlowKey) -> u64 {
        let Self([seed, multiplier]) = *self;
        let word = |bytes: &[u8; 16], half: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[half * 8..half * 8 + 8]);
            u64::from_le_bytes(word)
        };
        // Two independent products, so that the processor computes them side by side.
        let client = fold(word(&key.client, 0) ^ seed, word(&key.client, 1) ^ multiplier);
        let server = fold(word(&key.server, 0) ^ multiplier, word(&key.server, 1) ^ seed);
        let ports = u64::from(key.client_port) << 16 | u64::from(key.server_port);
        fold(client ^ ports, server ^ multiplier)
    }
}

/// Both halves of the product of two words, as the hash functions wyhash and foldhash mix them.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn keys_that_differ_in_little_differ_in_much() {
        let hashing = KeyHashing::default();
        let mut hashes = HashSet::new();
        let mut low = HashSet::new();
        for address in 0..64_u8 {
            for port in 0..1_024 {
                let mut client = monitor_common::flow::mapped([10, 0, 0, address]);
                let key = FlowKey { client, server: [7; 16], client_port: port, server_port: 6443 };
                hashes.insert(hashing.of(&key));
                low.insert(hashing.of(&key) as u16);
                client[0] ^= 1;
                hashes.insert(hashing.of(&FlowKey { client, ..key }));
            }
        }
        assert_eq!(hashes.len(), 2 * 64 * 1_024);
        // Of 65,536 random draws from as many numbers 63 % are met.
        assert!(low.len() > 35_000, "{} of 65,536 low halves", low.len());
        assert_ne!(hashing.of(&key_of(1)), KeyHashing::default().of(&key_of(1)), "every process has its own seed");
    }

    fn key_of(port: u16) -> FlowKey {
        FlowKey { client: [1; 16], server: [2; 16], client_port: port, server_port: 443 }
    }
}
