//! What goes out: one line a test, its fields parted by tabs: `row`, name, `works` | `absent` | `failed`, words.

use std::fs::File;
use std::io::Write as _;

use anyhow::{Context as _, Result};

/// The serial port that is only for the report; the first one is the kernel's console.
const PORT: &str = "/dev/ttyS1";

/// How a test went that did not fail.
pub enum Outcome {
    /// As it should; with what is worth showing.
    Works(String),
    /// This kernel does not offer it, and it was found to be handled so.
    Absent(&'static str),
}

impl Outcome {
    /// Works, with nothing to add.
    pub fn works() -> Result<Self> {
        Ok(Self::Works(String::new()))
    }
}

/// The report of one machine.
pub struct Report {
    port: File,
}

impl Report {
    /// Opens the port.
    pub fn open() -> Result<Self> {
        Ok(Self { port: File::options().write(true).open(PORT).with_context(|| format!("opening {PORT}"))? })
    }

    /// Does one test and says how it went.
    pub fn row(&mut self, name: &str, test: impl FnOnce() -> Result<Outcome>) -> Result<()> {
        // A test that panics is a test that failed.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
        let (word, words) = match outcome {
            Ok(Ok(Outcome::Works(words))) => ("works", words),
            Ok(Ok(Outcome::Absent(why))) => ("absent", why.to_owned()),
            Ok(Err(error)) => ("failed", format!("{error:#}")),
            Err(_) => ("failed", "it panicked; the console has the words".to_owned()),
        };
        let words = words.replace(['\n', '\t', '\r'], " ");
        writeln!(self.port, "row\t{name}\t{word}\t{words}").context("writing the report")
    }

    /// Says that all tests were done.
    pub fn end(&mut self) -> Result<()> {
        writeln!(self.port, "end").context("writing the report")?;
        // SAFETY: the descriptor is open. Waits until the port has sent everything: the machine stops right after.
        let drained = unsafe { libc::tcdrain(std::os::fd::AsRawFd::as_raw_fd(&self.port)) };
        if drained != 0 {
            return Err(std::io::Error::last_os_error()).context("waiting for the serial port");
        }
        Ok(())
    }
}
