//! Which kernel half passed on all kernels on this machine, so that it is tried again only when it has changed.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::workspace;

/// What the kernel half is made of, beside the tools that build it.
const SOURCES: [&str; 2] = ["monitor-ebpf", "monitor-common"];

/// Whether this very kernel half has passed on all kernels before.
pub fn passed() -> Result<bool> {
    Ok(mark()?.exists())
}

/// Notes that it has.
pub fn note() -> Result<()> {
    let mark = mark()?;
    let folder = mark.parent().context("a mark is in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::write(&mark, "").with_context(|| format!("cannot write {}", mark.display()))
}

fn mark() -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    for folder in SOURCES {
        add(&workspace::root().join(folder), &mut hasher)?;
    }
    let linker = Command::new("bpf-linker").arg("--version").output().context("cannot run bpf-linker")?;
    linker.stdout.hash(&mut hasher);
    Ok(workspace::cache()?.join("kernels/passed").join(format!("{:016x}", hasher.finish())))
}

/// Adds a file, or all of a folder in the order of names.
fn add(path: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    let context = || format!("cannot read {}", path.display());
    if !path.is_dir() {
        path.file_name().hash(hasher);
        fs::read(path).with_context(context)?.hash(hasher);
        return Ok(());
    }
    let mut inside = fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>())
        .with_context(context)?;
    inside.sort();
    inside.iter().try_for_each(|path| add(path, hasher))
}
