//! From what is needed and what is there to the commands that bring the rest.

use std::fmt;
use std::process::Command;

use anyhow::{Result, bail};

use super::machine::{CoreSources, Machine};
use super::needs::{BPF_LINKER, From, Group, NEEDS};

/// Debian's compiler with its sources, and the LLVM that it is built with.
const DEBIAN_COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
const DEBIAN_LLVM: [&str; 2] = ["llvm-22-dev", "libpolly-22-dev"];
/// The release that has suricata in its backports only.
const OLD_RELEASE: &str = "bookworm";

/// What is missing and the steps that bring it, in order.
#[derive(Debug, Default)]
pub struct Plan {
    /// Names of what is missing, for people.
    pub missing: Vec<&'static str>,
    /// The steps.
    pub steps: Vec<Step>,
}

/// One command line.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// What it does, for people.
    pub what: String,
    /// Only root may.
    pub root: bool,
    environment: Vec<(&'static str, &'static str)>,
    words: Vec<String>,
}

impl Plan {
    /// Plans what this machine lacks for these groups; fails where nothing here can bring it.
    pub fn new(groups: &[Group], machine: &Machine) -> Result<Self> {
        let mut plan = Self::default();
        let (mut packages, mut backports, mut after) = (Vec::new(), Vec::new(), Vec::new());
        let missing =
            NEEDS.iter().filter(|need| groups.contains(&need.group) && !machine.programs.contains(need.program));
        for need in missing {
            plan.missing.push(need.program);
            match need.from {
                From::Package(package) => packages.push(package),
                From::Backports(package) if machine.codename == OLD_RELEASE => backports.push(package),
                From::Backports(package) => packages.push(package),
                From::Cargo { package, version } => {
                    after.push(Step::cargo_install(package, version));
                }
                From::KernelToolchain => {}
            }
        }
        if groups.contains(&Group::Build) {
            plan.kernel_toolchain(machine, &mut packages, &mut after)?;
        }
        let from_apt = !packages.is_empty() || !backports.is_empty();
        if from_apt && !machine.apt {
            packages.extend(backports);
            bail!("apt-get is not here: install {} with this system's own tool, then try again", packages.join(", "));
        }
        if !packages.is_empty() {
            plan.steps.push(Step::new("fetch the package lists", &["apt-get", "update"]).by_root());
            plan.steps.push(Step::apt_install(&packages, &[]));
        }
        if !backports.is_empty() {
            plan.steps.push(Step::add_backports(machine, &backports)?);
            plan.steps.push(Step::new("fetch the package lists", &["apt-get", "update"]).by_root());
            plan.steps.push(Step::apt_install(&backports, &["-t", "bookworm-backports"]));
        }
        plan.steps.extend(after);
        Ok(plan)
    }

    /// Whether one of the steps needs root.
    pub fn needs_root(&self) -> bool {
        self.steps.iter().any(|step| step.root)
    }

    /// The compiler for the kernel object: rustup's nightly where it has its sources, else Debian's where that may be
    /// installed, else rustup's.
    fn kernel_toolchain(
        &mut self,
        machine: &Machine,
        packages: &mut Vec<&'static str>,
        after: &mut Vec<Step>,
    ) -> Result<()> {
        if !machine.rustup {
            bail!("rustup is not here: install it as https://rustup.rs says, then try again");
        }
        let toolchain = match machine.core_sources {
            Some(toolchain) => toolchain,
            None => {
                self.missing.push("a compiler with rust-src for the kernel object");
                let debian = machine.debian_compiler || (machine.offers_compiler && machine.root);
                if debian { CoreSources::Linked } else { CoreSources::Nightly }
            }
        };
        if machine.core_sources.is_none() {
            match toolchain {
                CoreSources::Linked => {
                    if !machine.debian_compiler {
                        packages.extend(DEBIAN_COMPILER);
                    }
                    let link = ["rustup", "toolchain", "link", "ebpf", "/usr"];
                    after.push(Step::new("make Debian's compiler known to rustup as `ebpf`", &link));
                }
                CoreSources::Nightly => {
                    let words = [
                        "rustup",
                        "toolchain",
                        "install",
                        "nightly",
                        "--profile",
                        "minimal",
                        "--component",
                        "rust-src",
                    ];
                    after.push(Step::new("install rustup's nightly with rust-src", &words));
                }
            }
        }
        if !machine.programs.contains("bpf-linker") {
            // bpf-linker has to read what the compiler's LLVM writes.
            let mut step = Step::cargo_install("bpf-linker", BPF_LINKER);
            if machine.llvm || (machine.apt && toolchain == CoreSources::Linked) {
                if !machine.llvm {
                    packages.extend(DEBIAN_LLVM);
                }
                step.environment.push(("LLVM_PREFIX", "/usr/lib/llvm-22"));
                step.words.extend(["--no-default-features", "--features", "llvm-22"].map(String::from));
            }
            after.push(step);
        }
        Ok(())
    }
}

