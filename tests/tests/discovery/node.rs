//! A node with servers in the clear, the monitor at work on it, and a client outside.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use monitor::attach::Policy;
use monitor::classify::ExposureKind;
use monitor::config::Settings;
use monitor::discover::PortState;
use monitor::export::{Health, Metrics};
use monitor::live;
use monitor::pipeline::Event;
use monitor_tests::namespace::Namespace;
use tokio::sync::watch;

/// A reply of the API.
pub const API_REPLY: &str =
    "HTTP/1.1 200 OK\r\nContent-Length: 45\r\n\r\n{\"kind\":\"SecretList\",\"apiVersion\":\"v1\",\"a\":[]}";
/// A web server's reply.
pub const PAGE_REPLY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n<html>a page</html>";

/// How long anything may take; on a busy machine the programs are slow to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// The node.
pub struct Node {
    /// Port of the stand-in for the API, on every address.
    pub api: u16,
    /// Port of the web server.
    pub page: u16,
    /// The monitor's.
    pub metrics: Arc<Metrics>,
    inside: Namespace,
    outside: Namespace,
    _folder: tempfile::TempDir,
    children: Vec<Child>,
    monitor: Option<JoinHandle<anyhow::Result<()>>>,
    shutdown: watch::Sender<bool>,
    events: Receiver<Told>,
    seen: Seen,
}

/// What the monitor has told.
#[derive(Debug, Default)]
pub struct Seen {
    /// Ports that were found.
    pub found: BTreeSet<u16>,
    /// Port, source class, path and status of requests.
    pub requests: BTreeSet<(u16, String, String, Option<u16>)>,
    /// Port and kind of exposures.
    pub exposures: BTreeSet<(u16, ExposureKind)>,
    /// Every port of which anything was told.
    pub ports_told: BTreeSet<u16>,
}

enum Told {
    Found(u16),
    Request(u16, String, String, Option<u16>),
    Exposure(u16, ExposureKind),
    Connection(u16),
}

impl Node {
    /// The node's address on the side of the client outside.
    pub const ADDRESS: &str = "203.0.113.10";

