//! `cargo xtask tidy`: the invariants that ARCHITECTURE.md states and no compiler checks.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::workspace;

/// Checks the invariants of ARCHITECTURE.md: what stages import, length of files, words that must not be there.
#[derive(clap::Args)]
pub struct Arguments {}

/// The stages of user space, in the order of a packet's way; a stage imports nothing that comes after it.
const USER_STAGES: [&str; 6] = ["receive", "reassemble", "inspect", "classify", "export", "pipeline"];
/// The stages of the kernel side.
const KERNEL_STAGES: [&str; 4] = ["parse", "select", "track", "emit"];
/// The middle takes bytes and a passed-in time and returns values: it asks no clock, opens nothing, logs nothing.
const SANS_IO: [&str; 3] = ["reassemble", "inspect", "classify"];
const NOT_SANS_IO: [&str; 8] =
    ["SystemTime::now", "Instant::now", "tokio::", "tracing::", "std::fs", "std::io", "println!", "std::thread"];
/// `Event` is the pipeline's word to the output, so `export` may name that one type.
const MAY_IMPORT: [(&str, &str); 1] = [("export", "pipeline")];

/// Longest file, in lines. Files of tests are tables of cases, and as long as there are cases.
const LONGEST: usize = 450;
/// Files that may be longer, each with its reason.
const LONGER: [(&str, &str); 4] = [
    (
        "monitor-ebpf/src/programs.rs",
        "views of packets and maps, each with what verifiers of several kernels make of it",
    ),
    ("monitor/src/export/metrics.rs", "a field, its registration and its way in for each metric, and nothing else"),
    ("monitor/src/inspect/http1/mod.rs", "two halves of one reader that share what waits for an answer"),
    ("monitor/src/probe/mod.rs", "the probe's state and each way in which it changes"),
];

/// A file of the project, as the checks see it.
struct Source<'a> {
    /// Relative to the workspace.
    path: &'a str,
    text: &'a str,
}

/// Runs the command.
pub fn run(_: &Arguments) -> Result<()> {
    let root = workspace::root();
    let listing = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(root)
        .output()
        .context("cannot start git")?;
    if !listing.status.success() {
        bail!("git cannot list the files: {}", String::from_utf8_lossy(&listing.stderr).trim());
    }
    let mut findings = Vec::new();
    let mut count = 0;
    for path in String::from_utf8_lossy(&listing.stdout).split_terminator('\0') {
        // Deleted and not yet committed, or not text: nothing to read.
        if path.starts_with("tests/fixtures/") {
            continue;
        }
        let Ok(text) = fs::read_to_string(root.join(path)) else { continue };
        count += 1;
        check(&Source { path, text: &text }, &mut findings);
    }
    let architecture = fs::read_to_string(root.join("ARCHITECTURE.md")).context("cannot read ARCHITECTURE.md")?;
    let manifest = fs::read_to_string(root.join("Cargo.toml")).context("cannot read Cargo.toml")?;
    dependencies(&manifest, &architecture, &mut findings);
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} findings", findings.len());
    }
    println!("tidy: {count} files");
    Ok(())
}

fn check(source: &Source<'_>, findings: &mut Vec<String>) {
    length(source, findings);
    words(source, findings);
    if source.path.ends_with(".rs") {
        imports(source, "monitor/src/", &USER_STAGES, findings);
        imports(source, "monitor-ebpf/src/", &KERNEL_STAGES, findings);
        sans_io(source, findings);
    }
}

fn length(source: &Source<'_>, findings: &mut Vec<String>) {
    let lines = source.text.lines().count();
    let written = [".rs", ".sh"].iter().any(|end| source.path.ends_with(end));
    let tests = source.path.starts_with("tests/") || source.path.ends_with("tests.rs");
    if written && !tests && lines > LONGEST && !LONGER.iter().any(|(path, _)| *path == source.path) {
        findings.push(format!("{}: {lines} lines, more than {LONGEST}: split it by meaning", source.path));
    }
}

/// Words that have meaning on one machine or to nobody who clones the project.
fn forbidden() -> Vec<String> {
    // Put together, so that this file does not contain them.
    [("/ro", "ot/"), ("/wo", "rk/"), ("../sh", "ared"), ("dbg", "!("), ("FIX", "ME"), ("XX", "X:")]
        .iter()
        .map(|(a, b)| format!("{a}{b}"))
        .collect()
}

fn words(source: &Source<'_>, findings: &mut Vec<String>) {
    for word in forbidden() {
        for (number, line) in source.text.lines().enumerate() {
            if line.contains(&word) {
                findings.push(format!("{}:{}: `{word}` must not be here", source.path, number + 1));
            }
        }
    }
}

/// The stage that a file belongs to: `FOLDER/STAGE.rs` or `FOLDER/STAGE/...`.
fn stage<'a>(path: &str, folder: &str, stages: &[&'a str]) -> Option<&'a str> {
    let inside = path.strip_prefix(folder)?;
    let first = inside.split('/').next()?.trim_end_matches(".rs");
    stages.iter().copied().find(|stage| *stage == first)
}