/// The commands, a line each, as one would type them.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "  {step}"))
    }
}

impl Step {
    fn new(what: &str, words: &[&str]) -> Self {
        Self {
            what: what.to_owned(),
            root: false,
            environment: Vec::new(),
            words: words.iter().map(|&word| word.to_owned()).collect(),
        }
    }

    fn by_root(mut self) -> Self {
        self.root = true;
        self
    }

    fn apt_install(packages: &[&str], options: &[&str]) -> Self {
        let words = [
            &["apt-get", "install", "-o", "DPkg::Lock::Timeout=300", "--yes", "--no-install-recommends"],
            options,
            packages,
        ]
        .concat();
        let mut step = Self::new(&format!("install {}", packages.join(", ")), &words).by_root();
        step.environment.push(("DEBIAN_FRONTEND", "noninteractive"));
        step
    }

    fn cargo_install(package: &str, version: &str) -> Self {
        let words = ["cargo", "install", package, "--version", version, "--locked"];
        Self::new(&format!("build {package} {version} (some minutes)"), &words)
    }

    /// A file of its own beside the machine's list of suites, with its mirror and its key.
    fn add_backports(machine: &Machine, packages: &[&str]) -> Result<Self> {
        let Some(suites) = &machine.suites else {
            bail!(
                "{} can be had from bookworm-backports only, and this machine's list of suites is not where it is expected",
                packages.join(", ")
            );
        };
        let mut stanza =
            format!("Types: deb\\nURIs: {}\\nSuites: bookworm-backports\\nComponents: main\\n", suites.uris);
        if let Some(key) = &suites.signed_by {
            stanza.push_str(&format!("Signed-By: {key}\\n"));
        }
        let line = format!("printf '{stanza}' > /etc/apt/sources.list.d/api-exposure-monitor-backports.sources");
        Ok(Self::new("add the suite bookworm-backports", &["sh", "-c", &line]).by_root())
    }

    /// The command, ready to start.
    pub fn command(&self) -> Command {
        let (program, arguments) = self.words.split_first().map_or(("true", [].as_slice()), |(p, a)| (p.as_str(), a));
        let mut command = Command::new(program);
        command.args(arguments).envs(self.environment.iter().copied());
        // The compiler of this workspace is no other workspace's business.
        command.env_remove("RUSTUP_TOOLCHAIN").current_dir("/");
        command
    }
}

/// As one would type it.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.root {
            f.write_str("sudo ")?;
        }
        for (name, value) in &self.environment {
            write!(f, "{name}={value} ")?;
        }
        let words = self.words.iter().map(|word| if plain(word) { word.clone() } else { quoted(word) });
        f.write_str(&words.collect::<Vec<_>>().join(" "))
    }
}

