//! API servers among this node's processes, in other mount and pid namespaces too.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use monitor_common::closed_set;

use super::{NotProbed, Refusal};

/// Bytes of a command line that are looked at; an API server's has 2 to 4 kB.
const COMMAND_LINE: u64 = 64 << 10;

/// System users are below this (login.defs, `SYS_UID_MAX`).
const SYSTEM_USERS: u32 = 1_000;

/// API servers of one node that are followed at the most.
const SERVERS: usize = 32;

closed_set! {
    /// What runs the API server.
    Component {
        /// kube-apiserver itself.
        ApiServer = "kube_apiserver",
        /// A program that holds it among others: k3s, RKE2, MicroK8s.
        Embedded = "embedded",
    }
}

/// Which file a process runs. A file that was replaced is another one, under the same name too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Identity {
    /// Of an open file.
    ///
    /// # Errors
    /// The file is gone.
    pub fn of(file: &File) -> io::Result<Self> {
        Ok(Self::from(&file.metadata()?))
    }
}

impl From<&fs::Metadata> for Identity {
    fn from(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// A process that is an API server.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its process number.
    pub process: u32,
    /// What it is.
    pub component: Component,
    /// The path of its executable, as seen in its own mount namespace.
    pub executable: String,
    /// Where its executable can be opened from here, whatever its mount namespace and even when it was replaced.
    pub path: PathBuf,
    /// Which file that is; or why it cannot be told.
    pub identity: Result<Identity, Refusal>,
    /// Whether it was told of a file that can lay conditions on anonymous requests.
    pub authentication_configuration: bool,
    /// Where it serves, as seen from this node; `None` where its arguments do not say.
    pub endpoint: Option<SocketAddr>,
}

/// The API servers among the processes below `proc` (`/proc`), by process number.
///
/// # Errors
/// `proc` cannot be listed.
pub fn find(proc: &Path) -> io::Result<Vec<Server>> {
    let mut servers = Vec::new();
    for entry in fs::read_dir(proc)? {
        let Ok(entry) = entry else { continue };
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Processes come and go while they are listed: one that is gone is no error.
        if let Some(server) = look_at(&entry.path(), process) {
            servers.push(server);
        }
    }
    servers.sort_by_key(|server| server.process);
    servers.truncate(SERVERS);
    Ok(servers)
}

/// The process in this folder of `/proc`, if it is an API server.
fn look_at(folder: &Path, process: u32) -> Option<Server> {
    let arguments = command_line(folder)?;
    let path = folder.join("exe");
    let link = fs::read_link(&path).ok().map(|link| link.to_string_lossy().into_owned());
    let executable = link.as_deref().map(|link| link.strip_suffix(" (deleted)").unwrap_or(link));
    let component = component(executable, &arguments)?;
    let identity = fs::metadata(&path).map_err(|error| unreadable(&error));
    let identity = identity.and_then(|file| believed(folder, &file).map(|()| Identity::from(&file)));
    Some(Server {
        process,
        component,
        executable: executable.or(arguments.first().map(String::as_str)).unwrap_or_default().to_owned(),
        identity,
        path,
        authentication_configuration: argument(&arguments, "authentication-config").is_some(),
        endpoint: endpoint(component, &arguments),
    })
}

/// The command line of the process in this folder of `/proc`, the program's name first; `None` where it is gone.
pub(crate) fn command_line(folder: &Path) -> Option<Vec<String>> {
    let mut line = Vec::new();
    File::open(folder.join("cmdline")).ok()?.take(COMMAND_LINE).read_to_end(&mut line).ok()?;
    Some(arguments(&line))
}

/// Whether a process can be believed to be this node's API server. Any user may start a program of that name, and what
/// it makes up would be told as requests. So:
///
/// * its executable has to belong to root, and nobody else may write to it: neither an ordinary user's program nor one
///   out of a user's own container (there root is that user, which is seen from here);
/// * it has to run as root or as a system user (below 1000, login.defs `SYS_UID_MAX`), as kubeadm has it where the
///   control plane does not run as root (cmd/kubeadm/app/util/users, Kubernetes 1.37);
/// * it has to be in the network namespace that is watched, as static pods with `hostNetwork` are: API servers of other
///   clusters that are hosted in pods are none of this node, and a pod's root may start what it likes.
fn believed(folder: &Path, executable: &fs::Metadata) -> Result<(), Refusal> {
    let status = fs::read_to_string(folder.join("status")).map_err(|error| unreadable(&error))?;
    let user = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok());
    let network = |folder: &Path| fs::read_link(folder.join("ns/net")).map_err(|error| unreadable(&error));
    if network(folder)? != network(Path::new("/proc/self"))? {
        let words = "not this node's API server: it is in another network namespace than this monitor".to_owned();
        return Err(Refusal { reason: NotProbed::Elsewhere, words });
    }
    let words = doubt(executable.uid(), executable.mode(), user);
    words.map_or(Ok(()), |words| Err(Refusal { reason: NotProbed::NotBelieved, words }))
}

