//! Where things are: the workspace, its target directory, the logs of tools.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// The root of the workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Where cargo builds, as cargo itself would decide it.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |directory| root().join(directory))
}

/// The release binary of the product.
pub fn binary() -> PathBuf {
    target().join("release/api-exposure-monitor")
}

/// The file that takes what the tools of one command say, emptied.
pub fn log(command: &str) -> Result<PathBuf> {
    let directory = target().join("xtask");
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let path = directory.join(format!("{command}.log"));
    fs::write(&path, "").with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Where what takes long to get is kept, outside of the clone: the next one has it already.
pub fn cache() -> Result<PathBuf> {
    let base = env::var_os("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from);
    ensure!(
        base.is_absolute(),
        "neither XDG_CACHE_HOME nor HOME is an absolute path, so there is no place to keep things"
    );
    Ok(base.join("api-exposure-monitor"))
}

/// The cargo that runs this, in the workspace.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Whether a program of this name can be started: in PATH, or where programs for root are.
pub fn has_program(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let installed = env::var_os("CARGO_HOME").map_or_else(|| home().join(".cargo"), PathBuf::from).join("bin");
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .chain([installed])
        .any(|directory| directory.join(name).is_file())
}

/// The home directory; empty when nobody says.
pub fn home() -> PathBuf {
    env::var_os("HOME").map(PathBuf::from).unwrap_or_default()
}
