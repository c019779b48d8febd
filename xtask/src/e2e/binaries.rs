//! Programs of Kubernetes and around it, built from Go modules as official builds are (stripped, static) and kept outside
//! of the clone: the next one has them already. Minutes the first time, nothing later.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::setup::{self, Group};
use crate::terminal::Steps;
use crate::{interrupt, workspace};

use super::module_file::{self, OLD_PINS};

/// The current release of Kubernetes.
pub const CURRENT: &str = "v1.37.2";
/// The last patch of the last release that has an insecure port.
pub const OLD: &str = "v1.19.16";
/// A release in which the anonymous authenticator is a closure.
pub const CLOSURE: &str = "v1.30.14";

/// A program beside Kubernetes' own: the package to install, and its version.
struct Tool {
    name: &'static str,
    package: &'static str,
    version: &'static str,
}

const HELM: Tool = Tool { name: "helm", package: "helm.sh/helm/v4/cmd/helm", version: "v4.3.1" };

/// The Go that builds; an older one fetches this one, a newer one builds by itself.
const GO: (u32, u32, &str) = (1, 26, "go1.26.8");
/// Releases up to this minor need what [`OLD_PINS`] says and a generated file.
const NEEDS_GENERATED: u32 = 19;
/// The file that modules of old releases lack.
const GENERATED: &str = "pkg/generated/openapi/zz_generated.openapi.go";
/// Without the code of cloud providers, as official builds are since they have none.
const TAGS: &str = "providerless";

/// The folder with these commands (`kube-apiserver`, `kubelet`, `kubectl`, ...) of a release (`v1.37.2`); builds what is
/// not there yet.
pub fn kubernetes(version: &str, commands: &[&str]) -> Result<PathBuf> {
    let go = Go::find()?;
    let folder = go.folder(version, &recipe())?;
    let _turn = turn(&folder)?;
    let missing: Vec<&str> = commands.iter().copied().filter(|command| !folder.join(command).exists()).collect();
    if missing.is_empty() {
        return Ok(folder);
    }
    let minor = minor(version)?;
    let work = folder.join("build");
    fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
    let old = minor <= NEEDS_GENERATED;
    let mut steps = Steps::new("kubernetes", missing.len() + 1 + usize::from(old))?;
    println!("building {} of Kubernetes {version}, once, into {}", missing.join(", "), folder.display());
    steps.within(&format!("fetch Kubernetes {version}"), || module(&go, version, &work, &missing, old))?;
    if old {
        steps.within("generate what its module lacks", || generate(&go, &work, &missing))?;
    }
    for command in missing {
        let partial = work.join(command);
        let mut build = go.command(&work);
        build.args(["build", "-tags", TAGS, "-trimpath", "-ldflags", &flags(version, minor), "-o"]);
        build.arg(&partial).arg(package(command));
        steps.run(&format!("build {command} {version} (some minutes the first time)"), &mut build)?;
        // What is there under its own name is whole.
        fs::rename(&partial, folder.join(command)).with_context(|| format!("cannot name {command}"))?;
    }
    fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
    Ok(folder)
}

/// The program helm.
pub fn helm() -> Result<PathBuf> {
    install(&HELM)
}

/// The program helm where it is there without building it: kept from before, or in PATH.
pub fn helm_at_hand() -> Option<PathBuf> {
    let kept = Go::find_at_hand().and_then(|go| go.folder(&format!("{}-{}", HELM.name, HELM.version), "install").ok());
    let kept = kept.map(|folder| folder.join(HELM.name)).filter(|program| program.exists());
    kept.or_else(|| workspace::has_program(HELM.name).then(|| PathBuf::from(HELM.name)))
}

fn install(tool: &Tool) -> Result<PathBuf> {
    let go = Go::find()?;
    let folder = go.folder(&format!("{}-{}", tool.name, tool.version), "install")?;
    let _turn = turn(&folder)?;
    let program = folder.join(tool.name);
    if !program.exists() {
        let partial = folder.join("build");
        fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
        let mut install = go.command(&partial);
        install.env_remove("GOFLAGS").env("GOBIN", &partial);
        install.args(["install", "-trimpath", "-ldflags", "-s -w", &format!("{}@{}", tool.package, tool.version)]);
        let mut steps = Steps::new(tool.name, 1)?;
        steps.run(&format!("build {} {} (two minutes the first time)", tool.name, tool.version), &mut install)?;
        fs::rename(partial.join(tool.name), &program).with_context(|| format!("cannot name {}", tool.name))?;
        fs::remove_dir_all(&partial).with_context(|| format!("cannot remove {}", partial.display()))?;
    }
    Ok(program)
}

