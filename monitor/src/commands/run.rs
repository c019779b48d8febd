//! `run`.

use super::arguments::RunArgs;
use crate::config::Settings;

/// Not wired yet.
///
/// # Errors
/// Always.
pub fn run(_args: &RunArgs, _settings: Settings) -> anyhow::Result<()> {
    anyhow::bail!("`run` is not wired yet")
}
