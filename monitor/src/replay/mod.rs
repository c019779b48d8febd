//! replay: the stages over a capture file.

pub mod native;
