//! Helpers of the tests that need more than one crate: frames, the loaded kernel half, network namespaces.
//!
//! Tests that need root are marked `#[ignore = "needs root"]`, so that a run by anybody else counts them as skipped;
//! root runs them with `--include-ignored`, as `cargo xtask test` does.

pub mod captures;
pub mod daemon;
pub mod foreign;
pub mod frame;
pub mod kernel;
pub mod namespace;
pub mod random;
pub mod rules;
pub mod sender;
pub mod wire;

/// Stops a test that was asked for by name and that only root can run.
///
/// # Panics
/// This process is not root's.
pub fn require_root() {
    // SAFETY: the call takes nothing and cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    assert!(root, "this test loads eBPF programs: run it as root (`cargo xtask test` skips it for anybody else)");
}
