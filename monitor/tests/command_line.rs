//! The binary as a shell sees it: exit codes, one line on stderr, the environment.
#![expect(clippy::unwrap_used, reason = "what a test cannot do without fails it")]

use std::process::{Command, Output, Stdio};

/// Runs the binary with these variables set and no others of ours.
fn run(variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_api-exposure-monitor"));
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("API_EXPOSURE_") || variable == "RUST_LOG" {
            command.env_remove(variable);
        }
    }
    command.envs(variables.iter().copied()).args(arguments).output().unwrap()
}

fn error(code: i32, variables: &[(&str, &str)], arguments: &[&str]) -> String {
    let output = run(variables, arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(output.stdout.is_empty());
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr
}

#[test]
fn errors_are_one_line_with_an_exit_code() {
    let line = error(2, &[], &["run", "--secure-port", "0"]);
    assert_eq!(line, "error: --secure-port `0`: expected a port from 1 to 65535, or several separated by commas\n");
    let line = error(2, &[], &["run", "--no-such-flag"]);
    assert!(line.starts_with("error: unexpected argument '--no-such-flag'"), "{line}");
    let line = error(2, &[], &[]);
    assert!(line.contains("requires a subcommand") && line.contains("replay"), "{line}");
    let line = error(1, &[], &["run", "--config", "/does/not/exist"]);
    assert!(line.starts_with("error: cannot read the configuration file /does/not/exist: No such file"), "{line}");
}

#[test]
fn the_environment_beats_the_file_and_a_flag_beats_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("monitor.toml");
    std::fs::write(&path, "node_port = 1\nsecure_port = 1\n").unwrap();
    // Each time two lists clash in one port: the error shows which of the values was taken.
    let file = ("API_EXPOSURE_CONFIG", path.to_str().unwrap());
    let clash = |variables: &[(&str, &str)], arguments: &[&str]| {
        error(1, &[&[file], variables].concat(), &[&["run"], arguments].concat())
    };
    let line = clash(&[], &[]);
    assert!(line.starts_with("error: port 1 is given with --secure-port and with --node-port"), "{line}");
    let line = clash(&[("API_EXPOSURE_NODE_PORT", "2,3"), ("API_EXPOSURE_SECURE_PORT", "3")], &[]);
    assert!(line.starts_with("error: port 3 is given with --secure-port"), "{line}");
    let line = clash(
        &[("API_EXPOSURE_NODE_PORT", "2,3"), ("API_EXPOSURE_SECURE_PORT", "3")],
        &["--secure-port", "4", "--secure-port", "2"],
    );
    assert!(line.starts_with("error: port 2 is given with --secure-port"), "{line}");
    // Set to nothing is not set.
    let line = clash(&[("API_EXPOSURE_NODE_PORT", ""), ("API_EXPOSURE_OUTPUT", ""), ("RUST_LOG", "")], &[]);
    assert!(line.starts_with("error: port 1 is given"), "{line}");
    let line = error(1, &[("API_EXPOSURE_LISTEN", "nowhere")], &["run"]);
    assert!(line.starts_with("error: API_EXPOSURE_LISTEN=`nowhere`: expected an address and a port"), "{line}");
}

#[test]
fn version_says_what_it_is() {
    let output = run(&[], &["version"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with(concat!("api-exposure-monitor ", env!("CARGO_PKG_VERSION"), "\n")), "{text}");
    assert!(text.contains(std::env::consts::ARCH), "{text}");
}

#[test]
fn a_closed_pipe_is_no_failure() {
    for argument in ["version", "--help"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_api-exposure-monitor"));
        let output = command.arg(argument).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert!(output.status.success(), "{argument}: {}", output.status);
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
