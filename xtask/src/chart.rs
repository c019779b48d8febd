//! `cargo xtask chart`: the Helm chart is sound, refuses what contradicts itself with words that help, and the plain
//! manifests are what it renders.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail, ensure};

use crate::e2e::binaries;
use crate::workspace;

/// Checks the chart and that deploy/manifests is what it renders.
#[derive(clap::Args)]
pub struct Arguments {
    /// Write deploy/manifests anew.
    #[arg(long)]
    write: bool,
}

/// The namespace of the plain manifests, and the name of the release in them.
const NAME: &str = "api-exposure-monitor";

/// The plain manifests: file, and the values that it is rendered with.
const MANIFESTS: [(&str, &[&str]); 3] = [
    ("install.yaml", &[]),
    ("install-with-probe.yaml", &["probe.enabled=true"]),
    ("install-with-podmonitor.yaml", &["podMonitor.enabled=true"]),
];

/// Values that contradict each other, or are nonsense, and what the chart has to say.
const REFUSED: [(&[&str], &str); 18] = [
    (&["hostNetwork=false"], "its own pod's traffic only"),
    (&["probe.enabled=true", "hostPID=false"], "leave hostPID unset"),
    (&["probe.sysAdmin=true"], "set probe.enabled"),
    (&["podMonitor.enabled=true", "serviceMonitor.enabled=true"], "scrape each pod twice"),
    (&["podMonitor.enabled=true", "prometheus.annotations=true"], "scrapes each pod twice"),
    (&["monitor.discovery=none", "monitor.privateIsExternal=true"], "name them in monitor.clusterNodeCidr"),
    (&["serviceAccount.create=false"], "needs serviceAccount.name"),
    (&["image.tag=v1", "image.digest=sha256:DIGEST"], "choose one"),
    (&["monitor.nodePort={6443}"], "port 6443 is in monitor.securePort and in monitor.nodePort"),
    (&["monitor.securePort=null", "monitor.insecurePort=null"], "no port to watch"),
    (&["monitor.port=8080"], "monitor.insecurePort watches it"),
    (&["securityContext.runAsUser=65532"], "has to run as user 0"),
    (&["securityContext.runAsNonRoot=true"], "has to run as user 0"),
    (&["securityContext.capabilities.add={SYS_RESOURCE}"], "leave them out"),
    (&["prometheusRules.enabled=true", "prometheusRules.alerts.Nothing.enabled=false"], "no alert of this chart"),
    (&["monitor.securePort={high}"], "/monitor/securePort/0"),
    (&["monitor.trustedCidr={somewhere}"], "/monitor/trustedCidr/0"),
    (&["moniter.port=1"], "moniter"),
];

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    let helm = binaries::helm_at_hand().map_or_else(binaries::helm, Ok)?;
    if !arguments.write {
        return check(&helm);
    }
    for (file, values) in MANIFESTS {
        let path = manifests().join(file);
        fs::write(&path, render(&helm, values)?).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

/// The chart's folder.
pub fn folder() -> PathBuf {
    workspace::root().join("deploy/chart/api-exposure-monitor")
}

fn manifests() -> PathBuf {
    workspace::root().join("deploy/manifests")
}

/// Fails with the first thing that is wrong.
pub fn check(helm: &Path) -> Result<()> {
    succeeded(&self::helm(helm).arg("lint").arg("--strict").arg(folder()).output().context("cannot start helm")?)?;
    for (file, values) in MANIFESTS {
        let path = manifests().join(file);
        let there = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(
            there == render(helm, values)?,
            "deploy/manifests/{file} is not what the chart renders: `cargo xtask chart --write` writes it anew"
        );
    }
    for (values, words) in REFUSED {
        let values = values.iter().map(|value| value.replace("DIGEST", &"0".repeat(64)));
        let values: Vec<String> = values.collect();
        let output = template(helm, &values.iter().map(String::as_str).collect::<Vec<_>>())?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success(), "the chart takes {}", values.join(" "));
        ensure!(
            said.contains(words),
            "the chart refuses {} without saying `{words}`: {}",
            values.join(" "),
            said.trim()
        );
    }
    let all = ["probe.enabled=true", "probe.sysAdmin=true", "auditLog.enabled=true", "serviceMonitor.enabled=true"];
    let more = ["prometheusRules.enabled=true", "dashboards.enabled=true", "networkPolicy.enabled=true"];
    succeeded(&template(helm, &[&all[..], &more[..]].concat())?)?;
    println!("chart: sound; {} manifests are its own; {} contradictions refused", MANIFESTS.len(), REFUSED.len());
    Ok(())
}

/// What the chart renders, as somebody without helm applies it: with its namespace, and without helm's own labels.
fn render(helm: &Path, values: &[&str]) -> Result<String> {
    let output = template(helm, values)?;
    succeeded(&output)?;
    let rendered = String::from_utf8(output.stdout).context("helm renders what is no text")?;
    let mut text = format!(
        "# Rendered from deploy/chart/{NAME} by `cargo xtask chart --write`; change it there.\n---\n\
         apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {NAME}\n  labels:\n    \
         # In the node's network and with its own capabilities: the levels below refuse that.\n    \
         pod-security.kubernetes.io/enforce: privileged\n"
    );
    let helms = ["# Source: ", "helm.sh/chart: ", "app.kubernetes.io/managed-by: "];
    let of_helm = |line: &&str| helms.iter().any(|word| line.trim_start().starts_with(word));
    // Empty lines are what templates leave of themselves.
    for line in rendered.lines().filter(|line| !of_helm(line) && !line.trim().is_empty()) {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    Ok(text)
}

fn template(helm: &Path, values: &[&str]) -> Result<Output> {
    let mut command = self::helm(helm);
    command.args(["template", NAME]).arg(folder()).args(["--namespace", NAME]);
    command.args(values.iter().flat_map(|value| ["--set", *value]));
    command.output().context("cannot start helm")
}

/// helm, which keeps nothing in anybody's home.
fn helm(program: &Path) -> Command {
    let home = workspace::target().join("xtask/helm");
    let mut command = Command::new(program);
    for (variable, folder) in [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")]
    {
        command.env(variable, home.join(folder));
    }
    command.env_remove("KUBECONFIG");
    command
}

fn succeeded(output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let [out, error] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    bail!("helm: {}\n{}", error.trim(), out.trim())
}
