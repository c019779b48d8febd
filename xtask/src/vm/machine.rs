//! One virtual machine, from its boot to its end.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::archive::Archive;
use super::kernels::Files;
use super::table::Column;
use crate::{interrupt, workspace};

/// A machine that takes longer hangs: on an idle computer the slowest takes two minutes, on a busy one many times that.
const PATIENCE: Duration = Duration::from_secs(1_800);
/// How much of the console is shown when a machine ends too early.
const LINES_SHOWN: usize = 25;

/// Boots the kernel with the guest as its first process, and reads what the guest reports.
pub fn run(guest: &Path, files: &Files, only_verifier: bool) -> Result<Column> {
    let folder = workspace::target().join("xtask/vm").join(&files.release);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let (initial, console, report) = (folder.join("initramfs"), folder.join("console.log"), folder.join("report.log"));
    write_initial(&initial, guest, files)?;
    fs::write(&report, "").with_context(|| format!("cannot write {}", report.display()))?;
    // What stands behind `--` are the first process's arguments.
    let arguments = if only_verifier { " -- verifier" } else { "" };
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-accel", "tcg", "-cpu", "max", "-machine", "q35", "-smp", "1", "-m", "512"])
        .args(["-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot", "-nodefaults"])
        .arg("-kernel")
        .arg(&files.image)
        .arg("-initrd")
        .arg(&initial)
        // A kernel that panics restarts at once, which ends the machine. With panic_on_warn, what the kernel only
        // warns of fails here. Its check of the timer asks for a computer that is not busy.
        .args(["-append", &format!("console=ttyS0 panic=-1 panic_on_warn=1 no_timer_check mitigations=off{arguments}")])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-serial")
        .arg(format!("file:{}", report.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let started = Instant::now();
    let mut child = command.spawn().context("cannot start qemu-system-x86_64")?;
    let outcome = interrupt::wait_for(&format!("the machine with {}", files.release), PATIENCE, || {
        child.try_wait().context("cannot wait for qemu")
    });
    if outcome.is_err() {
        // It may just have ended by itself.
        let _ = child.kill();
        child.wait().context("cannot end qemu")?;
    }
    let text = fs::read_to_string(&report).with_context(|| format!("cannot read {}", report.display()))?;
    let column = Column::read(&files.release, &text, started.elapsed());
    let status = outcome.with_context(|| last_words(&console))?;
    if !status.success() {
        let mut words = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            std::io::Read::read_to_string(&mut stderr, &mut words).context("cannot read what qemu says")?;
        }
        bail!("qemu: {status}: {}", words.trim());
    }
    match column {
        Some(column) => Ok(column),
        None => bail!("the machine with {} ended before its tests did\n{}", files.release, last_words(&console)),
    }
}

fn write_initial(path: &Path, guest: &Path, files: &Files) -> Result<()> {
    let out = fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut archive = Archive::new(std::io::BufWriter::new(out));
    for folder in ["dev", "proc", "sys", "tmp", "modules"] {
        archive.folder(folder)?;
    }
    // What the first process has for its output before it mounts anything.
    archive.device("dev/console", 5, 1)?;
    archive.file("init", &fs::read(guest).with_context(|| format!("cannot read {}", guest.display()))?)?;
    for (position, module) in files.modules.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().display();
        let bytes = fs::read(module).with_context(|| format!("cannot read {}", module.display()))?;
        archive.file(&format!("modules/{position}-{name}"), &bytes)?;
    }
    archive.end().map(drop)
}

fn last_words(console: &Path) -> String {
    let text = fs::read(console).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let shown = lines.get(lines.len().saturating_sub(LINES_SHOWN)..).unwrap_or_default();
    let shown = shown.iter().map(|line| format!("  | {line}")).collect::<Vec<_>>().join("\n");
    format!("{shown}\nthe whole console is in {}", console.display())
}
