//! `version`: what this binary is.

use std::env::consts::{ARCH, OS};
use std::io::{self, Write as _};

/// Prints name, version, and what the binary was built for.
///
/// # Errors
/// Standard output takes nothing.
pub fn run() -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{} {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))?;
    writeln!(stdout, "target: {ARCH}-{OS}")?;
    writeln!(stdout, "kernel object: {}", kernel_object())?;
    stdout.flush()?;
    Ok(())
}

fn kernel_object() -> String {
    match crate::attach::object::size() {
        0 => "none (this binary can replay, but not attach: run `cargo xtask setup` and build again)".to_owned(),
        bytes => format!("{bytes} bytes"),
    }
}
