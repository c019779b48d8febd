//! What the probe in the API server hands to user space, and what it has to know of the binary that it stands in.

use crate::{closed_set, limits};

/// Where the probe finds what it reads; one for each binary that it is attached to. Offsets in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ProbeLayout {
    /// Comes back in each hit: tells attachments apart.
    pub attachment: u32,
    /// 1: the function is a method, its receiver is the first argument and `*http.Request` the second; 0: it is a
    /// closure, and `*http.Request` is the first.
    pub method_form: u32,
    /// Offset of `Method` in net/http.Request.
    pub method: u32,
    /// Offset of `URL` in net/http.Request.
    pub url: u32,
    /// Offset of `ProtoMajor` in net/http.Request.
    pub proto_major: u32,
    /// Offset of `RemoteAddr` in net/http.Request.
    pub remote: u32,
    /// Offset of `Path` in net/url.URL.
    pub path: u32,
    /// Zero.
    pub reserved: u32,
}

closed_set! {
    /// Which point of the function was hit.
    HitKind {
        /// Its entry: a request without a credential. A whole [`HitRecord`].
        Entered = "entered",
        /// A return: whether the request was let in as anonymous. A [`HitHeader`] only.
        Answered = "answered",
    }
}

/// Bits of [`HitHeader::unread`]: what could not be read from the API server's memory.
#[derive(Clone, Copy, Debug)]
pub struct Unread;

impl Unread {
    /// The method.
    pub const METHOD: u8 = 1;
    /// The path.
    pub const PATH: u8 = 2;
    /// The protocol's major version.
    pub const PROTO_MAJOR: u8 = 4;
    /// The remote address.
    pub const REMOTE: u8 = 8;
    /// The number of paths that anonymous requests are confined to.
    pub const CONDITIONS: u8 = 16;
}

/// What every record of the probe begins with. All fields in host byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct HitHeader {
    /// When it was hit, nanoseconds of CLOCK_MONOTONIC.
    pub time: u64,
    /// Address of the goroutine's descriptor: joins an answer to its entry.
    pub goroutine: u64,
    /// Process (thread group) as the kernel's first pid namespace numbers it.
    pub process: u32,
    /// [`ProbeLayout::attachment`].
    pub attachment: u32,
    /// Paths that anonymous requests are confined to; 0: there is no such condition.
    pub conditions: u32,
    /// Bytes of the method in the API server, of which the first [`limits::HIT_METHOD`] were read.
    pub method_length: u32,
    /// Bytes of the path in the API server, of which the first [`limits::HIT_PATH`] were read.
    pub path_length: u32,
    /// Bytes of the remote address in the API server, of which the first [`limits::HIT_REMOTE`] were read.
    pub remote_length: u32,
    /// A [`HitKind`].
    pub kind: u8,
    /// [`HitKind::Answered`]: 1 when the request was let in as anonymous.
    pub accepted: u8,
    /// The request's ProtoMajor: 1 or 2.
    pub proto_major: u8,
    /// Bits of [`Unread`].
    pub unread: u8,
    /// Zero.
    pub reserved: [u8; 4],
}

impl HitHeader {
    /// Bytes of the header.
    pub const SIZE: usize = core::mem::size_of::<Self>();
}

/// A hit of the entry, as it stands in the ring buffer. Bytes of a text behind its length are of no meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct HitRecord {
    /// The fixed part.
    pub header: HitHeader,
    /// The request's method.
    pub method: [u8; limits::HIT_METHOD],
    /// The request's path, decoded, without query.
    pub path: [u8; limits::HIT_PATH],
    /// The client's address and port as the API server writes it.
    pub remote: [u8; limits::HIT_REMOTE],
}

impl HitRecord {
    /// Bytes of the record.
    pub const SIZE: usize = core::mem::size_of::<Self>();
}

#[cfg(feature = "user")]
mod user {
    // SAFETY: `repr(C)`, made of integers only, without padding (tested), any bit pattern is valid.
    unsafe impl aya::Pod for super::ProbeLayout {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_no_padding() {
        assert_eq!(size_of::<ProbeLayout>(), 8 * 4);
        assert_eq!(HitHeader::SIZE, 2 * 8 + 6 * 4 + 4 + 4);
        assert_eq!(HitRecord::SIZE, HitHeader::SIZE + limits::HIT_METHOD + limits::HIT_PATH + limits::HIT_REMOTE);
        assert_eq!(HitRecord::SIZE % 8, 0, "records in the ring stay aligned");
    }
}
