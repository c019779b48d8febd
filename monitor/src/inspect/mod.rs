//! inspect: what is spoken in a connection, read from its two byte streams.
//!
//! Detected once, from the first bytes; then one reader goes on: TLS until its verdict stands, HTTP/1 and HTTP/2 for as
//! long as the connection lives. No bytes in, no state: a reader that is done holds nothing.

mod credential;
mod detect;
mod http1;
pub(crate) mod http2;
mod kubernetes;
mod ledger;
mod observation;
mod target;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tls;

pub use observation::*;
pub use target::path_and_hints;
pub use tls::lengths;

use monitor_common::{Decision, Side};

use crate::reassemble::Chunk;
use detect::{Spoken, Verdict};
use http1::Http1;
use http2::Http2;
use tls::Tls;

/// What the inspector wants next of this connection; the words that go back to the kernel side.
pub type Wanted = Decision;

/// Bytes of the server that are held where they were captured before the client's first.
const HELD: usize = 16 * 1024;

/// Reads one connection. Chosen once from the first bytes; a decoder that has read enough holds no buffers.
#[derive(Debug)]
pub struct Inspector {
    start_known: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Not decided; boxed once something has to be held, so that the many that are settled are small.
    Detect(Option<Box<Detect>>),
    Tls(Box<Tls>),
    Http1(Box<Http1>),
    Http2(Box<Http2>),
    /// Nothing more will change.
    Settled,
}

/// The first bytes, as far as they do not tell.
#[derive(Debug, Default)]
struct Detect {
    client: Vec<u8>,
    acknowledged: Option<u64>,
    server: Vec<u8>,
    server_lost: bool,
    ended: [bool; 2],
}

impl Default for Inspector {
    fn default() -> Self {
        Self::new(true)
    }
}

impl Inspector {
    /// For a new connection. Where its start was not seen (`start_known` false), the first bytes that come may be from the
    /// middle of anything.
    pub fn new(start_known: bool) -> Self {
        Self { start_known, state: State::Detect(None) }
    }

    /// Takes the next chunk, fills the observation, and says what is wanted next.
    pub fn chunk(&mut self, chunk: &Chunk<'_>, observation: &mut Observation) -> Wanted {
        match &mut self.state {
            State::Settled => {}
            State::Detect(_) => self.detect(chunk, observation),
            State::Tls(tls) => {
                match *chunk {
                    Chunk::Bytes { side, bytes, .. } => tls.bytes(side, bytes, observation),
                    Chunk::Gap { side, length, .. } => tls.gap(side, length, observation),
                    Chunk::End { side } => tls.end(side, observation),
                }
                if tls.over() {
                    self.state = State::Settled;
                }
            }
            State::Http1(_) => self.http1(chunk, observation),
            State::Http2(http2) => match *chunk {
                Chunk::Bytes { side, bytes, .. } => http2.bytes(side, bytes, observation),
                Chunk::Gap { side, length, .. } => http2.gap(side, length, observation),
                Chunk::End { .. } => {}
            },
        }
        self.wanted()
    }

    /// Nothing more will come: the connection or the capture has ended, or it has been idle for too long.
    pub fn finish(&mut self, observation: &mut Observation) {
        match &mut self.state {
            State::Settled => {}
            State::Detect(None) => {}
            State::Detect(Some(detect)) => {
                if detect.client.is_empty() {
                    if !detect.server.is_empty() || detect.server_lost {
                        observation.protocol = Protocol::Other;
                        observation.set_unclassified(Unclassified::NoClient);
                    }
                } else if detect::begins_like_http1(&detect.client) {
                    observation.protocol = Protocol::Http1;
                    observation.set_unclassified(Unclassified::Malformed);
                } else {
                    observation.protocol = Protocol::Other;
                    observation.set_unclassified(Unclassified::Protocol);
                }
            }
            State::Tls(tls) => tls.finish(observation),
            State::Http1(http1) => http1.finish(observation),
            State::Http2(http2) => http2.finish(observation),
        }
        self.state = State::Settled;
    }

