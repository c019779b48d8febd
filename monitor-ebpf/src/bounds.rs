//! Bounds: the one place where bytes of a frame are read, so that no offset goes unchecked.

/// Bytes of a frame in which no header can begin any more: two VLAN tags, the longest IPv4 header or eight IPv6
/// extension headers end before. It also keeps packet pointers within what the verifier follows (MAX_PACKET_OFF).
pub const FURTHEST_HEADER: usize = 0x3fff;

/// A frame whose bytes may lie in one piece or in several (paged data of a large GRO packet).
pub trait Frame {
    /// Bytes of the frame as far as they are there to be read.
    fn length(&self) -> usize;

    /// The `N` bytes at `offset`, `None` where the frame ends before them.
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// The `N` bytes at `OFFSET`, `None` where the frame ends before them or has them in another piece: for the look that
    /// fits most frames, before one that fits all.
    #[inline(always)]
    fn peek<const OFFSET: usize, const N: usize>(&self) -> Option<[u8; N]> {
        self.load(OFFSET)
    }

    /// Gives `offset` back. In the kernel it goes through memory of which the verifier knows nothing: it then follows
    /// what comes after once, and not once for each range that the offset can have come from.
    fn forget_range(&self, offset: usize) -> usize {
        offset
    }
}

impl Frame for [u8] {
    fn length(&self) -> usize {
        self.len()
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset > FURTHEST_HEADER {
            return None;
        }
        self.get(offset..)?.first_chunk().copied()
    }
}
