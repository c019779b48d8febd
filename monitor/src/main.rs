//! Entry point of `api-exposure-monitor`.
fn main() {}
