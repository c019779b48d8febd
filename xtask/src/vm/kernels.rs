//! Debian's kernels: found by an apt of its own beside the machine's, fetched once, unpacked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{interrupt, workspace};

/// A kernel to test on.
#[derive(Debug, PartialEq, Eq)]
pub struct Kernel {
    /// What it is called on the command line.
    pub name: &'static str,
    /// The suite of Debian that has it.
    pub suite: &'static str,
}

/// The kernels, oldest first: what the long-supported releases of distributions run, and what they will run.
pub const KERNELS: &[Kernel] = &[
    Kernel { name: "5.10", suite: "bullseye" },
    Kernel { name: "6.1", suite: "bookworm" },
    Kernel { name: "6.12", suite: "trixie" },
    Kernel { name: "newest", suite: "sid" },
];

/// The package that depends on the newest kernel of a suite: the flavour for virtual machines, which is small.
const PACKAGE: &str = "linux-image-cloud-amd64";
/// What a kernel's files are spread over: one package until 6.12, later several.
const PARTS: [&str; 3] = ["linux-image-", "linux-binary-", "linux-modules-"];
/// Modules that the tests need, in the order of their dependencies among each other.
const MODULES: [&str; 3] = ["veth", "sch_ingress", "cls_bpf"];
/// Where Debian is fetched from.
const MIRROR: &str = "http://deb.debian.org/debian";
/// The keys that the suites are signed with, as Debian and Ubuntu install them.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A kernel, unpacked.
#[derive(Debug)]
pub struct Files {
    /// What the kernel calls itself.
    pub release: String,
    /// The compressed kernel.
    pub image: PathBuf,
    /// [`MODULES`] and what they depend on, dependencies first, not compressed; those built in are not among them.
    pub modules: Vec<PathBuf>,
}

/// The kernel of this name on the command line.
pub fn parse(name: &str) -> Result<&'static Kernel, String> {
    let names = || KERNELS.iter().map(|kernel| kernel.name).collect::<Vec<_>>().join(", ");
    KERNELS.iter().find(|kernel| kernel.name == name).ok_or_else(|| format!("no such kernel; there are {}", names()))
}

/// The kernel's files: those that were fetched before, or else (or with `update`) Debian's newest.
pub fn fetch(kernel: &Kernel, update: bool) -> Result<Files> {
    let folder = workspace::cache()?.join("kernels").join(kernel.suite);
    let current = folder.join("current");
    if !update && let Ok(version) = fs::read_to_string(&current) {
        let unpacked = folder.join(version.trim());
        if unpacked.exists() {
            return files(&unpacked);
        }
    }
    let apt = Apt::new(&folder, kernel.suite)?;
    apt.update()?;
    let (version, packages) = apt.parts()?;
    let unpacked = folder.join(&version);
    if !unpacked.exists() {
        // Under another name until it is whole: what is there under its own name can be relied on.
        let partial = folder.join("partial");
        if partial.exists() {
            fs::remove_dir_all(&partial).with_context(|| format!("cannot remove {}", partial.display()))?;
        }
        fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
        for package in &packages {
            apt.download_and_unpack(package, &partial)?;
        }
        fs::rename(&partial, &unpacked).with_context(|| format!("cannot name {}", unpacked.display()))?;
    }
    fs::write(&current, &version).with_context(|| format!("cannot write {}", current.display()))?;
    files(&unpacked)
}

/// An apt whose lists, state and configuration are in one folder: the machine's own is not touched, and no root needed.
struct Apt {
    folder: PathBuf,
    configuration: PathBuf,
}