/// Why the process is not believed; by owner and mode of its executable, and its user.
fn doubt(owner: u32, mode: u32, user: Option<u32>) -> Option<String> {
    const NOT: &str = "not believed to be the API server:";
    if owner != 0 || mode & 0o022 != 0 {
        let mode = mode & 0o7777;
        return Some(format!("{NOT} others than root can change its executable (owner {owner}, mode {mode:o})"));
    }
    match user {
        None => Some(format!("{NOT} its user is not known")),
        Some(user) if user >= SYSTEM_USERS => {
            Some(format!("{NOT} user {user} runs it, who is neither root nor a system user"))
        }
        Some(_) => None,
    }
}

/// Why an executable cannot be opened, with the way out.
pub fn unreadable(error: &io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Refusal {
            reason: NotProbed::NotPermitted,
            words: "its executable cannot be opened: that needs CAP_SYS_PTRACE, and in a pod hostPID".to_owned(),
        },
        _ => Refusal { reason: NotProbed::Failed, words: format!("its executable cannot be opened: {error}") },
    }
}

/// The value of an argument: `--name=value` or `--name value`; empty where it has none.
fn argument<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let Some(word) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else { continue };
        match word.split_once('=') {
            Some((key, value)) if key == name => return Some(value),
            None if word == name => return Some(rest.next().map_or("", String::as_str)),
            _ => {}
        }
    }
    None
}

/// Where an API server with these arguments serves (kube-apiserver's `--secure-port` and `--bind-address`, k3s'
/// `--https-listen-port`; MicroK8s has its own in a file, and 16443 is its default).
fn endpoint(component: Component, arguments: &[String]) -> Option<SocketAddr> {
    let kubelite = arguments.first().is_some_and(|first| first.ends_with("kubelite"));
    let port = match component {
        Component::ApiServer => argument(arguments, "secure-port").unwrap_or("6443"),
        Component::Embedded if kubelite => "16443",
        Component::Embedded => argument(arguments, "https-listen-port").unwrap_or("6443"),
    };
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let address: IpAddr = argument(arguments, "bind-address").unwrap_or("0.0.0.0").parse().ok()?;
    let address = if address.is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { address };
    Some(SocketAddr::new(address, port))
}

/// The arguments of a command line. A process that names itself anew leaves one text with spaces.
fn arguments(line: &[u8]) -> Vec<String> {
    let line = String::from_utf8_lossy(line);
    let line = line.trim_end_matches('\0');
    let separator = if line.contains('\0') { '\0' } else { ' ' };
    line.split(separator).map(str::to_owned).collect()
}

