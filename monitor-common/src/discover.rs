//! Discovery of the API in the clear on ports that nobody named: what both sides have to agree on.

use crate::closed_set;

closed_set! {
    /// What a request line asks an API server for.
    Asked {
        /// Its API, its version, its OpenAPI or OpenID documents.
        Api = "api",
        /// Its health. Many servers have these paths, and their answers say little: a port that is left alone for them
        /// is not left alone for the others.
        Health = "health",
    }
}

impl Asked {
    /// Entries of the table of ports that are left alone.
    pub const ENTRIES: u32 = 65_536 * Self::COUNT as u32;

    /// Where requests to `port` that ask for this stand in that table.
    pub const fn index(self, port: u16) -> u32 {
        (self as u32) << 16 | port as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_has_its_entries() {
        assert_eq!((Asked::Api.index(0), Asked::Health.index(0)), (0, 65_536));
        assert_eq!(Asked::Health.index(u16::MAX), Asked::ENTRIES - 1);
    }
}