    /// Servers and monitor, at work.
    pub fn start(settings: &Settings) -> Self {
        let (inside, outside) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        inside.veth("node", "client").unwrap();
        inside.give("client", &outside).unwrap();
        inside.ip("addr add 203.0.113.10/24 dev node").unwrap();
        outside.ip("addr add 203.0.113.7/24 dev client").unwrap();
        outside.ip("link set client up").unwrap();
        // Held until nginx has to bind them, so that the kernel gives each once.
        let ports = inside.run(|| [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap()));
        let [api, page] = [&ports[0], &ports[1]].map(|listener| listener.local_addr().unwrap().port());
        drop(ports);
        let folder = tempfile::tempdir().unwrap();
        let nginx = inside.run(|| nginx(folder.path(), api, page));
        let metrics = Arc::new(Metrics::new());
        let health = Arc::new(Health::new());
        let (shutdown, ended) = watch::channel(false);
        let (tell, events) = channel();
        let mut node = Self {
            api,
            page,
            metrics: Arc::clone(&metrics),
            inside,
            outside,
            _folder: folder,
            children: vec![nginx],
            monitor: None,
            shutdown,
            events,
            seen: Seen::default(),
        };
        for port in [api, page] {
            until("nginx listens", || node.inside.run(|| TcpStream::connect(("127.0.0.1", port)).is_ok()));
        }
        let (settings, ready) = (settings.clone(), Arc::clone(&health));
        // A thread of the namespace would end with `run`: the monitor's own enters it by itself.
        let monitor = node.inside.run(move || {
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let sink = move |event: Event<'_>| drop(told(&event).map(|told| tell.send(told)));
                let policy = Policy { xdp_generic: false, tcx: true };
                runtime.block_on(live::run(&settings, policy, metrics, health, sink, ended))
            })
        });
        let attached = node.monitor.insert(monitor);
        until("the monitor is ready, or has ended", || ready.ready().is_ok() || attached.is_finished());
        if let Some(ended) = node.monitor.take_if(|monitor| monitor.is_finished()) {
            panic!("the monitor has ended: {:?}", ended.join());
        }
        node
    }

    /// A `kubectl proxy` on a random port of this address, before the stand-in; its port.
    pub fn proxy(&mut self, address: &str) -> u16 {
        let server = format!("--server=http://127.0.0.1:{}", self.api);
        let words = ["proxy", "--port=0", "--accept-hosts=.*", "--kubeconfig=/dev/null", &server];
        let mut child = self.inside.run(|| {
            let mut command = Command::new("kubectl");
            command.args(words).arg(format!("--address={address}")).stdout(Stdio::piped()).env_remove("KUBECONFIG");
            command.spawn().expect("kubectl")
        });
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.children.push(child);
        // Starting to serve on 127.0.0.1:43210
        line.trim().rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("{line:?}"))
    }

    /// What this port answers to a client on the node.
    pub fn ask_inside(&self, address: &str, port: u16, path: &str) -> String {
        self.inside.run(|| ask(address, port, path))
    }

    /// What this port answers to the client outside.
    pub fn ask_outside(&self, port: u16, path: &str) -> String {
        self.outside.run(|| ask(Self::ADDRESS, port, path))
    }

    /// Waits until what the monitor has told is enough.
    #[track_caller]
    pub fn wait(&mut self, what: &str, enough: impl Fn(&Seen) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !enough(&self.seen) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(told) => self.seen.add(told),
                Err(error) => panic!("{what}: {error}; {:?}", self.seen),
            }
        }
    }

    /// Ends the monitor, and gives what it has told.
    pub fn stop(mut self) -> Seen {
        self.shutdown.send_replace(true);
        self.monitor.take().unwrap().join().unwrap().unwrap();
        while let Ok(told) = self.events.try_recv() {
            self.seen.add(told);
        }
        std::mem::take(&mut self.seen)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shutdown.send_replace(true);
        for child in &mut self.children {
            // Gone already is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Seen {
    fn add(&mut self, told: Told) {
        let port = match told {
            Told::Found(port) => {
                self.found.insert(port);
                port
            }
            Told::Request(port, source, path, status) => {
                self.requests.insert((port, source, path, status));
                port
            }
            Told::Exposure(port, kind) => {
                self.exposures.insert((port, kind));
                port
            }
            Told::Connection(port) => port,
        };
        self.ports_told.insert(port);
    }
}

fn told(event: &Event<'_>) -> Option<Told> {
    Some(match *event {
        Event::Port(change) if change.state == PortState::Found => Told::Found(change.port),
        Event::Port(_) | Event::Anonymous(_) | Event::Probing(_) | Event::Finding(_) => return None,
        Event::Exposure(connection, kind) => Told::Exposure(connection.destination.port, kind),
        Event::Connection(connection) => Told::Connection(connection.destination.port),
        Event::Request(connection, index) => {
            let request = connection.observation.requests.get(index)?;
            let source = connection.source.class.label().to_owned();
            Told::Request(connection.destination.port, source, request.path.clone(), request.status)
        }
    })
}

#[track_caller]
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// One request on a connection of its own; the whole answer.
fn ask(address: &str, port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect((address, port)).expect("the server takes the connection");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // In one segment, as clients send it.
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// nginx: the lab's stand-in for the API, and a web server that has an answer to everything.
fn nginx(folder: &Path, api: u16, page: u16) -> Child {
    let stand_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lab/kubernetes-api.conf").canonicalize().unwrap();
    let temporary =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {kind};"));
    let words = format!(
        "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr crit;\nuser root;\n\
         events {{ worker_connections 256; }}\n\
         http {{\naccess_log off;\n{}\n\
         map $request_id $audit_id {{ default $request_id; }}\n\
         server {{ listen {api}; default_type application/json; include {}; }}\n\
         server {{ listen {page}; default_type text/html; location / {{ return 200 '<html>welcome</html>'; }} }}\n}}\n",
        temporary.join("\n"),
        stand_in.display()
    );
    let path = folder.join("nginx.conf");
    std::fs::write(&path, words).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-p").arg(folder).arg("-c").arg(&path).arg("-e").arg("stderr");
    command.spawn().expect("nginx, as `cargo xtask setup` installs it")
}
