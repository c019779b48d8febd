//! receive: a record out of the ring buffer's bytes.

use monitor_common::RecordHeader;

/// One record of the kernel side: the header and the payload bytes that were captured.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The fixed header.
    pub header: RecordHeader,
    /// `header.captured` bytes of TCP payload.
    pub bytes: &'a [u8],
}
