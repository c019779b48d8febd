//! probe: which requests reach the API server without a credential, seen in the API server itself.
//!
//! [`Probe`] follows the API servers of this node, attaches the probe's kernel programs to the anonymous authenticator
//! in their binaries, and gives a [`Hit`] for each request that comes there. It reads a request's method, path,
//! protocol and remote address; no header, no body, no query.

pub mod attach;
pub mod authenticator;
pub mod elf;
pub mod follow;
pub mod gopclntab;
pub mod hit;
mod kernel;
pub mod layout;
pub mod process;
mod prologue;
pub mod self_test;
mod system;

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use monitor_common::{LossReason, closed_set};

use crate::clock::monotonic;
use attach::{Attached, Way};
use authenticator::Authenticator;
use elf::{BinaryError, Machine};
pub use hit::Hit;
use hit::{Answers, Message};
use kernel::Kernel;
pub(crate) use kernel::MAPS;
use process::{Component, Identity, Server};

/// Nanoseconds that a binary which nobody runs any more stays attached: a server that is started again is then seen
/// from its first request on.
const GRACE: u64 = 60_000_000_000;

/// Nanoseconds after which a binary that could not be probed is tried again.
const RETRY: u64 = 60_000_000_000;

/// Nanoseconds between two looks for processes that hits ask for.
const LOOK: u64 = 1_000_000_000;

/// Processes that may be seen before they are found, until those seen earlier are forgotten.
const ADOPTED: usize = 256;

closed_set! {
    /// Why a request that the probe saw was lost, or not wholly read.
    ProbeLoss {
        /// The ring buffer was full.
        RingFull = "ring_full",
        /// Something of the request could not be read in the API server's memory; it counts with what could be.
        Unreadable = "unreadable",
        /// The pipeline did not keep up.
        QueueFull = "queue_full",
        /// The kernel side sent what is none of its records: a defect of this program.
        Malformed = "malformed",
    }
}

closed_set! {
    /// Why an API server is not probed.
    NotProbed {
        /// This process may not.
        NotPermitted = "not_permitted",
        /// Not its binary: no Go program, of an unknown Go release, damaged, without the authenticator.
        Unsupported = "unsupported",
        /// Somebody else than this node's administrator may have started it.
        NotBelieved = "not_believed",
        /// It serves another network than the one that is watched.
        Elsewhere = "elsewhere",
        /// Any other error.
        Failed = "failed",
    }
}

/// Why an API server is not probed, in a word and in a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The word.
    pub reason: NotProbed,
    /// The sentence, with the way out where there is one.
    pub words: String,
}

impl Status {
    /// Whether it serves the network that is watched and runs now.
    pub fn is_here(&self) -> bool {
        let elsewhere = matches!(&self.outcome, Err(Refusal { reason: NotProbed::Elsewhere, .. }));
        !self.processes.is_empty() && !elsewhere
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.words)
    }
}

impl Refusal {
    /// What the kernel or the file system answered.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        let denied = error.chain().any(|cause| {
            let io = cause.downcast_ref::<std::io::Error>();
            cause.is::<system::NotPermitted>() || io.is_some_and(|io| io.kind() == std::io::ErrorKind::PermissionDenied)
        });
        let reason = if denied { NotProbed::NotPermitted } else { NotProbed::Failed };
        Self { reason, words: format!("{error:#}") }
    }
}

/// Where and how to probe.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where processes are found.
    pub proc: PathBuf,
    /// This way of attaching only; else the one that needs the least privilege.
    pub way: Option<Way>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { proc: PathBuf::from("/proc"), way: None }
    }
}

/// What is known of one API server's binary.
#[derive(Clone, Debug)]
pub struct Status {
    /// Number of the attachment, as in [`Hit::attachment`]; `None` where it is not attached.
    pub attachment: Option<u32>,
    /// The path of the binary, as its processes see it.
    pub executable: String,
    /// What it is.
    pub component: Component,
    /// Processes that run it.
    pub processes: Vec<u32>,
    /// How it is probed; or why it is not.
    pub outcome: Result<Probed, Refusal>,
    /// Where its processes serve, as far as their arguments say.
    pub endpoints: Vec<(u32, SocketAddr)>,
}

/// How a binary is probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// The Go release that it was made with.
    pub go_version: String,
    /// The functions that are probed.
    pub functions: Vec<String>,
    /// How the programs are attached.
    pub way: Way,
    /// Whether it is seen what became of requests under conditions; `Err`: tried, with the reason why not.
    pub answers: Result<bool, String>,
}

/// The probe at work.
pub struct Probe {
    settings: Settings,
    kernel: Kernel,
    binaries: HashMap<Identity, Binary>,
    /// Servers whose binary cannot even be looked at.
    unreadable: Vec<Server>,
    answers: Answers,
    ready: VecDeque<Hit>,
    /// Processes that no attachment is known to own yet, and the one that saw each first.
    adopted: HashMap<u32, u32>,
    /// When processes were last looked for.
    looked: u64,
    attachments: u32,
    malformed: u64,
}

