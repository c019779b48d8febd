//! HTTP/2 in the clear, by prior knowledge or after `Upgrade: h2c`: a request for each stream, with the status of its final
//! HEADERS.

pub mod frame;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;

use loona_hpack::Decoder;
use monitor_common::Side;

use super::credential::CredentialReader;
use super::detect::PREFACE;
use super::kubernetes::{self, BodyReader};
use super::ledger::{Ledger, RequestNumber};
use super::target::{LONGEST_PATH, path_and_hints};
use super::{Credential, Observation, QueryHints, Request, Unclassified, http1};
use frame::{Head, flag, kind};

/// Streams whose response is awaited at the most; the oldest goes first. Go's server allows 250 at a time.
const STREAMS: usize = 256;
/// Bytes of a header block at the most, with all its CONTINUATION frames.
const LONGEST_BLOCK: usize = 64 * 1024;
/// Bytes of a dynamic table at the most: what browsers ask for; Go's and nghttp2's default is 4,096.
const DYNAMIC_TABLE: usize = 64 * 1024;
/// Longest frame that is believed: Go's client allows 16 MiB, the format as much.
const LONGEST_FRAME: u32 = (1 << 24) - 1;

/// How a server of HTTP/1 begins.
const HTTP1: &[u8] = b"HTTP/1.";
/// Bytes of a status line up to what follows its code.
const STATUS_LINE: usize = 13;

/// Reads one connection.
#[derive(Debug, Default)]
pub struct Http2 {
    ledger: Ledger,
    client: Direction,
    server: Direction,
    streams: VecDeque<Stream>,
    /// Bytes of the preface that have come.
    preface: usize,
    /// The client's streams so far: its next has a higher number.
    highest: u32,
    /// The server's first bytes, while they may be a status line of HTTP/1.
    opening: Vec<u8>,
    /// The server answered as HTTP/1.
    answered_by_http1: bool,
}

/// A stream whose response is not over.
#[derive(Debug)]
struct Stream {
    id: u32,
    number: RequestNumber,
    content: Option<BodyReader>,
}

struct Direction {
    head: [u8; Head::SIZE],
    have: usize,
    frame: Head,
    /// Payload bytes of the current frame that have not come.
    remaining: u32,
    /// Payload of a frame that is not whole, or the block so far.
    payload: Vec<u8>,
    /// The block so far, of a HEADERS or PUSH_PROMISE that CONTINUATION follows.
    block: Option<(Head, Vec<u8>)>,
    /// Made with the first header block.
    decoder: Option<Box<Decoder<'static>>>,
    /// Bytes of header blocks so far.
    blocks: usize,
    lost: bool,
    began: bool,
}

impl Default for Direction {
    fn default() -> Self {
        Self {
            head: [0; Head::SIZE],
            have: 0,
            frame: Head::default(),
            remaining: 0,
            payload: Vec::new(),
            block: None,
            decoder: None,
            blocks: 0,
            lost: false,
            began: false,
        }
    }
}

impl fmt::Debug for Direction {
    /// Without what was sent: a dynamic table holds tokens.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Direction")
            .field("frame", &self.frame)
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

/// What the fields of one header block say.
#[derive(Default)]
struct Fields {
    method: Vec<u8>,
    target: Vec<u8>,
    authority: Vec<u8>,
    status: Option<u16>,
    credential: CredentialReader,
    encoded: bool,
    kubernetes: bool,
}

impl Http2 {
    /// After an accepted `Upgrade: h2c`: stream 1 answers this request.
    pub fn upgraded(ledger: Ledger, number: RequestNumber) -> Self {
        Self {
            ledger,
            streams: VecDeque::from([Stream { id: 1, number, content: None }]),
            highest: 1,
            ..Self::default()
        }
    }

    /// Memory beside the reader itself.
    pub fn held(&self) -> usize {
        let directions: usize = [&self.client, &self.server].map(Direction::held).iter().sum();
        directions + self.opening.capacity() + self.streams.capacity() * size_of::<Stream>() + self.ledger.held()
    }

    /// The next bytes of one direction.
    pub fn bytes(&mut self, side: Side, bytes: &[u8], observation: &mut Observation) {
        let mut bytes = bytes;
        if side == Side::Client && self.preface < PREFACE.len() {
            let (part, rest) = bytes.split_at(bytes.len().min(PREFACE.len() - self.preface));
            if !PREFACE[self.preface..].starts_with(part) {
                return self.lose(side, Unclassified::Malformed, observation);
            }
            self.preface += part.len();
            bytes = rest;
        }
        if side == Side::Server && !self.server.began {
            let mut opening = std::mem::take(&mut self.opening);
            opening.extend_from_slice(bytes);
            if HTTP1.starts_with(&opening) || (opening.starts_with(HTTP1) && opening.len() < STATUS_LINE) {
                self.opening = opening;
                return;
            }
            self.server.began = true;
            if opening.starts_with(HTTP1) {
                return self.answered_by_http1(&opening, observation);
            }
            return self.frames(side, &opening, observation);
        }
        self.frames(side, bytes, observation);
    }

