//! An image in one archive that is both a docker archive (`docker load`) and an OCI image layout: one layer, no time and no
//! owner of the machine that wrote it.
//!
//! Formats: OCI image specification 1.1 (image-layout.md, manifest.md, config.md) and docker's image specification 1.2.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::{Context as _, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// What an image is made of.
pub struct Image<'a> {
    /// Name and tag.
    pub name: &'a str,
    /// Seconds since 1970.
    pub created: u64,
    /// Programs and what they need: path without the first slash, content. All may be run.
    pub files: &'a [(&'a str, &'a [u8])],
    /// What is run: the first of the files, with these arguments where nobody gives others.
    pub arguments: &'a [&'a str],
    /// The TCP port that it listens at.
    pub port: Option<u16>,
    /// Whether its layer is compressed; where it only goes from one folder to another it need not be.
    pub compressed: bool,
    /// Labels, which are the OCI manifest's annotations too.
    pub labels: &'a [(&'static str, String)],
}

/// The archive's bytes.
pub fn docker_archive(image: &Image<'_>) -> Result<Vec<u8>> {
    let created = timestamp(image.created);
    let files = layer(image.files)?;
    let diff = hash(&files);
    let layer =
        if image.compressed { Blob::new(compressed(&files)?) } else { Blob { hash: diff.clone(), bytes: files } };
    let layer_type = if image.compressed {
        "application/vnd.oci.image.layer.v1.tar+gzip"
    } else {
        "application/vnd.oci.image.layer.v1.tar"
    };
    let labels: Map<String, Value> =
        image.labels.iter().map(|(name, value)| ((*name).to_owned(), Value::from(value.as_str()))).collect();
    let mut annotations = labels.clone();
    annotations.insert("org.opencontainers.image.created".into(), created.as_str().into());
    let entry = image.files.first().map(|(path, _)| format!("/{path}"));
    let ports: Map<String, Value> = image.port.iter().map(|port| (format!("{port}/tcp"), json!({}))).collect();
    let config = Blob::new(serde_json::to_vec(&json!({
        "created": created,
        "architecture": "amd64",
        "os": "linux",
        "config": {
            // Root: Kubernetes gives the capabilities that a container asks for to no other user.
            "User": "0:0",
            "Entrypoint": [entry],
            "Cmd": image.arguments,
            "Env": ["PATH=/usr/bin"],
            "WorkingDir": "/",
            "ExposedPorts": ports,
            "StopSignal": "SIGTERM",
            "Labels": annotations,
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{diff}")] },
        "history": [{ "created": created, "created_by": "cargo xtask image" }],
    }))?);
    let manifest = Blob::new(serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
        "layers": [layer.descriptor(layer_type)],
        "annotations": annotations,
    }))?);
    let mut in_index = manifest.descriptor("application/vnd.oci.image.manifest.v1+json");
    let tag = image.name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    in_index["platform"] = json!({ "architecture": "amd64", "os": "linux" });
    in_index["annotations"] =
        json!({ "io.containerd.image.name": image.name, "org.opencontainers.image.ref.name": tag });
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [in_index],
    }))?;
    let docker = serde_json::to_vec(&json!([{
        "Config": config.path(),
        "RepoTags": [image.name],
        "Layers": [layer.path()],
    }]))?;

    let mut archive = Archive::new();
    archive.folder("blobs/")?;
    archive.folder("blobs/sha256/")?;
    let mut blobs = [&config, &layer, &manifest];
    blobs.sort_by(|one, other| one.hash.cmp(&other.hash));
    for blob in blobs {
        archive.file(&blob.path(), 0o644, &blob.bytes)?;
    }
    archive.file("index.json", 0o644, &index)?;
    archive.file("manifest.json", 0o644, &docker)?;
    archive.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    archive.end()
}

/// The one layer: the files, in the folders that they need.
fn layer(files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let folders: BTreeSet<String> = files
        .iter()
        .flat_map(|(path, _)| path.match_indices('/').map(|(at, _)| path[..=at].to_owned()).collect::<Vec<_>>())
        .collect();
    let mut layer = Archive::new();
    for folder in folders {
        layer.folder(&folder)?;
    }
    for (path, content) in files {
        layer.file(path, 0o755, content)?;
    }
    layer.end()
}

/// Without a time, and always by the same encoder: the same layer gives the same bytes.
fn compressed(layer: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(layer).context("cannot compress the layer")?;
    encoder.finish().context("cannot compress the layer")
}

