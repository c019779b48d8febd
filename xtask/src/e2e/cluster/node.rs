//! Nodes: a kubelet, containerd and runc in namespaces of their own, and on control planes a kube-apiserver. What a node
//! has made on the machine goes with it, however it ends.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::network::{self, Network};
use crate::interrupt;

/// What runs inside of a node.
const SCRIPT: &str = include_str!("node.sh");
/// A node is ready within this time, images imported; usually within 15 s.
const PATIENCE: Duration = Duration::from_secs(180);
/// The Service `kubernetes`.
const SERVICE_IP: &str = "10.96.0.1";
const SERVICE_CIDR: &str = "10.96.0.0/16";
/// Hierarchies of cgroup v1 that a node gets its own groups in.
const CONTROLLERS: [&str; 8] = ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids"];

/// What a node does in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// etcd, controller manager, scheduler and an API server.
    First,
    /// An API server of its own, with the first one's etcd.
    ControlPlane,
    /// Pods only.
    Worker,
}

impl Role {
    const fn word(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::ControlPlane => "control-plane",
            Self::Worker => "worker",
        }
    }
}

/// How nodes are made: the same for all of one cluster.
pub struct Kind {
    /// Folder with the programs of Kubernetes.
    pub binaries: PathBuf,
    /// Archives of images that each node has.
    pub images: Vec<PathBuf>,
    /// Those that only control planes have.
    pub control_plane_images: Vec<PathBuf>,
    /// Name of the image that holds a pod's namespaces.
    pub pause: String,
    /// Name of the image of kube-apiserver.
    pub api_server: String,
}

/// A node that runs. Dropping it ends all of its processes and takes away what it made.
pub struct Node {
    /// Its name in the cluster.
    pub name: String,
    /// Its address.
    pub ip: String,
    state: PathBuf,
    groups: Vec<PathBuf>,
    anchor: Child,
}

