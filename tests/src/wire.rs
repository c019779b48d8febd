//! A pair of interfaces in a namespace of its own, and frames sent over it as they are.
//!
//! The watched end sees a client's frames come in, and a server's go out. Neither end has an address, so nothing is on
//! the wire but what was sent.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, bail};
use monitor::attach::interfaces::Interface;
use monitor_common::Side;

use crate::frame::ethernet;
use crate::namespace::Namespace;

/// EtherType for local experiments (IEEE 802), of the frames that say how far the wire has come.
const MARKER: u16 = 0x88b5;

/// So long a marker may be on its way.
static PATIENCE: libc::timeval = libc::timeval { tv_sec: 10, tv_usec: 0 };

/// Frames that a veth interface holds at the least before it drops (VETH_RING_SIZE in the kernel's
/// drivers/net/veth.c is 256).
const UNSETTLED: usize = 64;

/// The name of the watched end.
pub const WATCHED: &str = "watched";

/// A pair of interfaces, and sockets on both.
pub struct Wire {
    /// The watched end.
    pub interface: Interface,
    /// Sends what comes in at the watched end.
    feeder: File,
    /// Sends what goes out of the watched end.
    watched: File,
    /// Receives markers at the watched end, behind the hooks of TC.
    markers: File,
    sent: u64,
    received: u64,
    unsettled: usize,
}

impl Wire {
    /// A new pair in this namespace, which takes frames up to 65,535 bytes. This thread stays on one CPU from now on: each CPU has a
    /// queue of its own for what comes in, and order is kept only within one.
    ///
    /// # Errors
    /// No privilege.
    pub fn new(namespace: &Namespace) -> Result<Self> {
        stay_on_this_cpu()?;
        let queues = "mtu 65535 numrxqueues 1 numtxqueues 1";
        namespace.ip(&format!("link add {WATCHED} {queues} type veth peer name feeder {queues}"))?;
        for name in [WATCHED, "feeder"] {
            // Without a link-local address IPv6 says nothing of itself.
            namespace.ip(&format!("link set {name} addrgenmode none"))?;
            namespace.ip(&format!("link set {name} up"))?;
        }
        let index = namespace.index(WATCHED)?;
        let interface =
            Interface { index, name: WATCHED.to_owned(), loopback: false, ethernet: true, xdp_program: None };
        let feeder = namespace.index("feeder")?;
        let [feeder, watched, markers] = [(feeder, 0), (index, 0), (index, MARKER)]
            .map(|(index, ether_type)| namespace.run(|| socket(index, ether_type)));
        Ok(Self {
            interface,
            feeder: feeder?,
            watched: watched?,
            markers: markers?,
            sent: 0,
            received: 0,
            unsettled: 0,
        })
    }

    /// Sends a frame as the side says: in at the watched end, or out of it. What was sent so the other way before has
    /// passed the hooks then.
    ///
    /// # Errors
    /// The interface does not take it.
    pub fn send(&mut self, side: Side, frame: &[u8]) -> Result<()> {
        let mut socket = match side {
            Side::Client => {
                self.unsettled += 1;
                &self.feeder
            }
            Side::Server => {
                self.settle()?;
                &self.watched
            }
        };
        socket.write_all(frame).with_context(|| format!("sending a frame of {} bytes", frame.len()))?;
        if self.unsettled >= UNSETTLED { self.settle() } else { Ok(()) }
    }

    /// Waits until all that was sent has passed the hooks.
    ///
    /// # Errors
    /// A marker did not arrive.
    pub fn settle(&mut self) -> Result<()> {
        if self.unsettled == 0 {
            return Ok(());
        }
        self.unsettled = 0;
        // GRO (with XDP also on veth) may hold a segment back behind the first marker, but only as long as one poll of
        // the interface's queue takes; the second marker comes with a later one.
        for _ in 0..2 {
            self.mark()?;
        }
        Ok(())
    }

    fn mark(&mut self) -> Result<()> {
        self.sent += 1;
        let mut frame = ethernet(MARKER, &self.sent.to_be_bytes());
        frame.resize(60, 0);
        self.feeder.write_all(&frame).context("sending a marker")?;
        let mut received = [0; 60];
        while received[14..22] != self.sent.to_be_bytes() {
            let length = self.markers.read(&mut received).context("waiting for a marker")?;
            if length != received.len() {
                bail!("a marker of {length} bytes");
            }
        }
        self.received += 1;
        Ok(())
    }

    /// How many markers have come in since this was last asked: the hooks have seen them too.
    pub fn take_markers(&mut self) -> u64 {
        std::mem::take(&mut self.received)
    }
}

/// A packet socket on the interface with this index, for frames with their Ethernet header; it receives those of this
/// EtherType, of 0 none.
fn socket(index: u32, ether_type: u16) -> Result<File> {
    let protocol = ether_type.to_be();
    // SAFETY: a plain system call.
    let descriptor = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol.into()) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error()).context("opening a packet socket");
    }
    // SAFETY: the descriptor is new, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: pointer and length are those of one `sockaddr_ll`, which the call only reads.
    let bound = unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
    };
    if bound != 0 {
        return Err(io::Error::last_os_error()).context("binding a packet socket");
    }
    // SAFETY: pointer and length are those of one `timeval`, which the call only reads.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const PATIENCE).cast(),
            size_of_val(&PATIENCE) as libc::socklen_t,
        )
    };
    if set != 0 {
        return Err(io::Error::last_os_error()).context("a packet socket's patience");
    }
    Ok(File::from(socket))
}

fn stay_on_this_cpu() -> Result<()> {
    // SAFETY: the set is all zero bits, which is the empty set; the calls get a pointer to it and its size.
    let outcome = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu().max(0) as usize, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    if outcome != 0 {
        return Err(io::Error::last_os_error()).context("staying on one CPU");
    }
    Ok(())
}