    fn frames(&mut self, side: Side, mut bytes: &[u8], observation: &mut Observation) {
        if self.answered_by_http1 {
            return;
        }
        while !self.direction(side).lost && !bytes.is_empty() {
            if let Err(reason) = self.frame_bytes(side, &mut bytes, observation) {
                return self.lose(side, reason, observation);
            }
        }
    }

    /// Bytes of one direction that will not come.
    pub fn gap(&mut self, side: Side, length: u64, observation: &mut Observation) {
        let direction = self.direction(side);
        if direction.frame.kind == kind::DATA && direction.have == 0 && length <= u64::from(direction.remaining) {
            direction.remaining -= length as u32;
            return;
        }
        if !direction.lost {
            self.lose(side, Unclassified::Gap, observation);
        }
    }

    /// No more will come.
    pub fn finish(&mut self, observation: &mut Observation) {
        self.ledger.finish(observation);
    }

    const fn direction(&mut self, side: Side) -> &mut Direction {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    /// Takes a frame's header or some of its payload.
    fn frame_bytes(
        &mut self,
        side: Side,
        bytes: &mut &[u8],
        observation: &mut Observation,
    ) -> Result<(), Unclassified> {
        let direction = self.direction(side);
        if direction.remaining == 0 {
            let (part, rest) = bytes.split_at(bytes.len().min(Head::SIZE - direction.have));
            direction.head[direction.have..direction.have + part.len()].copy_from_slice(part);
            direction.have += part.len();
            *bytes = rest;
            if direction.have < Head::SIZE {
                return Ok(());
            }
            direction.have = 0;
            direction.frame = Head::parse(direction.head);
            direction.remaining = direction.frame.length;
            if direction.frame.length > LONGEST_FRAME
                || (direction.block.is_some() != (direction.frame.kind == kind::CONTINUATION))
            {
                return Err(Unclassified::Malformed);
            }
            if direction.remaining > 0 {
                return Ok(());
            }
        }
        let length = bytes.len().min(direction.remaining as usize);
        let (part, rest) = bytes.split_at(length);
        *bytes = rest;
        direction.remaining -= length as u32;
        let (head, whole) = (direction.frame, direction.remaining == 0);
        match head.kind {
            kind::HEADERS | kind::PUSH_PROMISE | kind::CONTINUATION => {
                if direction.payload.len() + part.len() > LONGEST_BLOCK {
                    return Err(Unclassified::TooLong);
                }
                if !whole {
                    direction.payload.extend_from_slice(part);
                    return Ok(());
                }
                if direction.payload.is_empty() {
                    return self.block(side, head, part, observation);
                }
                let mut payload = std::mem::take(&mut direction.payload);
                payload.extend_from_slice(part);
                self.block(side, head, &payload, observation)
            }
            kind::DATA => {
                self.data(side, head, part, whole, observation);
                Ok(())
            }
            kind::RST_STREAM if whole => {
                self.streams.retain(|stream| stream.id != head.stream);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A frame with a header block or a part of one.
    fn block(
        &mut self,
        side: Side,
        head: Head,
        payload: &[u8],
        observation: &mut Observation,
    ) -> Result<(), Unclassified> {
        let fragment = head.block(payload).ok_or(Unclassified::Malformed)?;
        let direction = self.direction(side);
        let (first, collected) = match direction.block.take() {
            Some((first, mut collected)) => {
                if first.stream != head.stream {
                    return Err(Unclassified::Malformed);
                }
                if collected.len() + fragment.len() > LONGEST_BLOCK {
                    return Err(Unclassified::TooLong);
                }
                collected.extend_from_slice(fragment);
                (first, Some(collected))
            }
            None => (head, None),
        };
        if !head.has(flag::END_HEADERS) {
            direction.block = Some((first, collected.unwrap_or_else(|| fragment.to_vec())));
            return Ok(());
        }
        let fields = direction.decode(collected.as_deref().unwrap_or(fragment))?;
        if first.kind == kind::HEADERS {
            match side {
                Side::Client => self.request(first, fields, observation),
                Side::Server => self.response(first, &fields, observation),
            }
        }
        Ok(())
    }

    fn request(&mut self, head: Head, fields: Fields, observation: &mut Observation) {
        // A block on a known stream is a trailer.
        if head.stream <= self.highest || fields.method.is_empty() {
            return;
        }
        self.highest = head.stream;
        let target = if fields.target.is_empty() { &fields.authority } else { &fields.target };
        let (path, query) = path_and_hints(target);
        let method = String::from_utf8_lossy(&fields.method).into_owned();
        let credential = fields.credential.credential();
        let request = Request { method, path, query, credential, status: None, reported: false };
        let number = self.ledger.add(request, observation);
        if self.streams.len() == STREAMS {
            self.streams.pop_front();
        }
        self.streams.push_back(Stream { id: head.stream, number, content: None });
    }

    fn response(&mut self, head: Head, fields: &Fields, observation: &mut Observation) {
        observation.kubernetes |= fields.kubernetes;
        let Some(place) = self.streams.iter().position(|stream| stream.id == head.stream) else { return };
        if let Some(status @ 200..) = fields.status {
            self.ledger.status(self.streams[place].number, status, observation);
            self.streams[place].content = (!fields.encoded).then(BodyReader::default);
        }
        if head.has(flag::END_STREAM) {
            self.streams.remove(place);
        }
    }

    fn data(&mut self, side: Side, head: Head, part: &[u8], whole: bool, observation: &mut Observation) {
        if side == Side::Client {
            return;
        }
        let Some(place) = self.streams.iter().position(|stream| stream.id == head.stream) else { return };
        // What pads a frame would be read as content; nobody pads DATA of an API server.
        if !observation.kubernetes
            && !head.has(flag::PADDED)
            && let Some(content) = &mut self.streams[place].content
        {
            observation.kubernetes = content.read(part);
        }
        if whole && head.has(flag::END_STREAM) {
            self.streams.remove(place);
        }
    }

    /// A server of HTTP/1 takes the preface for a request.
    fn answered_by_http1(&mut self, response: &[u8], observation: &mut Observation) {
        let line = response.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
        self.answered_by_http1 = true;
        self.streams.clear();
        let request = Request {
            method: "PRI".to_owned(),
            path: "*".to_owned(),
            query: QueryHints::default(),
            credential: Credential::None,
            status: http1::head::status(line),
            reported: false,
        };
        self.ledger.replace(request, observation);
    }

    fn lose(&mut self, side: Side, reason: Unclassified, observation: &mut Observation) {
        *self.direction(side) = Direction { lost: true, began: true, ..Direction::default() };
        observation.set_unclassified(reason);
    }
}

impl Direction {
    /// Memory beside itself. The decoder does not tell its table's; an entry of three bytes on the wire, a name of the
    /// static table and a short value, takes some fifty there (RFC 7541 section 4.1).
    fn held(&self) -> usize {
        let table = self.blocks.saturating_mul(16).min(DYNAMIC_TABLE);
        let block = self.block.as_ref().map_or(0, |(_, block)| block.capacity());
        self.payload.capacity() + block + table
    }

    /// Decodes one header block, in the order in which they came: each changes the dynamic table.
    fn decode(&mut self, block: &[u8]) -> Result<Fields, Unclassified> {
        let decoder = self.decoder.get_or_insert_with(|| {
            let mut decoder = Decoder::new();
            decoder.set_max_allowed_table_size(DYNAMIC_TABLE);
            Box::new(decoder)
        });
        self.blocks = self.blocks.saturating_add(block.len());
        let mut fields = Fields::default();
        decoder
            .decode_with_cb(block, |name, value| fields.field(&name, &value))
            .map_err(|_| Unclassified::Malformed)?;
        Ok(fields)
    }
}

impl Fields {
    fn field(&mut self, name: &[u8], value: &[u8]) {
        let kept = |longest: usize| value[..value.len().min(longest)].to_vec();
        match name {
            b":method" => self.method = kept(http1::head::RequestLine::LONGEST_METHOD),
            b":path" => self.target = kept(http1::line::KEPT.max(LONGEST_PATH)),
            b":authority" => self.authority = kept(LONGEST_PATH),
            b":status" => self.status = std::str::from_utf8(value).ok().and_then(|status| status.parse().ok()),
            b"content-encoding" => self.encoded |= !value.is_empty() && !value.eq_ignore_ascii_case(b"identity"),
            _ => {
                self.kubernetes |= kubernetes::header(name);
                self.credential.header(name, value);
            }
        }
    }
}
