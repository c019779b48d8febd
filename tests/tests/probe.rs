//! The probe in a real, stripped Go server whose authenticator has the names of the API server's.
#![expect(clippy::unwrap_used, reason = "what a test cannot do without fails it")]

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use monitor::probe::attach::Way;
use monitor::probe::{Hit, Probe, Settings};
use monitor_tests::daemon::{self, Daemon, Scrape};
use monitor_tests::namespace::Namespace;

const MODULE: &str = "module k8s.io/apiserver\n\ngo 1.20\n";
const DEADLINE: Duration = Duration::from_secs(20);

/// A folder with the server's binary, and one like /proc that has our servers only.
struct Lab {
    folder: tempfile::TempDir,
    binary: PathBuf,
    proc: PathBuf,
}

impl Lab {
    /// `None` where there is no Go.
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/probe");
        let package = folder.path().join("pkg/authentication/request/anonymous");
        std::fs::create_dir_all(&package).unwrap();
        std::fs::write(folder.path().join("go.mod"), MODULE).unwrap();
        std::fs::copy(source.join("anonymous.go"), package.join("anonymous.go")).unwrap();
        std::fs::copy(source.join("main.go"), folder.path().join("main.go")).unwrap();
        let lab = Self { binary: folder.path().join("kube-apiserver"), proc: folder.path().join("proc"), folder };
        std::fs::create_dir(&lab.proc).unwrap();
        lab.build("-s -w").then_some(lab)
    }

    fn build(&self, linker: &str) -> bool {
        let built = Command::new("go")
            .args(["build", "-trimpath", "-ldflags", linker, "-o"])
            .args([&self.binary, Path::new(".")])
            .current_dir(self.folder.path())
            .envs([("CGO_ENABLED", "0"), ("GOFLAGS", "")])
            .output();
        match built {
            Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => eprintln!("skipped: go cannot be run: {error}"),
        }
        self.binary.exists()
    }

    fn start(&self, arguments: &[&str]) -> Server {
        let mut child = Command::new(&self.binary).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let process = child.id();
        let link = self.proc.join(process.to_string());
        std::os::unix::fs::symlink(format!("/proc/{process}"), &link).unwrap();
        Server { child, address: line.trim().parse().unwrap(), link }
    }

    fn probe(&self, way: Way) -> Probe {
        Probe::start(Settings { proc: self.proc.clone(), way: Some(way) }).unwrap()
    }
}

struct Server {
    child: Child,
    address: SocketAddr,
    link: PathBuf,
}

