//! The audit log as requests: each once, whatever happens to the file and to this program.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use monitor_common::closed_set;

use super::event::{Event, Stage, Subject};
use super::follower::{Follower, Turn};
use super::lines::Line;
use super::position::Position;

/// Requests that have begun and not ended, of those that are of interest: watches and the like of nobody, or refused.
/// Should there be more, the earliest are forgotten and count again when they end.
const BEGUN: usize = 1_024;

/// The position is stored so often, and at the end.
const STORE: Duration = Duration::from_secs(1);

/// So many lines without an event among them: it is no audit log.
const NO_LOG: u32 = 10;

closed_set! {
    /// What an audit event is about, as it is counted.
    AuditKind {
        /// A request without a credential that was let in as such.
        Anonymous = "anonymous",
        /// A request at the insecure port.
        Unsecured = "unsecured",
        /// A request that was refused with 401.
        Unauthenticated = "unauthenticated",
        /// A node's write that NodeRestriction refused.
        NodeRestriction = "node_restriction",
        /// A node's write that the authorizer or another admission plugin refused.
        NodeRefused = "node_refused",
        /// Any other request.
        Other = "other",
        /// Another event of a request that counts by its first or last one.
        OtherStage = "other_stage",
    }
}

impl AuditKind {
    /// Of this subject.
    pub fn of(subject: &Subject) -> Self {
        match subject {
            Subject::Anonymous(_) => Self::Anonymous,
            Subject::Unsecured(_) => Self::Unsecured,
            Subject::Unauthenticated(..) => Self::Unauthenticated,
            Subject::NodeRestriction(..) => Self::NodeRestriction,
            Subject::NodeRefused => Self::NodeRefused,
            Subject::Other => Self::Other,
        }
    }
}

/// What a line of the log is.
#[derive(Debug, PartialEq)]
pub enum Read {
    /// A request, once.
    Request(Subject),
    /// One more event of a request.
    OtherStage,
    /// No audit event, or one that is too long.
    Malformed,
}

/// An audit log that is followed.
#[derive(Debug)]
pub struct AuditLog {
    follower: Follower,
    begun: Begun,
    state: Option<PathBuf>,
    stored: Option<Position>,
    store_due: Duration,
    events: bool,
    malformed: u32,
}

impl AuditLog {
    /// Follows `path`, from where `state` says that an earlier process left off. The error is why that is not known.
    pub fn open(path: PathBuf, state: Option<PathBuf>) -> (Self, Option<io::Error>) {
        let (position, error) = match state.as_deref().map(Position::load) {
            Some(Ok(position)) => (position, None),
            Some(Err(error)) => (None, Some(error)),
            None => (None, None),
        };
        let begun =
            Begun(position.as_ref().map(|position| position.begun.iter().copied().collect()).unwrap_or_default());
        let log = Self {
            follower: Follower::new(path, position.clone()),
            begun,
            state,
            stored: position,
            store_due: Duration::ZERO,
            events: false,
            malformed: 0,
        };
        (log, error)
    }

    /// Reads what is new at `now`, a time that only grows. Call it again at once where there is more.
    pub fn turn(&mut self, now: Duration, take: &mut impl FnMut(Read)) -> Turn {
        let Self { follower, begun, events, malformed, .. } = self;
        follower.turn(now, &mut |line| {
            let read = match line {
                Line::Whole(bytes) => match Event::from_json(bytes) {
                    Ok(event) => begun.once(event),
                    Err(_) => Read::Malformed,
                },
                Line::TooLong => Read::Malformed,
            };
            if read == Read::Malformed {
                *malformed = malformed.saturating_add(1);
            } else {
                *events = true;
            }
            take(read);
        })
    }

    /// Whether lines were read, and none of them is an audit event.
    pub fn is_none(&self) -> bool {
        !self.events && self.malformed >= NO_LOG
    }

