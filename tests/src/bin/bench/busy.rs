//! What a busy API server loses to the monitor: nginx in place of it, wrk in place of its clients, in turn without and with
//! the monitor attached.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use monitor_tests::namespace::Namespace;
use serde_json::json;

use super::daemon::Daemon;

const SERVER: &str = "10.93.0.1:6443";
/// How long wrk asks in one run.
const SECONDS: u32 = 3;
/// How long nginx may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// Measures `pairs` pairs of runs of each kind, and prints requests a second of all of them.
pub fn measure(monitor: &str, pairs: usize) -> Result<()> {
    let (client, node) = (Namespace::new()?, Namespace::new()?);
    client.veth("wire", "eth0")?;
    client.give("eth0", &node)?;
    node.ip("address add 10.93.0.1/24 dev eth0")?;
    node.ip("link set eth0 up")?;
    client.ip("address add 10.93.0.2/24 dev wire")?;
    client.ip("link set wire up")?;
    let folder = tempfile::tempdir().context("making a folder")?;
    let _server = Server::start(&node, folder.path())?;
    let mut runs = json!({});
    for (name, header) in [("kept", None), ("new", Some("Connection: close"))] {
        // Once before: caches, and the clock of a processor that slept.
        requests(&client, header)?;
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for pair in 0..pairs {
            // Who goes first changes, so that a machine that grows busier does neither good.
            for monitored in [pair % 2 == 0, pair % 2 != 0] {
                let daemon = monitored.then(|| Daemon::start(&node, monitor)).transpose()?;
                let rate = requests(&client, header)?;
                drop(daemon);
                eprintln!("{rate:10.0} requests/s, connections {name}, {}", if monitored { "with" } else { "without" });
                if monitored { &mut with } else { &mut without }.push(rate);
            }
        }
        runs[name] = json!({ "without": without, "with": with });
    }
    println!("{runs}");
    Ok(())
}

/// Requests a second that wrk got answered.
fn requests(client: &Namespace, header: Option<&str>) -> Result<f64> {
    let mut command = Command::new("wrk");
    command.args(["-t1", "-c32", &format!("-d{SECONDS}s")]);
    command.args(header.iter().flat_map(|header| ["-H", header]));
    command.arg(format!("https://{SERVER}/api/v1/namespaces/default/pods")).stdin(Stdio::null());
    let output = client.run(|| command.output()).context("running wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok());
    rate.with_context(|| format!("wrk told no rate: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // Its master ends its workers when it is asked to. It is ours and a child: its number is its own until then.
        // SAFETY: a plain system call.
        unsafe { libc::kill(self.0.id() as i32, libc::SIGTERM) };
        let _ = self.0.wait();
    }
}

impl Server {
    fn start(node: &Namespace, folder: &Path) -> Result<Self> {
        let path = folder.display();
        let mut openssl = Command::new("openssl");
        openssl.args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2".split(' '));
        openssl.args(["-subj", "/CN=kube-apiserver", "-keyout", "key.pem", "-out", "cert.pem"]);
        let made = openssl.current_dir(folder).output().context("running openssl")?;
        if !made.status.success() {
            bail!("openssl: {}", String::from_utf8_lossy(&made.stderr).trim());
        }
        let configuration = format!(
            "daemon off; worker_processes 1; pid {path}/pid; error_log {path}/error.log;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; keepalive_requests 100000000;\n\
             client_body_temp_path {path}/body; proxy_temp_path {path}/proxy; fastcgi_temp_path {path}/fastcgi;\n\
             uwsgi_temp_path {path}/uwsgi; scgi_temp_path {path}/scgi;\n\
             server {{ listen {SERVER} ssl; ssl_certificate {path}/cert.pem; ssl_certificate_key {path}/key.pem;\n\
             location / {{ default_type application/json; return 200 '{{\"kind\":\"PodList\",\"apiVersion\":\"v1\"}}'; }} }} }}\n"
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, configuration).with_context(|| format!("writing {}", file.display()))?;
        let mut nginx = Command::new("nginx");
        nginx.arg("-p").arg(folder).arg("-c").arg(&file).stdin(Stdio::null()).stdout(Stdio::null());
        let mut server = Self(node.run(|| nginx.spawn()).context("starting nginx")?);
        let began = Instant::now();
        while node.run(|| TcpStream::connect(SERVER)).is_err() {
            if let Some(status) = server.0.try_wait()? {
                bail!("nginx ended: {status}: {}", fs::read_to_string(folder.join("error.log")).unwrap_or_default());
            }
            if began.elapsed() > PATIENCE {
                bail!("nginx does not listen");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }
}
