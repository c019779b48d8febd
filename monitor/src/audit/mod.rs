//! audit: the API server's own word on requests, followed in its audit log (JSON lines, audit.k8s.io/v1).

pub mod follower;
pub mod lines;
pub mod position;
pub mod reading;
mod rotated;
