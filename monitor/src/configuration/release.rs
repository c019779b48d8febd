//! Which Kubernetes release an API server is of: defaults and flags differ between them.

use std::fmt;
use std::io::{Read, Seek, SeekFrom};

/// What `.go.buildinfo` begins with (Go, src/debug/buildinfo/buildinfo.go).
const MAGIC: &[u8] = b"\xff Go buildinf:";
/// Bytes of it before the strings: magic, pointer size, flags, and what older releases kept there.
const HEADER: usize = 32;
/// Flag of the form that Go 1.18 and later write: the strings follow.
const INLINE: u8 = 2;
/// Bytes of a binary's information about its modules at the most; kube-apiserver has 20 kB.
const INFORMATION: u64 = 1 << 20;

/// A release of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    /// 1.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl Release {
    /// A release of Kubernetes 1.
    pub const fn minor(minor: u32) -> Self {
        Self { major: 1, minor }
    }

    /// Of a version such as `v1.37.2`, `1.30.14+k3s1`.
    pub fn of_version(version: &str) -> Option<Self> {
        let mut numbers = version.strip_prefix('v').unwrap_or(version).split('.');
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?;
        let digits = minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len());
        let minor = minor[..digits].parse().ok()?;
        // 0.x is the number of a library, not of Kubernetes.
        (major == 1).then_some(Self { major, minor })
    }

    /// Of a container image: its tag, `registry.example/kube-apiserver:v1.37.2@sha256:...`.
    pub fn of_image(image: &str) -> Option<Self> {
        let name = image.split('@').next()?;
        let (_, tag) = name.rsplit_once(':')?;
        Self::of_version(tag)
    }

    /// Of what a Go binary says of the modules that it was made of: the version of `k8s.io/kubernetes`. Many builds do
    /// not say it; then `None`.
    pub fn of_binary<R: Read + Seek>(reader: &mut R, section: (u64, u64)) -> Option<Self> {
        let (offset, size) = section;
        reader.seek(SeekFrom::Start(offset)).ok()?;
        let mut bytes = Vec::new();
        reader.take(size.min(INFORMATION)).read_to_end(&mut bytes).ok()?;
        Self::of_information(&bytes)
    }

    fn of_information(bytes: &[u8]) -> Option<Self> {
        let flags = *bytes.get(MAGIC.len() + 1)?;
        if !bytes.starts_with(MAGIC) || flags & INLINE == 0 {
            return None;
        }
        let (_, rest) = string(bytes.get(HEADER..)?)?;
        let (modules, _) = string(rest)?;
        String::from_utf8_lossy(modules).lines().find_map(|line| {
            let mut words = line.split('\t').skip_while(|word| !["mod", "dep"].contains(word)).skip(1);
            (words.next()? == "k8s.io/kubernetes").then(|| words.next().and_then(Self::of_version))?
        })
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A string behind its length (a varint of encoding/binary), and what follows it.
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut length, mut shift) = (0_usize, 0);
    for (at, byte) in bytes.iter().enumerate().take(4) {
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return bytes.get(at + 1..)?.split_at_checked(length);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_images() {
        for (version, expected) in [
            ("v1.37.2", Some(37)),
            ("1.30.14+k3s1", Some(30)),
            ("v1.9", Some(9)),
            ("v1.33-rc.1", Some(33)),
            ("v0.37.2", None),
            ("latest", None),
            ("v1", None),
            ("v1.x", None),
            ("", None),
        ] {
            assert_eq!(Release::of_version(version), expected.map(Release::minor), "{version}");
        }
        assert_eq!(Release::of_image("r.example:5000/kube-apiserver:v1.31.0@sha256:ab"), Some(Release::minor(31)));
        assert_eq!(Release::of_image("r.example:5000/kube-apiserver"), None);
        assert_eq!(Release::of_image("kube-apiserver"), None);
        assert!(Release::minor(9) < Release::minor(19));
    }

    fn information(modules: &str) -> Vec<u8> {
        let mut bytes = [MAGIC, &[8, INLINE], &[0; 16]].concat();
        let version = b"go1.26.8";
        bytes.push(version.len() as u8);
        bytes.extend_from_slice(version);
        bytes.extend_from_slice(&[(modules.len() & 0x7f) as u8 | 0x80, (modules.len() >> 7) as u8]);
        bytes.extend_from_slice(modules.as_bytes());
        bytes
    }

    #[test]
    fn a_binary_says_the_release_of_its_module() {
        let modules = "0123456789abcdef\npath\tk8s.io/kubernetes/cmd/kube-apiserver\nmod\tkept\t(devel)\t\n\
                       dep\tk8s.io/api\tv0.37.2\th1:x=\ndep\tk8s.io/kubernetes\tv1.37.2\th1:y=\n";
        let bytes = information(modules);
        assert_eq!(Release::of_information(&bytes), Some(Release::minor(37)));
        for length in 0..bytes.len() {
            assert_eq!(Release::of_information(&bytes[..length]), None, "cut to {length}");
        }
        let unsaid = modules.replace("v1.37.2", "(devel)");
        assert_eq!(Release::of_information(&information(&unsaid)), None);
    }
}
