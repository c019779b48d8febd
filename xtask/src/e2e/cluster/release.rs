//! The chart, installed: helm as an operator calls it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::Cluster;
use super::node::Node;
use crate::{chart, image, interrupt};

/// The namespace, and the name of the release and its objects.
pub const NAME: &str = "api-exposure-monitor";
/// A pod is ready or gone within this time.
const PATIENCE: Duration = Duration::from_secs(60);

/// The release.
pub struct Release<'a> {
    cluster: &'a Cluster,
    helm: PathBuf,
}

impl<'a> Release<'a> {
    /// A release that is not installed yet.
    pub fn new(cluster: &'a Cluster, helm: PathBuf) -> Self {
        Self { cluster, helm }
    }

    /// The program.
    pub fn helm(&self) -> &Path {
        &self.helm
    }

    /// Installs it: ready on both control planes, and on no worker.
    pub fn install(&self) -> Result<()> {
        self.succeeds("install", NAME, &["--create-namespace"])?;
        let at = self.nodes_of_ready_pods()?;
        ensure!(at == ["cp-1", "cp-2"], "pods are ready on {at:?}, expected the two control planes only");
        Ok(())
    }

    /// Upgrades it to these values, beside those of the image.
    pub fn upgrade(&self, values: &[&str]) -> Result<()> {
        let values: Vec<&str> = values.iter().flat_map(|value| ["--set", *value]).collect();
        self.succeeds("upgrade", NAME, &values)?;
        self.rolled_out()
    }

    /// The rules and alerts that the chart makes a PrometheusRule of, as a file of Prometheus' own.
    pub fn rules(&self, values: &[&str]) -> Result<String> {
        let mut helm = self.command();
        helm.args(["template", NAME]).arg(chart::folder()).args(["--show-only", "templates/rules.yaml"]);
        helm.args(["--set", "prometheusRules.enabled=true"]);
        let output =
            helm.args(values.iter().flat_map(|value| ["--set", *value])).output().context("cannot start helm")?;
        ensure!(output.status.success(), "helm template: {}", String::from_utf8_lossy(&output.stderr).trim());
        let rendered = String::from_utf8(output.stdout).context("helm renders what is no text")?;
        let (_, spec) = rendered.split_once("\nspec:\n").context("a PrometheusRule without spec")?;
        Ok(spec.lines().map(|line| format!("{}\n", line.strip_prefix("  ").unwrap_or(line))).collect())
    }

    /// Uninstalls it.
    pub fn uninstall(&self) -> Result<()> {
        let mut helm = self.command();
        let output =
            helm.args(["uninstall", NAME, "--namespace", NAME, "--wait"]).output().context("cannot start helm")?;
        ensure!(output.status.success(), "helm uninstall: {}", String::from_utf8_lossy(&output.stderr).trim());
        interrupt::wait_for("the pods' end", PATIENCE, || {
            Ok(self.pods("NAME:.metadata.name")?.is_empty().then_some(()))
        })
    }

    /// Waits until each pod is the daemonset's newest and ready.
    pub fn rolled_out(&self) -> Result<()> {
        let daemonset = format!("daemonset/{NAME}");
        self.kubectl(&["rollout", "status", &daemonset, "--timeout=60s"])?;
        Ok(())
    }

