//! track: which bytes of a watched segment user space has to see, and what is remembered of its connection.
//!
//! A flow begins with its first payload byte, never with a SYN, so that forged SYNs evict nothing: what a SYN said is
//! kept in a table of slots that may be overwritten, and a flow whose slot was overwritten has an unknown start.

use monitor_common::{
    Decision, FlowKey, FlowState, Handshake, RecordFlags, RecordHeader, Side, SideState, Skip, limits,
};

use crate::bounds::Frame;
use crate::parse::tcp;
use crate::select::Watched;
use crate::tables::Tables;

/// More data than a SYN can carry in one packet.
const SYN_DATA: u32 = 1 << 16;

/// Follows the connection by one segment that was seen now on `tap` ([`RecordHeader::tap`]). Fills
/// the header of its first record but for `captured`, and says how many bytes of its payload are to be handed over, at
/// most `header.length`.
///
/// The header is the caller's, as the flow's first state is that of [`Tables`]: on the kernel's stack of 512 bytes
/// there is no room for them. What is reserved in them is zero already.
///
/// # Errors
/// The reason why nothing of it is handed over.
#[inline(always)]
pub fn track<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    watched: &Watched<'_>,
    tables: &mut T,
    tap: u32,
    header: &mut RecordHeader,
) -> Result<u32, Skip> {
    let Watched { key, side, tcp, .. } = watched;
    if tcp.flags & tcp::SYN != 0 {
        return Err(remember_handshake(watched, tables));
    }
    let closing = closing_bits(*side, tcp.flags);
    if tcp.length == 0 && closing == 0 {
        return Err(Skip::NoPayload);
    }
    let place = tables.find(key);
    let known = match place.and_then(|place| tables.flow(place)) {
        Some(flow) => {
            // Most packets there are: of a connection of which nothing more is wanted, and that goes on as it did.
            let news = closing & !flow.closed | flow.closed & FlowState::SYN_AGAIN;
            if flow.decision == Decision::Enough as u8 && news == 0 {
                return Err(if tcp.length == 0 { Skip::Duplicate } else { Skip::Enough });
            }
            flow.closed & FlowState::SYN_AGAIN == 0
        }
        None if tcp.length == 0 => return Err(Skip::NoPayload),
        None => false,
    };
    // Not asked before: the clock takes longer than most packets.
    let now = tables.now();
    let wanted = if !known && begins(watched, tables, place) {
        let handshake = fitting_handshake(watched, tables);
        let decision = if *side == Side::Client { first_decision(frame, watched) } else { Decision::Read };
        // What its first payload does is done before it is remembered, so that it is not looked up again.
        let state = tables.room().ok_or(Skip::TableFull)?;
        fill_first_state(state, handshake, decision, now);
        let wanted = follow(watched, state, closing, tap, header);
        if !tables.begin(key) {
            return Err(Skip::TableFull);
        }
        wanted?
    } else {
        let place = place.ok_or(Skip::TableFull)?;
        let undecided = tables.flow(place).is_some_and(|flow| flow.decision != Decision::Enough as u8);
        let verdict = if undecided { tables.take_verdict(key) } else { None };
        let flow = tables.flow(place).ok_or(Skip::TableFull)?;
        if let Some(verdict) = verdict
            && verdict.born == flow.born
        {
            flow.decision = verdict.decision;
        }
        follow(watched, flow, closing, tap, header)?
    };
    let source = tables.source(&key.client);
    header.time = now;
    header.key = **key;
    header.tap = tap;
    header.sequence = tcp.sequence;
    header.acknowledgement = tcp.acknowledgement;
    header.length = tcp.length;
    header.captured = 0;
    header.side = *side as u8;
    header.role = watched.role as u8;
    header.source = source as u8;
    Ok(wanted.min(frame.length().saturating_sub(tcp.payload) as u32))
}

/// Takes the flow on by this segment: how many of its bytes are wanted. Fills what the record's header has of the flow.
#[inline(always)]
fn follow(
    watched: &Watched<'_>,
    flow: &mut FlowState,
    closing: u8,
    tap: u32,
    header: &mut RecordHeader,
) -> Result<u32, Skip> {
    let (wanted, flags) = advance(watched, flow, closing, tap)?;
    let (this, other) = (&flow.sides[watched.side as usize], &flow.sides[watched.side.other() as usize]);
    let candidate = if watched.candidate { RecordFlags::CANDIDATE } else { 0 };
    header.born = flow.born;
    header.start = this.start;
    header.other_start = other.start;
    header.flags = flags | starts(this, other) | candidate;
    Ok(wanted)
}

