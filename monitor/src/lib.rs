//! api-exposure-monitor: who reaches this Kubernetes API server, from where, over what, with which credential.
//!
//! The way of a packet in user space: receive, reassemble, inspect, classify, export. Only [`pipeline`] names all
//! stages; a stage imports the type of the stage before it and `monitor-common`, nothing after it.

pub mod anonymous;
pub mod attach;
pub mod audit;
pub mod classify;
mod clock;
pub mod commands;
pub mod config;
pub mod configuration;
pub mod discover;
pub mod discovery;
pub mod export;
mod flow_table;
pub mod inspect;
mod key_hash;
pub mod live;
pub mod pipeline;
pub mod probe;
pub mod reassemble;
pub mod receive;
pub mod replay;
pub mod watch;
