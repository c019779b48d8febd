//! Clients: real programs, started on a host of the lab, whose outcome is known beforehand.

use std::fs::File;
use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use super::{Host, Lab};

/// Seconds after which a client that has not ended is ended, with exit code 124.
const TIME_LIMIT: &str = "30";

/// One start of a client.
#[derive(Clone, Debug)]
pub struct Client {
    /// Where it runs.
    pub host: Host,
    /// The program and its arguments; files are looked up in the lab's folder.
    pub words: Vec<String>,
    /// What it reads from standard input.
    pub input: Option<String>,
    /// The exit code that it has to end with.
    pub exit: i32,
    /// HTTP status codes that it has to have got, where it tells (curl).
    pub statuses: Vec<u16>,
}

impl Client {
    /// `curl`, which says the status of each answer; `arguments` are split at spaces.
    pub fn curl(host: Host, arguments: &str, statuses: &[u16]) -> Self {
        let common = "curl --silent --show-error --max-time 20 --cacert ca.crt --write-out %{stderr}%{http_code}\\n";
        let words = common.split(' ').chain(arguments.split(' ')).map(str::to_owned).collect();
        Self { host, words, input: None, exit: 0, statuses: statuses.to_vec() }
    }

    /// Any other program; `line` is split at spaces.
    pub fn program(host: Host, line: &str) -> Self {
        Self { host, words: line.split(' ').map(str::to_owned).collect(), input: None, exit: 0, statuses: Vec::new() }
    }

    /// The same with an argument that has spaces.
    pub fn argument(mut self, option: &str, value: &str) -> Self {
        self.words.extend([option.to_owned(), value.to_owned()]);
        self
    }

    /// The same with something to read.
    pub fn reads(mut self, input: &str) -> Self {
        self.input = Some(input.to_owned());
        self
    }

    /// The same, ending with another exit code and no answer.
    pub fn exits(mut self, code: i32) -> Self {
        self.exit = code;
        self
    }

    /// Name of the program.
    pub fn name(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// Runs it to its end; fails when it did not do what it is meant to.
    pub fn run(&self, lab: &Lab) -> Result<()> {
        let (program, arguments) = self.words.split_first().context("a client without a name")?;
        let mut command = lab.command(self.host, "timeout");
        command
            .args(["--foreground", TIME_LIMIT, program])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        if let Some(input) = &self.input {
            // From a file: openssl ends when its input does, unless told otherwise, and a file needs no thread.
            let path = lab.directory().join("input");
            File::create(&path).and_then(|mut file| file.write_all(input.as_bytes())).context("cannot write input")?;
            command.stdin(File::open(&path).context("cannot read input")?);
        }
        let output = command.output().with_context(|| format!("cannot start {program}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        let line = self.words.join(" ");
        if output.status.code() != Some(self.exit) {
            bail!(
                "{} on {}: {} instead of {}: {}\n  {line}",
                program,
                self.host.name(),
                output.status,
                self.exit,
                said.trim()
            );
        }
        let statuses: Vec<u16> =
            said.lines().filter_map(|line| line.trim().parse().ok()).filter(|code| *code > 0).collect();
        if program == "curl" && statuses != self.statuses {
            bail!("curl got {statuses:?} instead of {:?}\n  {line}", self.statuses);
        }
        Ok(())
    }
}
