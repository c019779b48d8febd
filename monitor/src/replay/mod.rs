//! replay: capture files through the same stages as live traffic. Needs no privilege.

pub mod capture;
pub mod native;
pub mod progress;
pub mod table;

pub use capture::{Capture, CaptureError, Frame, Start};