/// The Go toolchain.
struct Go {
    /// `GOTOOLCHAIN`.
    toolchain: &'static str,
    /// `go1.26.8`.
    version: String,
}

impl Go {
    fn find() -> Result<Self> {
        if !workspace::has_program("go") {
            setup::ensure(&[Group::Kubernetes])?;
        }
        let local = Self { toolchain: "local", version: String::new() };
        let here = local.output(Path::new("/"), &["env", "GOVERSION"])?.trim().to_owned();
        match toolchain(&here)? {
            "local" => Ok(Self { version: here, ..local }),
            other => Ok(Self { toolchain: other, version: other.to_owned() }),
        }
    }

    /// As [`Self::find`], where nothing has to be installed or fetched for it.
    fn find_at_hand() -> Option<Self> {
        workspace::has_program("go").then(Self::find).and_then(Result::ok)
    }

    /// Where what this Go builds is kept.
    fn folder(&self, name: &str, recipe: &str) -> Result<PathBuf> {
        let mut hasher = DefaultHasher::new();
        recipe.hash(&mut hasher);
        let name = format!("{name}-{}-{:08x}", self.version, hasher.finish() >> 32);
        let folder = workspace::cache()?.join("binaries").join(name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(folder)
    }

    fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new("go");
        command.current_dir(folder).env("GOTOOLCHAIN", self.toolchain).env("CGO_ENABLED", "0");
        command.env("GOFLAGS", "-mod=mod -buildvcs=false").env_remove("GOOS").env_remove("GOARCH");
        command
    }

