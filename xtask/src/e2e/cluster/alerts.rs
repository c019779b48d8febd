//! From an attack to the right page: a real Prometheus scrapes the pods where their annotations say, evaluates the chart's
//! own rules, and a real Alertmanager hands what fires to a webhook.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::network::OUTSIDE;
use super::release::Release;
use super::{Cluster, sight};
use crate::interrupt;

/// An alert arrives within this time; scrapes and evaluations are two seconds apart here.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often the rules are evaluated before a silence counts, and after the last alert that is waited for.
const EVALUATIONS: u64 = 5;
/// Waiting times are shorter than in the files, expressions and thresholds the same.
const SOONER: [&str; 4] = [
    "prometheusRules.alerts.ApiExposurePublicSource.for=2s",
    "prometheusRules.alerts.ApiExposurePlaintextOpen.for=2s",
    "prometheusRules.alerts.ApiExposurePlaintextRequests.for=2s",
    "prometheusRules.alerts.ApiExposureMonitorAbsent.for=15s",
];
/// What an attacker tries, in the order of the tools that are seen in the wild (kube-hunter's active and passive hunters).
const PROBES: [&str; 11] = [
    "/",
    "/version",
    "/api",
    "/apis",
    "/openapi/v2",
    "/api/v1/namespaces",
    "/api/v1/pods",
    "/api/v1/secrets",
    "/api/v1/namespaces/kube-system/secrets",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "/apis/rbac.authorization.k8s.io/v1/roles",
];
/// Takes what Alertmanager posts, and writes a line for each alert that fires: its name.
const WEBHOOK: &str = r#"
import http.server, json, sys
class Webhook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with open(sys.argv[1], "a") as out:
            for alert in body["alerts"]:
                if alert["status"] == "firing":
                    print(alert["labels"]["alertname"], file=out)
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", 9099), Webhook).serve_forever()
"#;

/// Prometheus, Alertmanager and the webhook, on the worker. Dropping it ends them.
pub struct Watching<'a> {
    cluster: &'a Cluster,
    folder: PathBuf,
    running: Vec<Child>,
}

impl<'a> Watching<'a> {
    /// Starts them, and waits until both pods are scraped.
    pub fn start(cluster: &'a Cluster, release: &Release<'_>) -> Result<Self> {
        release.upgrade(&["auditLog.enabled=true"])?;
        let folder = cluster.worker().state().join("prometheus");
        fs::create_dir_all(&folder).context("cannot create a folder for Prometheus")?;
        let mut watching = Self { cluster, folder, running: Vec::new() };
        let folder = watching.folder.clone();
        let file = |name: &str| folder.join(name).display().to_string();
        fs::write(folder.join("fired"), "").context("cannot write the webhook's file")?;
        watching.run("python3", &["-c", WEBHOOK, &file("fired")])?;
        fs::write(
            folder.join("alertmanager.yaml"),
            "route: {receiver: webhook, group_by: [alertname], group_wait: 1s, group_interval: 2s}\n\
             receivers:\n- {name: webhook, webhook_configs: [{url: 'http://127.0.0.1:9099/'}]}\n",
        )?;
        let (config, storage) = (format!("--config.file={}", file("alertmanager.yaml")), file("alertmanager"));
        let storage = format!("--storage.path={storage}");
        let local = ["--web.listen-address=127.0.0.1:9093", "--cluster.listen-address="];
        watching.run("prometheus-alertmanager", &[&config, &storage, local[0], local[1]])?;
        fs::write(folder.join("rules.yaml"), release.rules(&SOONER)?).context("cannot write rules.yaml")?;
        let pods = cluster.first().kubectl(&["get", "pods", "--all-namespaces", "--output", "json"])?;
        let pods = serde_json::from_str(&pods).context("kubectl gives no JSON")?;
        fs::write(folder.join("targets.json"), targets(&pods).to_string()).context("cannot write targets.json")?;
        fs::write(folder.join("prometheus.yaml"), prometheus(&file("targets.json"), &file("rules.yaml")))?;
        let config = format!("--config.file={}", file("prometheus.yaml"));
        let storage = format!("--storage.tsdb.path={}", file("data"));
        watching.run("prometheus", &[&config, &storage, "--web.listen-address=127.0.0.1:9090"])?;
        interrupt::wait_for("Prometheus scraping both pods", PATIENCE, || {
            Ok((watching.query("count(api_exposure_build_info{node=~\"cp-.\"})").unwrap_or(0.0) == 2.0).then_some(()))
        })?;
        Ok(watching)
    }

    /// A cluster that is left alone fires nothing.
    pub fn quiet(&self) -> Result<()> {
        self.evaluated(EVALUATIONS)?;
        ensure!(self.fired()?.is_empty(), "nothing happened, and these fire: {:?}", self.fired()?);
        Ok(())
    }

    /// The attacker's way from outside: each step fires its alerts and no other.
    pub fn attacked(&self) -> Result<()> {
        let first = self.cluster.first();
        for path in PROBES {
            sight::outside(self.cluster, &format!("https://{}:6443{path}", first.ip))?;
        }
        let mut expected = BTreeSet::from(["ApiExposurePublicSource", "ApiExposureAnonymousProbing"]);
        self.fire_exactly(&expected)?;

        first.kubectl(&["create", "clusterrolebinding", "open", "--clusterrole=view", "--user=system:anonymous"])?;
        interrupt::wait_for("an anonymous request that is allowed", PATIENCE, || self.status("/api/v1/pods", 200))?;
        first.kubectl(&["delete", "clusterrolebinding", "open"])?;
        expected.insert("ApiExposureAnonymousAllowed");
        self.fire_exactly(&expected)?;

        let proxy =
            first.command("kubectl").args(["proxy", "--address=0.0.0.0", "--port=8001", "--accept-hosts=.*"]).spawn();
        let mut proxy = Ending(proxy.context("cannot start kubectl proxy")?);
        let url = format!("http://{}:8001/api/v1/namespaces/kube-system/secrets", first.ip);
        interrupt::wait_for("an answer of kubectl proxy", PATIENCE, || Ok(sight::outside(self.cluster, &url).ok()))?;
        proxy.end();
        expected.insert("ApiExposurePlaintextOpen");
        self.fire_exactly(&expected)
    }

