//! Images beside the monitor's: the one that holds a pod's namespaces, and kube-apiserver's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::image::{Image, docker_archive};

const PAUSE_SOURCE: &str = include_str!("pause.c");

/// Name of the image that holds a pod's namespaces.
pub const PAUSE: &str = "localhost/e2e-pause:1";
/// Name of the image of kube-apiserver.
pub const API_SERVER: &str = "localhost/e2e-kube-apiserver:1";

/// Makes the first: its archive in `folder`.
pub fn pause(folder: &Path) -> Result<PathBuf> {
    let (source, program) = (folder.join("pause.c"), folder.join("pause"));
    fs::write(&source, PAUSE_SOURCE).context("cannot write pause.c")?;
    // The compiler that rustc links with.
    let mut cc = Command::new("cc");
    let output =
        cc.args(["-Os", "-static", "-s", "-o"]).arg(&program).arg(&source).output().context("cannot start cc")?;
    ensure!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr).trim());
    archive(folder, "pause", PAUSE, &program)
}

/// Makes the second, of this program.
pub fn api_server(folder: &Path, program: &Path) -> Result<PathBuf> {
    archive(folder, "kube-apiserver", API_SERVER, program)
}

fn archive(folder: &Path, program: &str, name: &str, from: &Path) -> Result<PathBuf> {
    let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    let path = format!("usr/bin/{program}");
    let image = Image {
        name,
        created: 0,
        files: &[(&path, &content)],
        arguments: &[],
        port: None,
        compressed: false,
        labels: &[],
    };
    let archive = folder.join(format!("{program}.tar"));
    fs::write(&archive, docker_archive(&image)?).with_context(|| format!("cannot write {}", archive.display()))?;
    Ok(archive)
}
