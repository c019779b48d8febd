//! The project's manual: each command is one file.
fn main() {}