impl Apt {
    fn new(kernel_folder: &Path, suite: &str) -> Result<Self> {
        let folder = kernel_folder.join("apt");
        for needed in ["lists/partial", "archives/partial"] {
            let needed = folder.join(needed);
            fs::create_dir_all(&needed).with_context(|| format!("cannot create {}", needed.display()))?;
        }
        if !Path::new(KEYS).exists() {
            bail!("{KEYS} is not there: install the package debian-archive-keyring, then try again");
        }
        let path = folder.display();
        // `[arch=amd64]`: also where this machine's architecture is another.
        let sources = format!("deb [arch=amd64 signed-by={KEYS}] {MIRROR} {suite} main\n");
        let configuration = format!(
            "Dir::Etc::sourcelist \"{path}/sources.list\";\n\
             Dir::Etc::sourceparts \"/dev/null\";\n\
             Dir::Etc::preferences \"/dev/null\";\n\
             Dir::Etc::preferencesparts \"/dev/null\";\n\
             Dir::State \"{path}\";\n\
             Dir::State::status \"/dev/null\";\n\
             Dir::Cache \"{path}\";\n\
             APT::Architecture \"amd64\";\n\
             APT::Architectures {{ \"amd64\"; }};\n\
             APT::Sandbox::User \"\";\n\
             Acquire::Languages \"none\";\n\
             Acquire::Check-Valid-Until \"false\";\n\
             Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n"
        );
        let apt = Self { configuration: folder.join("apt.conf"), folder };
        for (file, text) in [(apt.folder.join("sources.list"), sources), (apt.configuration.clone(), configuration)] {
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(apt)
    }

    fn update(&self) -> Result<()> {
        self.output("apt-get", &["update", "--error-on=any"], &self.folder).map(drop)
    }

    /// The version of the suite's kernel, and its packages.
    fn parts(&self) -> Result<(String, Vec<String>)> {
        let (mut packages, mut todo, mut version) = (Vec::new(), vec![PACKAGE.to_owned()], String::new());
        while let Some(package) = todo.pop() {
            let stanza = self.output("apt-cache", &["show", "--no-all-versions", &package], &self.folder)?;
            version = field(&stanza, "Version").with_context(|| format!("{package} has no version"))?.to_owned();
            for part in parts_of(field(&stanza, "Depends").unwrap_or_default()) {
                if !packages.contains(&part) {
                    packages.push(part.clone());
                    todo.push(part);
                }
            }
        }
        if packages.is_empty() {
            bail!("{PACKAGE} depends on no kernel");
        }
        Ok((version, packages))
    }

    fn download_and_unpack(&self, package: &str, into: &Path) -> Result<()> {
        let archives = self.folder.join("archives");
        self.output("apt-get", &["download", "--quiet", package], &archives)?;
        let prefix = format!("{package}_");
        for entry in fs::read_dir(&archives).with_context(|| format!("cannot list {}", archives.display()))? {
            let path = entry?.path();
            if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&prefix)) {
                let words = [Path::new("--extract"), &path, into].map(|word| word.display().to_string());
                self.output("dpkg-deb", &words.each_ref().map(String::as_str), &archives)?;
                fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        Ok(())
    }

    fn output(&self, program: &str, arguments: &[&str], directory: &Path) -> Result<String> {
        interrupt::check()?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir(directory).env("APT_CONFIG", &self.configuration).env("LC_ALL", "C");
        output(&mut command)
    }
}

fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let output = command.output().with_context(|| format!("cannot start {name}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}: {}", output.status, words.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{name} says what is no text"))
}

/// A field of the first stanza.
fn field<'a>(stanza: &'a str, name: &str) -> Option<&'a str> {
    let line = stanza.lines().take_while(|line| !line.is_empty());
    line.filter_map(|line| line.strip_prefix(name)?.strip_prefix(':')).next().map(str::trim)
}

/// The kernel's own packages among dependencies.
fn parts_of(depends: &str) -> Vec<String> {
    let names = depends.split(',').filter_map(|dependency| dependency.split_whitespace().next());
    names.filter(|name| PARTS.iter().any(|part| name.starts_with(part))).map(str::to_owned).collect()
}

/// What is needed of an unpacked kernel. `/lib` is a link to `/usr/lib` on newer releases, so packages have either.
fn files(unpacked: &Path) -> Result<Files> {
    let boot = ["boot", "usr/lib/modules"].iter().flat_map(|folder| walk(&unpacked.join(folder)));
    let image = boot
        .into_iter()
        .find(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("vmlinuz")))
        .with_context(|| format!("no kernel in {}", unpacked.display()))?;
    let folder = ["lib/modules", "usr/lib/modules"]
        .iter()
        .filter_map(|folder| fs::read_dir(unpacked.join(folder)).ok()?.next()?.ok())
        .next()
        .with_context(|| format!("no modules in {}", unpacked.display()))?;
    let release = folder.file_name().into_string().map_err(|name| anyhow!("the name {name:?} is no text"))?;
    let all = walk(&folder.path());
    let builtin = fs::read_to_string(folder.path().join("modules.builtin")).unwrap_or_default();
    let plain = unpacked.join("modules");
    fs::create_dir_all(&plain).with_context(|| format!("cannot create {}", plain.display()))?;
    let mut modules = Vec::new();
    for name in MODULES {
        module(name, &all, &builtin, &plain, &mut modules)?;
    }
    Ok(Files { release, image, modules })
}

