//! Network namespaces without names: the kernel removes one, and every interface in it, with its last descriptor, so
//! that nothing stays behind even when a test is killed.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, bail};

/// A network namespace of a test's own.
pub struct Namespace(File);

impl Namespace {
    /// A new namespace, its loopback interface up.
    ///
    /// # Errors
    /// No privilege.
    pub fn new() -> Result<Self> {
        let file = thread::spawn(|| -> Result<File> {
            // SAFETY: a plain system call; it changes the namespace of this thread, which ends with this closure.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error()).context("making a network namespace");
            }
            File::open("/proc/thread-self/ns/net").context("opening the new network namespace")
        });
        let namespace = Self(file.join().map_err(|_| anyhow::anyhow!("the thread that made a namespace ended"))??);
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Runs `inside` in a thread of this namespace; processes that it starts are in it too.
    ///
    /// # Panics
    /// When `inside` does, or the namespace cannot be entered.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        let descriptor = self.0.as_raw_fd();
        thread::scope(|scope| {
            let thread = scope.spawn(move || {
                // SAFETY: a plain system call on a descriptor that `self` keeps open; it changes this thread only.
                let entered = unsafe { libc::setns(descriptor, libc::CLONE_NEWNET) };
                assert_eq!(entered, 0, "entering a namespace: {}", io::Error::last_os_error());
                inside()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `ip` with these words in this namespace.
    ///
    /// # Errors
    /// It fails; its own words say why.
    pub fn ip(&self, words: &str) -> Result<()> {
        let output = self.run(|| Command::new("ip").args(words.split_whitespace()).output()).context("running ip")?;
        if !output.status.success() {
            bail!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Makes a pair of interfaces that are connected to each other, both up and in this namespace; gives their
    /// indices back.
    ///
    /// # Errors
    /// As [`Self::ip`].
    pub fn veth(&self, one: &str, other: &str) -> Result<[u32; 2]> {
        self.ip(&format!("link add {one} type veth peer name {other}"))?;
        self.ip(&format!("link set {one} up"))?;
        self.ip(&format!("link set {other} up"))?;
        Ok([self.index(one)?, self.index(other)?])
    }

    /// Puts this interface into another namespace.
    ///
    /// # Errors
    /// The interface is not in this one.
    pub fn give(&self, interface: &str, other: &Self) -> Result<()> {
        // `ip` opens the path in its own process, to which descriptors with close-on-exec do not come: name ours.
        self.ip(&format!("link set {interface} netns /proc/{}/fd/{}", std::process::id(), other.0.as_raw_fd()))
    }

    /// The index of this interface.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn index(&self, interface: &str) -> Result<u32> {
        let name = std::ffi::CString::new(interface).context("an interface's name")?;
        let index = self.run(|| {
            // SAFETY: the name ends with zero and lives until the call returns.
            unsafe { libc::if_nametoindex(name.as_ptr()) }
        });
        if index == 0 {
            bail!("no interface {interface}");
        }
        Ok(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs root"]
    fn a_namespace_has_its_own_interfaces_and_takes_them_along() {
        crate::require_root();
        let (one, other) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        let [here, there] = one.veth("here", "there").unwrap();
        assert_ne!(here, there);
        assert!(other.index("here").is_err(), "another namespace does not have it");
        one.give("there", &other).unwrap();
        assert!(one.index("there").is_err());
        other.index("there").unwrap();
        drop(other);
        // The kernel takes a namespace down some time after its last descriptor is closed.
        let gone = (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(25));
            one.index("here").is_err()
        });
        assert!(gone, "an interface pair goes with the namespace of one end");
    }
}
