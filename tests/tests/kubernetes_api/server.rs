//! A stand-in for the Kubernetes API, in the clear: lists and watches of a few objects, and what can go wrong with them.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use monitor_tests::namespace::Namespace;
use serde_json::{Value, json};

/// What clients have to show.
pub const TOKEN: &str = "secret-token-of-the-monitor";

/// The stand-in.
pub struct Server<'a> {
    namespace: &'a Namespace,
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    version: u64,
    /// A watch from before this version has to list anew.
    oldest: u64,
    objects: HashMap<&'static str, BTreeMap<String, Value>>,
    /// What happened: version, resource, event.
    log: Vec<(u64, &'static str, Value)>,
    refused: HashMap<&'static str, u16>,
    watches: Vec<(&'static str, TcpStream)>,
    connections: Vec<TcpStream>,
    lists: HashMap<&'static str, usize>,
    listener: Option<TcpListener>,
}

/// The resources, as they end the path.
pub const RESOURCES: [&str; 4] = ["nodes", "services", "endpointslices", "servicecidrs"];

impl<'a> Server<'a> {
    /// Listens at this port of the namespace's loopback interface.
    pub fn new(namespace: &'a Namespace, port: u16) -> Self {
        let server = Self { namespace, address: ([127, 0, 0, 1], port).into(), state: Arc::default() };
        server.come();
        server
    }

    /// Answers, from now on.
    pub fn come(&self) {
        let listener = self.namespace.run(|| TcpListener::bind(self.address)).expect("the port is free");
        self.lock().listener = Some(listener.try_clone().expect("a descriptor"));
        let state = Arc::clone(&self.state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let mut locked = lock(&state);
                // It was told to go: this is the connection that wakes it.
                if locked.listener.is_none() {
                    return;
                }
                locked.connections.push(stream.try_clone().expect("a descriptor"));
                drop(locked);
                let state = Arc::clone(&state);
                thread::spawn(move || serve(stream, &state));
            }
        });
    }

    /// Is gone, with every connection.
    pub fn go(&self) {
        let mut state = self.lock();
        state.listener = None;
        for connection in state.connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
        state.watches.clear();
        drop(state);
        // Wakes the thread that listens.
        let _ = self.namespace.run(|| TcpStream::connect(self.address));
    }

    /// Makes or changes an object.
    pub fn apply(&self, resource: &'static str, name: &str, mut object: Value) {
        let mut state = self.lock();
        state.version += 1;
        object["metadata"] = json!({"name": name, "resourceVersion": state.version.to_string()});
        let before = state.objects.entry(resource).or_default().insert(name.to_owned(), object.clone());
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        state.tell(resource, json!({"type": kind, "object": object}));
    }

    /// Removes an object.
    pub fn delete(&self, resource: &'static str, name: &str) {
        let mut state = self.lock();
        state.version += 1;
        let mut object = state.objects.entry(resource).or_default().remove(name).expect("it is there");
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.tell(resource, json!({"type": "DELETED", "object": object}));
    }

    /// Ends every watch with 410 Gone: what the clients know is too old. Objects change meanwhile.
    pub fn forget_history(&self, meanwhile: impl FnOnce(&mut dyn FnMut(&'static str, &str, Option<Value>))) {
        let mut state = self.lock();
        let watches = std::mem::take(&mut state.watches);
        meanwhile(&mut |resource, name, object| {
            state.version += 1;
            let version = state.version.to_string();
            let objects = state.objects.entry(resource).or_default();
            match object {
                Some(mut object) => {
                    object["metadata"] = json!({"name": name, "resourceVersion": version});
                    objects.insert(name.to_owned(), object);
                }
                None => drop(objects.remove(name)),
            }
        });
        state.version += 1;
        state.oldest = state.version;
        state.log.clear();
        for (_, mut stream) in watches {
            let gone = json!({"type": "ERROR", "object": status(410)});
            let _ = write_chunk(&mut stream, &gone);
            end(&mut stream);
        }
    }

    /// Answers requests for this resource with this status from now on, and ends its watches.
    pub fn refuse(&self, resource: &'static str, status: Option<u16>) {
        let mut state = self.lock();
        match status {
            Some(status) => state.refused.insert(resource, status),
            None => state.refused.remove(resource),
        };
        state.watches.retain_mut(|(of, stream)| {
            if *of == resource {
                end(stream);
            }
            *of != resource
        });
    }

    /// How often this resource was listed.
    pub fn lists(&self, resource: &'static str) -> usize {
        self.lock().lists.get(resource).copied().unwrap_or(0)
    }

    /// A kubeconfig for it.
    pub fn kubeconfig(&self) -> String {
        let address = self.address;
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: it\nclusters:\n- name: it\n  cluster: {{server: 'http://{address}'}}\n\
             contexts:\n- name: it\n  context: {{cluster: it, user: it}}\nusers:\n- name: it\n  user: {{token: {TOKEN}}}\n"
        )
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        self.go();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn tell(&mut self, resource: &'static str, event: Value) {
        self.watches.retain_mut(|(of, stream)| *of != resource || write_chunk(stream, &event).is_ok());
        self.log.push((self.version, resource, event));
    }
}

fn status(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "", "message": "refused"})
}

