//! What README says of flags and metrics, and docs/alerts.md of alerts, is what the code and the rules say. `cargo xtask
//! docs` writes it anew.
#![expect(clippy::unwrap_used, reason = "what a test cannot do without fails it")]

use std::fs;
use std::path::Path;

use monitor_tests::rules;

/// With this variable set the blocks are written instead of compared.
const WRITE: &str = "API_EXPOSURE_WRITE_DOCUMENTATION";

#[test]
fn readme_says_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let flags = replaced(&readme, "flags", &monitor::config::documentation());
    let expected = replaced(&flags, "metrics", &monitor::export::Metrics::documentation());
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, expected).unwrap();
        return;
    }
    assert!(readme == expected, "README.md is not what the code says: run `cargo xtask docs` and commit the change");
}

#[test]
fn the_alert_reference_says_what_the_rules_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/alerts.md");
    let page = fs::read_to_string(&path).unwrap();
    let expected = replaced(&page, "alerts", &alerts());
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, expected).unwrap();
        return;
    }
    assert!(page == expected, "docs/alerts.md is not what the rules say: run `cargo xtask docs` and commit the change");
}

/// A table of all alerts, then the expression of each.
fn alerts() -> String {
    let alerts = rules::read("alerts");
    let mut text = String::from("| Alert | Severity | Lasting | Threshold | Summary |\n|---|---|---|---|---|\n");
    for alert in &alerts {
        let [severity, summary] = [alert.labels.get("severity"), alert.annotations.get("summary")].map(Option::unwrap);
        let (name, lasting, threshold) = (alert.name(), &alert.lasting, alert.threshold().unwrap());
        text += &format!("| [{name}](runbooks/{name}.md) | {severity} | {lasting} | `{threshold}` | {summary} |\n");
    }
    for alert in &alerts {
        text += &format!("\n### {}\n\n{}\n", alert.name(), alert.annotations["description"].trim());
        text += &format!("\n```promql\n{}\n```\n", alert.expr.trim_end());
    }
    text
}

/// The text with what stands between the marks of this block replaced.
fn replaced(text: &str, block: &str, by: &str) -> String {
    let (begin, end) = (format!("<!-- generated: {block} -->\n"), format!("<!-- end generated: {block} -->"));
    let from = text.find(&begin).unwrap_or_else(|| panic!("no mark {begin}")) + begin.len();
    let to = text.find(&end).unwrap_or_else(|| panic!("no mark {end}"));
    assert!(from <= to, "the marks of block {block} are in the wrong order");
    format!("{}{}\n{}", &text[..from], by.trim_end(), &text[to..])
}
