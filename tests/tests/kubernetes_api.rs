//! What the Kubernetes API says reaches the kernel's tables while packets come by: against a stand-in for it.

#[path = "kubernetes_api/server.rs"]
mod server;

use std::cell::Cell;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use monitor_tests::daemon::{Daemon, Scrape, check, wait};
use monitor_tests::namespace::Namespace;
use monitor_tests::require_root;
use serde_json::{Value, json};
use server::{RESOURCES, Server, TOKEN};

const BINARY: &str = env!("CARGO_BIN_EXE_monitor");

/// Changes of the cluster reach the tables within this.
const LIMIT: Duration = Duration::from_secs(5);

const NODE: &str = "10.77.0.1";
const NODE_IPV6: &str = "fd00:77::1";

/// A node with an interface, the Kubernetes API on its loopback interface, and a host outside that has many addresses.
struct Lab {
    node: Namespace,
    outside: Namespace,
    folder: tempfile::TempDir,
    sent: Cell<u64>,
}

impl Lab {
    fn new() -> Self {
        require_root();
        let (node, outside) = (Namespace::new().expect("a namespace"), Namespace::new().expect("a namespace"));
        node.veth("watched", "far").expect("the lab works");
        node.give("far", &outside).expect("the lab works");
        node.ip(&format!("address add {NODE}/16 dev watched")).expect("the lab works");
        node.ip("route add default dev watched").expect("the lab works");
        node.ip(&format!("address add {NODE_IPV6}/64 dev watched nodad")).expect("the lab works");
        node.ip("-6 route add default dev watched").expect("the lab works");
        outside.ip("link set far up").expect("the lab works");
        Self { node, outside, folder: tempfile::tempdir().expect("the lab works"), sent: Cell::new(0) }
    }

    fn api(&self) -> Server<'_> {
        let server = Server::new(&self.node, 7001);
        server.apply("nodes", "this", node(NODE, "10.244.1.0/24"));
        server.apply("nodes", "second", node("10.77.0.2", "10.244.2.0/24"));
        server.apply("services", "kubernetes", service(None));
        server.apply(
            "endpointslices",
            "kubernetes",
            json!({"endpoints": [{"addresses": [NODE]}, {"addresses": ["10.77.0.9"]}], "ports": [{"name": "https", "port": 7443}]}),
        );
        server.apply("servicecidrs", "kubernetes", json!({"spec": {"cidrs": ["10.96.0.0/12"]}}));
        server
    }

    fn kubeconfig(&self, text: &str) -> PathBuf {
        let path = self.folder.path().join("kubeconfig");
        std::fs::write(&path, text).expect("the lab works");
        path
    }

    fn start(&self, server: &Server<'_>) -> Daemon<'_> {
        let kubeconfig = self.kubeconfig(&server.kubeconfig());
        let words = [
            "--interface",
            "watched",
            "--discovery",
            "kubernetes",
            "--kubeconfig",
            kubeconfig.to_str().expect("the lab works"),
        ];
        Daemon::start(BINARY, &self.node, &words).expect("the lab works")
    }

    /// Sends one SYN from this address, and none more: it is refused.
    fn knock(&self, source: &str, port: u16) {
        let address = self.come_from(source, port);
        let outcome = self.outside.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(10)));
        assert_eq!(outcome.expect_err("nobody listens").kind(), std::io::ErrorKind::ConnectionRefused, "{source}");
        self.sent.set(self.sent.get() + 1);
    }

    /// A SYN from an address that is the node's own; it gets no answer.
    fn spoof(&self, source: &str) {
        let address = self.come_from(source, SECURE);
        let _ = self.outside.run(|| TcpStream::connect_timeout(&address, Duration::from_millis(100)));
    }

    /// Connections to what this gives come from `source`.
    fn come_from(&self, source: &str, port: u16) -> SocketAddr {
        let (node, length, options) = if source.contains(':') { (NODE_IPV6, 128, "nodad") } else { (NODE, 32, "") };
        self.outside.ip(&format!("address replace {source}/{length} dev far {options}")).expect("the lab works");
        self.outside.ip(&format!("route replace {node}/{length} dev far src {source}")).expect("the lab works");
        SocketAddr::new(node.parse().expect("an address"), port)
    }

    /// How long it takes until knocks from this address count so.
    fn until(&self, daemon: &Daemon<'_>, what: &str, source: &str, port: u16, [role, class]: [&str; 2]) -> Duration {
        let before = syns(&daemon.metrics().expect("a scrape"), role, class);
        let begun = Instant::now();
        loop {
            self.knock(source, port);
            if syns(&daemon.metrics().expect("a scrape"), role, class) > before {
                println!("{what}: {:?}", begun.elapsed());
                return begun.elapsed();
            }
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "{what}: {source} {port} does not become {role} {class}"
            );
        }
    }

    /// A knock from this address counts so.
    fn assert(&self, daemon: &Daemon<'_>, source: &str, port: u16, [role, class]: [&str; 2]) {
        let before = syns(&daemon.metrics().expect("a scrape"), role, class);
        self.knock(source, port);
        let after = daemon.metrics().expect("a scrape");
        assert_eq!(syns(&after, role, class), before + 1, "{source} {port} is not {role} {class}:\n{}", after.0);
    }
}