fn write_chunk(stream: &mut TcpStream, event: &Value) -> std::io::Result<()> {
    let line = format!("{event}\n");
    stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes())
}

/// Ends a watch, and its connection: nobody reads that any more.
fn end(stream: &mut TcpStream) {
    let _ = stream.write_all(b"0\r\n\r\n");
    let _ = stream.shutdown(Shutdown::Both);
}

/// Serves one connection until a watch takes it over or it ends.
fn serve(mut stream: TcpStream, state: &Mutex<State>) {
    let mut lines = BufReader::new(stream.try_clone().expect("a descriptor"));
    loop {
        let (mut request, mut authorized) = (String::new(), false);
        if !lines.read_line(&mut request).is_ok_and(|length| length > 0) {
            return;
        }
        let mut line = String::new();
        while lines.read_line(&mut line).is_ok_and(|length| length > 2) {
            authorized |= line.to_ascii_lowercase().trim() == format!("authorization: bearer {TOKEN}");
            line.clear();
        }
        let target = request.split(' ').nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let parameter = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
        };
        let mut state = lock(state);
        let resource = RESOURCES.into_iter().find(|resource| path.ends_with(&format!("/{resource}")));
        let refused = resource.and_then(|resource| state.refused.get(resource).copied());
        let code = match (authorized, resource, refused) {
            (false, ..) => 401,
            (_, None, _) => 404,
            (_, _, Some(code)) => code,
            _ => 200,
        };
        let Some(resource) = resource.filter(|_| code == 200) else {
            answer(&mut stream, code, &status(code));
            continue;
        };
        if parameter("watch").is_none() {
            *state.lists.entry(resource).or_default() += 1;
            let items: Vec<&Value> = state.objects.get(resource).into_iter().flat_map(BTreeMap::values).collect();
            let list = json!({"kind": "List", "apiVersion": "v1",
                "metadata": {"resourceVersion": state.version.to_string()}, "items": items});
            answer(&mut stream, 200, &list);
            continue;
        }
        let since: u64 = parameter("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
        if since < state.oldest {
            answer(&mut stream, 410, &status(410));
            continue;
        }
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut began = stream.write_all(head.as_bytes()).is_ok();
        for (_, _, event) in state.log.iter().filter(|(version, of, _)| *version > since && *of == resource) {
            began &= write_chunk(&mut stream, event).is_ok();
        }
        if began {
            state.watches.push((resource, stream));
        }
        return;
    }
}

fn answer(stream: &mut TcpStream, code: u16, body: &Value) {
    let body = body.to_string();
    let head =
        format!("HTTP/1.1 {code} Word\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
}
