//! The one place for limits; each with its reason.

/// Flows that the kernel remembers. With key, value and the kernel's own overhead about 200 bytes each: 13 MiB.
pub const FLOWS: u32 = 65_536;

/// Slots that remember a handshake between SYN and first payload; a power of two. 16 bytes each: 1 MiB.
pub const HANDSHAKES: u32 = 65_536;

/// Prefixes in each of the two source tables (IPv4, IPv6).
pub const PREFIXES: u32 = 32_768;

/// Addresses of which each CPU remembers what the source tables say; a power of two. 24 bytes each: 24 KiB a CPU, which
/// stay in its caches. Clients of an API server are some hundreds.
pub const CACHED_SOURCES: u32 = 1_024;

/// Bytes of the ring buffer: a power of two and a multiple of the page size.
/// Holds about 2,000 hellos of 1.5 kB that come before user space wakes up. It counts twice in the daemon's resident
/// memory, since its pages are mapped twice, one behind the other.
pub const RING_BYTES: u32 = 4 << 20;

/// Payload bytes in one record at the most; a larger segment (GRO, loopback) gives several records.
/// Per-CPU scratch space may not exceed 32 KiB (the kernel's PCPU_MIN_UNIT_SIZE).
pub const RECORD_PAYLOAD: usize = 16_384;

/// Client bytes handed over from a flow that does not begin like HTTP: a hello with its certificates fits several times.
pub const CLIENT_BUDGET: u32 = 65_536;

/// Server bytes handed over after what the client has acknowledged with its last payload: the reply's head and the
/// beginning of its body, or the server's flight of a TLS handshake with its certificate chain.
pub const SERVER_WINDOW: u32 = 16_384;

/// IPv6 extension headers that are followed.
pub const EXTENSION_HEADERS: usize = 8;

/// Decisions of user space that the kernel side has not taken over yet; it takes one with the flow's next payload.
pub const VERDICTS: u32 = 16_384;

/// How far behind the handshake the first payload that we see may lie for the handshake to be taken for this
/// connection's: as far as a sender's first windows reach.
pub const START_WINDOW: u32 = 1 << 20;

/// Records that one segment is cut into at the most: the largest BIG TCP packet (GRO_MAX_SIZE, include/linux/netdevice.h,
/// 6.18) is 8 * 65,535 bytes.
pub const RECORDS_PER_SEGMENT: u32 = 33;

/// Bytes of the probe's ring buffer: a power of two and a multiple of the page size. Holds about 2,500 hits that come
/// before user space wakes up: a quarter of a second of a flood of 10,000 a second. At rest there is one a second.
pub const HIT_RING_BYTES: u32 = 1 << 20;

/// Bytes of a request's method that the probe reads: the longest registered one, UPDATEREDIRECTREF, has 17.
pub const HIT_METHOD: usize = 16;

/// Bytes of a request's path that the probe reads; a power of two.
pub const HIT_PATH: usize = 256;

/// Bytes of a request's remote address that the probe reads: `[` IPv6 `%` interface `]:` port has 64 at the most.
pub const HIT_REMOTE: usize = 64;