    /// In a namespace that enforces the level `restricted`: refused by the chart where helm may ask, by the API server
    /// where it may not.
    pub fn refused_where_restricted(&self) -> Result<()> {
        let first = self.cluster.first();
        let namespace = "restricted";
        first.apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {namespace}\n  labels:\n    \
             pod-security.kubernetes.io/enforce: restricted\n"
        ))?;
        let output = self.run("install", namespace, &[])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "helm installs into a namespace that enforces `restricted`");
        let words = "kubectl label namespace restricted pod-security.kubernetes.io/enforce=privileged --overwrite";
        ensure!(said.contains(words), "helm refuses without the way out: {said}");
        // Who renders somewhere else meets the API server's own words, on the daemonset.
        let output = self.run("install", namespace, &["--set", "checkNamespace=false", "--timeout", "3s"])?;
        ensure!(!output.status.success(), "pods are ready in a namespace that enforces `restricted`");
        interrupt::wait_for("the API server's refusal", PATIENCE, || {
            let events = first.kubectl(&[
                "--namespace",
                namespace,
                "get",
                "events",
                "--output",
                "jsonpath={.items[*].message}",
            ])?;
            Ok((events.contains("violates PodSecurity") && events.contains("hostNetwork")).then_some(()))
        })?;
        first.kubectl(&["delete", "namespace", namespace, "--wait=false"])?;
        let mut helm = self.command();
        helm.args(["uninstall", NAME, "--namespace", namespace]).output().context("cannot start helm")?;
        Ok(())
    }

    /// Names of the nodes with a ready pod, in order.
    pub fn nodes_of_ready_pods(&self) -> Result<Vec<String>> {
        let columns = "NODE:.spec.nodeName,READY:.status.conditions[?(@.type=='Ready')].status";
        let mut nodes: Vec<String> = self
            .pods(columns)?
            .iter()
            .filter_map(|line| line.split_whitespace().collect::<Vec<_>>().try_into().ok())
            .filter(|[_, ready]: &[&str; 2]| *ready == "True")
            .map(|[node, _]| node.to_owned())
            .collect();
        nodes.sort();
        Ok(nodes)
    }

    /// A line for each pod, of these columns.
    pub fn pods(&self, columns: &str) -> Result<Vec<String>> {
        let columns = format!("custom-columns={columns}");
        let lines = self.kubectl(&["get", "pods", "--no-headers", "--ignore-not-found", "--output", &columns])?;
        Ok(lines.lines().map(str::to_owned).collect())
    }

    /// The number of the process of the pod on this node. All processes are of this machine.
    pub fn process(&self, node: &Node) -> Result<u32> {
        let columns = "NODE:.spec.nodeName,ID:.status.containerStatuses[0].containerID";
        let pods = self.pods(columns)?;
        let id = pods.iter().find_map(|line| {
            let (at, id) = line.split_once(char::is_whitespace)?;
            (at == node.name).then(|| id.trim().trim_start_matches("containerd://").to_owned())
        });
        let id = id.with_context(|| format!("no pod on {}", node.name))?;
        let tasks = node.run("ctr", &["--namespace", "k8s.io", "tasks", "list"])?;
        let process = tasks.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some(&id)).then(|| words.next()?.parse().ok()).flatten()
        });
        process.with_context(|| format!("containerd on {} does not name the pod's process", node.name))
    }

    /// `kubectl` in the release's namespace.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.first().kubectl(&[&["--namespace", NAME], arguments].concat())
    }

    /// The last lines of what the pods have logged.
    pub fn last_words(&self) -> String {
        let selector = format!("app.kubernetes.io/instance={NAME}");
        self.kubectl(&["logs", "--selector", &selector, "--tail=20", "--prefix"])
            .unwrap_or_else(|error| format!("{error:#}"))
    }

    fn succeeds(&self, verb: &str, namespace: &str, arguments: &[&str]) -> Result<()> {
        let output = self.run(verb, namespace, arguments)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let pods = self.kubectl(&["describe", "pods"]).unwrap_or_default();
            bail!("helm {verb}: {}\n{pods}", said.trim());
        }
        Ok(())
    }

    fn run(&self, verb: &str, namespace: &str, arguments: &[&str]) -> Result<Output> {
        interrupt::check()?;
        let name = image::default_name();
        let (repository, tag) = name.rsplit_once(':').unwrap_or((&name, "latest"));
        let mut helm = self.command();
        helm.args([verb, NAME]).arg(chart::folder()).args(["--namespace", namespace, "--wait", "--timeout", "60s"]);
        helm.args(["--set", &format!("image.repository={repository}"), "--set", &format!("image.tag={tag}")]);
        helm.args(["--set", "image.pullPolicy=Never"]).args(arguments);
        helm.output().context("cannot start helm")
    }

    fn command(&self) -> Command {
        self.cluster.first().command(&self.helm.display().to_string())
    }
}
