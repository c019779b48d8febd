//! The walk through hardening: closes real API servers step by step, and writes docs/hardening.md from what was seen.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::lab::Host;
use crate::lab::network::{self, CONTROL_PLANE};
use crate::terminal::Steps;
use crate::workspace;

use super::binaries::{CURRENT, OLD};

mod walk;

use walk::{Act, Walk};

/// Where the page goes.
const PAGE: &str = "docs/hardening.md";

/// Runs the walk with this monitor.
pub fn run(binary: &Path) -> Result<()> {
    let mut steps = Steps::new("hardening", 6)?;
    let mut walk = steps.within("network namespaces, credentials, etcd", || Walk::new(binary))?;
    walk.say(INTRODUCTION);
    steps.within("anonymous requests: everybody, nobody, the health paths only", || anonymous(&mut walk))?;
    steps.within("the insecure port of 1.19, and kubectl proxy", || insecure(&mut walk))?;
    steps.within("requests by hand", || by_hand(&mut walk))?;
    steps.within("from outside: a NodePort, a name in the hosts file", || outside(&mut walk))?;
    steps.within("NodeRestriction with a kubelet's credential", || node_restriction(&mut walk))?;
    let page = walk.end()?;
    let path = workspace::root().join(PAGE);
    fs::create_dir_all(path.parent().context("the page is in a folder")?).context("cannot create docs")?;
    fs::write(&path, format!("{}\n", page.trim())).with_context(|| format!("cannot write {PAGE}"))?;
    println!("{PAGE} is written");
    Ok(())
}

const INTRODUCTION: &str = "# Closing an API server, step by step\n\n\
    What an operator does, on real API servers, and what the monitor showed before and after each step. \
    `cargo xtask e2e hardening` has written this page while it did all of it, and fails when anything is not as it says \
    here. The control plane is 192.168.56.10, a worker is 192.168.56.11, the outside host is 203.0.113.7; times and \
    clients' ports are left out.";

/// curl, which also tells the status and its port.
fn curl<'a>(host: Host, shown: &'a str, says: &'a str) -> Act<'a> {
    let mut words: Vec<String> =
        ["curl", "-sS", "--max-time", "20", "-w", "\n::%{http_code} %{local_port}"].map(str::to_owned).into();
    words.extend(shown.split(' ').skip(1).map(str::to_owned));
    Act { host, shown, words, says }
}

/// kubectl with a kubeconfig of the lab.
fn kubectl<'a>(walk: &Walk, host: Host, shown: &'a str, says: &'a str) -> Act<'a> {
    let mut words = vec![walk.control.kubectl_path().display().to_string()];
    words.extend(shown.split(' ').skip(1).map(str::to_owned));
    Act { host, shown, words, says }
}

