//! `observe`.

use super::arguments::ObserveArgs;
use crate::config::Settings;

/// Not wired yet.
///
/// # Errors
/// Always.
pub fn run(_args: &ObserveArgs, _settings: Settings) -> anyhow::Result<()> {
    anyhow::bail!("`observe` is not wired yet")
}
