//! select: is this segment between a client and a watched port, who speaks, and what kind of packet is it?

use monitor_common::{FlowKey, PacketKind, Role, Side, Skip, SourceClass};

use crate::bounds::Frame;
use crate::discover::discover;
use crate::parse::{Segment, TcpHeader, tcp};
use crate::tables::{Located, Tables};

/// A segment of a watched connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched<'key> {
    /// The connection.
    pub key: &'key FlowKey,
    /// Who speaks.
    pub side: Side,
    /// What the watched port is meant to be.
    pub role: Role,
    /// This segment is the one by which the port was discovered.
    pub candidate: bool,
    /// What its TCP header says.
    pub tcp: TcpHeader,
    /// Bytes of the frame on the wire.
    pub wire_length: usize,
}

/// Takes a segment when one of its ports is watched: [`locate`], then [`read_headers`].
///
/// # Errors
/// As they have.
#[inline(always)]
pub fn select<'key, F: Frame + ?Sized, T: Tables>(
    frame: &F,
    segment: &Segment,
    tables: &mut T,
    key: &'key mut FlowKey,
) -> Result<Watched<'key>, Skip> {
    let located = locate(frame, segment, tables, key)?;
    read_headers(frame, &located, key)
}

/// Says who speaks to whom when one of the ports is watched. Where both are, the server is the side that is this node, so
/// that a client cannot choose a port that has it taken for the server; where both or neither are, it is the side with
/// the lower port. So both directions agree without having seen how the connection began. Where none is, the segment may
/// be the one by which its destination is discovered ([`discover`]). `room` is for the addresses, the caller's because
/// the kernel's stack of 512 bytes has none to spare.
///
/// # Errors
/// Neither port is watched, or the addresses cannot be read.
#[inline(always)]
pub fn locate<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    segment: &Segment,
    tables: &mut T,
    room: &mut FlowKey,
) -> Result<Located, Skip> {
    let (source, destination) = (tables.role(segment.source_port), tables.role(segment.destination_port));
    let mut candidate = 0;
    let (side, role) = match (source, destination) {
        (None, None) if discover(frame, segment, tables) => {
            candidate = 1;
            (Side::Client, Role::Discovered)
        }
        (None, None) => return Err(Skip::NotWatched),
        (Some(role), None) => (Side::Server, role),
        (None, Some(role)) => (Side::Client, role),
        (Some(source_role), Some(destination_role)) => {
            segment.addresses(frame, &mut room.client, &mut room.server)?;
            let source_is_own = is_own(tables.source(&room.client));
            let destination_is_own = is_own(tables.source(&room.server));
            let lower = segment.source_port < segment.destination_port;
            if source_is_own && !destination_is_own || lower && source_is_own == destination_is_own {
                (Side::Server, source_role)
            } else {
                (Side::Client, destination_role)
            }
        }
    };
    Ok(tables.settle(Located { segment: *segment, side: side as u8, role: role as u8, candidate }))
}

/// Reads the rest of a watched segment's headers. `key` is room for the connection's key.
///
/// # Errors
/// They cannot be read.
#[inline(always)]
pub fn read_headers<'key, F: Frame + ?Sized>(
    frame: &F,
    located: &Located,
    key: &'key mut FlowKey,
) -> Result<Watched<'key>, Skip> {
    let (Some(side), Some(role)) = (Side::from_value(located.side), Role::from_value(located.role)) else {
        return Err(Skip::NotWatched);
    };
    let segment = &located.segment;
    let tcp = segment.tcp(frame)?;
    let (source, destination) = match side {
        Side::Client => (&mut key.client, &mut key.server),
        Side::Server => (&mut key.server, &mut key.client),
    };
    segment.addresses(frame, source, destination)?;
    (key.client_port, key.server_port) = match side {
        Side::Client => (segment.source_port, segment.destination_port),
        Side::Server => (segment.destination_port, segment.source_port),
    };
    let candidate = located.candidate != 0;
    Ok(Watched { key, side, role, candidate, tcp, wire_length: segment.wire_length(frame) })
}

/// Whether an address of this class is this node's.
#[inline(always)]
const fn is_own(class: SourceClass) -> bool {
    matches!(class, SourceClass::Node | SourceClass::Loopback)
}

impl Watched<'_> {
    /// What this packet counts as.
    #[inline(always)]
    pub fn kind(&self) -> PacketKind {
        let flags = self.tcp.flags;
        match self.side {
            _ if flags & tcp::RST != 0 => PacketKind::Reset,
            Side::Server if flags & (tcp::SYN | tcp::ACK) == tcp::SYN | tcp::ACK => PacketKind::SynAck,
            Side::Server => PacketKind::Reply,
            Side::Client if flags & tcp::SYN != 0 => PacketKind::Syn,
            Side::Client if flags & tcp::FIN != 0 => PacketKind::Fin,
            Side::Client if self.tcp.length > 0 => PacketKind::Data,
            Side::Client => PacketKind::Ack,
        }
    }
}
