//! Frames onto an interface, past the network stack (packet(7)).

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};

use crate::namespace::Namespace;

/// A socket that sends frames by one interface.
pub struct Sender {
    socket: OwnedFd,
    /// Frames that the interface took.
    pub sent: u64,
}

impl Sender {
    /// For this interface of this namespace.
    ///
    /// # Errors
    /// No privilege, or no such interface.
    pub fn new(namespace: &Namespace, interface: &str) -> Result<Self> {
        let index = namespace.index(interface)?;
        let socket = namespace.run(|| {
            // SAFETY: a plain system call.
            let descriptor = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
            if descriptor < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: the kernel has just given this descriptor to us alone.
            let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
            let address = libc::sockaddr_ll {
                sll_family: libc::AF_PACKET as u16,
                sll_protocol: 0,
                sll_ifindex: index as i32,
                sll_hatype: 0,
                sll_pkttype: 0,
                sll_halen: 0,
                sll_addr: [0; 8],
            };
            // SAFETY: the pointer is to one `sockaddr_ll`, as the size says.
            let bound = unsafe {
                libc::bind(descriptor, (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t)
            };
            if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
        });
        Ok(Self { socket: socket.context("a socket for frames")?, sent: 0 })
    }

    /// Sends one frame; where the other end is full, again until it takes it. So what was sent was delivered.
    ///
    /// # Errors
    /// The interface is gone.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        loop {
            // SAFETY: the pointer and the length are those of `frame`.
            let sent = unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
            if sent >= 0 {
                self.sent += 1;
                return Ok(());
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::ENOBUFS | libc::EAGAIN | libc::EINTR) => std::thread::yield_now(),
                _ => return Err(error).context("sending a frame"),
            }
        }
    }
}