/// A binary that API servers run.
struct Binary {
    /// Those that run it now.
    servers: Vec<Server>,
    /// What it was called last.
    executable: String,
    component: Component,
    /// When nobody ran it any more.
    left: Option<u64>,
    outcome: Result<Attachment, Refused>,
}

struct Attachment {
    number: u32,
    since: u64,
    authenticator: Authenticator,
    attached: Attached,
}

struct Refused {
    reason: Refusal,
    since: u64,
}

impl Probe {
    /// Loads the maps, and attaches to the API servers that there are.
    ///
    /// # Errors
    /// The kernel takes no eBPF of this process, or processes cannot be listed. What concerns one server only is no
    /// error: [`Probe::status`] has it.
    pub fn start(settings: Settings) -> Result<Self> {
        let mut probe = Self {
            settings,
            kernel: Kernel::load()?,
            binaries: HashMap::new(),
            unreadable: Vec::new(),
            answers: Answers::default(),
            ready: VecDeque::new(),
            adopted: HashMap::new(),
            looked: 0,
            attachments: 0,
            malformed: 0,
        };
        probe.reconcile()?;
        Ok(probe)
    }

    /// Brings the attachments to the API servers that there are: call it every few seconds. Takes up to a second where
    /// a binary is new. Says whether anything changed.
    ///
    /// # Errors
    /// Processes cannot be listed.
    pub fn reconcile(&mut self) -> Result<bool> {
        let now = monotonic();
        self.looked = now;
        let servers = process::find(&self.settings.proc)
            .with_context(|| format!("listing processes in {}", self.settings.proc.display()))?;
        let before = self.outline();
        self.unreadable.clear();
        for binary in self.binaries.values_mut() {
            binary.servers.clear();
        }
        for server in servers {
            match &server.identity {
                Ok(identity) => self.place(*identity, server, now),
                Err(_) => self.unreadable.push(server),
            }
        }
        self.binaries.retain(|_, binary| {
            binary.left = if binary.servers.is_empty() { binary.left.or(Some(now)) } else { None };
            let grace = if binary.outcome.is_ok() { GRACE } else { 0 };
            binary.left.is_none_or(|left| now.saturating_sub(left) < grace)
        });
        self.attach_wanted_answers();
        Ok(before != self.outline())
    }

    /// Puts a server to its binary, which is attached to when it is new.
    fn place(&mut self, identity: Identity, server: Server, now: u64) {
        if let Some(binary) = self.binaries.get_mut(&identity) {
            let again = matches!(&binary.outcome, Err(refused) if now.saturating_sub(refused.since) >= RETRY);
            if !again {
                binary.executable.clone_from(&server.executable);
                binary.servers.push(server);
                return;
            }
        }
        let outcome = self.attach(&server).map_err(|reason| Refused { reason, since: now });
        let mut servers = self.binaries.remove(&identity).map(|binary| binary.servers).unwrap_or_default();
        let (executable, component) = (server.executable.clone(), server.component);
        servers.push(server);
        self.binaries.insert(identity, Binary { servers, executable, component, left: None, outcome });
    }

    fn attach(&mut self, server: &Server) -> Result<Attachment, Refusal> {
        let mut file = File::open(&server.path).map_err(|error| process::unreadable(&error))?;
        let unsupported =
            |error: BinaryError| Refusal { reason: NotProbed::Unsupported, words: format!("its binary {error}") };
        let authenticator = Authenticator::find(&mut file).map_err(unsupported)?;
        if Some(authenticator.machine) != this_machine() {
            return Err(unsupported(BinaryError::Machine(match authenticator.machine {
                Machine::X86_64 => object::elf::EM_X86_64,
                Machine::Arm64 => object::elf::EM_AARCH64,
            })));
        }
        let number = self.attachments.wrapping_add(1);
        let attached = Attached::new(&self.kernel, &file, &authenticator, number, self.settings.way);
        let attached = attached.map_err(|error| Refusal::of(&error))?;
        self.attachments = number;
        Ok(Attachment { number, since: monotonic(), authenticator, attached })
    }

    /// Where a server was started with a file that can lay conditions on anonymous requests.
    fn attach_wanted_answers(&mut self) {
        for binary in self.binaries.values_mut() {
            if binary.servers.iter().any(|server| server.authentication_configuration) {
                binary.attach_answers();
            }
        }
    }

    /// The next hit, if there is one. It never waits: poll the descriptor.
    pub fn next_hit(&mut self) -> Option<Hit> {
        loop {
            if let Some(hit) = self.ready.pop_front() {
                return Some(hit);
            }
            let message = {
                let item = self.kernel.hits().next();
                let Some(item) = item else { break };
                Message::from_bytes(&item)
            };
            match message {
                Some(message) => self.message(message),
                None => self.malformed += 1,
            }
        }
        self.ready.extend(self.answers.expire(monotonic()));
        self.ready.pop_front()
    }