    /// Keeps the position, where it has changed and was not kept just now; `ending`: in any case.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn store(&mut self, now: Duration, ending: bool) -> io::Result<()> {
        let Some(path) = &self.state else { return Ok(()) };
        if now < self.store_due && !ending {
            return Ok(());
        }
        self.store_due = now + STORE;
        let position = self.follower.kept(self.begun.0.iter().copied().collect());
        if let Some(position) = position
            && self.stored.as_ref() != Some(&position)
        {
            position.store(path)?;
            self.stored = Some(position);
        }
        Ok(())
    }
}

/// Requests that were counted when they began. A request that lasts has an event when it begins and one when it ends.
#[derive(Debug, Default)]
struct Begun(VecDeque<u64>);

impl Begun {
    fn once(&mut self, Event { stage, request, subject }: Event) -> Read {
        let once = match (stage, &subject) {
            (Stage::RequestReceived, _) => false,
            // It is the only event of such a request.
            (stage, Subject::Unauthenticated(..)) => stage == Stage::ResponseStarted,
            // There are many, and they are only counted: they count when they end.
            (stage, Subject::Other) => stage != Stage::ResponseStarted,
            (Stage::ResponseStarted, _) => {
                if self.0.len() >= BEGUN {
                    self.0.pop_front();
                }
                self.0.push_back(request);
                true
            }
            (Stage::ResponseComplete | Stage::Panic, _) => match self.0.iter().position(|begun| *begun == request) {
                Some(at) => {
                    self.0.remove(at);
                    false
                }
                None => true,
            },
        };
        if once { Read::Request(subject) } else { Read::OtherStage }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write as _;

    use super::*;

    fn line(stage: &str, id: u32, verb: &str, user: &str, code: u16) -> String {
        format!(
            "{{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/v1\",\"auditID\":\"{id}\",\"stage\":\"{stage}\",\
             \"requestURI\":\"/api/v1/pods\",\"verb\":\"{verb}\",\"user\":{user},\"sourceIPs\":[\"192.0.2.7\"],\
             \"responseStatus\":{{\"code\":{code}}}}}\n"
        )
    }

    const NOBODY: &str = r#"{"username":"system:anonymous"}"#;

    fn kinds(log: &mut AuditLog) -> Vec<&'static str> {
        let mut kinds = Vec::new();
        while log
            .turn(Duration::ZERO, &mut |read| {
                kinds.push(match read {
                    Read::Request(subject) => AuditKind::of(&subject).label(),
                    Read::OtherStage => "-",
                    Read::Malformed => "malformed",
                });
            })
            .more
        {}
        kinds
    }