/// What a process is, by its executable and its arguments; `None`: no API server.
fn component(executable: Option<&str>, arguments: &[String]) -> Option<Component> {
    let base = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let names = [executable.map(base), arguments.first().map(|first| base(first))];
    let named = |wanted: &[&str]| names.iter().flatten().any(|name| wanted.contains(&name.as_str()));
    let command = arguments.get(1).map(String::as_str).unwrap_or_default();
    if named(&["kube-apiserver"]) || (named(&["hyperkube"]) && ["kube-apiserver", "apiserver"].contains(&command)) {
        return Some(Component::ApiServer);
    }
    let server = arguments.iter().skip(1).any(|argument| argument == "server");
    if (named(&["k3s", "k3s-server", "rke2"]) && server) || named(&["kubelite"]) {
        return Some(Component::Embedded);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_servers_are_told_by_executable_and_arguments() {
        let table: [(Option<&str>, &[u8], Option<Component>); 14] = [
            (
                Some("/usr/local/bin/kube-apiserver"),
                b"kube-apiserver\0--secure-port=6443\0",
                Some(Component::ApiServer),
            ),
            (Some("/go-runner"), b"/usr/local/bin/kube-apiserver\0", Some(Component::ApiServer)),
            (None, b"kube-apiserver\0", Some(Component::ApiServer)),
            (Some("/hyperkube"), b"/hyperkube\0kube-apiserver\0--v=2\0", Some(Component::ApiServer)),
            (Some("/hyperkube"), b"/hyperkube\0kubelet\0", None),
            (Some("/var/lib/rancher/k3s/data/0a/bin/k3s"), b"/usr/local/bin/k3s\0server\0", Some(Component::Embedded)),
            (
                Some("/var/lib/rancher/k3s/data/0a/bin/k3s"),
                b"/usr/local/bin/k3s server\0\0\0",
                Some(Component::Embedded),
            ),
            (Some("/var/lib/rancher/k3s/data/0a/bin/k3s"), b"/usr/local/bin/k3s\0agent\0", None),
            (Some("/usr/local/bin/rke2"), b"/usr/local/bin/rke2\0server\0", Some(Component::Embedded)),
            (Some("/snap/microk8s/1/kubelite"), b"/snap/microk8s/1/kubelite\0--x\0", Some(Component::Embedded)),
            (Some("/usr/bin/kubectl"), b"kubectl\0logs\0kube-apiserver\0", None),
            (Some("/usr/bin/vim"), b"vim\0/etc/kubernetes/manifests/kube-apiserver.yaml\0", None),
            (Some("/usr/bin/mc"), b"mc\0server\0", None),
            (None, b"", None),
        ];
        for (executable, line, expected) in table {
            let words = String::from_utf8_lossy(line);
            assert_eq!(component(executable, &arguments(line)), expected, "{executable:?} {words:?}");
        }
    }

    /// A folder like /proc/PID.
    fn process(proc: &Path, number: &str, line: &[u8], executable: &Path) {
        let folder = proc.join(number);
        fs::create_dir(&folder).expect("folder");
        fs::write(folder.join("cmdline"), line).expect("cmdline");
        std::os::unix::fs::symlink(executable, folder.join("exe")).expect("exe");
        fs::write(folder.join("status"), "Name:\tkube-apiserver\nUid:\t0\t0\t0\t0\n").expect("status");
        fs::create_dir(folder.join("ns")).expect("namespaces");
        let network = fs::read_link("/proc/self/ns/net").expect("our network namespace");
        std::os::unix::fs::symlink(network, folder.join("ns/net")).expect("network namespace");
    }

    #[test]
    fn what_any_user_may_have_started_is_not_believed() {
        assert_eq!(doubt(0, 0o100_755, Some(0)), None);
        assert_eq!(doubt(0, 0o100_555, Some(997)), None, "a control plane that does not run as root");
        let table = [
            (1_000, 0o755, Some(0), "owner 1000"),
            (0, 0o775, Some(0), "mode 775"),
            (0, 0o757, Some(0), "mode 757"),
            (0, 0o755, Some(1_000), "user 1000"),
            (0, 0o755, Some(65_534), "user 65534"),
            (0, 0o755, None, "not known"),
        ];
        for (owner, mode, user, word) in table {
            let words = doubt(owner, mode, user).expect("a doubt");
            assert!(words.contains(word), "{words}");
        }
    }

    #[test]
    fn where_it_serves_is_told_by_its_arguments() {
        let table: [(Component, &[u8], Option<&str>); 9] = [
            (Component::ApiServer, b"kube-apiserver\0--secure-port=16443\0", Some("127.0.0.1:16443")),
            (Component::ApiServer, b"kube-apiserver\0", Some("127.0.0.1:6443")),
            (Component::ApiServer, b"a\0--bind-address\x00192.0.2.1\0--secure-port\x00443\0", Some("192.0.2.1:443")),
            (Component::ApiServer, b"a\0--bind-address=::\0", Some("127.0.0.1:6443")),
            (Component::ApiServer, b"a\0--bind-address=::1\0", Some("[::1]:6443")),
            (Component::ApiServer, b"a\0--secure-port=0\0", None),
            (Component::ApiServer, b"a\0--secure-port\0", None),
            (Component::Embedded, b"k3s\0server\0--https-listen-port=7443\0", Some("127.0.0.1:7443")),
            (Component::Embedded, b"/snap/microk8s/1/kubelite\0", Some("127.0.0.1:16443")),
        ];
        for (component, line, expected) in table {
            let found = endpoint(component, &arguments(line)).map(|endpoint| endpoint.to_string());
            assert_eq!(found.as_deref(), expected, "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn processes_are_found_with_the_identity_of_their_file() {
        let folder = tempfile::tempdir().expect("folder");
        let (proc, binary) = (folder.path().join("proc"), folder.path().join("kube-apiserver"));
        fs::create_dir(&proc).expect("proc");
        fs::write(&binary, b"one").expect("binary");
        process(&proc, "12", b"kube-apiserver\0--authentication-config=/etc/authn.yaml\0", &binary);
        process(&proc, "7", b"kube-apiserver\0--secure-port=6443\0", &binary);
        process(&proc, "9", b"kube-apiserver\0", &folder.path().join("gone"));
        process(&proc, "8", b"kubelet\0", Path::new("/usr/bin/kubelet"));
        fs::create_dir(proc.join("sys")).expect("no process");
        let found = find(&proc).expect("listed");
        let numbers: Vec<u32> = found.iter().map(|server| server.process).collect();
        assert_eq!(numbers, [7, 9, 12]);
        let conditions: Vec<bool> = found.iter().map(|server| server.authentication_configuration).collect();
        assert_eq!(conditions, [false, false, true]);
        assert!(found[1].identity.as_ref().expect_err("gone").words.contains("cannot be opened"));
        if fs::metadata(&binary).expect("binary").uid() != 0 {
            assert_eq!(found[0].identity.as_ref().expect_err("ours").reason, NotProbed::NotBelieved);
            return;
        }
        assert_eq!(found[0].identity, found[2].identity);
        let opened = File::open(&found[0].path).expect("opened");
        assert_eq!(Ok(Identity::of(&opened).expect("identity")), found[0].identity);

        // In another network.
        let network = proc.join("12/ns/net");
        fs::remove_file(&network).expect("removed");
        std::os::unix::fs::symlink("net:[1]", &network).expect("another network namespace");
        let refusal = find(&proc).expect("listed")[2].identity.clone().expect_err("elsewhere");
        assert_eq!(refusal.reason, NotProbed::Elsewhere);

        // Replaced under the same name, as an upgrade does.
        let other = folder.path().join("other");
        fs::write(&other, b"two").expect("binary");
        fs::rename(&other, &binary).expect("replaced");
        assert_ne!(find(&proc).expect("listed")[0].identity, found[0].identity);
        assert!(find(&folder.path().join("none")).is_err());
    }
}
