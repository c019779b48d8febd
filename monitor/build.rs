//! Builds the kernel object into `OUT_DIR/monitor-ebpf`, for `aya::include_bytes_aligned!`.
//!
//! The kernel object needs a compiler that can build `core` for `bpfel-unknown-none`, and bpf-linker. Where they are
//! missing the user side is built all the same, around an empty object: the daemon then says at its start that it was
//! built without its kernel object, and everything that needs no kernel (replay, most tests) works.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// What the kernel object is made of, beside the crate sources of its dependencies; relative to the workspace.
const SOURCES: [&str; 7] = [
    "monitor-ebpf/src",
    "monitor-ebpf/build.rs",
    "monitor-ebpf/Cargo.toml",
    "monitor-common/src",
    "monitor-common/Cargo.toml",
    "Cargo.toml",
    "Cargo.lock",
];
/// Name of the package, its binary and the file in `OUT_DIR`.
const KERNEL_OBJECT: &str = "monitor-ebpf";
/// The rustup toolchain that `cargo xtask setup` links to Debian's compiler.
const LINKED_TOOLCHAIN: &str = "ebpf";
/// Compiler flags of the kernel object, in the environment because aya-build sets RUSTFLAGS itself, and those of build
/// scripts and macros beside it, which the first would be taken for. 32-bit registers and jumps that compare them (v3)
/// exist since kernel 5.1; without those jumps each comparison becomes a number first, which costs a third of the time.
const ENVIRONMENT: [(&str, &str); 3] = [
    ("CARGO_UNSTABLE_PROFILE_RUSTFLAGS", "true"),
    ("CARGO_PROFILE_RELEASE_RUSTFLAGS", "-Ctarget-cpu=v3"),
    ("CARGO_PROFILE_RELEASE_BUILD_OVERRIDE_RUSTFLAGS", "-Cdebuginfo=0"),
];

fn main() -> Result<()> {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR is not set")?);
    let workspace = manifest.parent().context("the package has no parent directory")?;
    println!("cargo:rerun-if-changed=build.rs");
    for source in SOURCES {
        println!("cargo:rerun-if-changed={}", workspace.join(source).display());
    }

    match toolchain() {
        Ok(toolchain) => build(workspace, &toolchain),
        Err(missing) => {
            watch_for_setup();
            println!("cargo:warning=built without the kernel object: {missing:#}; run `cargo xtask setup`");
            let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
            let object = out.join(KERNEL_OBJECT);
            fs::write(&object, []).with_context(|| format!("cannot write {}", object.display()))
        }
    }
}

/// A toolchain that can build `core` from source.
struct EbpfToolchain {
    /// Its name in rustup.
    name: &'static str,
    /// Whether it is a stable compiler, which takes `-Z build-std` only with `RUSTC_BOOTSTRAP=1`.
    stable: bool,
}

/// Finds a compiler with the sources of `core` and the linker, or says what is missing.
fn toolchain() -> Result<EbpfToolchain> {
    if !answers(Command::new("bpf-linker").arg("--version")) {
        bail!("bpf-linker is not in PATH");
    }
    if !answers(Command::new("rustup").arg("--version")) {
        bail!("rustup is not in PATH");
    }
    if has_core_sources("nightly") {
        return Ok(EbpfToolchain { name: "nightly", stable: false });
    }
    if has_core_sources(LINKED_TOOLCHAIN) {
        return Ok(EbpfToolchain { name: LINKED_TOOLCHAIN, stable: true });
    }
    bail!("no toolchain with rust-src: neither `nightly` nor `{LINKED_TOOLCHAIN}`")
}

fn answers(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

fn has_core_sources(toolchain: &str) -> bool {
    let sysroot = Command::new("rustup").args(["run", toolchain, "rustc", "--print", "sysroot"]).output();
    sysroot.is_ok_and(|output| {
        let sysroot = String::from_utf8_lossy(&output.stdout);
        output.status.success()
            && Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml").exists()
    })
}

/// Cargo runs this script again when one of these changes: what `cargo xtask setup` brings.
fn watch_for_setup() {
    println!("cargo:rerun-if-env-changed=PATH");
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cargo = env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    let rustup = env::var_os("RUSTUP_HOME").map_or_else(|| home.join(".rustup"), PathBuf::from);
    println!("cargo:rerun-if-changed={}", cargo.join("bin").display());
    println!("cargo:rerun-if-changed={}", rustup.join("toolchains").display());
}

/// The inner cargo has a target directory of its own below `OUT_DIR`, so that it never waits for the outer one's lock.
fn build(workspace: &Path, toolchain: &EbpfToolchain) -> Result<()> {
    if toolchain.stable {
        // SAFETY: this process has one thread, so that nobody reads the environment meanwhile.
        unsafe { env::set_var("RUSTC_BOOTSTRAP", "1") };
    }
    // aya-build makes a warning of each line that cargo says: let it say warnings and errors only.
    // SAFETY: as above.
    unsafe { env::set_var("CARGO_TERM_QUIET", "true") };
    for (name, value) in ENVIRONMENT {
        // SAFETY: as above.
        unsafe { env::set_var(name, value) };
    }
    let root = workspace.join(KERNEL_OBJECT);
    let root = root.to_str().context("the path of the workspace is not UTF-8")?;
    let package = aya_build::Package { name: KERNEL_OBJECT, root_dir: root, ..Default::default() };
    aya_build::build_ebpf([package], aya_build::Toolchain::Custom(toolchain.name))
        .with_context(|| format!("cannot build the kernel object with the toolchain `{}`", toolchain.name))
}
