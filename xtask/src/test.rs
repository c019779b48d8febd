//! `cargo xtask test`: all tests that this machine can run, counted in one last line.

use std::fmt;
use std::io::{self, BufRead as _, BufReader, Write};
use std::ops::AddAssign;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::e2e::binaries;
use crate::setup::{self, Group};
use crate::{build, chart, dashboards, demo, e2e, interrupt, tidy, vm, workspace};

/// Packages whose `#[ignore = "needs root"]` tests are run by root.
const PRIVILEGED: [&str; 2] = ["monitor-tests", "xtask"];

/// `1`: a kernel half that has changed is tried on other kernels, as under `CI=true`; anything else: it is not.
const KERNELS: &str = "API_EXPOSURE_TEST_VM";

/// Runs all tests; those that need root are run by root and counted as skipped otherwise.
#[derive(clap::Args)]
pub struct Arguments {}

/// Runs the command. The last line counts: `N passed, N failed`, and `, N skipped` where some were.
pub fn run(_: &Arguments) -> Result<()> {
    setup::ensure(&[Group::Build, Group::Lab, Group::Test])?;
    let root = rustix::process::geteuid().is_root();
    let mut count = Count::default();

    heading("the invariants of ARCHITECTURE.md");
    count += counted("tidy", tidy::run(&tidy::Arguments {}));

    let [mut rest, mut privileged] = [vec!["--workspace"], Vec::new()];
    for package in PRIVILEGED {
        rest.extend(["--exclude", package]);
        privileged.extend(["--package", package]);
    }
    heading("tests of each crate");
    count += cargo_test(&rest, &[])?;

    heading(if root { "tests across crates, with those that need root" } else { "tests across crates" });
    count += cargo_test(&privileged, if root { &["--include-ignored"] } else { &[] })?;

    heading("rules, alerts and dashboards");
    count += counted("dashboards", dashboards::check());

    heading("the chart and the manifests rendered from it");
    match binaries::helm_at_hand() {
        Some(helm) => count += counted("chart", chart::check(&helm)),
        None => {
            println!("skipped: helm is not here (`cargo xtask chart` builds it)");
            count += Count { skipped: 1, ..Count::default() };
        }
    }

    heading("the main job, on real traffic");
    count += counted("demo", build::binary().and_then(|()| demo::main_job(demo::Keep::Nothing)));

    heading("real API servers, with real clients");
    if root {
        println!("their programs are built from Go modules the first time, which takes some ten minutes, and are kept");
        count += counted("e2e apiservers", e2e::quick());
    } else {
        println!("skipped: network namespaces need root");
        count += Count { skipped: 1, ..Count::default() };
    }

    if root && kernels_wanted() {
        heading("the kernel half on other kernels");
        count += match vm::run_where_changed() {
            Ok(true) => counted("vm", Ok(())),
            Ok(false) => {
                println!("unchanged since it passed on all of them");
                Count::default()
            }
            Err(error) => counted("vm", Err(error)),
        };
    }

    println!("\n{count}");
    if count.failed > 0 {
        // The last line says how many; no second one.
        std::process::exit(1);
    }
    Ok(())
}

/// Whether a changed kernel half is tried on other kernels: as CI does, or as [`KERNELS`] says. It takes minutes.
fn kernels_wanted() -> bool {
    let says = |name: &str| std::env::var(name).ok();
    match says(KERNELS).as_deref() {
        Some(word) => word == "1",
        None => says("CI").as_deref() == Some("true"),
    }
}

/// How many tests did what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

impl Count {
    /// The result of one test binary, from its last line.
    fn of_binary(line: &str) -> Option<Self> {
        let rest = line.strip_prefix("test result: ")?;
        let number = |word: &str| {
            let field = rest.split([';', '.']).find_map(|field| field.trim().strip_suffix(word))?;
            field.trim().parse::<u64>().ok()
        };
        Some(Self { passed: number(" passed")?, failed: number(" failed")?, skipped: number(" ignored")? })
    }
}

fn heading(text: &str) {
    println!("\n== {text}");
}

fn counted(name: &str, outcome: Result<()>) -> Count {
    match outcome {
        Ok(()) => Count { passed: 1, ..Count::default() },
        Err(error) => {
            println!("{name} failed: {error:#}");
            Count { failed: 1, ..Count::default() }
        }
    }
}

/// Runs `cargo test`, hands its output on and counts. What does not compile or crashes outside of a test is an error.
fn cargo_test(what: &[&str], arguments: &[&str]) -> Result<Count> {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--no-fail-fast", "--locked"]).args(what).arg("--").args(arguments);
    let (count, success) = count_output(&mut cargo, &mut io::stdout())?;
    if !success && count.failed == 0 {
        bail!("cargo test {} failed outside of a test", what.join(" "));
    }
    Ok(count)
}

fn count_output(command: &mut Command, out: &mut impl Write) -> Result<(Count, bool)> {
    // A group of its own, so that an interrupt ends cargo and the tests that it has started.
    let mut child = command.stdout(Stdio::piped()).process_group(0).spawn().context("cannot start cargo")?;
    let group = rustix::process::Pid::from_child(&child);
    let lines = BufReader::new(child.stdout.take().context("cargo has no output")?).split(b'\n');
    let ended = AtomicBool::new(false);
    let count = thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                if interrupt::check().is_err() {
                    // It may just have ended by itself.
                    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::TERM);
                    break;
                }
                thread::sleep(Duration::from_millis(50));
            }
        });
        let count = count_lines(lines, out);
        ended.store(true, Ordering::Relaxed);
        count
    });
    let status = child.wait().context("cannot wait for cargo")?;
    interrupt::check()?;
    Ok((count?, status.success()))
}

fn count_lines(lines: impl Iterator<Item = io::Result<Vec<u8>>>, out: &mut impl Write) -> Result<Count> {
    let mut count = Count::default();
    for line in lines {
        let line = line.context("cannot read the output of cargo")?;
        let line = String::from_utf8_lossy(&line);
        if let Some(result) = Count::of_binary(&line) {
            count += result;
        }
        writeln!(out, "{line}").context("cannot write")?;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_test_binaries_say() {
        let line = "test result: FAILED. 12 passed; 3 failed; 2 ignored; 0 measured; 5 filtered out; finished in 0.10s";
        assert_eq!(Count::of_binary(line), Some(Count { passed: 12, failed: 3, skipped: 2 }));
        let line = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(Count::of_binary(line), Some(Count::default()));
        assert_eq!(Count::of_binary("test parses_result: ok"), None);
    }

    #[test]
    fn adds_up_over_binaries_and_tells_failure_from_success() {
        let script = "echo 'test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0s'
                      echo noise; printf '\\377\\n'
                      echo 'test result: FAILED. 1 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0s'
                      exit 101";
        let mut out = Vec::new();
        let (count, success) = count_output(Command::new("sh").args(["-c", script]), &mut out).unwrap();
        assert!(String::from_utf8_lossy(&out).contains("noise\n"));
        assert_eq!(count, Count { passed: 3, failed: 4, skipped: 1 });
        assert!(!success);
    }

    #[test]
    fn the_last_line_has_one_form() {
        assert_eq!(Count { passed: 3, failed: 0, skipped: 0 }.to_string(), "3 passed, 0 failed");
        assert_eq!(Count { passed: 3, failed: 1, skipped: 2 }.to_string(), "3 passed, 1 failed, 2 skipped");
    }
}
