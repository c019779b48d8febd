//! The kernel half, run natively: parse, select and track over a capture's frames, with tables of this process in
//! place of the kernel's maps.

use std::collections::{HashMap, HashSet};

use monitor_common::{
    Asked, Decision, FlowKey, FlowState, Handshake, Hook, KernelEvent, PacketCount, RecordFlags, RecordHeader, Role,
    Skip, SourceClass, Verdict, limits,
};
use monitor_ebpf::parse::{Segment, parse_ethernet, parse_network};
use monitor_ebpf::select::select;
use monitor_ebpf::tables::Tables;
use monitor_ebpf::track::track;

use crate::discover::Forget;
use crate::export::KernelCounts;
use crate::flow_table::{FlowTable, Place};
use crate::receive::Record;
use crate::replay::Start;
use crate::watch::Watch;

/// The kernel half over a capture.
pub struct NativeKernel {
    tables: NativeTables,
    key: FlowKey,
    header: RecordHeader,
    packets: Vec<PacketCount>,
    skips: [u64; Skip::COUNT],
    records: u64,
    bytes: u64,
    last_born: u64,
}

struct NativeTables {
    watch: Watch,
    discovers: bool,
    /// Ports that were discovered.
    discovered: HashSet<u16>,
    /// Until when a port is not discovered, by what is asked of it: [`Asked::index`].
    quiet: HashMap<u32, u64>,
    /// Time of the frame at hand.
    now: u64,
    /// Birth of a flow that begins with it.
    born: u64,
    handshakes: Vec<Handshake>,
    flows: FlowTable<FlowState>,
    begun: u64,
    /// Where a flow that begins is put together.
    room: FlowState,
}

impl NativeKernel {
    /// A kernel half that watches `watch` and has seen nothing.
    pub fn new(watch: Watch) -> Self {
        let key = FlowKey { client: [0; 16], server: [0; 16], client_port: 0, server_port: 0 };
        Self {
            tables: NativeTables {
                watch,
                discovers: true,
                discovered: HashSet::new(),
                quiet: HashMap::new(),
                now: 0,
                born: 0,
                handshakes: vec![Handshake::default(); limits::HANDSHAKES as usize],
                flows: FlowTable::new(limits::FLOWS),
                begun: 0,
                room: FlowState { born: 0, sides: Default::default(), decision: 0, closed: 0, reserved: [0; 6] },
            },
            key,
            header: RecordHeader {
                time: 0,
                born: 0,
                key,
                tap: 0,
                sequence: 0,
                acknowledgement: 0,
                start: 0,
                other_start: 0,
                length: 0,
                captured: 0,
                flags: 0,
                side: 0,
                role: 0,
                source: 0,
                reserved: [0; 3],
            },
            packets: vec![PacketCount::default(); PacketCount::ENTRIES as usize],
            skips: [0; Skip::COUNT],
            records: 0,
            bytes: 0,
            last_born: 0,
        }
    }

    /// Whether ports that nobody watches are looked at for an API in the clear; they are by default.
    pub fn discovering(mut self, discovers: bool) -> Self {
        self.tables.discovers = discovers;
        self
    }

    /// Watches a port that was discovered no longer, and leaves it alone for a while.
    pub fn forget(&mut self, forget: &Forget) {
        self.tables.discovered.remove(&forget.port);
        for asked in Asked::ALL {
            let until = self.tables.quiet.entry(asked.index(forget.port)).or_default();
            *until = (*until).max(forget.quiet_until[*asked as usize]);
        }
    }

