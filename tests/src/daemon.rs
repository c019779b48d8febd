//! The monitor as a process in a network namespace.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::namespace::Namespace;

/// What is waited for takes less.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Where the daemon serves; each is in a namespace of its own.
pub const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

/// `run`, started; killed when it is dropped.
pub struct Daemon<'a> {
    namespace: &'a Namespace,
    child: Child,
    stderr: Option<JoinHandle<String>>,
}

/// What the daemon said until its end.
pub struct Ended {
    /// It ended as it should.
    pub success: bool,
    /// Its log.
    pub log: String,
}

impl<'a> Daemon<'a> {
    /// Starts `binary` in this namespace with these words behind `run`, and waits until it is ready.
    ///
    /// # Errors
    /// It does not become ready; with what it said.
    pub fn start(binary: &str, namespace: &'a Namespace, words: &[&str]) -> Result<Self> {
        let mut child = namespace
            .run(|| {
                Command::new(binary)
                    .arg("run")
                    .args(words)
                    .env_clear()
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped())
                    .spawn()
            })
            .context("starting the monitor")?;
        let mut stderr = child.stderr.take().context("the monitor's stderr")?;
        let reads = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        let mut daemon = Self { namespace, child, stderr: Some(reads) };
        let ready = wait(|| {
            if daemon.child.try_wait()?.is_some() {
                bail!("the monitor ended: {}", daemon.log());
            }
            let answer = get(namespace, "/readyz").unwrap_or_default();
            Ok(answer.starts_with("HTTP/1.1 200").then_some(()))
        });
        ready.context("waiting until the monitor is ready")?;
        Ok(daemon)
    }

    /// The monitor's process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// A scrape.
    ///
    /// # Errors
    /// There is no answer.
    pub fn metrics(&self) -> Result<Scrape> {
        let answer = get(self.namespace, "/metrics")?;
        let (head, body) = answer.split_once("\r\n\r\n").context("a scrape has a head")?;
        ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
        Ok(Scrape(body.to_owned()))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The process is gone.
    pub fn signal(&self, signal: i32) -> Result<()> {
        // SAFETY: a plain system call on a process that this one has not waited for, so its number is still its own.
        let outcome = unsafe { libc::kill(self.child.id() as i32, signal) };
        ensure!(outcome == 0, "{}", std::io::Error::last_os_error());
        Ok(())
    }

    /// Ends it as Kubernetes does.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(mut self) -> Result<Ended> {
        self.signal(libc::SIGTERM)?;
        let status = wait(|| Ok(self.child.try_wait()?)).context("waiting for the monitor's end")?;
        Ok(Ended { success: status.success(), log: self.log() })
    }

    fn log(&mut self) -> String {
        self.stderr.take().and_then(|reads| reads.join().ok()).unwrap_or_default()
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One scrape.
#[derive(Clone, Debug)]
pub struct Scrape(pub String);

impl Scrape {
    /// The value of the series with this name and these words, all in the order of the text; `None` where it is not there.
    pub fn value(&self, series: &str) -> Option<f64> {
        self.0.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    /// The sum of the series whose line begins so and holds each of these words.
    pub fn sum(&self, name: &str, words: &[&str]) -> u64 {
        let of = self.0.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        let of = of.filter(|line| words.iter().all(|word| line.contains(word)));
        of.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
    }
}

/// Runs `check` in this namespace; its findings as JSON.
///
/// # Errors
/// It cannot be run.
pub fn check(binary: &str, namespace: &Namespace, words: &[&str]) -> Result<(Output, serde_json::Value)> {
    let output = namespace
        .run(|| Command::new(binary).args(["check", "--output", "json"]).args(words).env_clear().output())
        .context("running check")?;
    let findings = serde_json::from_slice(&output.stdout).context("findings as JSON")?;
    Ok((output, findings))
}

/// Asks until there is an answer.
///
/// # Errors
/// Those of `ask`, or there is no answer for too long.
pub fn wait<T>(mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        ensure!(started.elapsed() < PATIENCE, "nothing within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The whole answer to a request for this path.
///
/// # Errors
/// Nobody answers.
pub fn get(namespace: &Namespace, path: &str) -> Result<String> {
    namespace.run(|| {
        let mut stream = TcpStream::connect_timeout(&ADDRESS, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {ADDRESS}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })
}

/// Whether this program is installed.
pub fn installed(program: &str) -> bool {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"]
        .iter()
        .any(|folder| Path::new(folder).join(program).exists())
}