impl Node {
    /// Starts a node and waits until it is ready. `first` is the cluster's first node, for all others.
    pub fn start(
        kind: &Kind,
        network: &Network,
        folder: &Path,
        name: &str,
        host: u8,
        role: Role,
        first: Option<&Self>,
    ) -> Result<Self> {
        let state = folder.join(name);
        fs::create_dir_all(state.join("pki")).with_context(|| format!("cannot create {}", state.display()))?;
        let ip = network::address(host);
        network.add_node(name, host)?;
        let first_ip = first.map_or(ip.clone(), |node| node.ip.clone());
        let api_ip = if role == Role::Worker { first_ip.clone() } else { ip.clone() };
        if let Some(first) = first {
            copy_certificates(&first.state.join("pki"), &state.join("pki"), role)?;
        }
        let script = state.join("node.sh");
        fs::write(&script, SCRIPT).context("cannot write node.sh")?;
        let namespace = network.namespace(name);
        let groups = Groups::make(&namespace)?;
        let mut images = kind.images.clone();
        if role != Role::Worker {
            images.extend(kind.control_plane_images.iter().cloned());
        }
        let images = images.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ");
        // The first unshare only forks: its end ends the node. Its child joins the groups; ip netns exec gives a /sys of
        // its own; the second unshare adds the rest. Process ids stay the machine's: those that eBPF reports.
        let enter = "for group in $GROUPS_OF_NODE; do echo $$ > $group/cgroup.procs || exit 1; done
                     exec ip netns exec \"$1\" unshare --mount --propagation private --fork --kill-child --uts --ipc --cgroup bash \"$2\"";
        let log = File::create(state.join("node.log")).context("cannot write node.log")?;
        let mut anchor = Command::new("unshare");
        anchor.args(["--fork", "--kill-child", "bash", "-c", enter, "node", &namespace]).arg(&script);
        anchor
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("STATE", &state)
            .env("BINARIES", &kind.binaries);
        anchor.env(
            "GROUPS_OF_NODE",
            groups.paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" "),
        );
        anchor.envs([("ROLE", role.word()), ("NAME", name), ("IP", &ip), ("FIRST_IP", &first_ip), ("API_IP", &api_ip)]);
        anchor.envs([("POD_CIDR", network::pods(host).as_str()), ("CGROUP", groups.version), ("IMAGES", &images)]);
        anchor.envs([("PAUSE_IMAGE", kind.pause.as_str()), ("API_IMAGE", &kind.api_server)]);
        anchor.envs([("SERVICE_IP", SERVICE_IP), ("SERVICE_CIDR", SERVICE_CIDR)]);
        anchor.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let anchor = anchor.spawn().context("cannot start unshare")?;
        let mut node = Self { name: name.to_owned(), ip, state, groups: groups.paths, anchor };
        let ready = interrupt::wait_for(&format!("node {name} ready"), PATIENCE, || node.is_ready());
        ready.with_context(|| format!("node {name}; its last steps: {}", node.last_steps()))?;
        Ok(node)
    }

    /// Whether it is ready; an error once it has given up.
    fn is_ready(&mut self) -> Result<Option<()>> {
        if let Ok(reason) = fs::read_to_string(self.state.join("failed")) {
            bail!("{}", reason.trim());
        }
        if let Some(status) = self.anchor.try_wait().context("cannot wait for the node")? {
            let log = fs::read_to_string(self.state.join("node.log")).unwrap_or_default();
            bail!("the node ended: {status}: {}", log.trim());
        }
        Ok(self.state.join("ready").exists().then_some(()))
    }

    fn last_steps(&self) -> String {
        let timeline = fs::read_to_string(self.state.join("timeline")).unwrap_or_default();
        let steps: Vec<&str> = timeline.lines().filter_map(|line| line.split_once(' ')).map(|(_, what)| what).collect();
        if steps.is_empty() { "none".to_owned() } else { steps.join(", ") }
    }

    /// The folder with its files; its logs are in `log` there.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// A command inside of the node: its files, network, processes and groups, and the cluster's administrator.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        let first = fs::read_to_string(self.state.join("node.pid")).unwrap_or_default();
        command.args(["--target", first.trim(), "--mount", "--net", "--uts", "--ipc", "--cgroup", "--"]);
        command.args(["env", "HOME=/run/home", "KUBECONFIG=/etc/kubernetes/admin.conf"]);
        command.arg("PATH=/run/binaries:/usr/sbin:/usr/bin:/sbin:/bin").arg(program).stdin(Stdio::null());
        command
    }

    /// What a command inside of the node prints; fails with what it says.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self.output(program, arguments)?;
        ensure!(
            output.status.success(),
            "{program} {}: {}\n{}{}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// How a command inside of the node ends.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        interrupt::check()?;
        self.command(program).args(arguments).output().with_context(|| format!("cannot start {program}"))
    }

    /// `kubectl`, as the cluster's administrator.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.run("kubectl", arguments)
    }

    /// `kubectl apply`, of this text.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        let mut kubectl = self.command("kubectl");
        kubectl.args(["apply", "--filename", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = kubectl.spawn().context("cannot start kubectl")?;
        child.stdin.take().context("kubectl takes no input")?.write_all(manifest.as_bytes())?;
        let output = child.wait_with_output().context("cannot wait for kubectl")?;
        ensure!(output.status.success(), "kubectl apply: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        end(&self.groups);
        // Its child is in one of the groups; with it the anchor goes. Where the kernel has no cgroup.kill, this ends it.
        let gone_by = Instant::now() + Duration::from_secs(10);
        while Instant::now() < gone_by && matches!(self.anchor.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(50));
        }
        let _ = self.anchor.kill();
        let _ = self.anchor.wait();
        remove(&self.groups);
    }
}

/// The groups of a node: below the caller's own in each hierarchy, so that its limits hold for the node too.
struct Groups {
    version: &'static str,
    paths: Vec<PathBuf>,
}

