//! The whole scrape of `replay --output metrics` over a few captures.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use monitor_tests::captures::{Replayed, SECRETS, folder, replayed, settings};

/// One capture of each kind of verdict.
const FILES: [&str; 18] = [
    "1.19/002-insecure-external-api-v1-secrets.pcap",
    "1.19/008-insecure-loopback-api-v1-secrets.pcap",
    "1.19/026-insecure-pipeline.pcap",
    "1.19/038-insecure-bad-token.pcap",
    "1.19/044-http-to-6443-external.pcap",
    "1.19/053-curl-tls12-none.pcap",
    "1.20/007-curl-tls13-token.pcap",
    "1.20/066-go119-tls13-cert.pcap",
    "1.20/246-anon-pod-api-v1-secrets.pcap",
    "1.20/312-resume-reconnect-tls12-cert.pcap",
    "1.20/423-proxy-ipv6.pcap",
    "1.20/429-insecure-worker-api-v1-secrets.pcap",
    "1.20/901-vlan-curl-tls13-cert.pcap",
    "1.20/913-ipfrag-curl-tls13-cert.pcap",
    "1.37/075-rust-tls13-none.pcap",
    "1.37/366-pad1024-none.pcap",
    "1.37/1227-midstream-kubectl-1.37-watch.pcap",
    "1.37/1233-vxlan-curl-worker-sa-token-tls12.pcap",
];

/// With this environment variable the golden file is written anew.
const WRITE_GOLDEN: &str = "API_EXPOSURE_WRITE_GOLDEN";

fn scrape() -> Replayed {
    replayed(&FILES.map(|file| folder().join(file)), &settings()).expect("captures that can be read")
}

#[test]
fn the_whole_scrape_of_a_replay_is_as_it_was() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scrape/golden.prom");
    // The version changes with each release, the revision with each build.
    let scrape: String = scrape()
        .scrape
        .lines()
        .map(|line| match line.split_once('{') {
            Some(("api_exposure_build_info", _)) => {
                "api_exposure_build_info{revision=\"REVISION\",version=\"VERSION\"} 1\n".to_owned()
            }
            _ => format!("{line}\n"),
        })
        .collect();
    if std::env::var_os(WRITE_GOLDEN).is_some() {
        std::fs::write(&path, &scrape).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    let (got, wanted): (Vec<&str>, Vec<&str>) = (scrape.lines().collect(), golden.lines().collect());
    let new = got.iter().filter(|line| !wanted.contains(line)).map(|line| format!("+ {line}"));
    let gone = wanted.iter().filter(|line| !got.contains(line)).map(|line| format!("- {line}"));
    let changed: Vec<String> = gone.chain(new).collect();
    assert!(scrape == golden, "{WRITE_GOLDEN}=1 writes golden.prom anew:\n{}", changed.join("\n"));
}

#[test]
fn the_scrape_tells_no_token() {
    let scrape = scrape().scrape;
    for secret in SECRETS {
        assert!(!scrape.contains(secret), "{secret}");
    }
    let files = FILES.map(|file| std::fs::read(folder().join(file)).unwrap());
    let carried = SECRETS
        .iter()
        .any(|secret| files.iter().any(|file| file.windows(secret.len()).any(|bytes| bytes == secret.as_bytes())));
    assert!(carried, "one of the captures has a token that could be told");
}

#[test]
fn promtool_finds_nothing_to_complain_about() {
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match promtool {
        Ok(promtool) => promtool,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("SKIPPED: promtool is not installed (Debian's package `prometheus` has it)");
            return;
        }
        Err(error) => panic!("cannot run promtool: {error}"),
    };
    promtool.stdin.take().unwrap().write_all(scrape().scrape.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "promtool says: {said}");
}
