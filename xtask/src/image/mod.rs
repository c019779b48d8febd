//! `cargo xtask image`: the container image, from scratch, with the one static binary; written by this program, so that
//! nothing but cargo is needed and the same sources give the same bytes.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::setup::{self, Group};
use crate::terminal::Steps;
use crate::workspace;

mod archive;
mod bill;

pub use archive::{Image, docker_archive};

/// What the image is called where nobody gives it another name.
const NAME: &str = "localhost/api-exposure-monitor";
/// The only platform that the static binary is built for so far.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The image as it is fetched must stay below this, so that a node that starts has it soon.
const LARGEST: usize = 15_000_000;

/// Builds the container image (an archive that docker, podman, skopeo and containerd load) and its bill of materials.
#[derive(clap::Args)]
pub struct Arguments {
    /// The image's name and tag.
    #[arg(long, value_name = "NAME:TAG")]
    name: Option<String>,
    /// Build the binary a second time, from nothing, and fail where the images differ.
    #[arg(long)]
    reproduce: bool,
}

/// Where `cargo xtask image` puts what it makes.
fn directory() -> PathBuf {
    workspace::target().join("image")
}

/// The archive.
fn path() -> PathBuf {
    directory().join("api-exposure-monitor.tar")
}

/// The name that the image has where none was given.
pub fn default_name() -> String {
    format!("{NAME}:{}", env!("CARGO_PKG_VERSION"))
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(&[Group::Build])?;
    let name = arguments.name.clone().unwrap_or_else(default_name);
    ensure!(
        name.rsplit_once(':').is_some_and(|(name, tag)| !name.is_empty() && !tag.contains('/') && !tag.is_empty()),
        "`{name}` names no tag: give the image a name such as registry.example/api-exposure-monitor:0.1.0"
    );
    let mut steps = Steps::new("image", if arguments.reproduce { 2 } else { 1 })?;
    let archive = make(&mut steps, &name)?;
    if arguments.reproduce {
        let again = directory().join("again");
        if again.exists() {
            fs::remove_dir_all(&again).with_context(|| format!("cannot empty {}", again.display()))?;
        }
        let second = build(&mut steps, &name, "again")?;
        fs::remove_dir_all(&again).with_context(|| format!("cannot remove {}", again.display()))?;
        ensure!(archive == second, "two builds of the same sources gave two images");
        println!("a second build from nothing gave the same image, byte for byte");
    }
    Ok(())
}

/// Builds the image under its default name, where `e2e` installs it from: the archive's path.
pub fn ensure_built() -> Result<PathBuf> {
    make(&mut Steps::new("image", 1)?, &default_name())?;
    Ok(path())
}

fn make(steps: &mut Steps, name: &str) -> Result<Vec<u8>> {
    let archive = build(steps, name, "build")?;
    fs::write(path(), &archive).with_context(|| format!("cannot write {}", path().display()))?;
    let bill = directory().join("api-exposure-monitor.cdx.json");
    fs::write(&bill, bill::of_materials()?).with_context(|| format!("cannot write {}", bill.display()))?;
    println!("{name}: {:.1} MB, {}", archive.len() as f64 / 1e6, path().display());
    println!("bill of materials (CycloneDX): {}", bill.display());
    ensure!(archive.len() < LARGEST, "the image has {} bytes, more than {LARGEST}", archive.len());
    Ok(archive)
}

/// The archive of the image, its binary built in a target directory of its own: other flags would turn the usual one cold.
fn build(steps: &mut Steps, name: &str, target: &str) -> Result<Vec<u8>> {
    let target = directory().join(target);
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--release", "--locked", "--package", "api-exposure-monitor", "--color", "never"]);
    cargo.args(["--target", TARGET, "--target-dir"]).arg(&target);
    cargo.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", flags().join("\u{1f}"));
    steps.run("build the static binary", &mut cargo)?;
    let log = fs::read_to_string(steps.log()).with_context(|| format!("cannot read {}", steps.log().display()))?;
    if let Some(line) = log.lines().find(|line| line.contains("built without the kernel object")) {
        bail!("{line}");
    }
    let path = target.join(TARGET).join("release/api-exposure-monitor");
    let binary = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    docker_archive(&Image {
        name,
        created: created()?,
        files: &[("usr/bin/api-exposure-monitor", &binary)],
        arguments: &["run"],
        port: Some(9464),
        compressed: true,
        labels: &labels()?,
    })
}

/// Static, since there is nothing beside it in the image; without symbols; and without the paths of this machine, which
/// would make the binary another one elsewhere.
fn flags() -> Vec<String> {
    let home = env::var_os("CARGO_HOME").map_or_else(|| workspace::home().join(".cargo"), PathBuf::from);
    vec![
        "-Ctarget-feature=+crt-static".to_owned(),
        "-Cstrip=symbols".to_owned(),
        format!("--remap-path-prefix={}=/cargo", home.display()),
        format!("--remap-path-prefix={}=/api-exposure-monitor", workspace::root().display()),
    ]
}

/// When the image was created, in seconds since 1970: when its sources were, or as SOURCE_DATE_EPOCH says.
fn created() -> Result<u64> {
    let given = env::var("SOURCE_DATE_EPOCH").ok();
    let seconds = given.map_or_else(|| git(&["log", "-1", "--format=%ct"]), Ok)?;
    seconds.trim().parse().with_context(|| format!("`{seconds}` are no seconds since 1970"))
}

/// Labels of the image, as the OCI's image specification names them (annotations.md).
fn labels() -> Result<Vec<(&'static str, String)>> {
    let revision = git(&["rev-parse", "HEAD"])?;
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    let repository = env!("CARGO_PKG_REPOSITORY");
    Ok(vec![
        ("org.opencontainers.image.title", "api-exposure-monitor".into()),
        (
            "org.opencontainers.image.description",
            "Who reaches this Kubernetes API server, from where, over what, with which credential".into(),
        ),
        ("org.opencontainers.image.version", env!("CARGO_PKG_VERSION").into()),
        ("org.opencontainers.image.revision", if changed { format!("{revision}-changed") } else { revision }),
        ("org.opencontainers.image.licenses", env!("CARGO_PKG_LICENSE").into()),
        ("org.opencontainers.image.source", repository.into()),
        ("org.opencontainers.image.url", repository.into()),
        ("org.opencontainers.image.documentation", format!("{repository}/blob/main/README.md")),
    ])
}

fn git(arguments: &[&str]) -> Result<String> {
    let output = Command::new("git").args(arguments).current_dir(workspace::root()).output();
    let output = output.context("cannot start git")?;
    ensure!(
        output.status.success(),
        "git {}: {}; where this is no git clone, SOURCE_DATE_EPOCH says the image's date",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
