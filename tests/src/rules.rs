//! Recording and alerting rules, as Prometheus reads them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

/// Where the project lives.
pub const REPOSITORY: &str = env!("CARGO_PKG_REPOSITORY");

#[derive(Deserialize)]
struct File {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

/// One rule.
#[derive(Debug, Deserialize)]
pub struct Rule {
    /// The series that it records.
    pub record: Option<String>,
    /// The alert that it raises.
    pub alert: Option<String>,
    /// Its expression.
    pub expr: String,
    /// How long it has to hold.
    #[serde(rename = "for", default)]
    pub lasting: String,
    /// Labels that it gives.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What it says.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

impl Rule {
    /// Of the series or of the alert.
    pub fn name(&self) -> &str {
        self.record.as_deref().or(self.alert.as_deref()).unwrap_or_default()
    }

    /// The comparison on the last line of the expression.
    pub fn threshold(&self) -> Option<&str> {
        let last = self.expr.trim_end().lines().last()?.trim();
        let number = last.strip_prefix(['<', '>'])?.strip_prefix(' ')?;
        number.parse::<f64>().is_ok().then_some(last)
    }
}

/// The rules of all files of a folder of `dashboards`, in order of the files' names.
///
/// # Panics
/// When a file cannot be read or is no file of rules.
#[expect(clippy::unwrap_used, reason = "for tests only")]
pub fn read(folder: &str) -> Vec<Rule> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards").join(folder);
    let mut paths: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let files = paths.iter().map(|path| {
        let text = fs::read_to_string(path).unwrap();
        serde_saphyr::from_str::<File>(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    });
    files.flat_map(|file| file.groups).flat_map(|group| group.rules).collect()
}
