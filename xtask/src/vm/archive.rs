//! The first file system of a virtual machine: an archive in the format that the kernel unpacks (`newc` of cpio, as
//! Documentation/driver-api/early-userspace/buffer-format.rst of the kernel has it).

use std::io::Write;

use anyhow::{Context as _, Result};

/// A regular file that everybody may run, and a folder.
const FILE: u32 = 0o100_755;
const FOLDER: u32 = 0o040_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// Writes an archive entry by entry.
pub struct Archive<W> {
    out: W,
    written: usize,
    entries: u32,
}

impl<W: Write> Archive<W> {
    /// An archive without entries.
    pub fn new(out: W) -> Self {
        Self { out, written: 0, entries: 0 }
    }

    /// Adds a folder.
    pub fn folder(&mut self, name: &str) -> Result<()> {
        self.entry(name, FOLDER, (0, 0), &[])
    }

    /// Adds a file.
    pub fn file(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.entry(name, FILE, (0, 0), bytes)
    }

    /// Adds a character device.
    pub fn device(&mut self, name: &str, major: u32, minor: u32) -> Result<()> {
        self.entry(name, CHARACTER_DEVICE, (major, minor), &[])
    }

    /// Ends the archive.
    pub fn end(mut self) -> Result<W> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.out.flush().context("cannot write the archive")?;
        Ok(self.out)
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), bytes: &[u8]) -> Result<()> {
        self.entries += 1;
        let size = u32::try_from(bytes.len()).context("a file is too large for the archive")?;
        let name_size = u32::try_from(name.len() + 1).context("a name is too long for the archive")?;
        // Number, mode, owner, group, links, time, size, device of the file, device that it is, size of the name, sum.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.write(b"070701")?;
        for field in fields {
            self.write(format!("{field:08x}").as_bytes())?;
        }
        self.write(name.as_bytes())?;
        self.write(&[0])?;
        self.pad()?;
        self.write(bytes)?;
        self.pad()
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len();
        self.out.write_all(bytes).context("cannot write the archive")
    }

    /// To a multiple of four bytes.
    fn pad(&mut self) -> Result<()> {
        let padding = self.written.next_multiple_of(4) - self.written;
        self.write(&[0; 3][..padding])
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn entries_are_laid_out_as_the_kernel_reads_them() {
        let mut archive = Archive::new(Vec::new());
        archive.folder("dev").unwrap();
        archive.file("init", b"12345").unwrap();
        archive.device("dev/console", 5, 1).unwrap();
        let bytes = archive.end().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        let starts: Vec<_> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert_eq!(starts.len(), 4);
        assert!(starts.iter().all(|at| at % 4 == 0), "{starts:?}");
        let header = &text[starts[1]..];
        assert_eq!(&header[6 + 8..6 + 16], "000081ed", "mode");
        assert_eq!(&header[6 + 6 * 8..6 + 7 * 8], "00000005", "size");
        assert_eq!(&header[110..115], "init\0");
        assert_eq!(&header[116..121], "12345");
        assert_eq!(&text[starts[2] + 6 + 9 * 8..starts[2] + 6 + 11 * 8], "0000000500000001", "device");
    }

    /// Where busybox is there, it reads the archive as well.
    #[test]
    fn another_reader_lists_the_same() {
        let Ok(mut child) = Command::new("busybox")
            .args(["cpio", "-t"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
        else {
            return;
        };
        let mut archive = Archive::new(child.stdin.take().unwrap());
        archive.file("init", b"123").unwrap();
        archive.file("modules/0-veth.ko", b"1234").unwrap();
        drop(archive.end().unwrap());
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "init\nmodules/0-veth.ko\n");
    }
}
