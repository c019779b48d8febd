//! What README says of flags and metrics is what the code says. `cargo xtask docs` writes it anew.

use std::fs;
use std::path::Path;

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

/// The text with what stands between the marks of this block replaced.
fn replaced(text: &str, block: &str, by: &str) -> String {
    let (begin, end) = (format!("<!-- generated: {block} -->\n"), format!("<!-- end generated: {block} -->"));
    let from = text.find(&begin).unwrap_or_else(|| panic!("README.md has no mark {begin}")) + begin.len();
    let to = text.find(&end).unwrap_or_else(|| panic!("README.md has no mark {end}"));
    assert!(from <= to, "the marks of block {block} are in the wrong order");
    format!("{}{}\n{}", &text[..from], by.trim_end(), &text[to..])
}