    fn message(&mut self, message: Message) {
        let (number, process, time) = message.origin();
        if !self.is_its_own(number, process, time) {
            return;
        }
        let binary = self.binaries.values_mut().find(|binary| binary.number() == Some(number));
        if let (Message::Entered { conditional: true, .. }, Some(binary)) = (&message, binary) {
            // Conditions can be laid at any time; hits before this are without an answer.
            binary.attach_answers();
        }
        let attachment = self.attachment(number);
        let seen = attachment.is_some_and(|attachment| attachment.attached.sees_answers() && attachment.since <= time);
        if let Some(hit) = self.answers.message(message, seen) {
            self.ready.push_back(hit);
        }
    }

    /// Whether a hit is to be taken from this attachment. Two containers of one image run the same inode under two
    /// identities, so that each attachment sees both: a process's hits are taken from the attachment that it was found
    /// with, from when that stands; before, from the one that saw it first.
    fn is_its_own(&mut self, number: u32, process: u32, time: u64) -> bool {
        let known = |probe: &Self| probe.binaries.values().any(|binary| binary.runs(process));
        if !known(self)
            && monotonic().saturating_sub(self.looked) >= LOOK
            && let Err(error) = self.reconcile()
        {
            tracing::debug!("cannot look for API servers: {error:#}");
        }
        let owner = self.binaries.values().find(|binary| binary.runs(process));
        match owner.and_then(|binary| binary.outcome.as_ref().ok()) {
            Some(attachment) if attachment.since <= time => attachment.number == number,
            _ => {
                if self.adopted.len() >= ADOPTED {
                    self.adopted.clear();
                }
                *self.adopted.entry(process).or_insert(number) == number
            }
        }
    }

    fn attachment(&self, number: u32) -> Option<&Attachment> {
        self.binaries
            .values()
            .filter_map(|binary| binary.outcome.as_ref().ok())
            .find(|attachment| attachment.number == number)
    }

    /// Each API server's binary, and how it is probed or why not; by its processes.
    pub fn status(&self) -> Vec<Status> {
        let mut status: Vec<Status> = self.binaries.values().map(Binary::status).collect();
        status.extend(self.unreadable.iter().map(|server| Status {
            attachment: None,
            executable: server.executable.clone(),
            component: server.component,
            processes: vec![server.process],
            outcome: Err(server.identity.clone().err().unwrap_or_else(|| Refusal::of(&anyhow::anyhow!("not known")))),
            endpoints: Vec::new(),
        }));
        status.sort_by(|one, other| one.processes.cmp(&other.processes));
        status
    }

    /// What a change is told by.
    fn outline(&self) -> Vec<(Vec<u32>, Option<u32>, Option<Refusal>)> {
        self.status().into_iter().map(|status| (status.processes, status.attachment, status.outcome.err())).collect()
    }

    /// Hits lost, or not wholly read, by reason; since the start.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn losses(&self) -> Result<[u64; LossReason::COUNT]> {
        self.kernel.losses()
    }

    /// Records that were none of ours; since the start. Anything but 0 is a fault of this program.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }
}

impl AsRawFd for Probe {
    /// Readable when there are hits.
    fn as_raw_fd(&self) -> RawFd {
        self.kernel.readable()
    }
}

impl Binary {
    fn number(&self) -> Option<u32> {
        self.outcome.as_ref().ok().map(|attachment| attachment.number)
    }

    fn runs(&self, process: u32) -> bool {
        self.servers.iter().any(|server| server.process == process)
    }

    fn attach_answers(&mut self) {
        let Ok(attachment) = &mut self.outcome else { return };
        if attachment.attached.answers() != &Ok(false) {
            return;
        }
        // Whichever of its processes still lives has the file.
        if let Some(file) = self.servers.iter().find_map(|server| File::open(&server.path).ok()) {
            attachment.attached.attach_answers(&file);
        }
    }

    fn status(&self) -> Status {
        let mut processes: Vec<u32> = self.servers.iter().map(|server| server.process).collect();
        processes.sort_unstable();
        Status {
            attachment: self.number(),
            executable: self.executable.clone(),
            component: self.component,
            processes,
            outcome: match &self.outcome {
                Ok(attachment) => Ok(Probed {
                    go_version: attachment.authenticator.go_version.clone(),
                    functions: attachment.authenticator.points.iter().map(|point| point.name.clone()).collect(),
                    way: attachment.attached.way(),
                    answers: attachment.attached.answers().clone(),
                }),
                Err(refused) => Err(refused.reason.clone()),
            },
            endpoints: self.servers.iter().filter_map(|server| Some((server.process, server.endpoint?))).collect(),
        }
    }
}

/// The machine that this runs on, where the probe knows it.
fn this_machine() -> Option<Machine> {
    match std::env::consts::ARCH {
        "x86_64" => Some(Machine::X86_64),
        "aarch64" => Some(Machine::Arm64),
        _ => None,
    }
}
