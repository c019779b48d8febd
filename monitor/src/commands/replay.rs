//! `replay`.

use super::arguments::ReplayArgs;
use crate::config::Settings;

/// Not wired yet.
///
/// # Errors
/// Always.
pub fn run(_args: &ReplayArgs, _settings: Settings) -> anyhow::Result<()> {
    anyhow::bail!("`replay` is not wired yet")
}
