//! `check`.

use super::arguments::CheckArgs;
use crate::config::Settings;

/// Not wired yet.
///
/// # Errors
/// Always.
pub fn run(_args: &CheckArgs, _settings: Settings) -> anyhow::Result<()> {
    anyhow::bail!("`check` is not wired yet")
}