impl Groups {
    fn make(name: &str) -> Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").context("cannot read /proc/self/cgroup")?;
        let group_in = |hierarchy: &str| {
            own.lines().find_map(|line| {
                let (_, rest) = line.split_once(':')?;
                let (controllers, path) = rest.split_once(':')?;
                (controllers == hierarchy).then(|| path.trim_matches('/').to_owned())
            })
        };
        let root = Path::new("/sys/fs/cgroup");
        let unified = root.join("cgroup.controllers").exists();
        let mut paths = Vec::new();
        if unified {
            paths.push(root.join(group_in("").unwrap_or_default()).join(name));
        } else {
            for controller in CONTROLLERS.iter().copied().chain(["systemd", "unified"]) {
                let hierarchy = match controller {
                    "systemd" => "name=systemd",
                    "unified" => "",
                    controller => controller,
                };
                let mount = root.join(controller);
                if mount.is_dir() {
                    paths.push(mount.join(group_in(hierarchy).unwrap_or_default()).join(name));
                }
            }
        }
        for path in &paths {
            fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
            // A new group of this hierarchy may run nowhere until it is told where.
            for file in ["cpuset.cpus", "cpuset.mems"].iter().filter(|file| !unified && path.join(file).exists()) {
                let parent = path.parent().unwrap_or(path).join(file);
                fs::write(path.join(file), fs::read(&parent)?).with_context(|| format!("cannot set {file}"))?;
            }
            if !unified && path.join("cgroup.clone_children").exists() {
                fs::write(path.join("cgroup.clone_children"), "1").context("cannot set cgroup.clone_children")?;
            }
        }
        Ok(Self { version: if unified { "v2" } else { "v1" }, paths })
    }
}

/// The groups whose names begin so, in any hierarchy: those of a run that was killed.
pub fn groups_of(prefix: &str) -> Vec<PathBuf> {
    fn look(folder: &Path, prefix: &str, depth: u32, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = entry.file_name();
            if name.to_string_lossy().strip_prefix(prefix).is_some_and(|rest| rest.starts_with('-')) {
                found.push(entry.path());
            } else if depth > 0 {
                look(&entry.path(), prefix, depth - 1, found);
            }
        }
    }
    let mut found = Vec::new();
    // A hierarchy, and the groups that this kind of machine may put its users' processes into.
    look(Path::new("/sys/fs/cgroup"), prefix, 5, &mut found);
    found
}

/// Ends every process in these groups and below.
pub fn end(groups: &[PathBuf]) {
    for kill in groups.iter().map(|group| group.join("cgroup.kill")).filter(|kill| kill.exists()) {
        let _ = fs::write(kill, "1");
    }
}

/// Removes these groups and those below; the last process leaves a moment after it is killed.
pub fn remove(groups: &[PathBuf]) {
    for group in groups {
        for _ in 0..50 {
            remove_below(group);
            if !group.exists() {
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

fn remove_below(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_below(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

/// What a further node has of the first one's: the authorities that sign its own certificates, and on a control plane
/// what its API server shows to etcd, kubelets and extensions.
fn copy_certificates(from: &Path, to: &Path, role: Role) -> Result<()> {
    let authorities = ["ca.crt", "ca.key"];
    let control_plane = [
        "etcd/ca.crt",
        "front-proxy-ca.crt",
        "front-proxy-client.crt",
        "front-proxy-client.key",
        "apiserver-etcd-client.crt",
        "apiserver-etcd-client.key",
        "apiserver-kubelet-client.crt",
        "apiserver-kubelet-client.key",
        "sa.key",
        "sa.pub",
    ];
    fs::create_dir_all(to.join("etcd")).context("cannot create a folder for certificates")?;
    let more = control_plane.iter().filter(|_| role == Role::ControlPlane);
    for file in authorities.iter().chain(more) {
        fs::copy(from.join(file), to.join(file)).with_context(|| format!("cannot copy {file}"))?;
    }
    Ok(())
}