fn node(address: &str, pods: &str) -> Value {
    json!({"spec": {"podCIDR": pods, "podCIDRs": [pods]}, "status": {"addresses": [{"type": "InternalIP", "address": address}]}})
}

fn service(node_port: Option<u16>) -> Value {
    let mut port = json!({"name": "https", "port": 443});
    if let Some(node_port) = node_port {
        port["nodePort"] = json!(node_port);
    }
    json!({"spec": {"clusterIP": "10.96.0.1", "ports": [port]}, "status": {"loadBalancer": {}}})
}

fn syns(scrape: &Scrape, role: &str, class: &str) -> u64 {
    let name = "api_exposure_tcp_handshake_packets_total";
    scrape.sum(name, &[r#"step="syn""#, &format!(r#"role="{role}""#), &format!(r#"source="{class}""#)])
}

fn all_syns(scrape: &Scrape) -> u64 {
    scrape.sum("api_exposure_tcp_handshake_packets_total", &[r#"step="syn""#])
}

fn synced(scrape: &Scrape, object: &str) -> f64 {
    scrape.value(&format!(r#"api_exposure_discovery_synced{{object="{object}"}}"#)).expect("the lab works")
}

fn errors(scrape: &Scrape, words: &[&str]) -> u64 {
    scrape.sum("api_exposure_discovery_errors_total", words)
}

const OBJECTS: [&str; 4] = ["nodes", "service", "endpoint_slices", "service_cidrs"];
const SECURE: u16 = 6443;
const NODE_PORT: u16 = 31_443;

#[test]
#[ignore = "needs root"]
fn changes_of_the_cluster_reach_the_tables_while_packets_come_by() {
    let lab = Lab::new();
    let server = lab.api();
    let daemon = lab.start(&server);

    // From the first packet on.
    for (source, port, class) in [
        ("10.77.0.2", SECURE, "cluster_node"),
        ("10.77.0.9", SECURE, "cluster_node"),
        ("10.77.0.2", 7443, "cluster_node"),
        ("10.244.2.7", SECURE, "pod"),
        ("10.96.0.1", SECURE, "service"),
        ("10.97.3.4", SECURE, "service"),
        ("10.77.0.3", SECURE, "private"),
        ("203.0.113.7", SECURE, "public"),
    ] {
        lab.assert(&daemon, source, port, ["secure", class]);
    }
    let scrape = daemon.metrics().unwrap();
    assert!(OBJECTS.iter().all(|object| synced(&scrape, object) == 1.0), "{}", scrape.0);
    assert_eq!(scrape.value(r#"api_exposure_discovery_objects{object="nodes"}"#), Some(2.0));
    assert_eq!(all_syns(&scrape), lab.sent.get(), "each counts once");

    server.apply("nodes", "third", node("10.77.0.3", "10.244.3.0/24"));
    let latency = lab.until(&daemon, "a new node", "10.77.0.3", SECURE, ["secure", "cluster_node"]);
    assert!(latency < LIMIT, "{latency:?}");
    lab.assert(&daemon, "10.244.3.7", SECURE, ["secure", "pod"]);

    // One of the outside, with an address of each family.
    let both = json!({"spec": {"podCIDR": "10.244.4.0/24", "podCIDRs": ["10.244.4.0/24", "fd00:244::/64"]}, "status": {"addresses": [{"type": "InternalIP", "address": "203.0.113.8"},
        {"type": "InternalIP", "address": "2001:db8::8"}, {"type": "Hostname", "address": "203.0.113.7"}]}});
    server.apply("nodes", "fourth", both);
    let latency = lab.until(&daemon, "a node outside", "203.0.113.8", SECURE, ["secure", "cluster_node"]);
    assert!(latency < LIMIT, "{latency:?}");
    lab.assert(&daemon, "203.0.113.7", SECURE, ["secure", "public"]);
    lab.assert(&daemon, "2001:db8::8", SECURE, ["secure", "cluster_node"]);
    lab.assert(&daemon, "2001:db8::9", SECURE, ["secure", "public"]);
    lab.assert(&daemon, "fd00:244::7", SECURE, ["secure", "pod"]);

    let unseen = lab.sent.get();
    lab.knock("203.0.113.7", NODE_PORT);
    assert_eq!(all_syns(&daemon.metrics().unwrap()), unseen, "a port that is not watched");
    lab.sent.set(unseen);
    server.apply("services", "kubernetes", service(Some(NODE_PORT)));
    let before = lab.sent.get();
    let latency = lab.until(&daemon, "a NodePort", "203.0.113.7", NODE_PORT, ["node_port", "public"]);
    assert!(latency < LIMIT, "{latency:?}");
    // Those until then were to a port that nobody watched.
    lab.sent.set(before + 1);

    // An address of the node's own, by rtnetlink. The same one outside, since no packet comes by from the node itself.
    lab.node.ip("address add 10.77.9.9/32 dev lo").unwrap();
    let begun = Instant::now();
    wait(|| {
        let before = syns(&daemon.metrics()?, "secure", "node");
        lab.spoof("10.77.9.9");
        Ok((syns(&daemon.metrics()?, "secure", "node") > before).then_some(()))
    })
    .unwrap();
    println!("an own address: {:?}", begun.elapsed());
    assert!(begun.elapsed() < LIMIT);

    server.delete("nodes", "fourth");

    // The watches are told that they are too old: everything is listed anew, and nothing forgotten.
    let lists = server.lists("nodes");
    server.forget_history(|change| {
        change("nodes", "fifth", Some(node("10.77.0.5", "10.244.5.0/24")));
        change("nodes", "third", None);
    });
    let latency =
        lab.until(&daemon, "a node while the watch was gone", "10.77.0.5", SECURE, ["secure", "cluster_node"]);
    assert!(latency < LIMIT, "{latency:?}");
    assert!(server.lists("nodes") > lists);
    lab.assert(&daemon, "10.77.0.3", SECURE, ["secure", "cluster_node"]);
    let leaves = lab.until(&daemon, "a node that left", "10.77.0.3", SECURE, ["secure", "private"]);
    assert!(leaves > Duration::from_secs(5), "not at once: {leaves:?}");
    lab.assert(&daemon, "10.77.0.5", SECURE, ["secure", "cluster_node"]);
    lab.assert(&daemon, "203.0.113.8", SECURE, ["secure", "public"]);

    server.apply("services", "kubernetes", service(None));
    wait(|| {
        let before = syns(&daemon.metrics()?, "node_port", "public");
        lab.knock("203.0.113.7", NODE_PORT);
        Ok((syns(&daemon.metrics()?, "node_port", "public") == before).then_some(()))
    })
    .unwrap();
    let scrape = daemon.metrics().unwrap();
    assert_eq!(errors(&scrape, &[]), 0, "a watch that is too old is no error: {}", scrape.0);
    assert_eq!(scrape.sum("api_exposure_records_lost_total", &[]), 0);
    let ended = daemon.stop().unwrap();
    assert!(ended.success && !ended.log.contains(TOKEN) && !ended.log.contains("panicked"), "{}", ended.log);
    assert!(ended.log.contains("NodePort"), "{}", ended.log);
}

#[test]
#[ignore = "needs root"]
fn without_the_api_what_was_known_last_is_kept() {
    let lab = Lab::new();
    let server = lab.api();
    let daemon = lab.start(&server);
    lab.assert(&daemon, "10.77.0.2", SECURE, ["secure", "cluster_node"]);
    server.go();
    let all = |value: f64| {
        wait(|| {
            let scrape = daemon.metrics()?;
            Ok(OBJECTS.iter().all(|object| synced(&scrape, object) == value).then_some(scrape))
        })
        .unwrap()
    };
    all(0.0);
    // Several attempts fail, and are told of once.
    let scrape = wait(|| {
        let scrape = daemon.metrics()?;
        Ok((errors(&scrape, &[r#"object="nodes""#, r#"reason="unreachable""#]) >= 3).then_some(scrape))
    })
    .unwrap();
    assert_eq!(errors(&scrape, &[]), errors(&scrape, &[r#"reason="unreachable""#]), "{}", scrape.0);
    lab.assert(&daemon, "10.77.0.2", SECURE, ["secure", "cluster_node"]);
    lab.assert(&daemon, "10.244.2.7", 7443, ["secure", "pod"]);
    let ready = monitor_tests::daemon::get(&lab.node, "/readyz").unwrap();
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");

    server.apply("nodes", "third", node("10.77.0.3", "10.244.3.0/24"));
    server.come();
    all(1.0);
    let latency = lab.until(&daemon, "known after the API came back", "10.77.0.3", SECURE, ["secure", "cluster_node"]);
    assert!(latency < LIMIT, "{latency:?}");
    let ended = daemon.stop().unwrap();
    let lines = |words: &[&str]| ended.log.lines().filter(|line| words.iter().all(|word| line.contains(word))).count();
    for object in OBJECTS {
        let object = format!("object=\"{object}\"");
        assert_eq!(lines(&[&object, "not followed"]), 1, "{object}: {}", ended.log);
        assert_eq!(lines(&[&object, "followed by the Kubernetes API"]), 2, "{object}: {}", ended.log);
    }
    assert!(!ended.log.contains(TOKEN), "{}", ended.log);
}

#[test]
#[ignore = "needs root"]
fn what_rbac_refuses_is_named_and_the_rest_goes_on() {
    let lab = Lab::new();
    let server = lab.api();
    server.refuse("nodes", Some(403));
    server.refuse("servicecidrs", Some(404));
    server.refuse("endpointslices", Some(401));
    let daemon = lab.start(&server);
    let scrape = wait(|| {
        let scrape = daemon.metrics()?;
        Ok((errors(&scrape, &[r#"object="nodes""#, r#"reason="forbidden""#]) >= 2).then_some(scrape))
    })
    .unwrap();
    assert_eq!(OBJECTS.map(|object| synced(&scrape, object)), [0.0, 1.0, 0.0, 0.0]);
    assert_eq!(errors(&scrape, &[r#"object="service_cidrs""#]), 0, "no error: {}", scrape.0);
    assert!(errors(&scrape, &[r#"object="endpoint_slices""#, r#"reason="unauthorized""#]) >= 1);
    lab.assert(&daemon, "10.96.0.1", SECURE, ["secure", "service"]);
    lab.assert(&daemon, "10.77.0.2", SECURE, ["secure", "private"]);

    let (output, findings) = check(
        BINARY,
        &lab.node,
        &[
            "--interface",
            "watched",
            "--listen",
            "127.0.0.1:9465",
            "--kubeconfig",
            lab.folder.path().join("kubeconfig").to_str().unwrap(),
        ],
    )
    .unwrap();
    assert!(output.status.success(), "{findings}");
    let found = |name: &str| {
        let finding =
            findings.as_array().unwrap().iter().find(|finding| finding["check"] == format!("Kubernetes API {name}"));
        let finding = finding.unwrap_or_else(|| panic!("{name}: {findings}"));
        (finding["status"].as_str().unwrap().to_owned(), finding["found"].as_str().unwrap().to_owned())
    };
    let (status, words) = found("nodes");
    assert_eq!(status, "limited");
    assert!(words.contains("clusterrole needs get,list,watch on nodes"), "{words}");
    assert_eq!(found("service"), ("ok".into(), "cluster IPs 10.96.0.1; NodePort none; load balancer none".into()));
    assert_eq!(found("endpoint_slices").0, "limited");
    let (status, words) = found("service_cidrs");
    assert!(status == "ok" && words.contains("--service-cidr"), "{words}");

    for resource in RESOURCES {
        server.refuse(resource, None);
    }
    lab.until(&daemon, "known after RBAC was put right", "10.77.0.2", SECURE, ["secure", "cluster_node"]);
    let ended = daemon.stop().unwrap();
    let named = ended.log.lines().filter(|line| line.contains("clusterrole needs get,list,watch on nodes")).count();
    assert_eq!(named, 1, "{}", ended.log);
    assert!(!ended.log.contains(TOKEN), "{}", ended.log);
}

#[test]
#[ignore = "needs root"]
fn a_kubeconfig_that_is_none_ends_it_or_is_left_aside() {
    let lab = Lab::new();
    let path = lab.kubeconfig(&format!("users: [{{name: it, user: {{token: {TOKEN}"));
    let kubeconfig = path.to_str().unwrap();
    let words = ["run", "--interface", "watched", "--discovery", "kubernetes", "--kubeconfig", kubeconfig];
    let output = lab.node.run(|| Command::new(BINARY).args(words).env_clear().output()).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains(kubeconfig) && said.contains("is no kubeconfig") && !said.contains(TOKEN), "{said}");

    let daemon = Daemon::start(BINARY, &lab.node, &["--interface", "watched", "--kubeconfig", kubeconfig]).unwrap();
    lab.assert(&daemon, "10.77.0.2", SECURE, ["secure", "private"]);
    assert!(OBJECTS.iter().all(|object| synced(&daemon.metrics().unwrap(), object) == 0.0));
    let ended = daemon.stop().unwrap();
    let said = ended.log.lines().filter(|line| line.contains("is no kubeconfig")).count();
    assert!(said == 1 && !ended.log.contains(TOKEN), "{}", ended.log);

    // With a server that says nothing it starts all the same.
    let silent = lab.node.run(|| TcpListener::bind("127.0.0.1:7002")).unwrap();
    let address = silent.local_addr().unwrap();
    let text = format!(
        "current-context: it\nclusters: [{{name: it, cluster: {{server: 'http://{address}'}}}}]\n\
         contexts: [{{name: it, context: {{cluster: it}}}}]\n"
    );
    let kubeconfig = lab.kubeconfig(&text);
    let words = ["--interface", "watched", "--discovery", "kubernetes", "--kubeconfig", kubeconfig.to_str().unwrap()];
    let begun = Instant::now();
    let daemon = Daemon::start(BINARY, &lab.node, &words).unwrap();
    println!("started beside an API that says nothing: {:?}", begun.elapsed());
    lab.assert(&daemon, "10.77.0.2", SECURE, ["secure", "private"]);
}