fn anonymous(walk: &mut Walk) -> Result<()> {
    walk.say("## 1. Anonymous requests");
    walk.say(
        "A default API server (1.37.2) takes who shows no credential for `system:anonymous`. That user may read health and \
         version, and is otherwise refused by authorization (403), as long as nobody has bound more to it.",
    );
    walk.server(CURRENT, &[])?;
    walk.act(&curl(Host::ControlPlane, "curl -k https://127.0.0.1:6443/api/v1/namespaces", "403"))?;
    walk.act(&curl(Host::Outside, "curl -k https://192.168.56.10:6443/api/v1/namespaces", "403"))?;
    walk.act(&curl(Host::ControlPlane, "curl -k -A kube-probe/1.37 https://192.168.56.10:6443/livez", "200"))?;
    walk.shows(&[
        "203.0.113.7 client_certificate=absent first_request=anonymous",
        "external_source",
        "203.0.113.7 GET /api/v1/namespaces denied (probe)",
        "anonymous_requests_total source=\"public\" decision=\"denied\" evidence=\"audit\"",
    ])?;
    walk.finds(&["anonymous_auth_enabled"], &[])?;

    walk.say("### Nobody: `--anonymous-auth=false`");
    walk.say(
        "Who shows nothing is refused before authorization (401). So are the kubelet's liveness and readiness probes of the \
         API server's static pod, which show nothing either: the kubelet would restart it again and again. They need \
         another way then, such as a probe command with a credential.",
    );
    walk.server(CURRENT, &["--anonymous-auth=false"])?;
    walk.act(&curl(Host::Outside, "curl -k https://192.168.56.10:6443/api/v1/namespaces", "401"))?;
    walk.act(&curl(Host::ControlPlane, "curl -k -A kube-probe/1.37 https://192.168.56.10:6443/livez", "401"))?;
    walk.shows(&[
        "203.0.113.7 client_certificate=absent first_request=refused",
        "unauthenticated_responses_total source=\"public\"",
    ])?;
    walk.finds(&[], &["anonymous_auth_enabled", "anonymous_conditions"])?;

    walk.say("### The health paths only: conditions");
    walk.say(
        "From 1.34 on (1.31 behind a feature gate) an AuthenticationConfiguration lets anonymous requests in for named paths: the kubelet's probes work, \
         everything else is refused. This is the setting to have.\n```yaml\napiVersion: apiserver.config.k8s.io/v1\n\
         kind: AuthenticationConfiguration\nanonymous:\n  enabled: true\n  conditions:\n  - path: /livez\n  - path: /readyz\n  - path: /healthz\n```",
    );
    let file = walk.control.lab.directory().join("conditions.yaml");
    walk.server(CURRENT, &[&format!("--authentication-config={}", file.display())])?;
    walk.act(&curl(Host::Outside, "curl -k https://192.168.56.10:6443/api/v1/namespaces", "401"))?;
    walk.act(&curl(Host::ControlPlane, "curl -k -A kube-probe/1.37 https://192.168.56.10:6443/livez", "200"))?;
    walk.shows(&["203.0.113.7 first_request=refused", "192.168.56.10 first_request=anonymous"])?;
    walk.finds(&["anonymous_conditions"], &["anonymous_auth_enabled"])
}

fn insecure(walk: &mut Walk) -> Result<()> {
    walk.say("## 2. The API in the clear");
    walk.say(
        "### The insecure port\n\nUntil 1.19 the API server could serve without TLS, authentication and authorization (here 1.19.16 with \
         `--insecure-port=8080 --insecure-bind-address=0.0.0.0`): everybody is `system:masters`, and everything can be read \
         on the way. Admission is still there.",
    );
    walk.server(OLD, &["--insecure-port=8080", "--insecure-bind-address=0.0.0.0"])?;
    walk.act(&curl(Host::Outside, "curl http://192.168.56.10:8080/api/v1/namespaces/kube-system/secrets", "200"))?;
    walk.act(&curl(
        Host::Outside,
        "curl -d @pod.json -H Content-Type:application/json http://192.168.56.10:8080/api/v1/namespaces/default/pods",
        "403 pods \"miner\" is forbidden: error looking up service account",
    ))?;
    walk.shows(&["203.0.113.7 plaintext_api", "203.0.113.7 GET secrets 200", "203.0.113.7 POST pods 403"])?;
    walk.finds(&["insecure_port"], &[])?;

    walk.say("### Closed: `--insecure-port=0`");
    walk.server(OLD, &["--insecure-port=0"])?;
    walk.act(&curl(Host::Outside, "curl http://192.168.56.10:8080/api", "Couldn't connect"))?;
    walk.shows(&[])?;
    walk.finds(&[], &["insecure_port"])?;

    walk.say(
        "### `kubectl proxy` does the same\n\nLater releases have no insecure port, but `kubectl proxy` on an address that \
         others reach lends everybody the credential that it runs with.",
    );
    walk.server(CURRENT, &[])?;
    let mut proxy = walk.control.kubectl(Host::ControlPlane, "admin.kubeconfig");
    proxy.args(["proxy", "--port=8080", "--address=0.0.0.0", "--accept-hosts=.*"]);
    let process = walk.control.lab.start("kubectl-proxy", &mut proxy)?;
    network::wait_until_listening(&mut walk.control.lab, "kubectl-proxy", process, &[8080])?;
    walk.say("On control-plane:\n```console\n$ kubectl proxy --port=8080 --address=0.0.0.0 --accept-hosts='.*'\n```");
    walk.act(&curl(Host::Outside, "curl http://192.168.56.10:8080/api/v1/namespaces/kube-system/secrets", "200"))?;
    walk.shows(&["203.0.113.7 plaintext_api", "203.0.113.7 GET secrets 200"])?;
    walk.finds(&["kubectl_proxy_exposed"], &[])?;
    walk.control.lab.stop("kubectl-proxy")
}