/// A tar of files that belong to root and were changed in 1970.
struct Archive(tar::Builder<Vec<u8>>);

impl Archive {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn folder(&mut self, path: &str) -> Result<()> {
        self.entry(path, tar::EntryType::Directory, 0o755, &[])
    }

    fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.entry(path, tar::EntryType::Regular, mode, bytes)
    }

    fn entry(&mut self, path: &str, kind: tar::EntryType, mode: u32, bytes: &[u8]) -> Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(bytes.len() as u64);
        self.0.append_data(&mut header, path, bytes).with_context(|| format!("cannot pack {path}"))
    }

    fn end(self) -> Result<Vec<u8>> {
        self.0.into_inner().context("cannot end the archive")
    }
}

/// Bytes that are named by their sum.
struct Blob {
    hash: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        Self { hash: hash(&bytes), bytes }
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.hash)
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": format!("sha256:{}", self.hash), "size": self.bytes.len() })
    }
}

/// SHA-256 in hexadecimal.
fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut hex, byte| {
        // A string takes everything.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// RFC 3339, UTC. Days to a date of the Gregorian calendar, counted from 1 March of year 0 so that a leap day is a
/// year's last.
fn timestamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3_600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read as _;

    use super::*;

    fn archive() -> Vec<u8> {
        let labels = [("org.opencontainers.image.title", "test".to_owned())];
        let image = Image {
            name: "localhost/test:1",
            created: 1_700_000_000,
            files: &[("usr/bin/test", b"binary")],
            arguments: &["run"],
            port: Some(9464),
            compressed: true,
            labels: &labels,
        };
        docker_archive(&image).unwrap()
    }

    fn entries(bytes: &[u8]) -> BTreeMap<String, (u32, Vec<u8>)> {
        let mut archive = tar::Archive::new(bytes);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let header = entry.header();
            let owner = (header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap());
            assert_eq!(owner, (0, 0, 0), "nothing of the machine that wrote it");
            let mode = header.mode().unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (path, (mode, content))
        });
        entries.collect()
    }

    #[test]
    fn the_same_image_is_the_same_bytes() {
        assert_eq!(archive(), archive());
    }

    #[test]
    fn every_blob_is_what_its_name_says_and_the_two_formats_name_the_same_ones() {
        let entries = entries(&archive());
        let text = |name: &str| serde_json::from_slice::<Value>(&entries[name].1).unwrap();
        for (name, (_, content)) in
            entries.iter().filter(|(name, content)| name.starts_with("blobs/sha256/") && !content.1.is_empty())
        {
            assert_eq!(*name, format!("blobs/sha256/{}", hash(content)));
        }
        let of_digest = |value: &Value| value.as_str().unwrap().replace("sha256:", "blobs/sha256/");
        let manifest = of_digest(&text("index.json")["manifests"][0]["digest"]);
        let manifest = text(&manifest);
        let docker = text("manifest.json");
        assert_eq!(docker[0]["Config"], of_digest(&manifest["config"]["digest"]));
        assert_eq!(docker[0]["Layers"][0], of_digest(&manifest["layers"][0]["digest"]));
        assert_eq!(docker[0]["RepoTags"][0], "localhost/test:1");
        let config = text(docker[0]["Config"].as_str().unwrap());
        let mut files = Vec::new();
        let compressed = entries[docker[0]["Layers"][0].as_str().unwrap()].1.as_slice();
        flate2::read::GzDecoder::new(compressed).read_to_end(&mut files).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", hash(&files)));
        assert_eq!(config["config"]["Entrypoint"][0], "/usr/bin/test");
        assert_eq!(config["config"]["ExposedPorts"], json!({ "9464/tcp": {} }));
        assert_eq!(config["created"], "2023-11-14T22:13:20Z");
        assert_eq!(config["config"]["Labels"]["org.opencontainers.image.title"], "test");
    }

    #[test]
    fn the_layer_has_the_files_and_their_folders_only() {
        let files = entries(&layer(&[("usr/bin/test", b"binary"), ("usr/bin/other", b"other")]).unwrap());
        let names: Vec<_> = files.iter().map(|(name, (mode, _))| (name.as_str(), *mode)).collect();
        let expected = ["usr/", "usr/bin/", "usr/bin/other", "usr/bin/test"].map(|name| (name, 0o755));
        assert_eq!(names, expected);
        assert_eq!(files["usr/bin/test"].1, b"binary");
    }

    #[test]
    fn seconds_are_dates() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
        ] {
            assert_eq!(timestamp(seconds), date);
        }
    }
}
