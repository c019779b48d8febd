//! The way of a record through user space: the only file that names all stages.

use crate::classify::{Connection, ExposureKind};

/// What the pipeline says as it happens.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A connection, once: when nothing more will change about it (TLS that has been read to its verdict, or its end).
    Connection(&'a Connection),
    /// A plaintext request whose response was seen or whose connection ended; `index` into `connection.requests`.
    Request(&'a Connection, usize),
    /// An exposure, once for each connection, as soon as it is known.
    Exposure(&'a Connection, ExposureKind),
}
