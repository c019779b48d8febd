//! A real API server on the lab's control plane: etcd, credentials, the server itself with the flags that a suite gives.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::lab::network::{self, CONTROL_PLANE, OUTSIDE};
use crate::lab::{Host, Lab};
use crate::workspace;

use super::{binaries, credentials};

/// Where the API server serves.
pub const SECURE: u16 = 6443;
/// Its port in the clear, where a release has it.
pub const INSECURE: u16 = 8080;
/// How long a server may take until it is ready, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Addresses of clients, by what the monitor has to take them for; all of them are the outside host's.
pub const POD_NETWORK: &str = "10.244.0.0/16";
/// Addresses of the operator's own machines.
pub const TRUSTED_NETWORK: &str = "10.9.9.0/24";

/// The lab with etcd and credentials; servers come and go.
pub struct ControlPlane {
    /// Hosts and processes.
    pub lab: Lab,
    kubectl: PathBuf,
    servers: usize,
    audit: PathBuf,
}

/// How an API server is started.
#[derive(Clone, Debug)]
pub struct Server<'a> {
    /// The release.
    pub version: &'static str,
    /// Flags beside those that every server of the lab has; one of the same name replaces it.
    pub flags: &'a [String],
}

impl ControlPlane {
    /// Makes the hosts, the credentials and etcd.
    pub fn new() -> Result<Self> {
        let kubectl = binaries::kubernetes(binaries::CURRENT, &["kubectl"])?.join("kubectl");
        let mut lab = Lab::new()?;
        for file in [
            "certificates.cnf",
            "clients/client.py",
            "clients/client.mjs",
            "clients/load.mjs",
            "clients/rate.mjs",
            "clients/Client.java",
        ] {
            let from = workspace::root().join("lab").join(file);
            let name = Path::new(file).file_name().context("a file has a name")?;
            fs::copy(&from, lab.directory().join(name)).with_context(|| format!("cannot copy {}", from.display()))?;
        }
        credentials::make(lab.directory())?;
        for (name, text) in [("audit-policy.yaml", AUDIT_POLICY), ("conditions.yaml", CONDITIONS), ("pod.json", POD)] {
            fs::write(lab.directory().join(name), text).with_context(|| format!("cannot write {name}"))?;
        }
        // All of the clients' networks are behind the outside host.
        let router = lab.namespace(Host::Router);
        for prefix in [POD_NETWORK, TRUSTED_NETWORK, "10.60.0.0/16", "198.51.100.0/24"] {
            network::ip(&["-n", &router, "route", "add", prefix, "via", OUTSIDE])?;
        }
        let mut etcd = lab.command(Host::ControlPlane, "etcd");
        etcd.args(["--data-dir", "etcd", "--listen-client-urls", "http://127.0.0.1:2379"]);
        etcd.args(["--advertise-client-urls", "http://127.0.0.1:2379", "--listen-peer-urls", "http://127.0.0.1:2380"]);
        // Nothing here has to outlive the lab.
        etcd.args(["--initial-advertise-peer-urls", "http://127.0.0.1:2380", "--initial-cluster"]);
        etcd.args(["default=http://127.0.0.1:2380", "--unsafe-no-fsync"]);
        let process = lab.start("etcd", &mut etcd)?;
        network::wait_until_listening(&mut lab, "etcd", process, &[2379])?;
        let audit = lab.directory().join("none");
        Ok(Self { lab, kubectl, servers: 0, audit })
    }

    /// Starts an API server with an empty store and waits until it is ready; gives its process.
    pub fn start(&mut self, server: &Server<'_>) -> Result<u32> {
        let built = binaries::kubernetes(server.version, &["kube-apiserver"])?.join("kube-apiserver");
        self.servers += 1;
        let folder = self.lab.directory().join(format!("server-{}", self.servers));
        fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        // A file of its own: no other server on this machine runs it.
        let program = folder.join("kube-apiserver");
        fs::copy(&built, &program).with_context(|| format!("cannot copy {}", built.display()))?;
        self.audit = folder.join("audit.log");
        let mut flags: Vec<String> = FLAGS.iter().map(|flag| (*flag).to_owned()).collect();
        flags.push(format!("--etcd-prefix=/server-{}", self.servers));
        flags.push(format!("--advertise-address={CONTROL_PLANE}"));
        flags.push(format!("--audit-log-path={}", self.audit.display()));
        for flag in server.flags {
            let name = flag.split('=').next().unwrap_or(flag);
            flags.retain(|other| other.split('=').next() != Some(name));
            flags.push(flag.clone());
        }
        let mut command = self.lab.command(Host::ControlPlane, &program);
        command.args(flags);
        let process = self.lab.start("kube-apiserver", &mut command)?;
        let ready = ["--cert", "admin.crt", "--key", "admin.key", "https://127.0.0.1:6443/readyz"];
        self.lab.wait_for_within("kube-apiserver", "the API server being ready", PATIENCE, |lab| {
            let mut curl = lab.command(Host::ControlPlane, "curl");
            curl.args(["--silent", "--fail", "--max-time", "5", "--cacert", "ca.crt"]).args(ready);
            Ok(curl.output().context("cannot start curl")?.status.success().then_some(()))
        })?;
        Ok(process)
    }