/// Keeps what a SYN or its answer says. The answer says both: it acknowledges the client's first byte.
#[inline(always)]
fn remember_handshake<T: Tables>(watched: &Watched<'_>, tables: &mut T) -> Skip {
    let Watched { key, side, tcp, .. } = watched;
    let (index, tag) = slot(key);
    let own = tcp.sequence.wrapping_add(1);
    let mut said = match side {
        Side::Client => Handshake { tag, client_start: own, server_start: 0, known: 1 },
        Side::Server if tcp.flags & tcp::ACK != 0 => {
            Handshake { tag, client_start: tcp.acknowledgement, server_start: own, known: 3 }
        }
        Side::Server => return Skip::NoPayload,
    };
    if let Some(handshake) = tables.handshake(index) {
        let asked = handshake.tag == tag && handshake.known & 1 != 0;
        // With Fast Open (RFC 7413) the answer acknowledges the SYN's data too, which is not handed on: the stream begins
        // where the SYN says, and that data is a hole in it.
        if asked && *side == Side::Server && said.client_start.wrapping_sub(handshake.client_start) < SYN_DATA {
            said.client_start = handshake.client_start;
        }
        let repeated = asked && *side == Side::Client && handshake.client_start == own;
        if !repeated {
            *handshake = said;
        }
    }
    if let Some(place) = tables.find(key)
        && let Some(flow) = tables.flow(place)
    {
        flow.closed |= FlowState::SYN_AGAIN;
    }
    if tcp.length > 0 { Skip::SynPayload } else { Skip::NoPayload }
}

/// Whether this payload begins a connection: none with its key is known, or a handshake was seen since that this
/// payload follows and that is not the known one's.
#[inline(always)]
fn begins<T: Tables>(watched: &Watched<'_>, tables: &mut T, place: Option<T::Place>) -> bool {
    let Watched { key, side, tcp, .. } = watched;
    let handshake = seen_handshake(key, tables);
    let Some(flow) = place.and_then(|place| tables.flow(place)) else {
        return true;
    };
    let Some(start) = handshake.and_then(|handshake| handshake.start(*side)) else {
        return false;
    };
    let this = &flow.sides[*side as usize];
    let another = this.flags & SideState::START_KNOWN == 0 || this.start != start;
    if !another {
        flow.closed &= !FlowState::SYN_AGAIN;
    }
    another && tcp.length > 0 && tcp.sequence.wrapping_sub(start) < limits::START_WINDOW
}

/// The handshake that was seen of the connection that this payload begins.
#[inline(always)]
fn fitting_handshake<T: Tables>(watched: &Watched<'_>, tables: &mut T) -> Handshake {
    let Watched { key, side, tcp, .. } = watched;
    match seen_handshake(key, tables) {
        Some(handshake)
            if handshake.start(*side).is_none_or(|start| tcp.sequence.wrapping_sub(start) < limits::START_WINDOW) =>
        {
            handshake
        }
        _ => Handshake::default(),
    }
}

/// State of a connection at its first payload byte.
#[inline(always)]
fn fill_first_state(state: &mut FlowState, handshake: Handshake, decision: Decision, now: u64) {
    state.born = now;
    state.decision = decision as u8;
    state.closed = 0;
    for side in [Side::Client, Side::Server] {
        let start = handshake.start(side);
        state.sides[side as usize] = SideState {
            start: start.unwrap_or(0),
            next: 0,
            budget: if side as u8 == Side::Client as u8 { limits::CLIENT_BUDGET } else { 0 },
            tap: 0,
            flags: if start.is_some() { SideState::START_KNOWN } else { 0 },
        };
    }
}

/// A connection that begins like HTTP is read in full on the client's side from its first byte on, without waiting for
/// user space: a request that came meanwhile would be lost. `PRI` begins HTTP/2 (RFC 9113 section 3.4), where a byte
/// left out on either side loses all headers that follow. Of one or two bytes nothing can be said: user space will.
#[inline(always)]
fn first_decision<F: Frame + ?Sized>(frame: &F, watched: &Watched) -> Decision {
    let begins_request = |byte: u8| byte.is_ascii_uppercase() || byte == b'\r' || byte == b'\n';
    if watched.tcp.length < 3 {
        return Decision::KeepClient;
    }
    match frame.load::<3>(watched.tcp.payload) {
        Some([b'P', b'R', b'I']) => Decision::KeepBoth,
        Some(bytes) if bytes.iter().all(|byte| begins_request(*byte)) => Decision::KeepClient,
        _ => Decision::Read,
    }
}