    /// Whether nothing more will change: the connection can be reported and its buffers are gone.
    pub const fn settled(&self) -> bool {
        matches!(self.state, State::Settled)
    }

    /// Memory that is held for this connection, the observation not counted.
    pub fn buffered(&self) -> usize {
        match &self.state {
            State::Detect(None) | State::Settled => 0,
            State::Detect(Some(detect)) => size_of::<Detect>() + detect.client.capacity() + detect.server.capacity(),
            State::Tls(tls) => size_of::<Tls>() + tls.held(),
            State::Http1(http1) => size_of::<Http1>() + http1.held(),
            State::Http2(http2) => size_of::<Http2>() + http2.held(),
        }
    }

    const fn wanted(&self) -> Wanted {
        match self.state {
            State::Detect(_) | State::Tls(_) => Decision::Read,
            State::Http1(_) => Decision::KeepClient,
            State::Http2(_) => Decision::KeepBoth,
            State::Settled => Decision::Enough,
        }
    }

    fn detect(&mut self, chunk: &Chunk<'_>, observation: &mut Observation) {
        let State::Detect(held) = &mut self.state else { return };
        if let Chunk::Bytes { side: Side::Client, bytes, acknowledged, .. } = *chunk {
            return match held {
                Some(detect) if !detect.client.is_empty() => {
                    let (mut begun, first) = (std::mem::take(&mut detect.client), detect.acknowledged);
                    // In the middle of a stream what was held may be the end of something else.
                    if !self.start_known && matches!(detect::client(bytes), Verdict::Found(_)) {
                        return self.client_begins(bytes, acknowledged, observation);
                    }
                    begun.extend_from_slice(bytes);
                    self.client_begins(&begun, first, observation);
                }
                _ => self.client_begins(bytes, acknowledged, observation),
            };
        }
        let detect = held.get_or_insert_default();
        match *chunk {
            Chunk::Bytes { side: Side::Client, .. } => {}
            Chunk::Bytes { side: Side::Server, bytes, .. } => {
                if !self.start_known {
                    if detect::tls_records(bytes) {
                        self.middle_of_tls(observation);
                    } else if observation.protocol == Protocol::None {
                        observation.protocol = Protocol::Other;
                        observation.set_unclassified(Unclassified::NoStart);
                    }
                } else if detect.client.is_empty() && detect.server.is_empty() && !answers(bytes) {
                    // A protocol in which the server speaks first.
                    observation.protocol = Protocol::Other;
                    self.state = State::Settled;
                } else if detect.server.len() + bytes.len() <= HELD {
                    detect.server.extend_from_slice(bytes);
                } else {
                    detect.server_lost = true;
                }
            }
            Chunk::Gap { side: Side::Client, .. } => {
                detect.client = Vec::new();
                self.start_known = false;
                observation.set_unclassified(Unclassified::Gap);
            }
            Chunk::Gap { side: Side::Server, .. } => detect.server_lost = true,
            Chunk::End { side } => {
                detect.ended[side as usize] = true;
                if detect.ended == [true; 2] {
                    self.finish(observation);
                }
            }
        }
    }

    /// Decides by the client's bytes so far, or holds them.
    fn client_begins(&mut self, bytes: &[u8], acknowledged: Option<u64>, observation: &mut Observation) {
        match detect::client(bytes) {
            Verdict::Found(spoken) => self.begin(spoken, bytes, acknowledged, observation),
            Verdict::NeedMore => {
                if let State::Detect(held) = &mut self.state {
                    let detect = held.get_or_insert_default();
                    detect.client.extend_from_slice(bytes);
                    detect.acknowledged = acknowledged;
                }
            }
            Verdict::NotThis
                if self.start_known && detect::begins_like_http1(bytes) && bytes.len() >= detect::LONGEST =>
            {
                self.begin(Spoken::Http1, bytes, acknowledged, observation);
            }
            Verdict::NotThis if self.start_known => {
                observation.protocol = Protocol::Other;
                self.state = State::Settled;
            }
            Verdict::NotThis if detect::tls_records(bytes) => self.middle_of_tls(observation),
            Verdict::NotThis => {
                // The middle of a stream; a later segment may begin with a request.
                observation.protocol = Protocol::Other;
                observation.set_unclassified(Unclassified::NoStart);
            }
        }
    }

