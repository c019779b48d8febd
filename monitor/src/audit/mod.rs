//! audit: the API server's own word on requests, followed in its audit log (JSON lines, audit.k8s.io/v1).

pub mod event;
pub mod follower;
pub mod lines;
pub mod node_restriction;
pub mod position;
pub mod reading;
mod rotated;
mod time;
