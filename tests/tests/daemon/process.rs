//! The program as a process of a namespace, and what is attached to an interface.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use aya::programs::{SchedClassifier, TcAttachType};
use monitor_tests::namespace::Namespace;
use serde_json::Value;

/// So long an event may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Where the program listens when nothing else is said.
const ADDRESS: &str = "127.0.0.1:9464";

/// A running program; it is killed when this is dropped.
pub struct Process<'a> {
    namespace: &'a Namespace,
    child: Child,
}

impl<'a> Process<'a> {
    /// Starts it in this namespace.
    pub fn start(namespace: &'a Namespace, words: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_monitor"));
        command.args(words.split_whitespace()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_remove("RUST_LOG");
        let child = namespace.run(|| command.spawn()).expect("the program starts");
        Self { namespace, child }
    }

    /// Starts `run` and waits until it is attached.
    pub fn ready(namespace: &'a Namespace, words: &str) -> Self {
        let mut process = Self::start(namespace, &format!("run {words}"));
        process.wait_for("/readyz", |answer| answer.starts_with("HTTP/1.1 200"));
        process
    }

    /// Waits until the answer to this path is as it should be; gives it back.
    pub fn wait_for(&mut self, path: &str, is_right: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.get(path);
            if let Some(answer) = &answer
                && is_right(answer)
            {
                return answer.clone();
            }
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                panic!("it ended with {status}: {}", self.said());
            }
            assert!(Instant::now() < deadline, "{path}: {answer:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The answer to this path, its head included; `None` when nobody answers.
    pub fn get(&self, path: &str) -> Option<String> {
        self.namespace.run(|| {
            let mut stream = TcpStream::connect(ADDRESS).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).ok()?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: {ADDRESS}\r\nConnection: close\r\n\r\n").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            Some(answer)
        })
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: libc::c_int) {
        let id = libc::pid_t::try_from(self.child.id()).expect("a process id");
        // SAFETY: a plain system call; the child has not been waited for, so the number is still its own.
        assert_eq!(unsafe { libc::kill(id, signal) }, 0, "{}", std::io::Error::last_os_error());
    }

    /// Leaves what it prints unread from now on.
    pub fn close_its_output(&mut self) {
        drop(self.child.stdout.take());
    }

    /// Waits until it ends: how, and what it said on standard error.
    pub fn ended(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                return (status, self.said());
            }
            assert!(Instant::now() < deadline, "it does not end");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// It ends by itself, all is well, and it did not panic.
    pub fn ends_well(self) {
        let (status, said) = self.ended();
        assert!(status.success(), "{status}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }

    /// It ends in an error, which is this one line.
    pub fn fails(self) -> String {
        let (status, said) = self.ended();
        assert!(status.code().is_some_and(|code| code != 0), "{status}: {said}");
        let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{said}");
        assert!(!said.contains("panicked"), "{said}");
        errors[0].to_owned()
    }

    /// It is killed.
    pub fn killed(self) {
        self.signal(libc::SIGKILL);
        let (status, said) = self.ended();
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{said}");
    }

    fn said(&mut self) -> String {
        let mut said = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut said).expect("UTF-8");
        }
        said
    }
}

impl Drop for Process<'_> {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is attached to an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooked {
    /// Id of the XDP program.
    pub xdp: Option<u64>,
    /// Programs of the tcx chains, ingress and egress.
    pub tcx: Vec<String>,
    /// Filters of clsact, ingress and egress.
    pub filters: Vec<String>,
}

impl Hooked {
    /// What is attached to this interface now.
    pub fn of(namespace: &Namespace, interface: &str) -> Self {
        namespace.run(|| {
            let links: Value = json("ip", &["-json", "link", "show", "dev", interface]);
            let xdp = links[0]["xdp"]["prog"]["id"].as_u64();
            let mut hooked = Self { xdp, ..Self::default() };
            for (direction, word) in [(TcAttachType::Ingress, "ingress"), (TcAttachType::Egress, "egress")] {
                // Before 6.6 there is no tcx.
                if let Ok((_, programs)) = SchedClassifier::query_tcx(interface, direction) {
                    let names = programs.iter().map(|program| program.name_as_str().unwrap_or_default().to_owned());
                    hooked.tcx.extend(names);
                }
                let filters = json("tc", &["-json", "filter", "show", "dev", interface, word]);
                let names = filters.as_array().into_iter().flatten();
                hooked
                    .filters
                    .extend(names.filter_map(|filter| Some(filter["options"]["bpf_name"].as_str()?.to_owned())));
            }
            hooked
        })
    }

    /// Waits until nothing is attached to this interface: the kernel takes links away after their process has ended.
    pub fn nothing_on(namespace: &Namespace, interface: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let hooked = Self::of(namespace, interface);
            if hooked == Self::default() {
                return;
            }
            assert!(Instant::now() < deadline, "{hooked:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn json(program: &str, words: &[&str]) -> Value {
    let output = Command::new(program).args(words).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    // Without a qdisc, tc prints nothing.
    if output.stdout.is_empty() { Value::Null } else { serde_json::from_slice(&output.stdout).expect("JSON") }
}