fn by_hand(walk: &mut Walk) -> Result<()> {
    walk.say("## 3. Requests by hand");
    walk.say(
        "With the cluster's CA alone the server is trusted, and the client is still nobody; with the client certificate and \
         key out of a kubeconfig (`kubectl config view --raw`, decoded) it is that user.",
    );
    walk.act(&curl(
        Host::Worker,
        "curl --cacert ca.crt https://192.168.56.10:6443/api/v1/namespaces/kube-system/secrets",
        "403",
    ))?;
    walk.act(&curl(
        Host::Worker,
        "curl --cacert ca.crt --cert admin.crt --key admin.key https://192.168.56.10:6443/api/v1/namespaces/kube-system/secrets",
        "200 SecretList",
    ))?;
    walk.shows(&[
        "192.168.56.11 client_certificate=absent first_request=anonymous",
        "192.168.56.11 client_certificate=presented",
    ])
}

fn outside(walk: &mut Walk) -> Result<()> {
    walk.say("## 4. From outside");
    walk.say(
        "`--kubernetes-service-node-port=31443` makes the `kubernetes` Service a NodePort: every node forwards that port to \
         the API server (here a redirection in the kernel stands for kube-proxy). The control plane has the public address \
         198.51.100.10 beside its own.",
    );
    walk.server(CURRENT, &["--kubernetes-service-node-port=31443"])?;
    let namespace = walk.control.lab.namespace(Host::ControlPlane);
    network::ip(&["-n", &namespace, "address", "replace", "198.51.100.10/32", "dev", "eth0"])?;
    let router = walk.control.lab.namespace(Host::Router);
    network::ip(&["-n", &router, "route", "replace", "198.51.100.10/32", "via", CONTROL_PLANE])?;
    redirect(walk, "-A")?;
    walk.act(&curl(Host::Outside, "curl -k https://198.51.100.10:31443/version", "200"))?;
    walk.shows(&["203.0.113.7 31443 node_port", "external_source"])?;
    walk.finds(&["kubernetes_service_node_port"], &[])?;
    walk.say(
        "A kubeconfig with that address fails: the server's certificate does not name it, so the client hangs up. That is \
         no protection: the certificate names `kubernetes`, and a line in the client's own hosts file makes that name this \
         address.",
    );
    let shown = "kubectl --kubeconfig admin.kubeconfig --server https://198.51.100.10:31443 get --raw /version";
    let act = kubectl(walk, Host::Outside, shown, "certificate is valid for");
    walk.act(&act)?;
    walk.shows(&["203.0.113.7 31443 rejected_by_client"])?;
    let shown = "curl --cacert ca.crt --cert admin.crt --key admin.key --resolve kubernetes:31443:198.51.100.10 https://kubernetes:31443/version";
    walk.act(&curl(Host::Outside, shown, "200"))?;
    walk.shows(&["203.0.113.7 31443 sni=kubernetes client_certificate=presented"])?;
    walk.say("### Closed again\n\nWithout the flag, and the Service a ClusterIP again, nothing listens there.");
    redirect(walk, "-D")?;
    walk.server(CURRENT, &[])?;
    walk.act(&curl(Host::Outside, "curl -k https://198.51.100.10:31443/version", "Couldn't connect"))?;
    walk.shows(&[])?;
    walk.finds(&[], &["kubernetes_service_node_port"])
}