    /// The monitor is gone: that is said too.
    pub fn absent(&self) -> Result<()> {
        interrupt::wait_for("the alert that the monitor is absent", PATIENCE, || {
            Ok(self.fired()?.contains("ApiExposureMonitorAbsent").then_some(()))
        })
    }

    /// Waits for these, and then as long again for others.
    fn fire_exactly(&self, expected: &BTreeSet<&str>) -> Result<()> {
        let all = interrupt::wait_for("the alerts", PATIENCE, || {
            Ok(expected.iter().all(|name| self.fired().is_ok_and(|fired| fired.contains(*name))).then_some(()))
        });
        all.with_context(|| format!("expected {expected:?}, fired {:?}", self.fired().unwrap_or_default()))?;
        self.evaluated(EVALUATIONS)?;
        let fired = self.fired()?;
        let others: Vec<&String> = fired.iter().filter(|name| !expected.contains(name.as_str())).collect();
        ensure!(others.is_empty(), "these fire and should not: {others:?}");
        Ok(())
    }

    /// Whether the outside host gets this status; `Some` once it does.
    fn status(&self, path: &str, status: u16) -> Result<Option<()>> {
        let mut curl = self.cluster.network().command_outside("curl");
        curl.args([
            "--silent",
            "--insecure",
            "--interface",
            OUTSIDE,
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code}",
        ]);
        let output = curl
            .arg(format!("https://{}:6443{path}", self.cluster.first().ip))
            .output()
            .context("cannot start curl")?;
        Ok((output.stdout == status.to_string().as_bytes()).then_some(()))
    }

    /// Names of the alerts that have arrived.
    fn fired(&self) -> Result<BTreeSet<String>> {
        let text = fs::read_to_string(self.folder.join("fired")).context("cannot read what has arrived")?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Waits until each group of rules was evaluated so often again.
    fn evaluated(&self, times: u64) -> Result<()> {
        let query = "min(prometheus_rule_group_iterations_total)";
        let now = interrupt::wait_for("Prometheus' own metrics", PATIENCE, || Ok(self.query(query)))?;
        interrupt::wait_for("evaluations of the rules", PATIENCE, || {
            Ok((self.query(query).unwrap_or(0.0) >= now + times as f64).then_some(()))
        })
    }

    /// The first value of a query.
    fn query(&self, query: &str) -> Option<f64> {
        let mut curl = self.command("curl");
        curl.args([
            "--silent",
            "--get",
            "--data-urlencode",
            &format!("query={query}"),
            "http://127.0.0.1:9090/api/v1/query",
        ]);
        let answer: Value = serde_json::from_slice(&curl.output().ok()?.stdout).ok()?;
        answer.pointer("/data/result/0/value/1")?.as_str()?.parse().ok()
    }

    fn run(&mut self, program: &str, arguments: &[&str]) -> Result<()> {
        let log = self.folder.join(format!("{program}.log"));
        let log = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = self.command(program);
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir(&self.folder);
        self.running.push(command.spawn().with_context(|| format!("cannot start {program}"))?);
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        self.cluster.network().command(&self.cluster.worker().name, program)
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        for mut child in self.running.drain(..) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A process that ends with its owner.
struct Ending(Child);

impl Ending {
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.end();
    }
}

/// Debian's Prometheus is built without discovery by the Kubernetes API: it gets the addresses that the pods' annotations
/// name, as that discovery would make them, and the name of the node for our rules.
fn prometheus(targets: &str, rules: &str) -> String {
    format!(
        "global: {{scrape_interval: 2s, scrape_timeout: 2s, evaluation_interval: 2s}}\n\
         rule_files: ['{rules}']\n\
         alerting: {{alertmanagers: [{{static_configs: [{{targets: ['127.0.0.1:9093']}}]}}]}}\n\
         scrape_configs:\n\
         - job_name: prometheus\n  static_configs: [{{targets: ['127.0.0.1:9090']}}]\n\
         - job_name: pods\n  file_sd_configs: [{{files: ['{targets}']}}]\n"
    )
}

/// What the annotations prometheus.io/scrape, /port and /path of pods say, in the form that Prometheus reads files in.
fn targets(pods: &Value) -> Value {
    let annotation = |pod: &Value, name: &str| {
        let annotations = pod.pointer("/metadata/annotations");
        annotations.and_then(|all| all.get(format!("prometheus.io/{name}"))).and_then(Value::as_str).map(str::to_owned)
    };
    let pods = pods.get("items").and_then(Value::as_array).into_iter().flatten();
    let targets = pods.filter(|pod| annotation(pod, "scrape").as_deref() == Some("true")).filter_map(|pod| {
        let address = pod.pointer("/status/podIP")?.as_str()?;
        let node = pod.pointer("/spec/nodeName")?.as_str()?;
        let path = annotation(pod, "path").unwrap_or_else(|| "/metrics".to_owned());
        let target = format!("{address}:{}", annotation(pod, "port")?);
        Some(json!({ "targets": [target], "labels": { "node": node, "__metrics_path__": path } }))
    });
    Value::Array(targets.collect())
}