impl Server {
    /// Sends a request; gives its own address and the status of the answer.
    fn request(&self, request: &str) -> (SocketAddr, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let address = stream.local_addr().unwrap();
        stream.write_all(format!("{request}\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        (address, answer.split(' ').nth(1).unwrap().to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::fs::remove_file(&self.link).unwrap();
    }
}

/// The next `count` hits.
fn hits(probe: &mut Probe, count: usize) -> Vec<Hit> {
    let deadline = Instant::now() + DEADLINE;
    let mut hits = Vec::new();
    while hits.len() < count {
        assert!(Instant::now() < deadline, "{hits:?} {:?}", probe.status());
        let mut descriptor = libc::pollfd { fd: probe.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: the pointer is to one `pollfd`, as the count says.
        unsafe { libc::poll(&raw mut descriptor, 1, 100) };
        hits.extend(std::iter::from_fn(|| probe.next_hit()));
    }
    hits
}

type Case = (&'static str, &'static [&'static str], &'static [(&'static str, Option<Expected>)]);
/// Method, path, status and whether it was accepted.
type Expected = (&'static str, &'static str, Option<bool>);

const CASES: [Case; 3] = [
    (
        "the method without conditions",
        &["--method"],
        &[
            ("GET /livez?secret=1 HTTP/1.1", Some(("GET", "/livez", Some(true)))),
            ("POST /api/v1/a%20b HTTP/1.1\r\nCookie: x", Some(("POST", "/api/v1/a b", Some(true)))),
            ("GET /with HTTP/1.1\r\nAuthorization: Bearer x", None),
            ("OPTIONS /apis HTTP/1.0", Some(("OPTIONS", "/apis", Some(true)))),
        ],
    ),
    (
        "the method with conditions",
        &["--authentication-config=x", "/livez", "/readyz"],
        &[
            ("GET /livez HTTP/1.1", Some(("GET", "/livez", Some(true)))),
            ("GET /api HTTP/1.1", Some(("GET", "/api", Some(false)))),
            ("GET /readyz HTTP/1.0", Some(("GET", "/readyz", Some(true)))),
        ],
    ),
    (
        "the closure",
        &["--closure"],
        &[
            ("DELETE /api HTTP/1.1", Some(("DELETE", "/api", Some(true)))),
            ("GET /with HTTP/1.1\r\nAuthorization: Bearer x", None),
        ],
    ),
];

#[test]
#[ignore = "needs root"]
fn each_request_without_a_credential_is_one_hit() {
    let Some(lab) = Lab::new() else { return };
    for way in [Way::UprobeMulti, Way::PerfEvent] {
        for (what, arguments, requests) in CASES {
            let server = lab.start(arguments);
            let mut probe = lab.probe(way);
            let status = probe.status();
            let probed = status[0].outcome.as_ref().unwrap_or_else(|reason| panic!("{what}: {way:?}: {reason}"));
            assert_eq!((probed.way, status[0].processes[0]), (way, server.child.id()));
            let mut expected = Vec::new();
            for (request, hit) in requests {
                let (remote, status) = server.request(request);
                if let Some((method, path, accepted)) = hit {
                    assert_eq!(status == "200", *accepted == Some(true), "{what}: {request}");
                    expected.push((*method, Some(*path), Some(remote), *accepted));
                }
            }
            let hits = hits(&mut probe, expected.len());
            let seen: Vec<_> =
                hits.iter().map(|hit| (hit.method.as_str(), hit.path.as_deref(), hit.remote, hit.accepted)).collect();
            assert_eq!(seen, expected, "{what}, {way:?}");
            assert!(hits.iter().all(|hit| hit.proto_major == 1 && hit.process == server.child.id()));
            assert_eq!((probe.next_hit(), probe.losses().unwrap(), probe.malformed()), (None, [0, 0], 0), "{what}");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn conditions_that_nothing_told_of_are_noticed() {
    let Some(lab) = Lab::new() else { return };
    let server = lab.start(&["--method", "/livez"]);
    let mut probe = lab.probe(Way::UprobeMulti);
    server.request("GET /api HTTP/1.1");
    assert_eq!(hits(&mut probe, 1)[0].accepted, None, "nobody saw the answer");
    server.request("GET /api HTTP/1.1");
    assert_eq!(hits(&mut probe, 1)[0].accepted, Some(false), "from now on answers are seen");
}

#[test]
#[ignore = "needs root"]
fn restarts_and_upgrades_are_followed() {
    let Some(lab) = Lab::new() else { return };
    let server = lab.start(&["--method"]);
    let mut probe = lab.probe(Way::UprobeMulti);
    let first = probe.status()[0].attachment;
    drop(server);
    assert!(probe.reconcile().unwrap(), "nobody runs it");

    // The same binary: it stays attached for a while.
    let server = lab.start(&["--method"]);
    server.request("GET /restarted HTTP/1.1");
    assert_eq!(hits(&mut probe, 1)[0].process, server.child.id());
    assert!(probe.reconcile().unwrap());
    assert_eq!(probe.status()[0].attachment, first);

    // Another binary under the same name.
    assert!(lab.build("-w"));
    let upgraded = lab.start(&["--method"]);
    assert!(probe.reconcile().unwrap());
    assert!(!probe.reconcile().unwrap(), "nothing more has changed");
    let attachments: Vec<_> = probe.status().iter().map(|status| status.attachment).collect();
    assert!(attachments.len() == 2 && attachments.contains(&first), "{attachments:?}");
    upgraded.request("GET /upgraded HTTP/1.1");
    let hit = hits(&mut probe, 1).remove(0);
    assert_eq!((hit.path.as_deref(), hit.process), (Some("/upgraded"), upgraded.child.id()));
    assert_ne!(Some(hit.attachment), first);
}

#[test]
#[ignore = "needs root"]
fn a_server_that_cannot_be_probed_is_told_with_the_reason() {
    let Some(lab) = Lab::new() else { return };
    std::fs::remove_file(&lab.binary).unwrap();
    std::fs::copy("/bin/sleep", &lab.binary).unwrap();
    // Another test's child may hold the copy open for writing until its own program starts.
    let deadline = Instant::now() + DEADLINE;
    let mut child = loop {
        match Command::new(&lab.binary).arg("1000").spawn() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && Instant::now() < deadline => {}
            spawned => break spawned.unwrap(),
        }
    };
    std::os::unix::fs::symlink(format!("/proc/{}", child.id()), lab.proc.join(child.id().to_string())).unwrap();
    let probe = lab.probe(Way::UprobeMulti);
    let status = probe.status();
    child.kill().unwrap();
    child.wait().unwrap();
    let reason = status[0].outcome.as_ref().unwrap_err();
    assert_eq!(reason.words, "its binary is no Go program: it has no section .gopclntab");
}

/// What the daemon is started with.
const WORDS: [&str; 6] = ["--probe", "on", "--secure-port", "16443", "--insecure-port", "18080"];
const MONITOR: &str = env!("CARGO_BIN_EXE_monitor");

/// A server in a namespace, where the daemon watches its ports.
fn start_in(lab: &Lab, namespace: &Namespace) -> Server {
    namespace.run(|| lab.start(&["--method", "--secure-port=16443", "--insecure-port=18080"]))
}

fn wait_for(daemon: &Daemon<'_>, series: &str, value: f64) -> Scrape {
    let mut last = None;
    let waited = daemon::wait(|| {
        let scrape = daemon.metrics()?;
        last = Some(scrape.clone());
        Ok((scrape.value(series) == Some(value)).then_some(scrape))
    });
    waited.unwrap_or_else(|error| panic!("{error}: {series} is not {value} in {}", last.unwrap().0))
}

const SELF_TEST: &str = "api_exposure_self_test_success";
const JOINED: &str = "api_exposure_probe_hits_total{outcome=\"joined\"}";
const ATTACHED: &str = "api_exposure_probe_attached{component=\"kube_apiserver\"}";
const TIER: &str = "api_exposure_detection_tier{reason=\"working\",tier=\"probe\"}";

#[test]
#[ignore = "needs root"]
fn the_daemon_counts_each_request_with_its_connection_over_restarts_and_upgrades() {
    let Some(lab) = Lab::new() else { return };
    let namespace = Namespace::new().unwrap();
    let daemon = Daemon::start(MONITOR, &namespace, &WORDS).unwrap();
    assert_eq!(daemon.metrics().unwrap().value(ATTACHED), Some(0.0));

    let server = start_in(&lab, &namespace);
    wait_for(&daemon, SELF_TEST, 1.0);
    wait_for(&daemon, TIER, 1.0);
    let paths = ["/livez", "/api/v1/secrets?limit=1", "/version"];
    for path in paths {
        namespace.run(|| server.request(&format!("GET {path} HTTP/1.1")));
    }
    namespace.run(|| server.request("GET /api HTTP/1.1\r\nAuthorization: Bearer x"));
    let scrape = wait_for(&daemon, JOINED, 3.0);
    assert_eq!(
        scrape.sum("api_exposure_anonymous_requests_total", &["evidence=\"probe\"", "loopback"]),
        3,
        "{}",
        scrape.0
    );
    assert_eq!(scrape.sum("api_exposure_anonymous_requests_total", &["probe", "path_class=\"secret\"", "unknown"]), 1);
    assert_eq!(scrape.sum("api_exposure_exposures_total", &["anonymous_request", "loopback"]), 1, "the secrets alone");

    // The same binary again, then another one under its name.
    drop(server);
    let server = start_in(&lab, &namespace);
    namespace.run(|| server.request("GET /restarted HTTP/1.1"));
    wait_for(&daemon, JOINED, 4.0);
    drop(server);
    wait_for(&daemon, ATTACHED, 0.0);
    assert!(lab.build("-w"));
    let server = start_in(&lab, &namespace);
    wait_for(&daemon, ATTACHED, 1.0);
    namespace.run(|| server.request("GET /upgraded HTTP/1.1"));
    let scrape = wait_for(&daemon, JOINED, 5.0);
    assert_eq!(scrape.sum("api_exposure_probe_hits_total", &["no_flow"]), 0);
    assert_eq!(scrape.sum("api_exposure_probe_lost_total", &[]), 0);

    // `check` says the same of it.
    let (_, findings) =
        daemon::check(MONITOR, &namespace, &[&WORDS[..], &["--listen", "127.0.0.1:9465"]].concat()).unwrap();
    let found = |name: &str| {
        let findings = findings.as_array().unwrap().iter();
        let mut named = findings.filter(|finding| finding["check"].as_str().unwrap().starts_with(name));
        named.find(|finding| finding["status"] == "ok").map(|finding| finding["found"].to_string())
    };
    assert!(found("probe's self-test").unwrap().contains("came back after"), "{findings}");
    assert!(found(&format!("probe of {}", lab.binary.display())).unwrap().contains("CAP_PERFMON"), "{findings}");
    assert!(daemon.stop().unwrap().success);
    drop(server);
}

#[test]
#[ignore = "needs root"]
fn the_daemon_goes_on_where_nothing_can_be_probed() {
    let Some(lab) = Lab::new() else { return };
    let namespace = Namespace::new().unwrap();
    let daemon = Daemon::start(MONITOR, &namespace, &WORDS).unwrap();
    wait_for(&daemon, "api_exposure_detection_tier{reason=\"not_seen\",tier=\"probe\"}", 0.0);

    // Anybody can change it: whose word it is cannot be told.
    let writable = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(&lab.binary, writable(0o777)).unwrap();
    let server = start_in(&lab, &namespace);
    wait_for(&daemon, "api_exposure_probe_not_attached{component=\"kube_apiserver\"}", 1.0);
    namespace.run(|| server.request("GET /api HTTP/1.1"));
    drop(server);
    wait_for(&daemon, "api_exposure_probe_not_attached{component=\"kube_apiserver\"}", 0.0);

    // No Go program of that name.
    let folder = tempfile::tempdir().unwrap();
    let garbage = folder.path().join("kube-apiserver");
    std::fs::copy("/bin/sleep", &garbage).unwrap();
    let mut child = namespace.run(|| Command::new(&garbage).arg("1000").spawn()).unwrap();
    wait_for(&daemon, "api_exposure_detection_tier{reason=\"unsupported\",tier=\"probe\"}", 0.0);
    child.kill().unwrap();
    child.wait().unwrap();

    let scrape = daemon.metrics().unwrap();
    assert_eq!(scrape.sum("api_exposure_probe_hits_total", &[]), 0);
    assert_eq!(scrape.sum("api_exposure_plaintext_requests_total", &["role=\"insecure\""]), 1, "the next tier");
    let ended = daemon.stop().unwrap();
    assert!(ended.success && ended.log.contains("others than root can change its executable"), "{}", ended.log);
    assert!(ended.log.contains("no Go program"), "{}", ended.log);
}
