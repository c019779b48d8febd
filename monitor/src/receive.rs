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

impl<'a> Record<'a> {
    /// The record in these bytes of the ring buffer; `None` when they are fewer than its header says.
    pub fn from_bytes(bytes: &'a [u8]) -> Option<Self> {
        let (header, bytes) = bytes.split_at_checked(RecordHeader::SIZE)?;
        // SAFETY: `header` has the size of `RecordHeader`, which is `repr(C)`, made of integers without padding, so any
        // bit pattern is valid; the read needs no alignment.
        let header = unsafe { header.as_ptr().cast::<RecordHeader>().read_unaligned() };
        let bytes = bytes.get(..header.captured as usize)?;
        Some(Self { header, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_and_a_short_one_is_not() {
        let mut bytes = vec![0; RecordHeader::SIZE + 8];
        let captured = std::mem::offset_of!(RecordHeader, captured);
        bytes[captured..captured + 4].copy_from_slice(&5_u32.to_ne_bytes());
        bytes[RecordHeader::SIZE..RecordHeader::SIZE + 5].copy_from_slice(b"hello");
        let record = Record::from_bytes(&bytes).expect("whole");
        assert_eq!((record.header.captured, record.bytes), (5, &b"hello"[..]));
        for length in 0..RecordHeader::SIZE + 5 {
            assert!(Record::from_bytes(&bytes[..length]).is_none(), "{length}");
        }
    }
}