    /// Ends the API server.
    pub fn stop(&mut self) -> Result<()> {
        self.lab.stop("kube-apiserver")
    }

    /// The audit log of the server that was started last.
    pub fn audit_log(&self) -> &Path {
        &self.audit
    }

    /// `kubectl` on a host with a kubeconfig of the lab.
    pub fn kubectl(&self, host: Host, kubeconfig: &str) -> Command {
        let mut command = self.lab.command(host, &self.kubectl);
        // No cache of its own, and no home: nothing of the machine's user.
        command.env("HOME", self.lab.directory()).env("KUBECONFIG", self.lab.directory().join(kubeconfig));
        command
    }

    /// The kubectl that clients use.
    pub fn kubectl_path(&self) -> &Path {
        &self.kubectl
    }

    /// Writes kubeconfigs for each credential, and makes the service account, its token and the bootstrap token.
    pub fn credentials(&self) -> Result<()> {
        let server = format!("https://{CONTROL_PLANE}:{SECURE}");
        for (name, user) in [
            ("admin", "{client-certificate: admin.crt, client-key: admin.key}".to_owned()),
            ("certificate", "{client-certificate: client.crt, client-key: client.key}".to_owned()),
            ("expired", "{client-certificate: expired.crt, client-key: expired.key}".to_owned()),
            ("kubelet", "{client-certificate: kubelet.crt, client-key: kubelet.key}".to_owned()),
            ("static", format!("{{token: {}}}", credentials::STATIC_TOKEN)),
            ("wrong", format!("{{token: {}}}", credentials::WRONG_TOKEN)),
            ("bootstrap", format!("{{token: {}}}", credentials::BOOTSTRAP_TOKEN)),
            ("basic", "{username: somebody, password: secret}".to_owned()),
            ("none", "{}".to_owned()),
        ] {
            self.write(&format!("{name}.kubeconfig"), &credentials::kubeconfig(&server, &user))?;
        }
        let admin = || self.kubectl(Host::ControlPlane, "admin.kubeconfig");
        output(admin().args(["create", "--validate=false", "serviceaccount", "e2e"]))?;
        self.write("bootstrap.yaml", BOOTSTRAP)?;
        output(admin().args(["create", "--validate=false", "-f", "bootstrap.yaml"]))?;
        self.write("token-request.json", TOKEN_REQUEST)?;
        let path = "/api/v1/namespaces/default/serviceaccounts/e2e/token";
        let answer = output(admin().args(["create", "--raw", path, "-f", "token-request.json"]))?;
        let answer: serde_json::Value = serde_json::from_slice(&answer.stdout).context("no TokenRequest in answer")?;
        let token = answer.pointer("/status/token").and_then(serde_json::Value::as_str);
        let token = token.context("the answer holds no token")?;
        self.write("service-account.token", token)?;
        self.write("service-account.kubeconfig", &credentials::kubeconfig(&server, &format!("{{token: {token}}}")))
    }

    /// Writes a file into the lab's folder.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.lab.directory().join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Runs a command to its end; fails with what it said.
pub fn output(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output)
}

/// What every server of the lab has; each release from 1.19 to the current one takes these.
const FLAGS: &[&str] = &[
    "--etcd-servers=http://127.0.0.1:2379",
    "--secure-port=6443",
    "--service-cluster-ip-range=10.96.0.0/16",
    "--tls-cert-file=server.crt",
    "--tls-private-key-file=server.key",
    "--client-ca-file=ca.crt",
    "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
    "--service-account-key-file=service-account.pub",
    "--service-account-signing-key-file=service-account.key",
    "--api-audiences=https://kubernetes.default.svc.cluster.local",
    "--token-auth-file=tokens.csv",
    "--enable-bootstrap-token-auth=true",
    "--authorization-mode=Node,RBAC",
    "--enable-admission-plugins=NodeRestriction",
    "--audit-policy-file=audit-policy.yaml",
    "--audit-log-maxsize=0",
    "--endpoint-reconciler-type=none",
];

/// Every request once, without bodies.
const AUDIT_POLICY: &str =
    "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- level: Metadata\n";

/// Anonymous for the health paths only.
const CONDITIONS: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\nanonymous:\n  \
                          enabled: true\n  conditions:\n  - path: /livez\n  - path: /readyz\n  - path: /healthz\n";

/// A pod that names no service account.
const POD: &str =
    r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"miner"},"spec":{"containers":[{"name":"a","image":"a"}]}}"#;

const TOKEN_REQUEST: &str = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{}}"#;

const BOOTSTRAP: &str = "apiVersion: v1\nkind: Secret\ntype: bootstrap.kubernetes.io/token\nmetadata:\n  \
                         name: bootstrap-token-e2etok\n  namespace: kube-system\nstringData:\n  token-id: e2etok\n  \
                         token-secret: 0123456789abcdef\n  usage-bootstrap-authentication: \"true\"\n";
