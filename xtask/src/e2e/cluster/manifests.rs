//! The plain manifests and all that the chart can make, at a real API server: it knows every field that it has, and
//! refuses others.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::Cluster;
use super::release::{NAME, Release};
use crate::{chart, workspace};

/// The kinds of the Prometheus operator that the chart makes, for a server that has no operator: their names are real,
/// their fields are not looked at.
const OPERATOR: [(&str, &str); 3] =
    [("PodMonitor", "podmonitors"), ("ServiceMonitor", "servicemonitors"), ("PrometheusRule", "prometheusrules")];

/// All of the chart's objects.
const EVERYTHING: [&str; 7] = [
    "probe.enabled=true",
    "probe.sysAdmin=true",
    "auditLog.enabled=true",
    "serviceMonitor.enabled=true",
    "prometheusRules.enabled=true",
    "dashboards.enabled=true",
    "networkPolicy.enabled=true",
];

/// A server-side dry run of all of them, with fields that nobody knows refused.
pub fn accepted(cluster: &Cluster, release: &Release<'_>) -> Result<()> {
    let first = cluster.first();
    for (kind, plural) in OPERATOR {
        first.apply(&format!(
            "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n\
             metadata: {{name: {plural}.monitoring.coreos.com}}\n\
             spec:\n  group: monitoring.coreos.com\n  scope: Namespaced\n  names: {{kind: {kind}, plural: {plural}}}\n  \
             versions:\n  - name: v1\n    served: true\n    storage: true\n    \
             schema: {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}\n"
        ))?;
        first.kubectl(&[
            "wait",
            "--for=condition=Established",
            &format!("crd/{plural}.monitoring.coreos.com"),
            "--timeout=20s",
        ])?;
    }
    first.kubectl(&["create", "namespace", NAME])?;
    let folder = workspace::root().join("deploy/manifests");
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        files.push(entry?.path());
    }
    ensure!(!files.is_empty(), "no manifests");
    let mut helm = Command::new(release.helm());
    helm.args(["template", NAME]).arg(chart::folder()).args(["--namespace", NAME]);
    helm.args(EVERYTHING.iter().flat_map(|value| ["--set", *value]));
    let output = helm.output().context("cannot start helm")?;
    ensure!(output.status.success(), "helm template: {}", String::from_utf8_lossy(&output.stderr).trim());
    let everything = first.state().join("everything.yaml");
    fs::write(&everything, output.stdout).context("cannot write everything.yaml")?;
    files.push(everything);
    for file in files {
        let name = file.display().to_string();
        first.kubectl(&["create", "--dry-run=server", "--validate=strict", "--filename", &name]).or_else(|error| {
            // The namespace is there, since a dry run makes none for the others.
            let only = format!("{error:#}");
            let others = only
                .lines()
                .any(|line| line.contains("rror") && !line.contains("AlreadyExists") && !line.starts_with("kubectl "));
            if others { Err(error) } else { Ok(only) }
        })?;
    }
    first.kubectl(&["delete", "namespace", NAME])?;
    Ok(())
}