    struct Files {
        folder: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap() }
        }

        fn log(&self) -> PathBuf {
            self.folder.path().join("audit.log")
        }

        fn state(&self) -> PathBuf {
            self.folder.path().join("audit.state")
        }

        fn open(&self) -> AuditLog {
            let (log, error) = AuditLog::open(self.log(), Some(self.state()));
            assert!(error.is_none(), "{error:?}");
            log
        }

        fn write(&self, lines: &[String]) {
            let mut file = OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
            file.write_all(lines.concat().as_bytes()).unwrap();
        }
    }

    #[test]
    fn each_request_counts_once() {
        let files = Files::new();
        let mut log = files.open();
        assert_eq!(kinds(&mut log), [""; 0]);
        files.write(&[
            line("RequestReceived", 1, "list", NOBODY, 0),
            line("ResponseComplete", 1, "list", NOBODY, 200),
            line("RequestReceived", 2, "watch", NOBODY, 0),
            line("ResponseStarted", 2, "watch", NOBODY, 200),
            line("RequestReceived", 3, "list", NOBODY, 0),
            line("Panic", 3, "list", NOBODY, 500),
            line("ResponseComplete", 2, "watch", NOBODY, 200),
            line("ResponseStarted", 4, "get", "{}", 401),
            line("ResponseStarted", 5, "watch", r#"{"username":"admin"}"#, 200),
            line("ResponseComplete", 5, "watch", r#"{"username":"admin"}"#, 200),
            "nonsense\n".to_owned(),
        ]);
        let expected =
            ["-", "anonymous", "-", "anonymous", "-", "anonymous", "-", "unauthenticated", "-", "other", "malformed"];
        assert_eq!(kinds(&mut log), expected);
        // One id twice, as a client may have it by its header.
        files.write(&[
            line("ResponseComplete", 2, "watch", NOBODY, 200),
            line("ResponseComplete", 2, "watch", NOBODY, 200),
        ]);
        assert_eq!(kinds(&mut log), ["anonymous", "anonymous"]);
        assert!(!log.is_none());
    }

    #[test]
    fn a_watch_that_outlives_this_program_counts_once() {
        let files = Files::new();
        let mut log = files.open();
        kinds(&mut log);
        files.write(&[line("ResponseStarted", 1, "watch", NOBODY, 200)]);
        assert_eq!(kinds(&mut log), ["anonymous"]);
        log.store(Duration::ZERO, false).unwrap();
        drop(log);
        files.write(&[
            line("ResponseComplete", 1, "watch", NOBODY, 200),
            line("ResponseComplete", 2, "list", NOBODY, 200),
        ]);
        let mut log = files.open();
        assert_eq!(kinds(&mut log), ["-", "anonymous"]);
    }

    #[test]
    fn the_position_is_stored_now_and_then_and_at_the_end() {
        let files = Files::new();
        let mut log = files.open();
        kinds(&mut log);
        files.write(&[line("ResponseComplete", 1, "list", NOBODY, 200)]);
        kinds(&mut log);
        log.store(Duration::from_secs(5), false).unwrap();
        let first = fs::read(files.state()).unwrap();
        files.write(&[line("ResponseComplete", 2, "list", NOBODY, 200)]);
        kinds(&mut log);
        log.store(Duration::from_millis(5_900), false).unwrap();
        assert_eq!(fs::read(files.state()).unwrap(), first);
        log.store(Duration::from_millis(5_900), true).unwrap();
        assert_ne!(fs::read(files.state()).unwrap(), first);
        assert_eq!(kinds(&mut files.open()), [""; 0]);
    }

    #[test]
    fn a_state_that_is_none_is_told_and_followed_from_the_end() {
        let files = Files::new();
        files.write(&[line("ResponseComplete", 1, "list", NOBODY, 200)]);
        fs::write(files.state(), "nonsense").unwrap();
        let (mut log, error) = AuditLog::open(files.log(), Some(files.state()));
        assert!(error.is_some());
        assert_eq!(kinds(&mut log), [""; 0]);
        files.write(&[line("ResponseComplete", 2, "list", NOBODY, 200)]);
        assert_eq!(kinds(&mut log), ["anonymous"]);
        log.store(Duration::ZERO, true).unwrap();
        assert_eq!(kinds(&mut files.open()), [""; 0], "it is ours again");
    }

    #[test]
    fn what_is_no_audit_log_is_known_after_a_while() {
        let files = Files::new();
        let mut log = files.open();
        kinds(&mut log);
        files.write(&vec!["2026-11-25T07:15:01.954733Z AUDIT: id=\"1\"\n".to_owned(); 9]);
        kinds(&mut log);
        assert!(!log.is_none());
        files.write(&["{}\n".to_owned()]);
        kinds(&mut log);
        assert!(log.is_none());
        files.write(&[line("RequestReceived", 1, "list", NOBODY, 0)]);
        kinds(&mut log);
        assert!(!log.is_none());
    }

    #[test]
    fn no_more_is_remembered_than_may_be() {
        let mut begun = Begun::default();
        for request in 0..2 * BEGUN as u64 {
            let subject = Subject::NodeRefused;
            begun.once(Event { stage: Stage::ResponseStarted, request, subject });
        }
        assert_eq!(begun.0.len(), BEGUN);
    }
}
