//! The bill of materials: every crate that is compiled into the image's binary or its kernel object, in CycloneDX 1.6.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::TARGET;
use crate::workspace;

/// What is shipped: the user side, and the kernel side that it carries.
const SHIPPED: [&str; 2] = ["api-exposure-monitor", "monitor-ebpf"];

/// The bill as JSON, the same for the same lock file.
pub fn of_materials() -> Result<Vec<u8>> {
    let mut cargo = workspace::cargo();
    cargo.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", TARGET]);
    let output = cargo.output().context("cannot start cargo")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata gave no JSON")?;
    let mut bill = serde_json::to_vec_pretty(&bill(&metadata)?)?;
    bill.push(b'\n');
    Ok(bill)
}

fn bill(metadata: &Value) -> Result<Value> {
    let packages: BTreeMap<&str, &Value> =
        array(&metadata["packages"]).filter_map(|package| Some((package["id"].as_str()?, package))).collect();
    let edges: BTreeMap<&str, BTreeSet<&str>> = array(&metadata["resolve"]["nodes"])
        .filter_map(|node| Some((node["id"].as_str()?, dependencies(node))))
        .collect();
    let name = |id: &str| packages.get(id).and_then(|package| package["name"].as_str()).unwrap_or_default();
    let mut open: Vec<&str> = packages.keys().copied().filter(|id| SHIPPED.contains(&name(id))).collect();
    ensure!(open.len() == SHIPPED.len(), "cargo metadata does not name {}", SHIPPED.join(" and "));
    let mut shipped = BTreeSet::new();
    while let Some(id) = open.pop() {
        if shipped.insert(id) {
            open.extend(edges.get(id).into_iter().flatten());
        }
    }
    let mut components: Vec<(String, Value)> =
        shipped.iter().filter_map(|id| packages.get(id)).map(|package| component(package)).collect();
    components.sort_by(|one, other| one.0.cmp(&other.0));
    let reference = |id: &&str| packages.get(*id).map(|package| component(package).0);
    let mut graph: Vec<(String, Vec<String>)> = shipped
        .iter()
        .filter_map(|id| {
            let mut on: Vec<String> = edges.get(id).into_iter().flatten().filter_map(reference).collect();
            on.sort();
            Some((reference(id)?, on))
        })
        .collect();
    graph.sort();
    let graph: Vec<Value> =
        graph.into_iter().map(|(component, on)| json!({ "ref": component, "dependsOn": on })).collect();
    let (own, rest): (Vec<_>, Vec<_>) = components.into_iter().partition(|(_, component)| component["name"] == SHIPPED[0]);
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": { "component": own.into_iter().next().map(|(_, component)| component) },
        "components": rest.into_iter().map(|(_, component)| component).collect::<Vec<_>>(),
        "dependencies": graph,
    }))
}

/// What is compiled in: what a build script or a test needs is not.
fn dependencies(node: &Value) -> BTreeSet<&str> {
    let compiled_in = |dependency: &&Value| array(&dependency["dep_kinds"]).any(|kind| kind["kind"].is_null());
    array(&node["deps"]).filter(compiled_in).filter_map(|dependency| dependency["pkg"].as_str()).collect()
}

/// A package as a component, and the name by which the bill refers to it (a package URL).
fn component(package: &Value) -> (String, Value) {
    let text = |key: &str| package[key].as_str().unwrap_or_default();
    let url = format!("pkg:cargo/{}@{}", text("name"), text("version"));
    let kind = if text("name") == SHIPPED[0] { "application" } else { "library" };
    let mut component = json!({
        "type": kind,
        "bom-ref": url,
        "name": text("name"),
        "version": text("version"),
        "purl": url,
    });
    if !text("license").is_empty() {
        // Older crates write `MIT/Apache-2.0`, which is no SPDX expression.
        component["licenses"] = json!([{ "expression": text("license").replace('/', " OR ") }]);
    }
    if !text("repository").is_empty() {
        component["externalReferences"] = json!([{ "type": "vcs", "url": text("repository") }]);
    }
    (url, component)
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compiled_in_is_named_and_nothing_else() {
        let bill: Value = serde_json::from_slice(&of_materials().unwrap()).unwrap();
        assert_eq!(bill["metadata"]["component"]["name"], SHIPPED[0]);
        let names: BTreeSet<&str> =
            array(&bill["components"]).map(|component| component["name"].as_str().unwrap()).collect();
        for there in ["aya", "aya-ebpf", "axum", "monitor-common", "monitor-ebpf", "tls-parser", "serde"] {
            assert!(names.contains(there), "{there}");
        }
        // A test's, another program's, a build script's.
        for not in ["proptest", "xtask", "aya-build", "monitor-tests"] {
            assert!(!names.contains(not), "{not}");
        }
        let references: BTreeSet<&str> =
            array(&bill["components"]).map(|component| component["bom-ref"].as_str().unwrap()).collect();
        assert_eq!(references.len(), array(&bill["components"]).count(), "each once");
    }
}
