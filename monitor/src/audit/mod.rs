//! audit: the API server's own word on requests, followed in its audit log (JSON lines, audit.k8s.io/v1).
//!
//! [`follower`] gives each line once, whatever happens to the file; [`event`] reads a line; [`log`] makes requests of
//! them, each once; [`follow`] is the daemon's thread around these.

pub mod event;
pub mod follow;
pub mod follower;
pub mod lines;
pub mod log;
pub mod node_restriction;
pub mod position;
pub mod reading;
mod rotated;
mod time;
