//! A go.mod that builds commands of `k8s.io/kubernetes` as of any other module.
//!
//! Go heeds the replace lines of the main module only, and `k8s.io/kubernetes` replaces its libraries (`k8s.io/api`, ...)
//! by folders of its own repository. Each release of it is also published as a release of each library: v1.37.2 has
//! v0.37.2. So the main module made here repeats its replace lines with those in the place of the folders.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

/// Name of the module that is made.
const MODULE: &str = "kubernetes-binaries-for-tests";

/// A module to take in the place of another: of this name and version, or a folder that begins with `./`.
#[derive(Debug)]
pub struct Pin {
    /// What is replaced.
    pub module: &'static str,
    /// By what: `NAME VERSION`, or `./FOLDER`.
    pub by: &'static str,
}

/// What an old release needs beside its own pins: two of those no longer work with a current Go or are gone, and its
/// module is taken from a copy, because a generated file has to be added to it.
pub const OLD_PINS: &[Pin] = &[
    Pin { module: "github.com/json-iterator/go", by: "github.com/json-iterator/go v1.1.12" },
    // 1.0.1 panics on a POST.
    Pin { module: "github.com/modern-go/reflect2", by: "github.com/modern-go/reflect2 v1.0.2" },
    Pin { module: "golang.org/x/sys", by: "golang.org/x/sys v0.30.0" },
    Pin { module: "k8s.io/kubernetes", by: "./kubernetes" },
    // The domain is gone.
    Pin { module: "vbom.ml/util", by: "github.com/fvbommel/sortorder v1.0.1" },
];

/// The text of go.mod for a release (`v1.37.2`) whose own go.mod is `original`.
pub fn text(version: &str, original: &str, pins: &[Pin]) -> Result<String> {
    let staging = version.strip_prefix("v1.").map(|rest| format!("v0.{rest}"));
    let staging = staging.with_context(|| format!("`{version}` is no release of Kubernetes 1"))?;
    let mut replaces: BTreeMap<&str, String> = original.lines().filter_map(|line| replace(line, &staging)).collect();
    replaces.extend(pins.iter().map(|pin| (pin.module, pin.by.to_owned())));
    let lines: String = replaces.iter().map(|(module, by)| format!("\t{module} => {by}\n")).collect();
    Ok(format!("module {MODULE}\n\ngo 1.26.0\n\nrequire k8s.io/kubernetes {version}\n\nreplace (\n{lines})\n"))
}

/// A replace line: `MODULE [VERSION] => OTHER [VERSION]`, with the published library for a folder.
fn replace<'a>(line: &'a str, staging: &str) -> Option<(&'a str, String)> {
    let (from, to) = line.split_once(" => ")?;
    let module = from.trim().trim_start_matches("replace ").split_whitespace().next()?;
    let to = to.split("//").next().unwrap_or(to).trim();
    let by = if to.starts_with("./staging/") { format!("{module} {staging}") } else { to.to_owned() };
    Some((module, by))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGINAL: &str = "module k8s.io/kubernetes\n\nrequire (\n\tk8s.io/api v0.0.0\n)\n\nreplace (\n\
                            \tgithub.com/a/b => github.com/c/b v1.2.3\n\tk8s.io/api => ./staging/src/k8s.io/api\n\
                            \tvbom.ml/util => vbom.ml/util v0.1.0\n)\n";

    #[test]
    fn libraries_are_taken_as_published_and_other_replaces_are_kept() {
        let text = text("v1.37.2", ORIGINAL, &[]).unwrap();
        assert!(text.contains("require k8s.io/kubernetes v1.37.2\n"), "{text}");
        let replaces = text.split("replace (\n").nth(1).unwrap();
        assert_eq!(
            replaces,
            "\tgithub.com/a/b => github.com/c/b v1.2.3\n\tk8s.io/api => k8s.io/api v0.37.2\n\tvbom.ml/util => vbom.ml/util v0.1.0\n)\n"
        );
    }

    #[test]
    fn pins_come_before_what_the_release_says() {
        let text = text("v1.19.16", ORIGINAL, OLD_PINS).unwrap();
        assert!(text.contains("\tvbom.ml/util => github.com/fvbommel/sortorder v1.0.1\n"), "{text}");
        assert!(text.contains("\tk8s.io/kubernetes => ./kubernetes\n"), "{text}");
        assert!(text.contains("\tk8s.io/api => k8s.io/api v0.19.16\n"), "{text}");
    }

    #[test]
    fn what_is_no_release_is_named() {
        assert_eq!(text("1.37", "", &[]).unwrap_err().to_string(), "`1.37` is no release of Kubernetes 1");
    }
}
