//! The configuration file: TOML with the settings' names as keys.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::{ConfigError, Entry, Given, Kind, Place, TABLE, Words, entry};

/// A value is shown up to here in an error: it may be anything.
const SHOWN: usize = 80;

/// Reads the file.
pub fn read(path: &Path) -> Result<Given, ConfigError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    parse(path, &text)
}

/// Reads the file's text; `path` is its name in errors.
pub fn parse(path: &Path, text: &str) -> Result<Given, ConfigError> {
    let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        line: line(text, error.span().map_or(0, |span| span.start)),
        message: error.message().replace('\n', ", "),
    })?;
    let mut given = Given::default();
    for (key, value) in table.get_ref() {
        let name: &str = key.get_ref();
        let line = line(text, key.span().start);
        let Some(entry) = TABLE.iter().find(|entry| entry.key == name) else {
            return Err(ConfigError::UnknownKey {
                path: path.to_owned(),
                line,
                key: name.to_owned(),
                nearest: nearest(name),
            });
        };
        let place = Place::File { path: path.to_owned(), line, key: entry.key };
        let words = words(entry, value.get_ref()).ok_or_else(|| ConfigError::Value {
            place: place.clone(),
            value: shown(text.get(value.span()).unwrap_or_default()),
            expected: entry.expected.clone(),
        })?;
        given.0.insert(entry.key, Words { words, place });
    }
    Ok(given)
}

/// The value as one would write it behind the flag; `None` for a type that the setting does not take.
fn words(entry: &Entry, value: &DeValue<'_>) -> Option<Vec<String>> {
    match (entry.kind, value) {
        (Kind::List, DeValue::Array(items)) => items.iter().map(|item| word(item.get_ref())).collect(),
        (Kind::Switch, DeValue::Boolean(value)) => Some(vec![value.to_string()]),
        (Kind::Switch, _) => None,
        (Kind::List | Kind::One, value) => word(value).map(|word| vec![word]),
    }
}

fn word(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(word) => Some(word.clone().into_owned()),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).ok().map(|number| number.to_string())
        }
        _ => None,
    }
}

fn nearest(name: &str) -> &'static str {
    let likeness = |entry: &&Entry| strsim::jaro_winkler(entry.key, name);
    TABLE
        .iter()
        .max_by(|one, other| likeness(one).total_cmp(&likeness(other)))
        .map_or_else(|| entry("").key, |entry| entry.key)
}

fn shown(value: &str) -> String {
    let mut shown: String = value.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = shown.char_indices().nth(SHOWN) {
        shown.truncate(end);
        shown.push_str("...");
    }
    shown
}

/// Number of the line with this byte, counted from 1.
fn line(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}