    fn begin(&mut self, spoken: Spoken, bytes: &[u8], acknowledged: Option<u64>, observation: &mut Observation) {
        let held = match &mut self.state {
            State::Detect(held) => held.take(),
            _ => return,
        };
        self.state = match spoken {
            Spoken::Tls => State::Tls(Box::new(Tls::new(None, observation))),
            Spoken::TlsInOldHello(length) => State::Tls(Box::new(Tls::new(Some(length), observation))),
            Spoken::Http1 => State::Http1(Box::new(Http1::new(self.start_known))),
            Spoken::Http2 => State::Http2(Box::default()),
        };
        observation.protocol = match spoken {
            Spoken::Tls | Spoken::TlsInOldHello(_) => Protocol::Tls,
            Spoken::Http1 => Protocol::Http1,
            Spoken::Http2 => Protocol::Http2,
        };
        self.chunk(&Chunk::Bytes { side: Side::Client, offset: 0, bytes, acknowledged }, observation);
        let Some(held) = held else { return };
        if !held.server.is_empty() {
            let server = Chunk::Bytes { side: Side::Server, offset: 0, bytes: &held.server, acknowledged: None };
            self.chunk(&server, observation);
        }
        if held.server_lost {
            let gap = Chunk::Gap {
                side: Side::Server,
                offset: held.server.len() as u64,
                length: u64::MAX,
                reason: crate::reassemble::GapReason::Capped,
            };
            self.chunk(&gap, observation);
        }
        for side in [Side::Client, Side::Server] {
            if held.ended[side as usize] {
                self.chunk(&Chunk::End { side }, observation);
            }
        }
    }

    fn middle_of_tls(&mut self, observation: &mut Observation) {
        observation.protocol = Protocol::Tls;
        observation.tls = Some(Box::default());
        observation.set_unclassified(Unclassified::NoStart);
        self.state = State::Settled;
    }

    fn http1(&mut self, chunk: &Chunk<'_>, observation: &mut Observation) {
        let State::Http1(http1) = &mut self.state else { return };
        match *chunk {
            Chunk::Bytes { side: Side::Client, bytes, acknowledged, .. } => {
                http1.client_bytes(bytes, acknowledged, observation);
            }
            Chunk::Bytes { side: Side::Server, offset, mut bytes, .. } => {
                match http1.server_bytes(offset, &mut bytes, observation) {
                    http1::Outcome::Http1 => {}
                    http1::Outcome::Opaque => self.finish(observation),
                    http1::Outcome::Http2(number) => {
                        let (client, ledger) = std::mem::take(&mut **http1).into_parts();
                        let mut http2 = Http2::upgraded(ledger, number);
                        http2.bytes(Side::Client, &client, observation);
                        http2.bytes(Side::Server, bytes, observation);
                        self.state = State::Http2(Box::new(http2));
                    }
                }
            }
            Chunk::Gap { side, offset, length, .. } => http1.gap(side, offset, length, observation),
            Chunk::End { .. } => {}
        }
    }
}

/// Whether a server's first bytes may be an answer that was captured before what it answers.
fn answers(bytes: &[u8]) -> bool {
    let status = b"HTTP/1.";
    matches!(bytes, [20..=22] | [20..=22, 3, ..]) || bytes.starts_with(&status[..bytes.len().min(status.len())])
}
