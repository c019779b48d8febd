//! commands.

pub mod observe;
