//! One real connection, and what the kernel half hands over of it.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use monitor::attach::object::{Counters, Reading};
use monitor::receive::Record;
use monitor::watch::Watch;
use monitor_common::{
    FlowKey, PacketCount, PacketKind, RecordFlags, RecordHeader, Role, Side, SourceClass, flow::mapped,
};

use crate::network::Namespace;

/// The watched port.
pub const PORT: u16 = 8080;
/// Software emulation is slow, and slower still on a busy computer.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// A body that needs several records, also where segments arrive joined.
const BODY: usize = 40_000;

/// What is watched in every test.
pub fn watch() -> Result<Watch> {
    let prefixes = [
        ("127.0.0.0/8", SourceClass::Loopback),
        ("192.168.56.0/24", SourceClass::ClusterNode),
        ("fd00:56::/64", SourceClass::Pod),
    ];
    let prefixes: Vec<_> =
        prefixes.iter().map(|(prefix, class)| Ok((prefix.parse()?, *class))).collect::<Result<_>>()?;
    Ok(Watch::of([(PORT, Role::Insecure)], prefixes))
}

/// The class that [`watch`] gives to a client of this server.
pub fn source(server: IpAddr) -> SourceClass {
    match server {
        server if server.is_loopback() => SourceClass::Loopback,
        IpAddr::V4(_) => SourceClass::ClusterNode,
        IpAddr::V6(_) => SourceClass::Pod,
    }
}

/// A finished connection: what was said on it.
pub struct Said {
    client: SocketAddr,
    server: SocketAddr,
    request: Vec<u8>,
    reply: Vec<u8>,
}

/// A request from `client` (or from here) to a server here, answered and closed.
pub fn talk(server: IpAddr, client: Option<&Namespace>) -> Result<Said> {
    let mut request =
        format!("POST /api/v1/namespaces HTTP/1.1\r\nHost: api\r\nContent-Length: {BODY}\r\n\r\n").into_bytes();
    request.extend((0..BODY).map(|number| (number % 251) as u8));
    let mut reply = b"HTTP/1.1 201 Created\r\nContent-Length: 3000\r\n\r\n".to_vec();
    reply.extend((0..3000).map(|number| (number % 241) as u8));

    let listener = TcpListener::bind((server, PORT)).with_context(|| format!("listening on {server}"))?;
    let (length, answer) = (request.len(), reply.clone());
    let serving = std::thread::spawn(move || -> Result<()> {
        let (mut stream, _) = listener.accept().context("accepting")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut read = vec![0; length];
        stream.read_exact(&mut read).context("reading the request")?;
        stream.write_all(&answer).context("writing the reply")?;
        // Until the client closes: then its FIN is the first.
        ensure!(stream.read(&mut [0])? == 0, "more than the request came");
        Ok(())
    });
    let (sent, length) = (request.clone(), reply.len());
    let speak = move || {
        let address = SocketAddr::from((server, PORT));
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE).context("connecting")?;
        // Asked now: a stream that was closed has no other end.
        let ends = (stream.local_addr()?, stream.peer_addr()?);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&sent).context("writing the request")?;
        stream.read_exact(&mut vec![0; length]).context("reading the reply")?;
        stream.shutdown(Shutdown::Write).context("closing")?;
        ensure!(stream.read(&mut [0])? == 0, "more than the reply came");
        Ok(ends)
    };
    let (client, server) = match client {
        Some(namespace) => namespace.run(speak)?,
        None => speak()?,
    };
    match serving.join() {
        Ok(outcome) => outcome?,
        Err(_) => bail!("the server panicked"),
    }
    Ok(Said { client, server, request, reply })
}

/// Packets and what they count as, before and after a connection.
pub struct Counted(Vec<PacketCount>, SourceClass);

impl Counted {
    /// The state before.
    pub fn before(counters: &Counters, source: SourceClass) -> Result<Self> {
        Ok(Self(counters.packets()?, source))
    }

    /// One SYN, one FIN and some data came since from that source.
    pub fn check(&self, counters: &Counters) -> Result<()> {
        let after = counters.packets()?;
        let since = |kind| {
            let index = PacketCount::index(Role::Insecure, self.1, kind) as usize;
            after[index].packets - self.0[index].packets
        };
        let (syn, fin, data) = (since(PacketKind::Syn), since(PacketKind::Fin), since(PacketKind::Data));
        ensure!(syn == 1 && fin == 1 && data >= 1, "counted {syn} SYNs, {fin} FINs, {data} packets with data");
        Ok(())
    }
}

/// Reads the ring buffer until both sides have ended, and compares with what was said.
pub fn check_records(reading: &mut Reading, counters: &Counters, said: &Said) -> Result<usize> {
    let mut heard = [vec![None; said.request.len()], vec![None; said.reply.len()]];
    let (mut ended, mut count) = ([false; 2], 0);
    let started = Instant::now();
    while ended != [true; 2] {
        let Some(item) = reading.records.next() else {
            ensure!(started.elapsed() < PATIENCE, "no FIN of both sides among {count} records");
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        let record = Record::from_bytes(&item).context("a record is shorter than it says")?;
        let header = record.header;
        check_header(&header, said)?;
        let side = usize::from(header.side);
        let offset = header.sequence.wrapping_sub(header.start) as usize;
        for (position, byte) in record.bytes.iter().enumerate() {
            let place = heard[side].get_mut(offset + position).context("a byte beyond the last one")?;
            *place = Some(*byte);
        }
        ended[side] |= header.flags & RecordFlags::FIN != 0;
        count += 1;
    }
    for (heard, said, side) in [(&heard[0], &said.request, "client"), (&heard[1], &said.reply, "server")] {
        let wrong = heard.iter().zip(said).position(|(heard, said)| *heard != Some(*said));
        ensure!(wrong.is_none(), "byte {wrong:?} of the {side} is missing or wrong");
    }
    let losses = counters.losses()?;
    ensure!(losses.iter().all(|lost| *lost == 0), "lost {losses:?}");
    Ok(count)
}

fn check_header(header: &RecordHeader, said: &Said) -> Result<()> {
    let address = |address: IpAddr| match address {
        IpAddr::V4(address) => mapped(address.octets()),
        IpAddr::V6(address) => address.octets(),
    };
    let key = FlowKey {
        client: address(said.client.ip()),
        server: address(said.server.ip()),
        client_port: said.client.port(),
        server_port: PORT,
    };
    ensure!(header.key == key, "another connection's record: {:?}", header.key);
    ensure!(header.role == Role::Insecure as u8, "role {}", header.role);
    ensure!(header.source == source(said.server.ip()) as u8, "source {}", header.source);
    ensure!(header.side <= Side::Server as u8, "side {}", header.side);
    let known = RecordFlags::START_KNOWN | RecordFlags::OTHER_START_KNOWN;
    ensure!(header.flags & known == known, "the handshake was not seen: flags {:#x}", header.flags);
    Ok(())
}
