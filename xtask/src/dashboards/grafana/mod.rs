//! The dashboards, a file each.

mod anonymous;
mod connections;
mod exposure;
mod health;
mod model;

pub use model::Dashboard;

/// All dashboards, in the order of a look that goes from the whole to the parts.
pub fn all() -> Vec<Dashboard> {
    vec![exposure::dashboard(), connections::dashboard(), anonymous::dashboard(), health::dashboard()]
}
