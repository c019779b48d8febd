//! The labelled captures of `fixtures/captures`, and what `replay` says about one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use monitor::config::{Settings, UnauthenticatedGoaway};
use monitor::export::{KernelCounts, KernelSource, Metrics, json};
use monitor::pipeline::Event;
use monitor::replay::{Capture, replay};
use serde_json::Value;

/// What the plaintext captures carry as bearer tokens, or how those begin: nothing may print any of it.
pub const SECRETS: [&str; 4] = ["static-admin-token", "static-bob-token", "no-such-token", "eyJhbGci"];

/// One capture with its line of `labels.jsonl`; the folder's README says what the fields mean.
#[derive(Clone, Debug)]
pub struct Labelled {
    /// Folder and name, for people.
    pub name: String,
    /// The capture file.
    pub path: PathBuf,
    /// The label.
    pub label: Value,
}

impl Labelled {
    /// Captures of one shape have the same group.
    pub fn group(&self) -> &str {
        self.label["group"].as_str().unwrap_or_default()
    }

    /// Whether the server is one that answers an unauthenticated request over HTTP/2 with GOAWAY.
    pub fn sends_goaway(&self) -> bool {
        self.label["server"].as_str().is_some_and(|server| server.contains("kube-apiserver 1.37"))
    }

    /// The settings of the cluster that the captures are from.
    pub fn settings(&self) -> Settings {
        let goaway = if self.sends_goaway() { UnauthenticatedGoaway::On } else { UnauthenticatedGoaway::Auto };
        Settings { unauthenticated_goaway: goaway, ..settings() }
    }

    /// The rows of the label's connections.
    pub fn connections(&self) -> &[Value] {
        self.label["connections"].as_array().map_or(&[], Vec::as_slice)
    }
}

/// The settings of the cluster that the captures are from, whichever server.
///
/// # Panics
/// A range of this function is none.
pub fn settings() -> Settings {
    let net = |words: &str| words.parse().expect("a prefix");
    let address = |words: &str| words.parse().expect("an address");
    Settings {
        secure_port: vec![6443, 8443, 9443, 2379],
        insecure_port: vec![8080, 8088, 8081, 12379, 2381],
        node_address: ["192.168.56.10", "fd00:56::10", "10.96.0.1"].map(address).to_vec(),
        cluster_node_cidr: ["192.168.56.0/24", "fd00:56::/64"].map(net).to_vec(),
        pod_cidr: vec![net("10.244.0.0/16")],
        service_cidr: vec![net("10.96.0.0/16")],
        ..Settings::default()
    }
}

/// The folder of the captures.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/captures")
}

/// All labelled captures, in the order of folders and labels.
///
/// # Errors
/// The folder or a line cannot be read.
pub fn all() -> Result<Vec<Labelled>> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir(folder())
        .context("the folder of captures")?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    folders.retain(|path| path.is_dir());
    folders.sort();
    let mut captures = Vec::new();
    for folder in folders {
        let labels = folder.join("labels.jsonl");
        let text = std::fs::read_to_string(&labels).with_context(|| labels.display().to_string())?;
        for line in text.lines() {
            let label: Value = serde_json::from_str(line).with_context(|| labels.display().to_string())?;
            let file = label["file"].as_str().context("a label without file")?;
            let release = folder.file_name().unwrap_or_default().to_string_lossy();
            captures.push(Labelled { name: format!("{release}/{file}"), path: folder.join(file), label });
        }
    }
    Ok(captures)
}

/// What `replay` says of captures.
#[derive(Clone, Debug, Default)]
pub struct Replayed {
    /// Every event as a line of JSON, its newline included.
    pub events: Vec<String>,
    /// The kernel half's counts.
    pub counts: KernelCounts,
    /// The scrape.
    pub scrape: String,
}

impl Replayed {
    /// The lines of connections, as `replay --output json` prints them.
    pub fn connections(&self) -> Vec<&str> {
        let connections = self.events.iter().map(String::as_str);
        connections.filter(|line| line.starts_with(r#"{"type":"connection""#)).collect()
    }
}

/// Replays these files, one after the other, as the command does.
///
/// # Errors
/// Those of the capture.
pub fn replayed(files: &[impl AsRef<Path>], settings: &Settings) -> Result<Replayed> {
    let metrics = Arc::new(Metrics::new());
    let mut replayed = Replayed::default();
    for file in files {
        let mut capture = Capture::open(file.as_ref())?;
        let events = &mut replayed.events;
        replay(&mut capture, settings, &metrics, &mut replayed.counts, |event| events.push(line(&event)))?;
    }
    metrics.set_kernel_source(Some(Arc::new(Fixed(replayed.counts.clone()))));
    replayed.scrape = metrics.encode();
    Ok(replayed)
}

/// An event as a line of JSON.
///
/// # Panics
/// It cannot be written.
pub fn line(event: &Event<'_>) -> String {
    let mut line = Vec::new();
    json::write_event(&mut line, event).expect("JSON");
    String::from_utf8(line).expect("UTF-8")
}

struct Fixed(KernelCounts);

impl KernelSource for Fixed {
    fn read(&self) -> Result<KernelCounts> {
        Ok(self.0.clone())
    }
}