/// Decides about one segment of a known flow, and remembers it: how many bytes are wanted, and the record's flags.
#[inline(always)]
fn advance(watched: &Watched<'_>, flow: &mut FlowState, closing: u8, tap: u32) -> Result<(u32, u16), Skip> {
    let Watched { side, tcp, .. } = watched;
    let closes = closing & !flow.closed;
    let ended = flow.ended();
    flow.closed |= closing;
    let enough = flow.decision == Decision::Enough as u8;
    let end = tcp.sequence.wrapping_add(tcp.length);
    if *side == Side::Client && tcp.length > 0 && tcp.flags & tcp::ACK != 0 && !enough {
        open_window(&mut flow.sides[Side::Server as usize], tcp.acknowledgement);
    }
    let wanted = if tcp.length == 0 {
        Err(Skip::Duplicate)
    } else if enough || ended {
        Err(Skip::Enough)
    } else {
        take(watched, flow, end, tap)
    };
    let wanted = match wanted {
        Ok(wanted) => wanted,
        Err(_) if closes != 0 => 0,
        Err(skip) => return Err(skip),
    };
    let this = &mut flow.sides[*side as usize];
    let mut flags = record_flags(tcp.flags);
    let next_known = this.flags & SideState::NEXT_KNOWN != 0;
    if this.flags & SideState::LEFT_OUT != 0 && (!next_known || after(tcp.sequence, this.next)) {
        flags |= RecordFlags::LEFT_OUT_BEFORE;
        this.flags &= !SideState::LEFT_OUT;
    }
    if wanted > 0 {
        let reached = tcp.sequence.wrapping_add(wanted);
        if wanted < tcp.length {
            this.flags |= SideState::LEFT_OUT;
        }
        if !next_known {
            this.flags |= SideState::NEXT_KNOWN;
            this.next = reached;
            this.tap = tap;
        } else if after(reached, this.next) {
            this.next = reached;
        }
    }
    Ok((wanted, flags))
}

/// How many bytes of this segment are wanted, from its first on.
#[inline(always)]
fn take(watched: &Watched<'_>, flow: &mut FlowState, end: u32, tap: u32) -> Result<u32, Skip> {
    let Watched { side, tcp, .. } = watched;
    let keep_both = flow.decision == Decision::KeepBoth as u8;
    let keep_client = keep_both || flow.decision == Decision::KeepClient as u8;
    let this = &mut flow.sides[*side as usize];
    if this.flags & SideState::NEXT_KNOWN != 0 && this.tap != tap && !after(end, this.next) {
        return Err(Skip::Duplicate);
    }
    let wanted = match side {
        Side::Client if keep_client => tcp.length,
        Side::Client => {
            let wanted = tcp.length.min(this.budget);
            this.budget -= wanted;
            wanted
        }
        Side::Server if keep_both => tcp.length,
        Side::Server => {
            if this.flags & SideState::BUDGET_KNOWN == 0 {
                let known = this.flags & SideState::START_KNOWN != 0;
                open_window(this, if known { this.start } else { tcp.sequence });
            }
            let room = this.budget.wrapping_sub(tcp.sequence);
            if room > i32::MAX as u32 { 0 } else { tcp.length.min(room) }
        }
    };
    if wanted == 0 {
        this.flags |= SideState::LEFT_OUT;
        return Err(Skip::Budget);
    }
    Ok(wanted)
}

/// The server's bytes from `acknowledged` on are wanted, as far as the reply's window reaches.
#[inline(always)]
fn open_window(server: &mut SideState, acknowledged: u32) {
    let end = acknowledged.wrapping_add(limits::SERVER_WINDOW);
    if server.flags & SideState::BUDGET_KNOWN == 0 || after(end, server.budget) {
        server.budget = end;
        server.flags |= SideState::BUDGET_KNOWN;
    }
}

#[inline(always)]
fn closing_bits(side: Side, flags: u8) -> u8 {
    let fin = if flags & tcp::FIN != 0 { FlowState::fin(side) } else { 0 };
    let reset = if flags & tcp::RST != 0 { FlowState::RESET } else { 0 };
    fin | reset
}

#[inline(always)]
fn record_flags(flags: u8) -> u16 {
    let bit = |tcp: u8, record: u16| if flags & tcp != 0 { record } else { 0 };
    bit(tcp::FIN, RecordFlags::FIN) | bit(tcp::RST, RecordFlags::RST) | bit(tcp::ACK, RecordFlags::ACK)
}

#[inline(always)]
fn starts(this: &SideState, other: &SideState) -> u16 {
    let bit = |side: &SideState, flag: u16| if side.flags & SideState::START_KNOWN != 0 { flag } else { 0 };
    bit(this, RecordFlags::START_KNOWN) | bit(other, RecordFlags::OTHER_START_KNOWN)
}

/// What the handshake table knows of this connection.
#[inline(always)]
fn seen_handshake<T: Tables>(key: &FlowKey, tables: &mut T) -> Option<Handshake> {
    let (index, tag) = slot(key);
    tables.handshake(index).filter(|handshake| handshake.tag == tag).map(|handshake| *handshake)
}

#[inline(always)]
fn slot(key: &FlowKey) -> (u32, u32) {
    let hash = key.hash();
    (hash as u32 & (limits::HANDSHAKES - 1), (hash >> 32) as u32)
}

/// Whether sequence number `this` lies after `that` (RFC 9293 section 3.4: modulo 2^32).
#[inline(always)]
const fn after(this: u32, that: u32) -> bool {
    (this.wrapping_sub(that) as i32) > 0
}
