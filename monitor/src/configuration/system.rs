//! Reads the configuration where it stands: command lines of processes, the static pod's manifest, and the files that
//! they name, seen through `/proc/PID/root`.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use super::arguments::Arguments;
use super::authentication::Anonymous;
use super::certificate::Certificate;
use super::release::Release;
use super::rules::{self, Named};
use super::{AnonymousMode, Report, Source, proxy};
use crate::probe::NotProbed;
use crate::probe::elf::Elf;
use crate::probe::process::{self, Component};

/// Where kubeadm has the API server's static pod.
pub const MANIFEST: &str = "/etc/kubernetes/manifests/kube-apiserver.yaml";

/// Bytes of a file that is read; a certificate with its chain has some thousand.
const LONGEST: u64 = 1 << 20;

/// `kubectl proxy` processes that are told of at the most.
const PROXIES: usize = 32;

/// Where to look.
#[derive(Clone, Debug)]
pub struct Places {
    /// Where processes are found.
    pub proc: PathBuf,
    /// The static pod's manifest; `None`: kubeadm's, where there is one.
    pub manifest: Option<PathBuf>,
}

/// Reads and judges all that is there. What cannot be read is said once, and the rest goes on.
pub fn look(places: &Places, now: SystemTime) -> Report {
    let mut report = Report::default();
    let mut servers = processes(places, &mut report);
    if servers.is_empty() {
        servers.extend(manifest(places, &mut report));
    }
    for server in &servers {
        report.subjects.push(server.subject.clone());
        report.findings.extend(rules::judge(server, now));
        let mode = rules::anonymous(server).0;
        report.anonymous = Some(report.anonymous.map_or(mode, |before| more_open(before, mode)));
        if let Named::Read(certificate, _) = &server.certificate {
            let ends = certificate.ends.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
            report.certificate_ends = Some(report.certificate_ends.map_or(ends, |before| before.min(ends)));
        }
    }
    report
}

/// The more open of two, of API servers on one node; what is not known may be anything, but says less.
fn more_open(one: AnonymousMode, other: AnonymousMode) -> AnonymousMode {
    one.min(other)
}

/// The API servers that run here, and what else of processes is a finding.
fn processes(places: &Places, report: &mut Report) -> Vec<rules::Server> {
    let found = match process::find(&places.proc) {
        Ok(found) => found,
        Err(error) => {
            let words = format!("{}: processes cannot be listed: {error}", places.proc.display());
            report.unreadable.push((Source::Processes, words));
            return Vec::new();
        }
    };
    let mut servers = Vec::new();
    for server in &found {
        let subject = format!("kube-apiserver (process {})", server.process);
        if server.identity.as_ref().is_err_and(|refusal| refusal.reason == NotProbed::Elsewhere) {
            continue;
        }
        if server.component == Component::Embedded {
            let words =
                format!("{} (process {}) sets its API server's flags itself", server.executable, server.process);
            report.unreadable.push((Source::Processes, words));
            continue;
        }
        if let Err(refusal) = &server.identity
            && refusal.reason == NotProbed::NotBelieved
        {
            report.unreadable.push((Source::Processes, format!("{subject}: {}", refusal.words)));
            continue;
        }
        let folder = places.proc.join(server.process.to_string());
        // Gone since it was found.
        let Some(words) = process::command_line(&folder) else { continue };
        let arguments = Arguments::read(words.iter().skip(1).map(String::as_str));
        servers.push(with_files(subject, arguments, release(&server.path), &folder, report));
    }
    report.findings.extend(proxies(&places.proc));
    servers
}

/// The release that a binary says, where it does.
fn release(path: &Path) -> Option<Release> {
    let mut file = File::open(path).ok()?;
    let region = Elf::read(&mut file).ok()?.section_ending(".go.buildinfo")?;
    Release::of_binary(&mut file, (region.offset, region.size))
}

fn proxies(proc: &Path) -> Vec<super::Finding> {
    let folders = fs::read_dir(proc).into_iter().flatten().flatten();
    let judged = folders.filter_map(|entry| {
        let process = entry.file_name().to_str()?.parse().ok()?;
        // One of another network is none of what is watched here.
        let network = |folder: &Path| fs::read_link(folder.join("ns/net")).ok();
        let elsewhere = network(&entry.path()).is_some_and(|its| Some(its) != network(Path::new("/proc/self")));
        if elsewhere {
            return None;
        }
        proxy::judge(process, &process::command_line(&entry.path())?)
    });
    judged.take(PROXIES).collect()
}

