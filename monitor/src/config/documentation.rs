//! The reference of settings, for the documentation.

use super::TABLE;

/// A table of all settings in Markdown: flag, environment variable, key of the file, default, meaning.
pub fn documentation() -> String {
    let mut table = String::from(
        "| flag | environment | configuration file | default | meaning |\n|--|--|--|--|--|\n\
         | `--config` | `API_EXPOSURE_CONFIG` | | | Configuration file (TOML) with the keys below. |\n",
    );
    for entry in TABLE.iter() {
        let default = if entry.default.is_empty() { String::new() } else { format!("`{}`", entry.default) };
        let meaning = entry.meaning.replace('|', "\\|");
        let (flag, variable, key) = (entry.flag, entry.variable, entry.key);
        table.push_str(&format!("| `{flag}` | `{variable}` | `{key}` | {default} | {meaning} |\n"));
    }
    table
}
