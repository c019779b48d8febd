//! A table of flows by key, in the order in which they were last heard of; the oldest gives way when it is full.
//!
//! Entries stand in one piece of memory and are known by their place in it, so that a packet looks its flow up once, and
//! what it does then costs no hashing. No allocation for each flow.

use hashbrown::HashTable;
use monitor_common::FlowKey;

use crate::key_hash::KeyHashing;

/// Where an entry stands, until it is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u32);

/// The end of a list.
const NONE: u32 = u32::MAX;

/// Flows with a value each.
pub struct FlowTable<V> {
    capacity: usize,
    hashing: KeyHashing,
    places: HashTable<u32>,
    entries: Vec<Entry<V>>,
    /// The entry heard of last, and the one heard of longest ago.
    newest: u32,
    oldest: u32,
    /// The place looked up last: the stages ask for the flow at hand one after the other.
    recent: u32,
}

struct Entry<V> {
    key: FlowKey,
    newer: u32,
    older: u32,
    value: V,
}

impl<V> FlowTable<V> {
    /// An empty table; it grows up to `capacity` entries.
    pub fn new(capacity: u32) -> Self {
        Self {
            capacity: capacity.clamp(1, NONE - 1) as usize,
            hashing: KeyHashing::default(),
            places: HashTable::new(),
            entries: Vec::new(),
            newest: NONE,
            oldest: NONE,
            recent: NONE,
        }
    }

    /// Where the flow with this key stands, as it was.
    #[inline]
    pub fn find(&mut self, key: &FlowKey) -> Option<Place> {
        if let Some(entry) = self.entries.get(self.recent as usize)
            && entry.key == *key
        {
            return Some(Place(self.recent));
        }
        let entries = &self.entries;
        let place = *self.places.find(self.hashing.of(key), |place| entries[*place as usize].key == *key)?;
        self.recent = place;
        Some(Place(place))
    }

    /// The flow was heard of just now.
    #[inline]
    pub fn touch(&mut self, place: Place) {
        if self.newest != place.0 && self.entries.len() > place.0 as usize {
            self.unlink(place.0);
            self.link(place.0);
        }
    }

    /// The value at a place.
    #[inline]
    pub fn at(&mut self, place: Place) -> Option<&mut V> {
        self.entries.get_mut(place.0 as usize).map(|entry| &mut entry.value)
    }

    /// Remembers a flow that is not in the table; gives where, and what had to give way.
    pub fn insert(&mut self, key: FlowKey, value: V) -> (Place, Option<(FlowKey, V)>) {
        let entry = Entry { key, newer: NONE, older: NONE, value };
        let (place, gone) = if self.entries.len() < self.capacity {
            self.entries.push(entry);
            ((self.entries.len() - 1) as u32, None)
        } else {
            let place = self.oldest;
            self.unlink(place);
            let gone = std::mem::replace(&mut self.entries[place as usize], entry);
            self.forget(place, &gone.key);
            (place, Some((gone.key, gone.value)))
        };
        let (entries, hashing) = (&self.entries, &self.hashing);
        self.places.insert_unique(hashing.of(&key), place, |place| hashing.of(&entries[*place as usize].key));
        self.link(place);
        self.recent = place;
        (Place(place), gone)
    }

    /// Takes out the flow heard of longest ago.
    pub fn pop_oldest(&mut self) -> Option<(FlowKey, V)> {
        if self.oldest == NONE {
            return None;
        }
        let place = self.oldest;
        self.unlink(place);
        self.recent = NONE;
        let last = (self.entries.len() - 1) as u32;
        let entry = self.entries.swap_remove(place as usize);
        self.forget(place, &entry.key);
        if place != last {
            // What stood last stands in its place now.
            let moved = &self.entries[place as usize];
            let (newer, older) = (moved.newer, moved.older);
            if let Some(found) = self.places.find_mut(self.hashing.of(&moved.key), |found| *found == last) {
                *found = place;
            }
            *self.older_of(newer) = place;
            *self.newer_of(older) = place;
        }
        Some((entry.key, entry.value))
    }

    /// Keys and values, from the flow heard of longest ago on.
    pub fn oldest_first(&self) -> impl Iterator<Item = (&FlowKey, &V)> {
        let mut next = self.oldest;
        std::iter::from_fn(move || {
            let entry = self.entries.get(next as usize)?;
            next = entry.newer;
            Some((&entry.key, &entry.value))
        })
    }

    fn forget(&mut self, place: u32, key: &FlowKey) {
        if let Ok(found) = self.places.find_entry(self.hashing.of(key), |found| *found == place) {
            found.remove();
        }
    }

    /// Takes an entry out of the order.
    #[inline]
    fn unlink(&mut self, place: u32) {
        let Entry { newer, older, .. } = self.entries[place as usize];
        *self.older_of(newer) = older;
        *self.newer_of(older) = newer;
    }

    /// Makes an entry the newest.
    #[inline]
    fn link(&mut self, place: u32) {
        let before = std::mem::replace(&mut self.newest, place);
        let entry = &mut self.entries[place as usize];
        (entry.newer, entry.older) = (NONE, before);
        *self.newer_of(before) = place;
    }

    /// Which entry is older than this one; of the end, the newest of all.
    #[inline]
    fn older_of(&mut self, place: u32) -> &mut u32 {
        match self.entries.get_mut(place as usize) {
            Some(entry) => &mut entry.older,
            None => &mut self.newest,
        }
    }

    /// Which entry is newer than this one; of the end, the oldest of all.
    #[inline]
    fn newer_of(&mut self, place: u32) -> &mut u32 {
        match self.entries.get_mut(place as usize) {
            Some(entry) => &mut entry.newer,
            None => &mut self.oldest,
        }
    }
}

#[cfg(test)]
mod tests {
    use lru::LruCache;
    use proptest::prelude::*;

    use super::*;

    fn key(number: u16) -> FlowKey {
        FlowKey { client: [number as u8; 16], server: [9; 16], client_port: number, server_port: 6443 }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Hear(u16),
        Pop,
    }

    proptest! {
        #[test]
        fn does_as_a_plain_lru_cache_does(
            steps in proptest::collection::vec(
                prop_oneof![9 => (0..20_u16).prop_map(Step::Hear), 1 => Just(Step::Pop)],
                0..200,
            ),
        ) {
            let mut table = FlowTable::new(8);
            let mut oracle = LruCache::new(std::num::NonZeroUsize::new(8).unwrap());
            for (time, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Pop => prop_assert_eq!(table.pop_oldest(), oracle.pop_lru()),
                    Step::Hear(number) => match table.find(&key(number)) {
                        Some(place) => {
                            table.touch(place);
                            prop_assert_eq!(table.at(place).copied(), oracle.get(&key(number)).copied());
                        }
                        None => {
                            prop_assert!(!oracle.contains(&key(number)));
                            let (place, gone) = table.insert(key(number), time);
                            prop_assert_eq!(table.at(place).copied(), Some(time));
                            prop_assert_eq!(gone, oracle.push(key(number), time));
                        }
                    },
                }
                let ours: Vec<_> = table.oldest_first().map(|(key, value)| (*key, *value)).collect();
                let theirs: Vec<_> = oracle.iter().rev().map(|(key, value)| (*key, *value)).collect();
                prop_assert_eq!(ours, theirs);
            }
        }
    }
}