/// As much of a static pod's manifest as matters.
#[derive(Deserialize)]
struct Pod {
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    containers: Vec<Container>,
}

#[derive(Deserialize)]
struct Container {
    #[serde(default)]
    image: String,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    args: Vec<String>,
}

/// The API server of the manifest: where its process is not to be seen (no hostPID), or does not run.
fn manifest(places: &Places, report: &mut Report) -> Option<rules::Server> {
    let path = places.manifest.as_deref().unwrap_or(Path::new(MANIFEST));
    if places.manifest.is_none() && !path.exists() {
        return None;
    }
    let subject = format!("manifest {}", path.display());
    let read = read(path).and_then(|bytes| pod(&bytes));
    match read {
        Ok(container) => {
            let words = container.command.iter().chain(&container.args).skip(1);
            let arguments = Arguments::read(words.map(String::as_str));
            Some(with_files(subject, arguments, Release::of_image(&container.image), Path::new("/proc/self"), report))
        }
        Err(why) => {
            report.unreadable.push((Source::Manifest, format!("{}: {why}", path.display())));
            None
        }
    }
}

fn pod(bytes: &[u8]) -> Result<Container, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is no text")?;
    let pod: Pod = serde_saphyr::from_str(text).map_err(|_| "it is no YAML of a pod")?;
    let is_server = |container: &Container| {
        container.command.first().or(container.args.first()).is_some_and(|word| word.ends_with("kube-apiserver"))
    };
    pod.spec
        .containers
        .into_iter()
        .find(is_server)
        .ok_or_else(|| "none of its containers is a kube-apiserver".to_owned())
}

/// Adds the files that the command line names, as the process in this folder of `/proc` sees them.
fn with_files(
    subject: String,
    arguments: Arguments,
    release: Option<Release>,
    process: &Path,
    report: &mut Report,
) -> rules::Server {
    let mut named = |flag: &str, source: Source| -> Option<Result<(Vec<u8>, String), ()>> {
        let path = arguments.get(flag).filter(|path| !path.is_empty())?;
        match read(&seen_by(process, path)) {
            Ok(bytes) => Some(Ok((bytes, path.to_owned()))),
            Err(why) => {
                report.unreadable.push((source, format!("{subject}: {path}: {why}")));
                Some(Err(()))
            }
        }
    };
    let authentication = named("authentication-config", Source::AuthenticationConfiguration);
    let certificate = named("tls-cert-file", Source::Certificate);
    let mut parsed = |source, path: &str, why: String| {
        report.unreadable.push((source, format!("{subject}: {path}: {why}")));
    };
    let authentication = match authentication {
        None => Named::No,
        Some(Err(())) => Named::Unreadable,
        Some(Ok((bytes, path))) => match Anonymous::read(&String::from_utf8_lossy(&bytes)) {
            Ok(said) => Named::Read(said, path),
            Err(why) => {
                parsed(Source::AuthenticationConfiguration, &path, why);
                Named::Unreadable
            }
        },
    };
    let certificate = match certificate {
        None => Named::No,
        Some(Err(())) => Named::Unreadable,
        Some(Ok((bytes, path))) => match Certificate::read(&bytes) {
            Ok(said) => Named::Read(said, path),
            Err(why) => {
                parsed(Source::Certificate, &path, why);
                Named::Unreadable
            }
        },
    };
    rules::Server { subject, arguments, release, authentication, certificate }
}

/// A path as a process sees it: below its root, or from where it works.
fn seen_by(process: &Path, path: &str) -> PathBuf {
    match path.strip_prefix('/') {
        Some(rest) => process.join("root").join(rest.trim_start_matches('/')),
        None => process.join("cwd").join(path),
    }
}

/// A regular file, as far as it is read; in words what is wrong.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            "it cannot be read: that needs root, and of another container CAP_SYS_PTRACE and hostPID".to_owned()
        }
        _ => format!("it cannot be read: {error}"),
    })?;
    if !metadata.is_file() {
        return Err("it is no file".to_owned());
    }
    let mut bytes = Vec::new();
    let mut file = File::open(path).map_err(|error| format!("it cannot be read: {error}"))?.take(LONGEST);
    file.read_to_end(&mut bytes).map_err(|error| format!("it cannot be read: {error}"))?;
    Ok(bytes)
}