fn imports(source: &Source<'_>, folder: &str, stages: &[&str], findings: &mut Vec<String>) {
    let Some(own) = stage(source.path, folder, stages) else { return };
    let after = stages.iter().skip_while(|stage| **stage != own).skip(1);
    for later in after.filter(|later| !MAY_IMPORT.contains(&(own, **later))) {
        for (number, line) in code(source.text) {
            if names(line, later) {
                let at = format!("{}:{number}", source.path);
                findings.push(format!("{at}: `{own}` names `{later}`, which comes after it on a packet's way"));
            }
        }
    }
}

/// Whether a line of code names a module of the crate's root, alone or in a list.
fn names(line: &str, module: &str) -> bool {
    let alone = format!("crate::{module}");
    let found = line.match_indices(&alone).any(|(at, _)| {
        let next = line.get(at + alone.len()..).and_then(|rest| rest.chars().next());
        !next.is_some_and(|c| c.is_alphanumeric() || c == '_')
    });
    let listed = line.split_once("crate::{").is_some_and(|(_, list)| {
        list.split([',', '{', '}', ';'])
            .any(|item| item.trim() == module || item.trim().starts_with(&format!("{module}::")))
    });
    found || listed
}

fn sans_io(source: &Source<'_>, findings: &mut Vec<String>) {
    if stage(source.path, "monitor/src/", &SANS_IO).is_none() || source.path.ends_with("tests.rs") {
        return;
    }
    for (number, line) in code(source.text) {
        for word in NOT_SANS_IO.iter().filter(|word| line.contains(**word)) {
            findings.push(format!("{}:{number}: `{word}` in a stage without input and output", source.path));
        }
    }
}

/// Numbered lines of code: without comments, and up to the tests, which stand last.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().take_while(|(_, line)| !line.starts_with("#[cfg(test)]"));
    lines.map(|(number, line)| (number + 1, line)).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Each dependency of the workspace has its line, with its reason, in ARCHITECTURE.md.
fn dependencies(manifest: &str, architecture: &str, findings: &mut Vec<String>) {
    let section = manifest.split("[workspace.dependencies]").nth(1).unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    for line in section.lines().filter(|line| !line.contains("path = ")) {
        let Some((name, _)) = line.split_once('=') else { continue };
        let name = name.trim();
        if !architecture.contains(&format!("`{name}`")) {
            findings.push(format!("Cargo.toml: `{name}` has no line in ARCHITECTURE.md that says what it is here for"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        check(&Source { path, text }, &mut findings);
        findings
    }

    #[test]
    fn a_stage_names_nothing_after_it() {
        let later = findings("monitor/src/inspect/tls.rs", "use crate::classify::Verb;\n");
        assert_eq!(later.len(), 1, "{later:?}");
        assert!(later[0].starts_with("monitor/src/inspect/tls.rs:1: `inspect` names `classify`"), "{later:?}");
        assert_eq!(findings("monitor/src/inspect/tls.rs", "use crate::{reassemble::Chunk, classify};\n").len(), 1);
        assert_eq!(findings("monitor/src/inspect/mod.rs", "fn f(_: crate::export::Metrics) {}\n").len(), 1);
        assert_eq!(findings("monitor-ebpf/src/parse.rs", "use crate::track::Flow;\n").len(), 1);
    }

    #[test]
    fn a_stage_may_name_what_is_before_it_and_its_own() {
        let text = "use crate::reassemble::Chunk;\nuse crate::inspect::Observation;\nuse crate::classify_tables;\n\
                    // crate::export is for later\n#[cfg(test)]\nuse crate::pipeline;\n";
        assert_eq!(findings("monitor/src/inspect/mod.rs", text), Vec::<String>::new());
        assert_eq!(findings("monitor/src/pipeline.rs", "use crate::export::metrics;\n"), Vec::<String>::new());
        assert_eq!(findings("monitor/src/export/json.rs", "use crate::pipeline::Event;\n"), Vec::<String>::new());
        assert_eq!(findings("monitor/src/commands/run.rs", "use crate::export::metrics;\n"), Vec::<String>::new());
    }

    #[test]
    fn the_middle_asks_no_clock() {
        assert_eq!(findings("monitor/src/reassemble/flow.rs", "let now = Instant::now();\n").len(), 1);
        assert_eq!(findings("monitor/src/receive.rs", "let now = Instant::now();\n"), Vec::<String>::new());
    }

    #[test]
    fn long_files_and_machine_paths_are_named() {
        assert_eq!(findings("monitor/src/watch.rs", &"//\n".repeat(LONGEST + 1)).len(), 1);
        assert_eq!(findings("monitor/src/watch.rs", &"//\n".repeat(LONGEST)), Vec::<String>::new());
        for word in forbidden() {
            assert_eq!(findings("README.md", &format!("see {word} there\n")).len(), 1, "{word}");
        }
    }

    #[test]
    fn a_dependency_without_a_reason_is_named() {
        let manifest = "[workspace.dependencies]\nours = { path = \"ours\" }\nclap = \"4\"\nlru = \"0.16\"\n\n[profile.dev]\nx = 1\n";
        let mut findings = Vec::new();
        dependencies(manifest, "| `clap` | flags |", &mut findings);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].contains("`lru`"));
    }
}
