//! Steps: said before they are done, with a line that tells how long it has taken; output of tools goes to a log file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::{interrupt, workspace};

/// How many lines of a failed tool's output are shown.
const LINES_SHOWN: usize = 20;

/// The steps of one command.
pub struct Steps {
    total: usize,
    begun: usize,
    on_terminal: bool,
    log: PathBuf,
}

impl Steps {
    /// `total` steps of the command `name`, whose tools write to one log file.
    pub fn new(name: &str, total: usize) -> Result<Self> {
        let log = workspace::log(name)?;
        Ok(Self { total, begun: 0, on_terminal: io::stdout().is_terminal(), log })
    }

    /// The log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Says the step, runs the tool to its end, says how long it took; a failure shows the end of its output.
    pub fn run(&mut self, what: &str, command: &mut Command) -> Result<()> {
        let title = self.begin(what);
        let log = self.open_log()?;
        writeln!(&log, "\n$ {command:?}").context("cannot write the log")?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let started = Instant::now();
        let mut child = command.spawn().with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let status = self.watch(&title, started, &mut child);
        self.end(&title, started);
        let status = status?;
        if !status.success() {
            bail!("{what}: {status}\n{}\nthe whole output is in {}", last_lines(&self.log), self.log.display());
        }
        Ok(())
    }

    /// Says the step and does it here.
    pub fn within<T>(&mut self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let title = self.begin(what);
        let started = Instant::now();
        let outcome = work();
        self.end(&title, started);
        outcome.with_context(|| what.to_owned())
    }

    fn begin(&mut self, what: &str) -> String {
        self.begun += 1;
        let title = format!("[{}/{}] {what}", self.begun, self.total);
        if self.on_terminal {
            print!("{title}");
        } else {
            println!("{title}");
        }
        // A terminal that is gone is no reason to stop.
        let _ = io::stdout().flush();
        title
    }

    fn watch(&self, title: &str, started: Instant, child: &mut Child) -> Result<ExitStatus> {
        let mut said = 0;
        loop {
            if let Some(status) = child.try_wait().context("cannot wait for the tool")? {
                return Ok(status);
            }
            if let Err(interrupted) = interrupt::check() {
                child.kill().context("cannot stop the tool")?;
                child.wait().context("cannot wait for the tool")?;
                return Err(interrupted);
            }
            let seconds = started.elapsed().as_secs();
            if self.on_terminal && seconds > said {
                said = seconds;
                print!("\r{title}  {seconds} s");
                let _ = io::stdout().flush();
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn end(&self, title: &str, started: Instant) {
        let seconds = started.elapsed().as_secs_f64();
        if self.on_terminal {
            println!("\r{title}  {seconds:.1} s");
        } else if seconds >= 1.0 {
            println!("      {seconds:.1} s");
        }
    }

    fn open_log(&self) -> Result<File> {
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(&self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))
    }
}

fn last_lines(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LINES_SHOWN);
    lines.get(from..).unwrap_or_default().iter().map(|line| format!("  | {line}")).collect::<Vec<_>>().join("\n")
}