/// Adds a module behind what it depends on.
fn module(name: &str, all: &[PathBuf], builtin: &str, plain: &Path, modules: &mut Vec<PathBuf>) -> Result<()> {
    let is_it = |path: &Path| {
        let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
        // `-` and `_` are the same in names of modules.
        file.split_once(".ko").is_some_and(|(stem, _)| stem.replace('-', "_") == name.replace('-', "_"))
    };
    let Some(packed) = all.iter().find(|path| is_it(path)) else {
        if builtin.lines().any(|line| is_it(Path::new(line))) {
            return Ok(());
        }
        bail!("this kernel has no module {name}");
    };
    let path = plain.join(format!("{name}.ko"));
    if modules.contains(&path) {
        return Ok(());
    }
    if !path.exists() {
        let program = match packed.extension().and_then(|extension| extension.to_str()) {
            Some("xz") => "xz",
            Some("zst") => "zstd",
            _ => "cat",
        };
        let mut command = Command::new(program);
        if program != "cat" {
            command.args(["-d", "-c"]);
        }
        let output = command.arg(packed).output().with_context(|| format!("cannot start {program}"))?;
        if !output.status.success() {
            bail!("{program} cannot unpack {}", packed.display());
        }
        fs::write(&path, output.stdout).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    for dependency in dependencies(&bytes) {
        module(&dependency, all, builtin, plain, modules)?;
    }
    modules.push(path);
    Ok(())
}

/// `depends=` of a module's section .modinfo: strings that end with zero.
fn dependencies(module: &[u8]) -> Vec<String> {
    let word = module.split(|byte| *byte == 0).find_map(|word| word.strip_prefix(b"depends="));
    let word = String::from_utf8_lossy(word.unwrap_or_default()).into_owned();
    word.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// All files below a folder; none where there is no such folder.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files.extend(walk(&entry.path())),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_packages_are_found_among_dependencies() {
        let stanza = "Package: linux-image-cloud-amd64\nVersion: 7.1-1\nDepends: linux-base-7.1 (= 7.1-1), \
                      linux-binary-7.1-cloud-amd64 (= 7.1-1), dracut | initramfs-tools, linux-modules-7.1 (= 7.1-1)\n\n\
                      Version: 1\n";
        assert_eq!(field(stanza, "Version"), Some("7.1-1"));
        let depends = field(stanza, "Depends").unwrap();
        assert_eq!(parts_of(depends), ["linux-binary-7.1-cloud-amd64", "linux-modules-7.1"]);
        assert_eq!(field(stanza, "Pre-Depends"), None);
    }

    #[test]
    fn a_modules_dependencies_are_read() {
        assert_eq!(dependencies(b"\x7fELF\0license=GPL\0depends=a,b_c\0name=x\0"), ["a", "b_c"]);
        assert!(dependencies(b"license=GPL\0depends=\0").is_empty());
        assert!(dependencies(b"").is_empty());
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let folder = std::env::temp_dir().join(format!("vm-modules-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let all: Vec<_> = [("one.ko", "depends=two-b\0"), ("two-b.ko", "depends=\0")]
            .iter()
            .map(|(name, text)| {
                let path = folder.join(format!("packed-{name}"));
                fs::create_dir_all(&path).unwrap();
                fs::write(path.join(name), text).unwrap();
                path.join(name)
            })
            .collect();
        let mut modules = Vec::new();
        module("one", &all, "", &folder, &mut modules).unwrap();
        module("two-b", &all, "", &folder, &mut modules).unwrap();
        module("three", &all, "kernel/net/three.ko\n", &folder, &mut modules).unwrap();
        let error = module("four", &all, "", &folder, &mut modules).unwrap_err().to_string();
        fs::remove_dir_all(&folder).unwrap();
        let names: Vec<_> = modules.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["two-b.ko", "one.ko"]);
        assert_eq!(error, "this kernel has no module four");
    }

    #[test]
    fn a_kernel_that_is_not_there_is_answered_with_those_that_are() {
        assert_eq!(parse("6.1").unwrap().suite, "bookworm");
        assert_eq!(parse("4.19").unwrap_err(), "no such kernel; there are 5.10, 6.1, 6.12, newest");
    }
}
