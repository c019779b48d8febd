//! The bill of materials: every crate that is compiled into the image's binary or its kernel object, in CycloneDX 1.6.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::TARGET;
use crate::workspace;

/// What is shipped, and for what it is compiled: the user side, and the kernel side that it carries.
const SHIPPED: [(&str, &str); 2] = [("api-exposure-monitor", TARGET), ("monitor-ebpf", "bpfel-unknown-none")];

/// The bill as JSON, the same for the same lock file.
pub fn of_materials() -> Result<Vec<u8>> {
    let mut packages: BTreeMap<String, Package> = BTreeMap::new();
    for (name, target) in SHIPPED {
        let mut cargo = workspace::cargo();
        cargo.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", target]);
        let output = cargo.output().context("cannot start cargo")?;
        ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
        let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata gave no JSON")?;
        for package in compiled_into(name, &metadata)? {
            // One that both sides have is compiled with the packages of both.
            match packages.entry(package.url.clone()) {
                Entry::Vacant(place) => drop(place.insert(package)),
                Entry::Occupied(mut there) => there.get_mut().needs.extend(package.needs),
            }
        }
    }
    let (own, rest): (Vec<_>, Vec<_>) =
        packages.values().partition(|package| package.component["name"] == SHIPPED[0].0);
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": { "component": own.first().map(|package| &package.component) },
        "components": rest.iter().map(|package| &package.component).collect::<Vec<_>>(),
        "dependencies": packages
            .values()
            .map(|package| json!({ "ref": package.url, "dependsOn": package.needs }))
            .collect::<Vec<_>>(),
    });
    let mut bill = serde_json::to_vec_pretty(&bill)?;
    bill.push(b'\n');
    Ok(bill)
}

/// A package that is shipped.
struct Package {
    /// Its package URL, by which the bill refers to it.
    url: String,
    component: Value,
    /// The packages that it is compiled with.
    needs: BTreeSet<String>,
}

/// A package of the workspace and all that is compiled into it.
fn compiled_into(root: &str, metadata: &Value) -> Result<Vec<Package>> {
    let packages: BTreeMap<&str, &Value> =
        array(&metadata["packages"]).filter_map(|package| Some((package["id"].as_str()?, package))).collect();
    let nodes: BTreeMap<&str, BTreeSet<&str>> = array(&metadata["resolve"]["nodes"])
        .filter_map(|node| Some((node["id"].as_str()?, dependencies(node))))
        .collect();
    let start = packages.iter().find(|(_, package)| package["name"] == root).map(|(id, _)| *id);
    let mut open = vec![start.with_context(|| format!("cargo metadata does not name {root}"))?];
    let mut found = BTreeSet::new();
    while let Some(id) = open.pop() {
        if found.insert(id) {
            open.extend(nodes.get(id).into_iter().flatten());
        }
    }
    let url = |id: &str| packages.get(id).map(|package| component(package).0);
    let shipped = found.iter().filter_map(|id| {
        let (url_of_it, component) = component(packages.get(id)?);
        let needs = nodes.get(id).into_iter().flatten().filter_map(|id| url(id)).collect();
        Some(Package { url: url_of_it, component, needs })
    });
    Ok(shipped.collect())
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
    let kind = if text("name") == SHIPPED[0].0 { "application" } else { "library" };
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
        assert_eq!(bill["metadata"]["component"]["name"], SHIPPED[0].0);
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
