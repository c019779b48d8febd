//! The files that a log was rotated to: beside it, with a name that begins as its own does.
//!
//! The API server renames `audit.log` to `audit-2026-11-25T07-00-00.000.log` (lumberjack, as of Kubernetes 1.37),
//! logrotate renames or copies it to `audit.log.1`. Names say no more than that: what a file is, its content tells.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::position::Identity;

/// Files that are looked at in one folder.
const LOOKED_AT: usize = 1_024;

/// Bytes at a file's beginning by which it is told from another.
const HEAD: usize = 512;

/// What every audit event in JSON has in its first bytes: Kubernetes writes kind and version first.
const EVENT: &[u8] = b"\"audit.k8s.io/";

/// Endings of what cannot be read as it is.
const PACKED: [&[u8]; 5] = [b".gz", b".zst", b".xz", b".bz2", b".lz4"];

/// Files that were read, by which they are known again.
const REMEMBERED: usize = 64;

/// A file beside the log.
struct Rotated {
    file: File,
    identity: Identity,
    written: SystemTime,
    head: Vec<u8>,
}

impl Rotated {
    fn of(file: File) -> Option<Self> {
        let metadata = file.metadata().ok().filter(fs::Metadata::is_file)?;
        let mut head = vec![0; HEAD.min(usize::try_from(metadata.len()).unwrap_or(HEAD))];
        file.read_exact_at(&mut head, 0).ok()?;
        let written = metadata.modified().ok()?;
        Some(Self { identity: Identity::of(&metadata), written, head, file })
    }
}

/// The files that were read to their end already, the latest of them.
#[derive(Debug, Default)]
pub struct Known(VecDeque<(Identity, Vec<u8>)>);

impl Known {
    /// This one is, or will be.
    pub fn add(&mut self, file: &File) {
        let Some(rotated) = file.try_clone().ok().and_then(Rotated::of) else { return };
        if self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back((rotated.identity, rotated.head));
    }

    /// A number may be given to another file once this one is gone, and a file may be cut: then it begins otherwise.
    fn holds(&self, rotated: &Rotated) -> bool {
        self.0.iter().any(|(identity, head)| *identity == rotated.identity && rotated.head.starts_with(head))
    }
}

/// The file in which `is_sought` holds, and those that were rotated away after it, from the earliest on. `current` is
/// the log's own file, where it is open.
pub fn find(
    log: &Path,
    current: Option<&File>,
    known: &Known,
    is_sought: impl Fn(&File) -> bool,
) -> Option<(File, Vec<File>)> {
    let mut beside = beside(log, current);
    let at = beside.iter().position(|rotated| is_sought(&rotated.file))?;
    let sought = beside.remove(at);
    let newer = newer(beside, &sought, current, known);
    Some((sought.file, newer))
}

/// What was rotated away after `read`, which the log's name led to before, from the earliest on.
pub fn after(log: &Path, current: Option<&File>, known: &Known, read: &File) -> Vec<File> {
    let Some(read) = read.try_clone().ok().and_then(Rotated::of) else { return Vec::new() };
    let mut beside = beside(log, current);
    beside.retain(|rotated| rotated.identity != read.identity);
    newer(beside, &read, current, known)
}

/// Of these, those that were written after `older`, are audit logs, were not read before, and are no copies of it, of the
/// log or of one another.
fn newer(mut beside: Vec<Rotated>, older: &Rotated, current: Option<&File>, known: &Known) -> Vec<File> {
    let is_log = |rotated: &Rotated| memchr::memmem::find(&rotated.head, EVENT).is_some();
    let mut heads = vec![older.head.clone()];
    heads.extend(current.and_then(|file| Rotated::of(file.try_clone().ok()?)).map(|current| current.head));
    beside.retain(|rotated| {
        let new = rotated.written > older.written
            && is_log(rotated)
            && !known.holds(rotated)
            && !heads.iter().any(|head| same(head, &rotated.head));
        if new {
            heads.push(rotated.head.clone());
        }
        new
    });
    beside.sort_by_key(|rotated| rotated.written);
    beside.into_iter().map(|rotated| rotated.file).collect()
}

/// Whether two files that only ever grow began with the same bytes. Less than a line says nothing: all events begin
/// alike.
fn same(one: &[u8], other: &[u8]) -> bool {
    let length = one.len().min(other.len());
    let says_enough = length == HEAD || one[..length].contains(&b'\n');
    says_enough && one[..length] == other[..length]
}

fn beside(log: &Path, current: Option<&File>) -> Vec<Rotated> {
    let (Some(name), Some(stem)) = (log.file_name(), log.file_stem()) else { return Vec::new() };
    let folder = match log.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let current = current.and_then(|file| file.metadata().ok()).map(|metadata| Identity::of(&metadata));
    let paths = entries.flatten().filter(|entry| is_rotated(&entry.file_name(), name, stem)).take(LOOKED_AT);
    let paths: Vec<PathBuf> = paths.map(|entry| entry.path()).collect();
    let files = paths.into_iter().filter(|path| path.is_file()).filter_map(|path| File::open(path).ok());
    files.filter_map(Rotated::of).filter(|rotated| Some(rotated.identity) != current).collect()
}

fn is_rotated(name: &OsStr, log: &OsStr, stem: &OsStr) -> bool {
    let bytes = name.as_bytes();
    name != log && bytes.starts_with(stem.as_bytes()) && !PACKED.iter().any(|ending| bytes.ends_with(ending))
}
