//! The kernel's programs attached to interfaces of a namespace of their own, under real connections.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use aya::programs::TcAttachType;
use monitor::attach::object::program;
use monitor::watch::Watch;
use monitor_common::{Hook, LossReason, RecordFlags, RecordHeader, Role, Side, Skip, SourceClass, limits};
use monitor_tests::kernel::{Kernel, Record};
use monitor_tests::namespace::Namespace;
use monitor_tests::require_root;

/// Bytes of the request: many segments of the largest size that the loopback interface takes.
const REQUEST: usize = 3_000_000;

/// A segment of the loopback interface has up to 64 KiB, most of it in pages behind the linear part: every byte comes,
/// in order, in records of which all but a segment's last say that more follows.
#[test]
#[ignore = "needs root"]
fn large_segments_come_whole_and_in_parts() {
    require_root();
    let namespace = Namespace::new().unwrap();
    let prefixes = [("127.0.0.0/8".parse().unwrap(), SourceClass::Loopback)];
    let mut kernel = Kernel::new(&Watch::of([(8080, Role::Insecure)], prefixes)).unwrap();
    let body: Vec<u8> =
        b"POST / HTTP/1.1\r\n\r\n".iter().copied().chain((0..).map(|i: u32| (i % 251) as u8)).take(REQUEST).collect();
    let mut records: Vec<Record> = Vec::new();
    namespace.run(|| {
        for (name, direction) in
            [(program::INGRESS_COUNT, TcAttachType::Ingress), (program::EGRESS, TcAttachType::Egress)]
        {
            kernel.half.classifier(name).unwrap().attach("lo", direction).unwrap();
        }
        let listener = TcpListener::bind(("127.0.0.1", 8080)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let talk = thread::scope(|scope| {
            let reads = scope.spawn(move || {
                let mut server = server;
                let mut received = Vec::new();
                server.read_to_end(&mut received).unwrap();
                server.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                received
            });
            let body = &body;
            let writes = scope.spawn(move || {
                let mut client = client;
                client.write_all(body).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
                let mut reply = Vec::new();
                client.read_to_end(&mut reply).unwrap();
                reply
            });
            let deadline = Instant::now() + Duration::from_secs(30);
            let ended = |records: &[Record], side: Side| {
                records
                    .iter()
                    .any(|record| record.header.side == side as u8 && record.header.flags & RecordFlags::FIN != 0)
            };
            while !(ended(&records, Side::Client) && ended(&records, Side::Server)) {
                records.extend(kernel.drain());
                assert!(Instant::now() < deadline, "{} records", records.len());
                thread::yield_now();
            }
            (reads.join().unwrap(), writes.join().unwrap())
        });
        assert!(talk.0 == body, "the server has the whole request");
        assert_eq!(talk.1, b"HTTP/1.1 200 OK\r\n\r\n");
    });
    let counts = kernel.counted().unwrap();
    assert_eq!(LossReason::ALL.iter().map(|reason| counts.lost(*reason)).sum::<u64>(), 0);
    assert!(counts.skipped(Hook::Tc).iter().any(|(skip, _)| *skip == Skip::Duplicate), "lo shows each packet twice");

    let start = records[0].header.start;
    let mut next = 0;
    let mut in_parts = 0;
    for record in records.iter().filter(|record| record.header.side == Side::Client as u8) {
        let header = &record.header;
        assert_eq!(header.flags & (RecordFlags::START_KNOWN | RecordFlags::LEFT_OUT_BEFORE), RecordFlags::START_KNOWN);
        assert_eq!((header.source, header.role), (SourceClass::Loopback as u8, Role::Insecure as u8));
        let at = header.sequence.wrapping_sub(start) as usize;
        if record.bytes.is_empty() {
            continue;
        }
        // On a busy machine a sender's timer runs out, and bytes come again; without a hole all the same.
        assert!(at <= next, "{} bytes are missing before {at}", at - next);
        assert!(record.bytes == body[at..at + record.bytes.len()], "at {at}");
        assert_ne!(header.tap & RecordHeader::EGRESS, 0, "on its way in it is a duplicate");
        next = next.max(at + record.bytes.len());
        if header.flags & RecordFlags::MORE != 0 {
            in_parts += 1;
            assert_eq!(record.bytes.len(), limits::RECORD_PAYLOAD);
            assert!(header.length as usize > limits::RECORD_PAYLOAD);
        } else {
            assert_eq!(header.length as usize, record.bytes.len());
        }
    }
    assert_eq!(next, REQUEST);
    assert!(in_parts > REQUEST / limits::RECORD_PAYLOAD / 2, "{in_parts} records say that more follows");
    let reply = records.iter().find(|record| record.header.side == Side::Server as u8 && !record.bytes.is_empty());
    assert_eq!(reply.unwrap().bytes, b"HTTP/1.1 200 OK\r\n\r\n");
}
