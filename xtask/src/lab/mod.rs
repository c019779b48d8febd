//! The lab: hosts in network namespaces of their own, servers and clients on them, gone when it is dropped.
//!
//! ```text
//!  control-plane 192.168.56.10 --+
//!                                +-- router 192.168.56.1 | 203.0.113.1 -- outside 203.0.113.7
//!  worker        192.168.56.11 --+
//! ```
//! Nothing of it is in the machine's own namespace: the veth pairs are made between the hosts.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::interrupt;

pub mod clients;
pub mod network;
pub mod servers;

/// How long a server may take to listen, and a process to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A host of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// Where the API's stand-in and the monitor run.
    ControlPlane,
    /// Another node of the cluster.
    Worker,
    /// Somewhere in the internet.
    Outside,
    /// Between the cluster's network and the internet.
    Router,
}

impl Host {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Router, Self::ControlPlane, Self::Worker, Self::Outside];

    /// The word in names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ControlPlane => "control-plane",
            Self::Worker => "worker",
            Self::Outside => "outside",
            Self::Router => "router",
        }
    }
}

/// Hosts, what runs on them, and a folder for their files.
pub struct Lab {
    suffix: String,
    directory: PathBuf,
    running: Vec<(String, Child)>,
    keep: bool,
}

impl Lab {
    /// Makes the namespaces and the wires between them; what was made goes away again when a later step fails.
    pub fn new() -> Result<Self> {
        let suffix = random_suffix()?;
        let directory = directory_of(&suffix);
        DirBuilder::new()
            .mode(0o755)
            .create(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let lab = Self { suffix, directory, running: Vec::new(), keep: false };
        network::make(&lab)?;
        Ok(lab)
    }

    /// What tells this lab from others that run now.
    pub fn suffix(&self) -> &str {
        &self.suffix
    }

    /// Where its certificates, configurations and logs are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The network namespace of a host.
    pub fn namespace(&self, host: Host) -> String {
        namespace_of(&self.suffix, host)
    }

    /// A command that will run on a host. Only the network is the host's: files and processes are the machine's.
    pub fn command(&self, host: Host, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace(host))).arg("--").arg(program.as_ref());
        command.current_dir(&self.directory).stdin(Stdio::null());
        command
    }

    /// Starts what runs until the lab ends; its output goes to `NAME.log`. Gives the id of its process.
    pub fn start(&mut self, name: &str, command: &mut Command) -> Result<u32> {
        let log = self.directory.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stderr(file.try_clone()?).stdout(file);
        self.start_with_output(name, command)
    }

    /// As [`Lab::start`], with the output where the command says.
    pub fn start_with_output(&mut self, name: &str, command: &mut Command) -> Result<u32> {
        // A group of its own: Ctrl-C is for this process, which then ends the others in order.
        let child = command.process_group(0).spawn().with_context(|| format!("cannot start {name}"))?;
        let id = child.id();
        self.running.push((name.to_owned(), child));
        Ok(id)
    }

    /// Waits until `condition` holds; fails at once, with the end of its log, when the process `name` has ended.
    pub fn wait_for<T>(
        &mut self,
        name: &str,
        what: &str,
        condition: impl FnMut(&Self) -> Result<Option<T>>,
    ) -> Result<T> {
        self.wait_for_within(name, what, PATIENCE, condition)
    }

    /// As [`Lab::wait_for`], for what takes longer than most.
    pub fn wait_for_within<T>(
        &mut self,
        name: &str,
        what: &str,
        patience: Duration,
        mut condition: impl FnMut(&Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let outcome = interrupt::wait_for(what, patience, || {
            if let Some((_, child)) = self.running.iter_mut().find(|(running, _)| running == name)
                && let Some(status) = child.try_wait().context("cannot wait for a process")?
            {
                bail!("{name} ended: {status}");
            }
            condition(self)
        });
        outcome.with_context(|| format!("{name} says: {}", self.log_of(name)))
    }

    /// Asks the process to end and waits until it has.
    pub fn stop(&mut self, name: &str) -> Result<()> {
        let Some(at) = self.running.iter().position(|(running, _)| running == name) else {
            bail!("{name} does not run");
        };
        let (_, mut child) = self.running.remove(at);
        end(&mut child).with_context(|| format!("cannot end {name}"))
    }

    /// Leaves all as it is when this is dropped; [`remove`] takes it away later.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// What the process `name` has written so far.
    pub fn log_of(&self, name: &str) -> String {
        let text = fs::read_to_string(self.directory.join(format!("{name}.log"))).unwrap_or_default();
        let text = text.trim();
        if text.is_empty() { "nothing".to_owned() } else { text.to_owned() }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        // The latest first: clients before servers, the monitor while its interfaces are still there.
        while let Some((name, mut child)) = self.running.pop() {
            if let Err(error) = end(&mut child) {
                eprintln!("warning: cannot end {name}: {error:#}");
            }
        }
        if let Err(error) = remove(&self.suffix) {
            eprintln!("warning: the lab {} is not all gone: {error:#}", self.suffix);
        }
    }
}

/// Takes a lab away: what runs in its namespaces, the namespaces, the folder.
pub fn remove(suffix: &str) -> Result<()> {
    if suffix.is_empty() || !suffix.chars().all(|c| c.is_ascii_hexdigit()) {
        bail!("`{suffix}` is no lab's name: it is what `cargo xtask demo --keep` printed");
    }
    let directory = directory_of(suffix);
    let mut found = directory.exists();
    for host in Host::ALL {
        found |= network::unmake(&namespace_of(suffix, host))?;
    }
    if directory.exists() {
        fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    if !found {
        bail!("there is no lab {suffix}");
    }
    Ok(())
}

fn namespace_of(suffix: &str, host: Host) -> String {
    format!("api-exposure-{suffix}-{}", host.name())
}

fn directory_of(suffix: &str) -> PathBuf {
    std::env::temp_dir().join(format!("api-exposure-{suffix}"))
}

fn random_suffix() -> Result<String> {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").context("cannot get a random name")?;
    Ok(uuid.chars().take(6).collect())
}

/// SIGTERM, and SIGKILL for who does not listen.
fn end(child: &mut Child) -> Result<()> {
    if child.try_wait().context("cannot wait for it")?.is_some() {
        return Ok(());
    }
    let id = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).context("cannot signal it")?;
    let started = std::time::Instant::now();
    while child.try_wait().context("cannot wait for it")?.is_none() {
        if started.elapsed() > PATIENCE {
            child.kill().context("cannot kill it")?;
            child.wait().context("cannot wait for it")?;
            bail!("it did not end on SIGTERM within {} s and was killed", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_labs_own_name_is_removed() {
        for name in ["", "../etc", "a b", "zz"] {
            let error = remove(name).unwrap_err().to_string();
            assert!(error.contains("is no lab's name"), "{error}");
        }
        assert_eq!(remove("0000000000").unwrap_err().to_string(), "there is no lab 0000000000");
    }

    #[test]
    fn a_process_is_ended_and_a_deaf_one_is_not_waited_for_for_ever() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        end(&mut child).unwrap();
        assert!(child.try_wait().unwrap().is_some());
    }
}