/// What kube-proxy does for a NodePort: `-A` adds it, `-D` takes it away.
fn redirect(walk: &Walk, action: &str) -> Result<()> {
    let mut iptables = walk.control.lab.command(Host::ControlPlane, "iptables");
    iptables.args(["-t", "nat", action, "PREROUTING", "-p", "tcp", "--dport", "31443"]);
    iptables.args(["-j", "REDIRECT", "--to-ports", "6443"]);
    super::control_plane::output(&mut iptables).map(drop)
}

fn node_restriction(walk: &mut Walk) -> Result<()> {
    walk.say("## 5. NodeRestriction");
    walk.say(
        "A kubelet's credential (`system:node:worker`) is on every node. With the admission plugin NodeRestriction it may \
         change its own Node only, and no label that the cluster trusts.",
    );
    nodes(walk)?;
    walk.say("```console\n$ export KUBECONFIG=kubelet.kubeconfig\n```");
    for (shown, says) in KUBELET {
        let mut act = kubectl(walk, Host::Worker, shown, says);
        act.words.push("--kubeconfig=kubelet.kubeconfig".to_owned());
        walk.act(&act)?;
    }
    walk.act(&curl(
        Host::Worker,
        OTHER_NODE,
        "403 nodes \"other\" is forbidden: node \"worker\" is not allowed to modify node",
    ))?;
    walk.shows(&["node_restriction_refused_total nodes"])?;
    walk.finds(&[], &["node_restriction_missing"])?;

    walk.say("### A server without the plugin\n\nThe same credential labels what it likes.");
    walk.server(CURRENT, &["--enable-admission-plugins=NamespaceLifecycle"])?;
    nodes(walk)?;
    let shown = "kubectl label node worker node-restriction.kubernetes.io/trusted=yes";
    let mut act = kubectl(walk, Host::Worker, shown, "labeled");
    act.words.push("--kubeconfig=kubelet.kubeconfig".to_owned());
    walk.act(&act)?;
    walk.act(&curl(Host::Worker, OTHER_NODE, "200 Node"))?;
    walk.shows(&["192.168.56.11 client_certificate=presented"])?;
    walk.finds(&["node_restriction_missing"], &[])
}

/// What the kubelet's credential is tried on, and the answer.
const KUBELET: [(&str, &str); 4] = [
    ("kubectl get namespaces", "Forbidden"),
    ("kubectl get node worker -o name", "node/worker"),
    ("kubectl label node worker zone=a", "node/worker labeled"),
    ("kubectl label node worker node-restriction.kubernetes.io/trusted=yes", "is not allowed to modify labels"),
];

/// A label for another node. kubectl would read that node first, which the Node authorizer refuses already.
const OTHER_NODE: &str = "curl --cacert ca.crt --cert kubelet.crt --key kubelet.key -X PATCH \
                          -H Content-Type:application/merge-patch+json -d {\"metadata\":{\"labels\":{\"zone\":\"a\"}}} \
                          https://192.168.56.10:6443/api/v1/nodes/other";

/// Two nodes, made by the administrator.
fn nodes(walk: &mut Walk) -> Result<()> {
    for name in ["worker", "other"] {
        let node = format!("{{\"apiVersion\":\"v1\",\"kind\":\"Node\",\"metadata\":{{\"name\":\"{name}\"}}}}");
        walk.control.write("node.json", &node)?;
        let mut create = walk.control.kubectl(Host::ControlPlane, "admin.kubeconfig");
        super::control_plane::output(create.args(["create", "--validate=false", "-f", "node.json"]))?;
    }
    Ok(())
}
