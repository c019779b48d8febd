//! Programs that are not ours: each counts its packets in a map of its own and returns one verdict.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use aya::programs::{SchedClassifier, Xdp, XdpMode};

/// A program of somebody else, loaded.
pub struct Foreign {
    counter: MapData,
    /// Its id.
    pub id: u32,
    /// Keeps it loaded.
    _program: OwnedFd,
}

/// What kind of program it is (`enum bpf_prog_type`, include/uapi/linux/bpf.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// BPF_PROG_TYPE_SCHED_CLS.
    Classifier = 3,
    /// BPF_PROG_TYPE_XDP.
    Xdp = 6,
}

impl Foreign {
    /// Loads a program of this name that counts and returns `verdict`.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn new(kind: Kind, name: &str, verdict: i32) -> Result<Self> {
        let counter = create_map(name).context("the counter of somebody else's program")?;
        let program = load(kind, name, counter.as_raw_fd(), verdict).context("somebody else's program")?;
        let counter = MapData::from_fd(counter).context("the counter of somebody else's program")?;
        let id = id(&program)?;
        Ok(Self { counter, id, _program: program })
    }

    /// Packets that it saw.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn packets(&self) -> Result<u64> {
        let counter = aya::maps::Array::<_, u64>::try_from(aya::maps::Map::Array(MapData::from_id(
            self.counter.info().context("the counter")?.id(),
        )?))?;
        counter.get(&0, 0).context("reading the counter")
    }

    /// It as a classifier of aya, which attaches it.
    ///
    /// # Errors
    /// It is none.
    pub fn classifier(&self) -> Result<SchedClassifier> {
        Ok(SchedClassifier::from_program_info(self.info()?, "foreign".into())?)
    }

    /// Attaches it to XDP.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn attach_xdp(&self, interface: u32) -> Result<Xdp> {
        let mut xdp =
            Xdp::from_program_info(self.info()?, "foreign".into(), aya_obj::programs::XdpAttachType::Interface)?;
        xdp.attach_to_if_index(interface, XdpMode::Driver)?;
        Ok(xdp)
    }

    fn info(&self) -> Result<aya::programs::ProgramInfo> {
        let mut programs = aya::programs::loaded_programs();
        programs.find_map(|program| program.ok().filter(|program| program.id() == self.id)).context("it is loaded")
    }
}

/// The commands (`enum bpf_cmd`, include/uapi/linux/bpf.h).
const MAP_CREATE: libc::c_long = 0;
const PROG_LOAD: libc::c_long = 5;

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: source << 4 | destination, offset, immediate }
}

fn create_map(name: &str) -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Default)]
    struct Create {
        map_type: u32,
        key: u32,
        value: u32,
        entries: u32,
        flags: u32,
        inner: u32,
        node: u32,
        name: [u8; 16],
    }
    // BPF_MAP_TYPE_ARRAY.
    let mut create = Create { map_type: 2, key: 4, value: 8, entries: 1, name: short(name), ..Create::default() };
    bpf(MAP_CREATE, &mut create)
}

fn load(kind: Kind, name: &str, counter: i32, verdict: i32) -> io::Result<OwnedFd> {
    let code = [
        instruction(0x62, 10, 0, -4, 0),     // *(u32 *)(r10 - 4) = 0
        instruction(0xbf, 2, 10, 0, 0),      // r2 = r10
        instruction(0x07, 2, 0, 0, -4),      // r2 += -4
        instruction(0x18, 1, 1, 0, counter), // r1 = the map (BPF_PSEUDO_MAP_FD)
        instruction(0, 0, 0, 0, 0),          // its second half
        instruction(0x85, 0, 0, 0, 1),       // r0 = bpf_map_lookup_elem(r1, r2)
        instruction(0x15, 0, 0, 2, 0),       // if r0 == 0 goto +2
        instruction(0xb7, 1, 0, 0, 1),       // r1 = 1
        instruction(0xdb, 0, 1, 0, 0),       // lock *(u64 *)r0 += r1
        instruction(0xb7, 0, 0, 0, verdict), // r0 = the verdict
        instruction(0x95, 0, 0, 0, 0),       // exit
    ];
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        kind: u32,
        count: u32,
        code: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel: u32,
        flags: u32,
        name: [u8; 16],
    }
    let license = CString::default();
    let mut load = Load {
        kind: kind as u32,
        count: code.len() as u32,
        code: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        name: short(name),
        ..Load::default()
    };
    bpf(PROG_LOAD, &mut load)
}

fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `attributes` within the size that is given; what they point to lives until it returns.
    let outcome = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(outcome as i32) })
}

/// A name as the kernel keeps it: 15 bytes and a zero.
fn short(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(name.bytes().take(15)).for_each(|(to, from)| *to = from);
    bytes
}

/// The id of a program, as /proc says it.
fn id(program: &OwnedFd) -> Result<u32> {
    let words = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?;
    let id = words.lines().find_map(|line| line.strip_prefix("prog_id:")).context("a program has an id")?;
    Ok(id.trim().parse()?)
}
