//! Pictures.

use anyhow::{Result, bail};

/// Draws them.
pub fn draw() -> Result<()> {
    bail!("not yet")
}
