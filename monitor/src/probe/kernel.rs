//! The probe's half of the kernel object: its maps, and its programs for each binary that they are attached to.
//!
//! aya's own loader gives uprobe programs no attach type, and creates the maps of every program in the object. So the
//! object is parsed and relocated with aya's parser, and the programs are handed to the kernel here.

use std::collections::HashSet;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::maps::{Array, Map, MapData, PerCpuArray, RingBuf};
use aya_obj::Object;
use monitor_common::{LossReason, ProbeLayout};

use super::system;
use crate::attach::object::OBJECT;

/// Programs of the object, by their names.
const ENTRY: &str = "api_exposure_probe";
const ANSWER: &str = "api_exposure_probe_answer";
/// Maps of the object, by their names.
const LAYOUT: &str = "PROBE_LAYOUT";
const HITS: &str = "HITS";
const LOSSES: &str = "HIT_LOSSES";
/// All of them.
pub const MAPS: [&str; 3] = [LAYOUT, HITS, LOSSES];

/// What all attachments share.
pub struct Kernel {
    object: Object,
    hits: RingBuf<MapData>,
    losses: PerCpuArray<MapData, u64>,
    /// Of the map `losses`, which gives its own away to nobody.
    losses_descriptor: OwnedFd,
}

/// The programs for one binary.
pub struct Programs {
    /// To be attached to a function's entry.
    pub entry: OwnedFd,
    /// To be attached to its returns.
    pub answer: OwnedFd,
    /// Lives as long as the programs that read it.
    _layout: Array<MapData, ProbeLayout>,
}

impl Kernel {
    /// Creates the maps.
    ///
    /// # Errors
    /// The kernel refuses: no privilege, or older than 5.8.
    pub fn load() -> Result<Self> {
        if OBJECT.is_empty() {
            bail!("this binary was built without its kernel object: run `cargo xtask setup`, then `cargo xtask build`");
        }
        let mut object = Object::parse(OBJECT).context("parsing the kernel object")?;
        object.programs.retain(|name, _| name == ENTRY || name == ANSWER);
        // Functions of the other hooks, those that the compiler shares between programs too, name maps that are not made
        // here.
        object.functions.retain(|_, function| [ENTRY, ANSWER].contains(&&*function.name) || is_memory(&function.name));
        let hits = RingBuf::try_from(Map::RingBuf(create(&object, HITS)?)).context("ring buffer HITS")?;
        let losses = create(&object, LOSSES)?;
        let losses_descriptor = losses.fd().as_fd().try_clone_to_owned().context("descriptor of map HIT_LOSSES")?;
        let losses = PerCpuArray::try_from(Map::PerCpuArray(losses)).context("map HIT_LOSSES")?;
        Ok(Self { object, hits, losses, losses_descriptor })
    }

    /// The ring buffer with the hits.
    pub fn hits(&mut self) -> &mut RingBuf<MapData> {
        &mut self.hits
    }

    /// A descriptor that is readable when there are hits, as of when it is asked: nobody is woken for less than a burst.
    pub fn readable(&self) -> RawFd {
        self.hits.as_raw_fd()
    }

    /// Hits lost, or not wholly read, by reason.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn losses(&self) -> Result<[u64; LossReason::COUNT]> {
        let mut losses = [0; LossReason::COUNT];
        for (index, sum) in losses.iter_mut().enumerate() {
            let counts = self.losses.get(&(index as u32), 0).context("reading the probe's loss counters")?;
            *sum = counts.iter().sum();
        }
        Ok(losses)
    }

    /// Loads the programs for one binary; `multi`: for a link that holds several places.
    ///
    /// # Errors
    /// The kernel refuses them.
    pub fn programs(&self, layout: ProbeLayout, multi: bool) -> Result<Programs> {
        let layout_map = create(&self.object, LAYOUT)?;
        let mut object = self.object.clone();
        let mut maps = Vec::new();
        let descriptors = [
            (LAYOUT, layout_map.fd().as_fd().as_raw_fd()),
            (HITS, self.hits.as_raw_fd()),
            (LOSSES, self.losses_descriptor.as_raw_fd()),
        ];
        for (name, descriptor) in descriptors {
            let map = self.object.maps.get(name).ok_or_else(|| anyhow!("the kernel object has no map {name}"))?;
            maps.push((name, descriptor, map));
        }
        let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        object.relocate_maps(maps.into_iter(), &sections).context("linking the probe with its maps")?;
        object.relocate_calls(&sections).context("linking the probe")?;
        let mut layout_array = Array::try_from(Map::Array(layout_map)).context("map PROBE_LAYOUT")?;
        layout_array.set(0, layout, 0).context("writing the probe's layout")?;
        let load = |name: &str| {
            let program =
                object.programs.get(name).ok_or_else(|| anyhow!("the kernel object has no program {name}"))?;
            let function = object.functions.get(&program.function_key());
            let function = function.ok_or_else(|| anyhow!("the kernel object has no code of {name}"))?;
            system::load_program(name, &function.instructions, &object.license, multi)
        };
        Ok(Programs { entry: load(ENTRY)?, answer: load(ANSWER)?, _layout: layout_array })
    }
}

/// Whether the compiler makes calls of this name by itself.
fn is_memory(name: &str) -> bool {
    ["memcpy", "memmove", "memset", "memcmp", "bcmp"].contains(&name)
}

fn create(object: &Object, name: &str) -> Result<MapData> {
    let map = object.maps.get(name).ok_or_else(|| anyhow!("the kernel object has no map {name}"))?;
    MapData::create(map.clone(), name, None).map_err(|error| system::explain("creating a map", error))
}