    fn output(&self, folder: &Path, arguments: &[&str]) -> Result<String> {
        interrupt::check()?;
        let output = self.command(folder).args(arguments).output().context("cannot start go")?;
        if !output.status.success() {
            let words = arguments.first().copied().unwrap_or_default();
            bail!("go {words}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        String::from_utf8(output.stdout).context("go says what is no text")
    }
}

/// `GOTOOLCHAIN` for a machine whose Go is of this version (`go1.26.8`).
fn toolchain(here: &str) -> Result<&'static str> {
    // A release candidate is `go1.27rc1`.
    let mut numbers = here.strip_prefix("go").unwrap_or_default().split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().and_then(|text| text.parse::<u32>().ok());
    match (number(), number()) {
        (Some(major), Some(minor)) if (major, minor) >= (GO.0, GO.1) => Ok("local"),
        // From 1.21 on a Go fetches another one by itself.
        (Some(1), Some(minor)) if minor >= 21 => Ok(GO.2),
        _ => bail!("`{here}` is too old: Go 1.21 or later is needed, see https://go.dev/dl"),
    }
}

/// All that decides what is built, apart from the release and Go: other words, other folder.
fn recipe() -> String {
    format!("{} {} {OLD_PINS:?} {TAGS}", flags("", 0), module_file::text("v1.0.0", "", &[]).unwrap_or_default())
}

fn flags(version: &str, minor: u32) -> String {
    let base = "k8s.io/component-base/version";
    format!(
        "-s -w -X {base}.gitVersion={version} -X {base}.gitMajor=1 -X {base}.gitMinor={minor} \
         -X k8s.io/client-go/pkg/version.gitVersion={version}"
    )
}

fn package(command: &str) -> String {
    format!("k8s.io/kubernetes/cmd/{command}")
}

fn minor(version: &str) -> Result<u32> {
    let minor = version.strip_prefix("v1.").and_then(|rest| rest.split('.').next()?.parse().ok());
    minor.with_context(|| format!("`{version}` is no release of Kubernetes 1"))
}

/// One build at a time in a folder; the lock goes with the file.
fn turn(folder: &Path) -> Result<File> {
    let path = folder.join("in-use");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    if file.try_lock().is_err() {
        println!("waiting for another build in {}", folder.display());
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

/// Makes the module to build in.
fn module(go: &Go, version: &str, work: &Path, commands: &[&str], old: bool) -> Result<()> {
    let listing = go.output(Path::new("/"), &["mod", "download", "-json", &format!("k8s.io/kubernetes@{version}")])?;
    let listing: serde_json::Value = serde_json::from_str(&listing).context("go mod download says no JSON")?;
    let source = listing.get("Dir").and_then(serde_json::Value::as_str).context("go names no folder of the module")?;
    let source = Path::new(source);
    let original = fs::read_to_string(source.join("go.mod")).context("the module has no go.mod")?;
    let text = module_file::text(version, &original, if old { OLD_PINS } else { &[] })?;
    fs::write(work.join("go.mod"), text).context("cannot write go.mod")?;
    let imports: String = commands.iter().map(|command| format!("\t_ \"{}\"\n", package(command))).collect();
    let tools = format!("//go:build tools\n\npackage tools\n\nimport (\n{imports})\n");
    fs::write(work.join("tools.go"), tools).context("cannot write tools.go")?;
    if old {
        let copy = work.join("kubernetes");
        if copy.exists() {
            fs::remove_dir_all(&copy).context("cannot remove an old copy of the module")?;
        }
        let mut cp = Command::new("cp");
        cp.args(["--recursive", "--no-preserve=mode"]).arg(source).arg(&copy);
        let status = cp.status().context("cannot start cp")?;
        anyhow::ensure!(status.success(), "cannot copy {}", source.display());
    } else {
        // Written, not copied: modules are read-only.
        let sums = fs::read(source.join("go.sum")).context("the module has no go.sum")?;
        fs::write(work.join("go.sum"), sums).context("cannot write go.sum")?;
    }
    Ok(())
}

/// Makes [`GENERATED`] with the generator that the release itself uses.
fn generate(go: &Go, work: &Path, commands: &[&str]) -> Result<()> {
    let packages: Vec<String> = commands.iter().map(|command| package(command)).collect();
    let mut list = vec!["list", "-deps", "-tags", TAGS, "-f", "{{.ImportPath}} {{.Dir}}"];
    list.extend(packages.iter().map(String::as_str));
    // With the generated file missing its package has no Go files, which `-e` lets pass.
    list.insert(1, "-e");
    let listing = go.output(work, &list)?;
    let inputs = listing.lines().filter_map(|line| line.split_once(' ')).filter(|(name, folder)| {
        name.starts_with("k8s.io/")
            && !["code-generator", "sample-apiserver"].iter().any(|word| name.contains(word))
            && wants_openapi(Path::new(folder))
    });
    let inputs = inputs.map(|(name, _)| name).collect::<Vec<_>>().join(",");
    go.output(work, &["build", "-o", "openapi-gen", "k8s.io/kube-openapi/cmd/openapi-gen"])?;
    fs::write(work.join("header.txt"), "").context("cannot write header.txt")?;
    let mut generator = Command::new(work.join("openapi-gen"));
    generator.current_dir(work).args(["-i", &inputs, "-p", "k8s.io/kubernetes/pkg/generated/openapi"]);
    generator.args(["-O", "zz_generated.openapi", "-h", "header.txt", "--output-base", "generated"]);
    generator.args(["-r", "violations.report"]).envs(go.command(work).get_envs().filter_map(|(k, v)| Some((k, v?))));
    let output = generator.output().context("cannot start openapi-gen")?;
    if !output.status.success() {
        bail!("openapi-gen: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let made = work.join("generated/k8s.io/kubernetes").join(GENERATED);
    fs::copy(&made, work.join("kubernetes").join(GENERATED)).with_context(|| format!("no {}", made.display()))?;
    Ok(())
}

/// Whether a package asks for its description.
fn wants_openapi(folder: &Path) -> bool {
    let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "go")).any(|path| {
        let text = fs::read(&path).unwrap_or_default();
        contains(&text, b"+k8s:openapi-gen=")
    })
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_go_builds_by_itself_and_an_old_one_fetches_another() {
        assert_eq!(toolchain("go1.26.8").unwrap(), "local");
        assert_eq!(toolchain("go1.27rc1").unwrap(), "local");
        assert_eq!(toolchain("go1.23.2").unwrap(), GO.2);
        let error = toolchain("go1.19.8").unwrap_err().to_string();
        assert!(error.contains("go1.19.8") && error.contains("go.dev/dl"), "{error}");
    }

    #[test]
    fn the_minor_of_a_release() {
        assert_eq!(minor("v1.19.16").unwrap(), 19);
        assert!(minor("1.19").is_err());
    }
}