    /// Takes one frame that was captured at `time` (nanoseconds since 1970) on interface `tap`, and delivers its
    /// records.
    pub fn frame(&mut self, start: Start, time: u64, tap: u32, frame: &[u8], deliver: impl FnMut(Record<'_>)) {
        if let Err(skip) = self.try_frame(start, time, tap, frame, deliver) {
            self.skips[skip as usize] += 1;
        }
    }

    fn try_frame(
        &mut self,
        start: Start,
        time: u64,
        tap: u32,
        frame: &[u8],
        deliver: impl FnMut(Record<'_>),
    ) -> Result<(), Skip> {
        self.tables.now = time;
        let segment: Segment = match start {
            Start::Ethernet => parse_ethernet(frame),
            Start::Network { offset, ether_type } => parse_network(frame, offset, ether_type),
        }?;
        let watched = select(frame, &segment, &mut self.tables, &mut self.key)?;
        let source = self.tables.source(&watched.key.client);
        let count = &mut self.packets[PacketCount::index(watched.role, source, watched.kind()) as usize];
        count.packets += 1;
        count.bytes += watched.wire_length as u64;
        // Captures without times, or of one tick, must not give two connections the same birth.
        let born = time.max(self.last_born + 1);
        self.tables.born = born;
        let begun = self.tables.begun;
        let payload = watched.tcp.payload;
        let wanted = track(frame, &watched, &mut self.tables, tap, &mut self.header)?;
        if self.tables.begun != begun {
            self.last_born = born;
        }
        self.header.time = time;
        self.emit(&frame[payload.min(frame.len())..], wanted as usize, deliver);
        Ok(())
    }

    /// As monitor-ebpf/src/emit.rs, without copying.
    fn emit(&mut self, payload: &[u8], wanted: usize, mut deliver: impl FnMut(Record<'_>)) {
        let mut header = self.header;
        let wanted = &payload[..wanted.min(payload.len())];
        let parts = wanted.len().div_ceil(limits::RECORD_PAYLOAD).max(1);
        for part in 0..parts {
            let from = part * limits::RECORD_PAYLOAD;
            let bytes = &wanted[from..wanted.len().min(from + limits::RECORD_PAYLOAD)];
            header.sequence = self.header.sequence.wrapping_add(from as u32);
            header.length = self.header.length - from as u32;
            header.captured = bytes.len() as u32;
            header.flags = self.header.flags;
            if part > 0 {
                header.flags &= !RecordFlags::LEFT_OUT_BEFORE;
            }
            if part + 1 < parts {
                header.flags = header.flags & !(RecordFlags::FIN | RecordFlags::RST) | RecordFlags::MORE;
            }
            self.records += 1;
            self.bytes += bytes.len() as u64;
            deliver(Record { header, bytes });
        }
    }

    /// Takes over what user space has decided about the flow with this key that was born then.
    pub fn decide(&mut self, key: &FlowKey, born: u64, decision: Decision) {
        if let Some(place) = self.tables.find(key)
            && let Some(flow) = self.tables.flow(place)
            && flow.born == born
        {
            flow.decision = decision as u8;
        }
    }

    /// Adds what was counted to `counts`. Packets left alone count for TC: it is TC that reads. No record was lost.
    pub fn add_counts(&self, counts: &mut KernelCounts) {
        for (sum, count) in counts.packets.iter_mut().zip(&self.packets) {
            sum.packets += count.packets;
            sum.bytes += count.bytes;
        }
        for (sum, count) in counts.skips[Hook::Tc as usize].iter_mut().zip(&self.skips) {
            *sum += count;
        }
        counts.events[KernelEvent::FlowBegun as usize] += self.tables.begun;
        counts.events[KernelEvent::RecordSent as usize] += self.records;
        counts.events[KernelEvent::ByteSent as usize] += self.bytes;
    }
}

impl Tables for NativeTables {
    type Place = Place;

    #[expect(clippy::misnamed_getters, reason = "a flow's birth is the time that it begins at, made unique")]
    fn now(&self) -> u64 {
        self.born
    }

    fn role(&self, port: u16) -> Option<Role> {
        self.watch.role(port).or_else(|| self.discovered.contains(&port).then_some(Role::Discovered))
    }

    fn discovers(&self) -> bool {
        self.discovers
    }

    fn claim(&mut self, port: u16, asked: Asked) -> bool {
        let quiet = self.quiet.get(&asked.index(port)).is_some_and(|until| self.now < *until);
        if !quiet {
            self.discovered.insert(port);
        }
        !quiet
    }

    fn source(&self, address: &[u8; 16]) -> SourceClass {
        self.watch.source(address)
    }

    fn handshake(&mut self, index: u32) -> Option<&mut Handshake> {
        self.handshakes.get_mut(index as usize)
    }

    fn find(&mut self, key: &FlowKey) -> Option<Place> {
        let place = self.flows.find(key)?;
        self.flows.touch(place);
        Some(place)
    }

    fn flow(&mut self, place: Place) -> Option<&mut FlowState> {
        self.flows.at(place)
    }

    fn room(&mut self) -> Option<&mut FlowState> {
        Some(&mut self.room)
    }

    fn begin(&mut self, key: &FlowKey) -> bool {
        self.begun += 1;
        let state = self.room;
        match self.find(key).and_then(|place| self.flow(place)) {
            Some(flow) => *flow = state,
            None => drop(self.flows.insert(*key, state)),
        }
        true
    }

    fn take_verdict(&mut self, _key: &FlowKey) -> Option<Verdict> {
        None
    }
}
