//! Following a log by its name: as it grows, is rotated, cut, taken away and made anew.
//!
//! What was read is known by what stands before the position, not by the file's name or number: so a log that was
//! copied and cut (logrotate's `copytruncate`) is read to its end in the copy, and one that was renamed while this
//! program did not run is read to its end under its new name.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use monitor_common::closed_set;

use super::lines::Line;
use super::position::{Identity, Position};
use super::reading::{Came, Reading};
use super::rotated::{self, Known};

/// Bytes in one turn: a catch-up of many gigabytes does not keep the daemon from ending.
const TURN: usize = 4 << 20;

/// A file that the name no longer leads to is read on for so long after its last byte: whoever has it open may write to
/// it until it is told of the new one.
const LINGER: Duration = Duration::from_secs(10);

/// Files that the name no longer leads to, at the most. The API server keeps ten by default in a kubeadm cluster.
const LEFT: usize = 32;

/// A name may lead nowhere for so long while a log is rotated.
const MISSING: Duration = Duration::from_secs(2);

/// Why a log cannot be followed at the moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Nothing has this name.
    #[error("there is no such file; is the API server's --audit-log-path another one?")]
    Missing,
    /// It may not be read.
    #[error("it may not be read: run as root, or give CAP_DAC_READ_SEARCH")]
    NotPermitted,
    /// It is something else.
    #[error("it is no file; name the file itself, as --audit-log-path of the API server does")]
    NoFile,
    /// Anything else.
    #[error("it cannot be read: {0}")]
    Other(String),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            io::ErrorKind::PermissionDenied => Self::NotPermitted,
            io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => Self::NoFile,
            _ => Self::Other(error.to_string()),
        }
    }
}

closed_set! {
    /// What happened to the log.
    Change {
        /// It is followed from its end, since nothing is known of it.
        FromEnd = "from_end",
        /// It is followed from its beginning.
        FromStart = "from_start",
        /// It goes on where an earlier process left off.
        Resumed = "resumed",
        /// It was rotated or cut; what was not read of the old one is read.
        Rotated = "rotated",
        /// It was rotated or cut, and what was not read of the old one was not found again: lines may be missing.
        RestLost = "rest_lost",
    }
}

/// One turn's outcome.
#[derive(Debug, Default)]
pub struct Turn {
    /// There is more to read at once.
    pub more: bool,
    /// What happened, in its order.
    pub changes: Vec<Change>,
    /// Why the log itself cannot be read.
    pub trouble: Option<Trouble>,
}

/// Follows one log.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    origin: Origin,
    current: Option<Reading>,
    left: Rest,
    missing_since: Option<Duration>,
}

/// Where to begin in the first file that is found.
#[derive(Debug)]
enum Origin {
    /// At its end, should it be there already.
    End,
    /// At its start: it came after us.
    Start,
    /// Where an earlier process left off.
    Position(Position),
}

/// Files that the name no longer leads to and that are read on.
#[derive(Debug, Default)]
struct Rest {
    files: Vec<Left>,
    known: Known,
}

/// One of them.
#[derive(Debug)]
struct Left {
    reading: Reading,
    quiet_since: Option<Duration>,
}

impl Follower {
    /// Follows `path` from `position`, or else from its end, or from its beginning where it is not there yet.
    pub fn new(path: PathBuf, position: Option<Position>) -> Self {
        let origin = position.map_or(Origin::End, Origin::Position);
        Self { path, origin, current: None, left: Rest::default(), missing_since: None }
    }

