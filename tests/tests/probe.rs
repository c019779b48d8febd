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

const MODULE: &str = "module k8s.io/apiserver\n\ngo 1.18\n";
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