fn plain(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:=+,".contains(c))
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::super::machine::Suites;
    use super::*;

    fn debian() -> Machine {
        Machine {
            root: true,
            apt: true,
            rustup: true,
            offers_compiler: true,
            codename: "bookworm".into(),
            suites: Some(Suites { uris: "http://mirror.example/debian".into(), signed_by: Some("/key.gpg".into()) }),
            ..Machine::default()
        }
    }

    fn lines(plan: &Plan) -> Vec<String> {
        plan.steps.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn nothing_is_to_do_where_all_is_there() {
        let machine = Machine {
            programs: NEEDS.iter().map(|need| need.program).collect(),
            core_sources: Some(CoreSources::Linked),
            ..debian()
        };
        let groups = [Group::Build, Group::Lab, Group::Test, Group::Ci, Group::Bench];
        let plan = Plan::new(&groups, &machine).unwrap();
        assert!(plan.steps.is_empty(), "{plan}");
        assert!(plan.missing.is_empty());
    }

    #[test]
    fn a_debian_without_a_fitting_nightly_takes_debians_compiler() {
        let plan = Plan::new(&[Group::Build], &debian()).unwrap();
        let expected = [
            "sudo apt-get update",
            "sudo DEBIAN_FRONTEND=noninteractive apt-get install -o DPkg::Lock::Timeout=300 --yes \
             --no-install-recommends rustc-web cargo-web \
             rust-web-src llvm-22-dev libpolly-22-dev",
            "rustup toolchain link ebpf /usr",
            "LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 --locked --no-default-features \
             --features llvm-22",
        ];
        assert_eq!(lines(&plan), expected);
        assert!(plan.needs_root());
    }

    #[test]
    fn who_is_not_root_takes_rustups_nightly() {
        let plan = Plan::new(&[Group::Build], &Machine { root: false, ..debian() }).unwrap();
        let expected = [
            "rustup toolchain install nightly --profile minimal --component rust-src",
            "cargo install bpf-linker --version 0.13.0 --locked",
        ];
        assert_eq!(lines(&plan), expected);
        assert!(!plan.needs_root());
    }

    #[test]
    fn a_nightly_with_its_sources_is_left_as_it_is() {
        let machine = Machine { core_sources: Some(CoreSources::Nightly), programs: ["bpf-linker"].into(), ..debian() };
        assert!(Plan::new(&[Group::Build], &machine).unwrap().steps.is_empty());
    }

    #[test]
    fn only_what_is_missing_is_installed() {
        let machine = Machine { programs: ["ip", "nsenter", "curl", "openssl", "wget"].into(), ..debian() };
        let plan = Plan::new(&[Group::Lab, Group::Test], &machine).unwrap();
        assert_eq!(plan.missing, ["nginx", "tcpdump", "promtool"]);
        let install = &lines(&plan)[1];
        assert!(install.ends_with("--no-install-recommends nginx-light tcpdump prometheus"), "{install}");
    }

    #[test]
    fn bookworm_gets_its_backports_and_later_releases_do_not() {
        let machine = Machine { programs: ["xdp-filter", "wrk", "gnuplot", "hping3"].into(), ..debian() };
        let bookworm = lines(&Plan::new(&[Group::Bench], &machine).unwrap());
        assert_eq!(
            bookworm[0],
            "sudo sh -c 'printf '\\''Types: deb\\nURIs: http://mirror.example/debian\\nSuites: bookworm-backports\\n\
             Components: main\\nSigned-By: /key.gpg\\n'\\'' > /etc/apt/sources.list.d/api-exposure-monitor-backports.sources'"
        );
        assert!(bookworm[2].ends_with("-t bookworm-backports suricata"), "{bookworm:?}");
        let trixie = lines(&Plan::new(&[Group::Bench], &Machine { codename: "trixie".into(), ..machine }).unwrap());
        assert_eq!(trixie.len(), 2);
        assert!(trixie[1].ends_with("--no-install-recommends suricata"), "{trixie:?}");
    }

    #[test]
    fn without_apt_the_packages_are_named() {
        let machine = Machine { apt: false, offers_compiler: false, ..debian() };
        let error = Plan::new(&[Group::Test], &machine).unwrap_err().to_string();
        assert!(error.contains("install prometheus with this system's own tool"), "{error}");
    }

    #[test]
    fn without_rustup_the_way_to_it_is_named() {
        let error = Plan::new(&[Group::Build], &Machine { rustup: false, ..debian() }).unwrap_err().to_string();
        assert!(error.contains("rustup.rs"), "{error}");
    }
}