    /// Reads what is new at `now`, a time that only grows, and hands on each line once. Call it again at once where
    /// there is more.
    pub fn turn(&mut self, now: Duration, take: &mut impl FnMut(Line<'_>)) -> Turn {
        let mut turn = Turn::default();
        let mut budget = TURN;
        // First, so that whatever was written to the old file before the name led to a new one is read from it.
        let named = look(&self.path);
        if named.is_ok() && self.current.is_none() {
            self.begin(&mut turn);
        }
        self.read_left(now, &mut budget, &mut turn, take);
        self.read_current(&mut budget, &mut turn, take);
        match named {
            Ok(named) => {
                self.missing_since = None;
                if !turn.more && self.current.as_ref().is_some_and(|current| current.identity() != named) {
                    self.go_on(&mut turn);
                }
            }
            Err(trouble) => self.is_in_trouble(trouble, now, &mut turn),
        }
        turn
    }

    /// What is to be kept over a restart; `None` before anything was read. While rotated files are still read, it is the
    /// position in the earliest of them.
    pub fn kept(&self, begun: Vec<u64>) -> Option<Position> {
        let unread = self.left.files.iter().find(|left| left.quiet_since.is_none()).map(|left| &left.reading);
        match (unread.or(self.current.as_ref()), &self.origin) {
            (Some(reading), _) => Some(reading.kept(begun)),
            (None, Origin::Position(position)) => Some(position.clone().with_begun(begun)),
            (None, _) => None,
        }
    }

    /// Opens the file that the name leads to, for the first time.
    fn begin(&mut self, turn: &mut Turn) {
        let file = match open(&self.path) {
            Ok(file) => file,
            Err(trouble) => return turn.trouble = Some(trouble),
        };
        let change;
        let reading = match &self.origin {
            Origin::End => {
                change = Change::FromEnd;
                Reading::from_end(file)
            }
            Origin::Start => {
                change = Change::FromStart;
                Reading::from_start(file)
            }
            Origin::Position(position) if position.is_of(&file) => {
                change = Change::Resumed;
                Reading::from_position(file, position.offset)
            }
            Origin::Position(position) => {
                let found = rotated::find(&self.path, Some(&file), &self.left.known, |rotated| position.is_of(rotated));
                change = if found.is_some() { Change::Resumed } else { Change::RestLost };
                if let Some((rest, newer)) = found {
                    self.left.add(Reading::from_position(rest, position.offset), newer, turn);
                }
                Reading::from_start(file)
            }
        };
        match reading {
            Ok(reading) => {
                turn.changes.push(change);
                self.origin = Origin::Start;
                self.current = Some(reading);
            }
            Err(error) => turn.trouble = Some(error.into()),
        }
    }

    fn read_left(&mut self, now: Duration, budget: &mut usize, turn: &mut Turn, take: &mut impl FnMut(Line<'_>)) {
        let mut at = 0;
        while let Some(left) = self.left.files.get_mut(at) {
            let before = *budget;
            match left.reading.read(budget, take) {
                Ok(Came::NotYet) => {
                    left.quiet_since = None;
                    turn.more = true;
                    return;
                }
                Ok(Came::ToTheEnd) => {
                    if *budget < before {
                        left.quiet_since = None;
                    }
                    let since = *left.quiet_since.get_or_insert(now);
                    if now.saturating_sub(since) >= LINGER {
                        self.left.files.remove(at).reading.finish(take);
                    } else {
                        at += 1;
                    }
                }
                Ok(Came::Cut) | Err(_) => {
                    if left.quiet_since.is_none() {
                        turn.changes.push(Change::RestLost);
                    }
                    self.left.files.remove(at);
                }
            }
        }
    }

    fn read_current(&mut self, budget: &mut usize, turn: &mut Turn, take: &mut impl FnMut(Line<'_>)) {
        if turn.more {
            return;
        }
        let Some(current) = &mut self.current else { return };
        match current.read(budget, take) {
            Ok(Came::NotYet) => turn.more = true,
            Ok(Came::ToTheEnd) => {}
            Ok(Came::Cut) => self.was_cut(turn),
            Err(error) => turn.trouble = Some(error.into()),
        }
    }

    /// The file was cut: what was not read of it is in the copy that was made of it, should there be one.
    fn was_cut(&mut self, turn: &mut Turn) {
        let Some(mut cut) = self.current.take() else { return };
        turn.more = true;
        let copy = rotated::find(&self.path, Some(cut.file()), &self.left.known, |rotated| cut.is_copied_in(rotated));
        let anew = match copy {
            Some((copy, newer)) => match cut.go_on_in(copy) {
                Ok(file) => {
                    turn.changes.push(Change::Rotated);
                    self.left.add(Ok(cut), newer, turn);
                    Reading::from_start(file)
                }
                Err(error) => Err(error),
            },
            None => {
                turn.changes.push(Change::RestLost);
                cut.file().try_clone().and_then(Reading::from_start)
            }
        };
        match anew {
            Ok(reading) => self.current = Some(reading),
            Err(error) => turn.trouble = Some(error.into()),
        }
    }

    /// The name leads to another file, and the one that it led to was read to its end.
    fn go_on(&mut self, turn: &mut Turn) {
        let file = match open(&self.path) {
            Ok(file) => file,
            Err(trouble) => return turn.trouble = Some(trouble),
        };
        let is_old = |old: &Reading| file.metadata().is_ok_and(|metadata| Identity::of(&metadata) == old.identity());
        let Some(old) = self.current.take_if(|old| !is_old(old)) else { return };
        turn.changes.push(Change::Rotated);
        turn.more = true;
        let newer = rotated::after(&self.path, Some(&file), &self.left.known, old.file());
        self.left.add(Ok(old), newer, turn);
        match Reading::from_start(file) {
            Ok(reading) => self.current = Some(reading),
            Err(error) => turn.trouble = Some(error.into()),
        }
    }

    fn is_in_trouble(&mut self, trouble: Trouble, now: Duration, turn: &mut Turn) {
        if trouble != Trouble::Missing {
            return turn.trouble = Some(trouble);
        }
        if let Origin::End = self.origin {
            self.origin = Origin::Start;
        }
        let since = *self.missing_since.get_or_insert(now);
        if self.current.is_none() || now.saturating_sub(since) >= MISSING {
            turn.trouble = Some(trouble);
        }
    }
}

impl Rest {
    /// Reads this on, and the files that were rotated away after it.
    fn add(&mut self, first: io::Result<Reading>, newer: Vec<File>, turn: &mut Turn) {
        let readings = std::iter::once(first).chain(newer.into_iter().map(Reading::from_start));
        for reading in readings {
            match reading {
                Ok(reading) if self.files.len() < LEFT => {
                    self.known.add(reading.file());
                    self.files.push(Left { reading, quiet_since: None });
                }
                _ => turn.changes.push(Change::RestLost),
            }
        }
    }
}

fn look(path: &Path) -> Result<Identity, Trouble> {
    let metadata = fs::metadata(path)?;
    if metadata.is_file() { Ok(Identity::of(&metadata)) } else { Err(Trouble::NoFile) }
}

/// Opens the log.
///
/// # Errors
/// Why not.
pub fn open(path: &Path) -> Result<File, Trouble> {
    // Looked at first: opening a pipe that has this name would wait for its writer.
    look(path)?;
    let file = File::open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(Trouble::NoFile) }
}

#[cfg(test)]
#[path = "follower_tests.rs"]
mod tests;
