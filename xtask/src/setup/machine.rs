//! What is on this machine: looked up in files only, so that a set-up with nothing to do takes no time.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::workspace;

use super::needs::NEEDS;

/// Where the sources of `core` are below a compiler's sysroot.
const CORE: &str = "lib/rustlib/src/rust/library/core/Cargo.toml";

/// What set-up has to know of a machine.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Programs of [`NEEDS`] that are there.
    pub programs: BTreeSet<&'static str>,
    /// May install packages.
    pub root: bool,
    /// Has apt-get.
    pub apt: bool,
    /// Has rustup.
    pub rustup: bool,
    /// A rustup toolchain has the sources of `core`: `nightly`, or the linked `ebpf`.
    pub core_sources: Option<CoreSources>,
    /// Debian's compiler with its sources is in /usr.
    pub debian_compiler: bool,
    /// The LLVM libraries that bpf-linker is built with are there.
    pub llvm: bool,
    /// Debian's suites offer the compiler.
    pub offers_compiler: bool,
    /// `VERSION_CODENAME` of /etc/os-release.
    pub codename: String,
    /// A stanza of the machine's own list of suites, to make the one for backports from.
    pub suites: Option<Suites>,
    /// Services are started by systemd here.
    pub systemd: bool,
}

/// Which rustup toolchain can build the kernel object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoreSources {
    /// rustup's nightly with rust-src.
    Nightly,
    /// Debian's compiler, linked as `ebpf`.
    Linked,
}

/// Where this machine has Debian from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suites {
    /// `URIs:` of the stanza.
    pub uris: String,
    /// `Signed-By:` of the stanza.
    pub signed_by: Option<String>,
}

impl Machine {
    /// This machine.
    pub fn here() -> Self {
        let apt = workspace::has_program("apt-get");
        let core_sources = core_sources();
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        Self {
            programs: NEEDS.iter().map(|need| need.program).filter(|name| workspace::has_program(name)).collect(),
            root: rustix::process::geteuid().is_root(),
            apt,
            rustup: workspace::has_program("rustup"),
            core_sources,
            debian_compiler: ["/usr/bin/rustc", "/usr/bin/cargo"].iter().all(|path| Path::new(path).exists())
                && Path::new("/usr").join(CORE).exists(),
            llvm: Path::new("/usr/lib/llvm-22/bin/llvm-config").exists(),
            // Asking apt takes half a second: only when the answer matters.
            offers_compiler: apt && core_sources.is_none() && offers("rustc-web"),
            codename: codename(&release).to_owned(),
            suites: fs::read_to_string("/etc/apt/sources.list.d/debian.sources").ok().and_then(|text| suites(&text)),
            systemd: Path::new("/run/systemd/system").exists(),
        }
    }
}

/// Where `cargo install` puts programs.
pub fn cargo_bin() -> PathBuf {
    env::var_os("CARGO_HOME").map_or_else(|| workspace::home().join(".cargo"), PathBuf::from).join("bin")
}

fn core_sources() -> Option<CoreSources> {
    let rustup = env::var_os("RUSTUP_HOME").map_or_else(|| workspace::home().join(".rustup"), PathBuf::from);
    let toolchains = rustup.join("toolchains");
    let has = |name: &str| toolchains.join(name).join(CORE).exists();
    let nightly = fs::read_dir(&toolchains).into_iter().flatten().flatten().any(|entry| {
        let name = entry.file_name();
        // `nightly-x86_64-unknown-linux-gnu`, not `nightly-2026-01-01-...`: what `rustup run nightly` takes.
        let is_nightly = name.to_str().and_then(|name| name.strip_prefix("nightly-"));
        is_nightly.is_some_and(|host| host.starts_with(env::consts::ARCH)) && entry.path().join(CORE).exists()
    });
    if nightly {
        Some(CoreSources::Nightly)
    } else if has("ebpf") {
        Some(CoreSources::Linked)
    } else {
        None
    }
}

fn offers(package: &str) -> bool {
    let policy = Command::new("apt-cache").args(["show", "--no-all-versions", package]).output();
    policy.is_ok_and(|output| output.status.success() && !output.stdout.is_empty())
}

fn codename(os_release: &str) -> &str {
    let line = os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    line.unwrap_or_default().trim_matches('"')
}

/// The first stanza of a deb822 list of suites.
fn suites(text: &str) -> Option<Suites> {
    let stanza = text.split("\n\n").find(|stanza| stanza.contains("URIs:"))?;
    let field = |name: &str| {
        let value = stanza.lines().find_map(|line| line.strip_prefix(name))?;
        Some(value.trim().to_owned())
    };
    Some(Suites { uris: field("URIs:")?, signed_by: field("Signed-By:") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_release_and_the_list_of_suites() {
        assert_eq!(codename("NAME=\"Debian GNU/Linux\"\nVERSION_CODENAME=bookworm\n"), "bookworm");
        assert_eq!(codename("NAME=Arch\n"), "");
        let text = "# a comment\nTypes: deb\nURIs: http://mirror.example/debian\nSuites: bookworm\nComponents: main\n\
                    Signed-By: /usr/share/keyrings/debian.gpg\n\nTypes: deb\nURIs: http://mirror.example/security\n";
        let expected = Suites {
            uris: "http://mirror.example/debian".into(),
            signed_by: Some("/usr/share/keyrings/debian.gpg".into()),
        };
        assert_eq!(suites(text), Some(expected));
        assert_eq!(suites("nothing here"), None);
    }
}
