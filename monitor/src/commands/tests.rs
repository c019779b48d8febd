use clap::CommandFactory as _;

use super::*;
use crate::classify::ExposureKind;
use crate::export::Filter;
use monitor_common::{Role, SourceClass};

fn parsed(line: &str) -> Result<Arguments, String> {
    parse(line.split(' ').map(Into::into)).map_err(|error| one_line(&error))
}

fn error(line: &str) -> String {
    let error = parsed(line).unwrap_err();
    assert!(!error.contains('\n') && error.starts_with("error: ") && error.ends_with("; see --help"), "{error}");
    error
}

#[test]
fn the_definition_is_sound() {
    Arguments::command().debug_assert();
}

#[test]
fn usage_errors_are_one_line_with_a_hint() {
    let table = [
        ("monitor", "requires a subcommand"),
        ("monitor observ", "tip: a similar subcommand exists: 'observe'"),
        ("monitor replay", "<FILE>..."),
        ("monitor replay --secure-prt 1 x", "tip: a similar argument exists: '--secure-port'"),
        ("monitor observe --source publik", "possible values: public, loopback, node, cluster_node, pod, service"),
        ("monitor observe --exposure x", "plaintext_to_secure_port"),
        ("monitor observe --role x", "node_port"),
        ("monitor observe --output metrics", "possible values: text, json]"),
        ("monitor replay --output text x", "possible values: table, json, metrics]"),
        ("monitor check --output text", "possible values: table, json]"),
        ("monitor run --log-level a=b=c", "--log-level"),
        ("monitor run --listen 1 --listen 2", "cannot be used multiple times"),
        ("monitor version x", "unexpected argument 'x'"),
    ];
    for (line, piece) in table {
        let error = error(line);
        assert!(error.contains(piece), "{line}: {error}");
    }
}

#[test]
fn filters_of_observe() {
    let Command::Observe(args) =
        parsed("monitor observe --source public,private --exposure plaintext_api --role secure --role insecure")
            .unwrap()
            .command
    else {
        panic!("another command")
    };
    let expected = Filter {
        source: vec![SourceClass::Public, SourceClass::Private],
        exposure: vec![ExposureKind::PlaintextApi],
        role: vec![Role::Secure, Role::Insecure],
    };
    assert_eq!(args.filter(), expected);
}

#[test]
fn replay_takes_files_and_settings_in_any_order() {
    let Command::Replay(args) =
        parsed("monitor replay a.pcap --secure-port 443 --private-is-external b.pcap --output json -").unwrap().command
    else {
        panic!("another command")
    };
    assert_eq!(args.files, ["a.pcap", "b.pcap", "-"].map(std::path::PathBuf::from));
    let settings = Settings::load(&args.settings).unwrap();
    assert_eq!((settings.secure_port.as_slice(), settings.private_is_external), ([443].as_slice(), true));
    assert_eq!(settings.output_of("replay", arguments::ReplayArgs::FORMATS).unwrap(), crate::config::Output::Json);
}

#[test]
fn the_log_level_stands_before_or_behind_the_command() {
    for line in ["monitor --log-level debug run", "monitor run --log-level debug"] {
        assert_eq!(parsed(line).unwrap().log_level.as_deref(), Some("debug"));
    }
}

#[test]
fn a_closed_pipe_is_found_below_any_context() {
    let closed = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("writing the results");
    assert!(is_closed_pipe(&closed));
    let full = anyhow::Error::from(io::Error::from(io::ErrorKind::StorageFull)).context("writing the results");
    assert!(!is_closed_pipe(&full));
}
