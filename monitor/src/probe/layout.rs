//! Where Go releases keep what the probe reads.

use std::io::{Read, Seek};

use super::elf::{BinaryError, Elf, Window};

/// Oldest release: the first that passes arguments in registers on x86-64 and arm64 alike, and whose line table is of
/// the kind known here.
pub const OLDEST: u32 = 18;
/// Newest release that was measured.
pub const NEWEST: u32 = 27;

/// Offsets in bytes of the fields of net/http.Request and net/url.URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLayout {
    /// http.Request.Method.
    pub method: u32,
    /// http.Request.URL.
    pub url: u32,
    /// http.Request.ProtoMajor.
    pub proto_major: u32,
    /// http.Request.RemoteAddr.
    pub remote: u32,
    /// url.URL.Path.
    pub path: u32,
}

/// Offsets by Go release: (first, last, offsets); src/net/http/request.go and src/net/url/url.go of each.
const LAYOUTS: [(u32, u32, RequestLayout); 1] =
    [(OLDEST, NEWEST, RequestLayout { method: 0, url: 16, proto_major: 40, remote: 176, path: 56 })];

/// What `.go.buildinfo` begins with (src/debug/buildinfo/buildinfo.go).
const BUILD_INFO: &[u8] = b"\xff Go buildinf:";
/// Flag: version and modules stand in place behind the header, as Go 1.18 and later write them.
const INLINE: u8 = 2;
/// Bytes of the header.
const BUILD_INFO_HEADER: u64 = 32;
/// Bytes of a version that are kept: `go1.26.8 X:nocoverageredesign` and its like.
const VERSION: usize = 128;

/// The Go release that a binary was made with, as it says itself: `go1.26.8`.
///
/// # Errors
/// It says none, or in the way of releases before 1.18.
pub fn go_version<R: Read + Seek>(reader: &mut R, elf: &Elf) -> Result<String, BinaryError> {
    let region = elf.section_ending(".go.buildinfo").ok_or(BinaryError::NotGo(".go.buildinfo"))?;
    version_in(&mut Window::new(reader, region))
}

fn version_in<R: Read + Seek>(window: &mut Window<'_, R>) -> Result<String, BinaryError> {
    let damaged = || BinaryError::Damaged("its Go build information");
    let header = window.bytes(0, BUILD_INFO_HEADER as usize).map_err(|error| match error {
        BinaryError::Damaged(_) => damaged(),
        other => other,
    })?;
    if !header.starts_with(BUILD_INFO) {
        return Err(damaged());
    }
    if header.get(15).is_none_or(|flags| flags & INLINE == 0) {
        return Err(BinaryError::GoVersion("a Go release before 1.18".to_owned()));
    }
    // A version of more than 127 bytes would have a length of two.
    let length = usize::from(*window.bytes(BUILD_INFO_HEADER, 1)?.first().unwrap_or(&0));
    if length == 0 || length >= VERSION {
        return Err(damaged());
    }
    let version = window.bytes(BUILD_INFO_HEADER + 1, length)?;
    if !version.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(damaged());
    }
    Ok(String::from_utf8_lossy(version).into_owned())
}

/// The offsets of a Go release, found by the version that a binary says: `go1.26.8`, `go1.20.10b7`,
/// `devel go1.27-a1b2c3`.
///
/// # Errors
/// The release is not in the table.
pub fn layout(version: &str) -> Result<RequestLayout, BinaryError> {
    let minor = version.split_once("go1.").map(|(_, rest)| {
        let digits = rest.len() - rest.trim_start_matches(|character: char| character.is_ascii_digit()).len();
        rest.get(..digits).and_then(|digits| digits.parse::<u32>().ok())
    });
    let row = minor.flatten().and_then(|minor| {
        LAYOUTS.iter().find(|(first, last, _)| (*first..=*last).contains(&minor)).map(|(_, _, layout)| *layout)
    });
    row.ok_or_else(|| BinaryError::GoVersion(version.to_owned()))
}

/// The whole of `bytes` as a region, for tests.
#[cfg(test)]
pub(super) fn whole(bytes: &[u8]) -> super::elf::Region {
    super::elf::Region { address: 0, offset: 0, size: bytes.len() as u64 }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn build_info(version: &str) -> Vec<u8> {
        let mut bytes = BUILD_INFO.to_vec();
        bytes.extend([8, INLINE]);
        bytes.resize(32, 0);
        bytes.push(version.len() as u8);
        bytes.extend(version.as_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> Result<String, BinaryError> {
        version_in(&mut Window::new(&mut Cursor::new(bytes), whole(bytes)))
    }

    #[test]
    fn the_version_is_read_and_every_prefix_of_it_is_damaged() {
        let bytes = build_info("go1.26.8");
        assert_eq!(read(&bytes).expect("whole"), "go1.26.8");
        for length in 0..bytes.len() {
            assert!(matches!(read(&bytes[..length]), Err(BinaryError::Damaged(_))), "{length}");
        }
        let mut old = bytes.clone();
        old[15] = 0;
        assert!(read(&old).expect_err("old").to_string().contains("before 1.18"));
        assert!(matches!(read(&build_info("go1\u{1b}[2J")), Err(BinaryError::Damaged(_))));
    }

    #[test]
    fn versions_have_the_layout_of_their_release() {
        for known in
            ["go1.18", "go1.19.13", "go1.20.10b7", "go1.26.8 X:boringcrypto", "devel go1.27-a1b2c3 linux/amd64"]
        {
            assert_eq!(layout(known).expect(known).remote, 176, "{known}");
        }
        for unknown in ["go1.17.13", "go1.16", "go1.9", "go1.28rc1", "go1.270", "go2.1", "gccgo", "", "go1."] {
            let error = layout(unknown).expect_err(unknown).to_string();
            assert!(error.contains("Go 1.18 to 1.27"), "{unknown}: {error}");
        }
    }
}
