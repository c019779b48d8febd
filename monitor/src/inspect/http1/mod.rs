//! HTTP/1.0 and 1.1: every request of a connection, and the status that each was answered with.

pub mod body;
pub mod head;
pub mod line;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use monitor_common::Side;

use super::detect::{self, Verdict};
use super::kubernetes::BodyReader;
use super::ledger::{Ledger, RequestNumber};
use super::target::path_and_hints;
use super::{Observation, Request, Unclassified};
use body::{Body, Part};
use head::{Headers, LONGEST_HEAD, RequestLine, Upgrade};
use line::{KEPT, Lines};

/// Requests that wait for their response at the most; Go's server reads one at a time, so more is no honest client.
const WAITING: usize = 1_024;
/// Statuses that came before the request they answer was whole.
const EARLY: usize = 4;
/// Bytes of the client that are held while the answer to its `Upgrade` is awaited: the preface of HTTP/2 and its SETTINGS.
const HELD: usize = 4_096;
/// Bytes of the body of a 400 in which a TLS server's words are looked for.
const REFUSAL: usize = 512;
/// How TLS servers answer HTTP in the clear: Go's net/http/server.go, nginx's ngx_http_special_response.c, Apache's mod_ssl.
const REFUSALS: [&[u8]; 3] = [
    b"Client sent an HTTP request to an HTTPS server",
    b"plain HTTP request was sent to HTTPS port",
    b"speaking plain HTTP to an SSL-enabled server port",
];

/// What became of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on as HTTP/1.
    Http1,
    /// Nothing more of it can or has to be read.
    Opaque,
    /// `Upgrade: h2c` was accepted: what follows is HTTP/2, and its stream 1 answers this request.
    Http2(RequestNumber),
}

/// Reads one connection.
#[derive(Debug, Default)]
pub struct Http1 {
    ledger: Ledger,
    client: Client,
    /// Made when it first speaks: of the connections that wait for it there may be many.
    server: Option<Box<Server>>,
    /// Requests without a final response, in order.
    waiting: VecDeque<Waiting>,
}

/// A request without its final response.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    number: RequestNumber,
    is_head: bool,
    is_connect: bool,
    upgrade: Upgrade,
    /// Where the server's stream stood when the client sent it: its response begins there, unless it was pipelined.
    answer_at: Option<u64>,
}

#[derive(Debug, Default)]
struct Client {
    state: ClientState,
    lines: Lines,
    head: Head,
    request: Option<RequestStart>,
    /// Bytes after a request that asked for an upgrade.
    held: Vec<u8>,
    lost: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ClientState {
    #[default]
    Head,
    Body(Body),
    /// No request can begin here before the answer to an upgrade.
    Held,
}

/// What both kinds of head have.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    headers: Headers,
    length: u32,
}

/// The beginning of a request whose head is being read.
#[derive(Debug)]
struct RequestStart {
    request: Request,
    answer_at: Option<u64>,
}

#[derive(Debug, Default)]
struct Server {
    state: ServerState,
    lines: Lines,
    head: Head,
    status: Option<u16>,
    content: BodyReader,
    /// Whether this body is looked at.
    looks: bool,
    refusal: Vec<u8>,
    /// Offset behind the bytes that were read, or where the place was lost.
    offset: u64,
    began: bool,
    /// Statuses of responses that came before their request was whole.
    early: VecDeque<u16>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ServerState {
    #[default]
    Head,
    Body(Body),
    /// Where the next response begins is not known.
    Lost,
}

impl Http1 {
    /// For a connection whose first bytes are about to come; where its start was not seen, the first response is looked
    /// for where a request's acknowledgement says.
    pub fn new(start_known: bool) -> Self {
        let lost = || Box::new(Server { state: ServerState::Lost, ..Server::default() });
        Self { server: (!start_known).then(lost), ..Self::default() }
    }

    /// The next bytes of the client.
    pub fn client_bytes(&mut self, bytes: &[u8], acknowledged: Option<u64>, observation: &mut Observation) {
        let mut bytes = bytes;
        if self.client.lost {
            match detect::http1(bytes) {
                Verdict::Found(_) => (self.client.lost, self.client.state) = (false, ClientState::Head),
                Verdict::NeedMore | Verdict::NotThis => return,
            }
        }
        while !self.client.lost {
            match &mut self.client.state {
                ClientState::Head => {
                    if self.client.request.is_none() && !self.client.lines.partial() && self.holds_back(bytes) {
                        self.client.state = ClientState::Held;
                        continue;
                    }
                    let before = bytes.len();
                    let line = self.client.lines.next(&mut bytes);
                    self.client.head.length = self.client.head.length.saturating_add((before - bytes.len()) as u32);
                    if self.client.head.length > LONGEST_HEAD {
                        return self.lose_client(Unclassified::TooLong, observation);
                    }
                    let Some(line) = line else { return };
                    self.client_line(&line, acknowledged, observation);
                }
                ClientState::Body(body) => match body.next(&mut self.client.lines, &mut bytes) {
                    Part::Content(_) => {}
                    Part::Over => self.client.state = ClientState::Head,
                    Part::NeedMore => return,
                    Part::Malformed => return self.lose_client(Unclassified::Malformed, observation),
                },
                ClientState::Held => {
                    let room = HELD.saturating_sub(self.client.held.len());
                    self.client.held.extend_from_slice(&bytes[..bytes.len().min(room)]);
                    return;
                }
            }
        }
    }

    /// The next bytes of the server, at `offset` of its stream. What is behind an accepted upgrade is left in `bytes`.
    pub fn server_bytes(&mut self, offset: u64, bytes: &mut &[u8], observation: &mut Observation) -> Outcome {
        let lost = self.server.get_or_insert_default().state == ServerState::Lost;
        let found = !lost || self.find_response(offset, bytes);
        let server = self.server.get_or_insert_default();
        server.offset = offset + bytes.len() as u64;
        if !found {
            return Outcome::Http1;
        }
        if !server.began && matches!(bytes, [20..=22, 3, ..]) {
            observation.refused_by_tls_server = true;
            return Outcome::Opaque;
        }
        server.began |= !bytes.is_empty();
        loop {
            let server = self.server.get_or_insert_default();
            match &mut server.state {
                ServerState::Head => {
                    let before = bytes.len();
                    let line = server.lines.next(bytes);
                    server.head.length = server.head.length.saturating_add((before - bytes.len()) as u32);
                    if server.head.length > LONGEST_HEAD {
                        self.lose_server(Unclassified::TooLong, observation);
                        return Outcome::Http1;
                    }
                    let Some(line) = line else { return Outcome::Http1 };
                    let outcome = self.server_line(&line, observation);
                    if outcome != Outcome::Http1 {
                        return outcome;
                    }
                }
                ServerState::Body(body) => match body.next(&mut server.lines, bytes) {
                    Part::Content(content) => server.content(content, observation),
                    Part::Over => {
                        server.state = ServerState::Head;
                        server.refusal = Vec::new();
                        observation.other_reply |= !observation.kubernetes;
                    }
                    Part::NeedMore => return Outcome::Http1,
                    Part::Malformed => self.lose_server(Unclassified::Malformed, observation),
                },
                ServerState::Lost => return Outcome::Http1,
            }
        }
    }

    /// Bytes of one direction that will not come.
    pub fn gap(&mut self, side: Side, offset: u64, length: u64, observation: &mut Observation) {
        match side {
            Side::Client => {
                let harmless = match &mut self.client.state {
                    ClientState::Body(body) => body.skip(length),
                    ClientState::Head | ClientState::Held => false,
                };
                if !self.client.lost && !harmless {
                    self.lose_client(Unclassified::Gap, observation);
                }
            }
            Side::Server => {
                let server = self.server.get_or_insert_default();
                let harmless = match &mut server.state {
                    ServerState::Body(body) => body.skip(length),
                    ServerState::Head => false,
                    ServerState::Lost => true,
                };
                // Content that is not whole says nothing: its names could be another object's.
                server.looks = false;
                if !harmless {
                    // No loss yet: bytes are left out on purpose, and the next request says where its response begins.
                    server.lose(offset);
                }
            }
        }
    }

    /// No more responses will come.
    pub fn finish(&mut self, observation: &mut Observation) {
        self.ledger.finish(observation);
    }

    /// Memory beside the reader itself.
    pub fn held(&self) -> usize {
        let bytes = self.client.lines.held()
            + self.client.held.capacity()
            + self.client.request.as_ref().map_or(0, |start| start.request.memory())
            + self.server.as_ref().map_or(0, |server| server.held());
        bytes + self.waiting.capacity() * size_of::<Waiting>() + self.ledger.held()
    }

    /// What the client sent while the answer to its upgrade was awaited, and the ledger, for the reader that goes on.
    pub fn into_parts(self) -> (Vec<u8>, Ledger) {
        (self.client.held, self.ledger)
    }

    /// Whether these bytes follow a request that asked for an upgrade and begin no other request.
    fn holds_back(&self, bytes: &[u8]) -> bool {
        !bytes.is_empty()
            && self.waiting.back().is_some_and(|waiting| waiting.upgrade != Upgrade::None || waiting.is_connect)
            && (bytes.starts_with(&detect::PREFACE[..bytes.len().min(14)]) || detect::http1(bytes) == Verdict::NotThis)
    }

    fn client_line(&mut self, line: &[u8], acknowledged: Option<u64>, observation: &mut Observation) {
        if self.client.request.is_some() {
            if line.is_empty() {
                self.request_ended(observation)
            } else {
                self.client.head.headers.line(line)
            }
            return;
        }
        if line.is_empty() {
            return;
        }
        let cut = line.len() == KEPT;
        let Some(start) = RequestLine::parse(line).or_else(|| RequestLine::parse_cut(line).filter(|_| cut)) else {
            return self.lose_client(Unclassified::Malformed, observation);
        };
        let (path, query) = path_and_hints(start.target);
        let request = Request {
            method: String::from_utf8_lossy(start.method).into_owned(),
            path,
            query,
            credential: super::Credential::None,
            status: None,
            reported: false,
        };
        self.client.request = Some(RequestStart { request, answer_at: acknowledged });
    }

    fn request_ended(&mut self, observation: &mut Observation) {
        let Some(RequestStart { mut request, answer_at }) = self.client.request.take() else { return };
        let Head { headers, .. } = std::mem::take(&mut self.client.head);
        request.credential = headers.credential.credential();
        let (is_head, is_connect) = (request.method == "HEAD", request.method == "CONNECT");
        let number = self.ledger.add(request, observation);
        self.client.state = ClientState::Body(headers.request_body());
        if let Some(status) = self.server.as_mut().and_then(|server| server.early.pop_front()) {
            self.ledger.status(number, status, observation);
        } else if self.waiting.len() < WAITING {
            self.waiting.push_back(Waiting { number, is_head, is_connect, upgrade: headers.upgrade, answer_at });
        }
    }

    fn server_line(&mut self, line: &[u8], observation: &mut Observation) -> Outcome {
        let server = self.server.get_or_insert_default();
        match server.status {
            None if line.is_empty() => Outcome::Http1,
            None => {
                server.status = head::status(line);
                if server.status.is_none() {
                    self.lose_server(Unclassified::Malformed, observation);
                }
                Outcome::Http1
            }
            Some(_) if !line.is_empty() => {
                server.head.headers.line(line);
                Outcome::Http1
            }
            Some(status) => self.response_ended(status, observation),
        }
    }

    fn response_ended(&mut self, status: u16, observation: &mut Observation) -> Outcome {
        let server = self.server.get_or_insert_default();
        server.status = None;
        let Head { headers, .. } = std::mem::take(&mut server.head);
        observation.kubernetes |= headers.kubernetes;
        if status < 200 && status != 101 {
            return Outcome::Http1;
        }
        let waiting = self.waiting.pop_front();
        match waiting {
            Some(waiting) => self.ledger.status(waiting.number, status, observation),
            // Refused before its head was whole, or captured before it.
            None if self.server.get_or_insert_default().early.len() < EARLY && self.request_is_to_come() => {
                self.server.get_or_insert_default().early.push_back(status)
            }
            None => {}
        }
        let Waiting { number, is_head, is_connect, upgrade, .. } = waiting.unwrap_or(Waiting {
            number: 0,
            is_head: false,
            is_connect: false,
            upgrade: Upgrade::None,
            answer_at: None,
        });
        if status == 101 && waiting.is_some() {
            return if upgrade == Upgrade::H2c { Outcome::Http2(number) } else { Outcome::Opaque };
        }
        if is_connect && (200..300).contains(&status) {
            return Outcome::Opaque;
        }
        let server = self.server.get_or_insert_default();
        server.state = ServerState::Body(headers.response_body(status, is_head));
        server.looks = !headers.encoded;
        observation.other_reply |= headers.encoded && !observation.kubernetes;
        server.content = BodyReader::default();
        server.refusal = Vec::with_capacity(if status == 400 { REFUSAL } else { 0 });
        self.resume_held(observation);
        Outcome::Http1
    }

    fn request_is_to_come(&self) -> bool {
        self.client.request.is_some() || self.client.lines.partial() || self.ledger.is_empty()
    }

    /// The upgrade was not accepted: what was held is the client's next request after all.
    fn resume_held(&mut self, observation: &mut Observation) {
        if self.client.state == ClientState::Held && self.waiting.is_empty() {
            let held = std::mem::take(&mut self.client.held);
            self.client.state = ClientState::Head;
            self.client_bytes(&held, None, observation);
        }
    }

    /// Finds where the next response begins after bytes were left out: at the place that the client had received up to
    /// when it sent the request.
    fn find_response(&mut self, offset: u64, bytes: &mut &[u8]) -> bool {
        let end = offset + bytes.len() as u64;
        let lone = self.waiting.len() == 1;
        let found = self.waiting.iter().enumerate().find_map(|(index, waiting)| {
            let at = match waiting.answer_at {
                Some(at) if at < offset => return None,
                Some(at) => at,
                None if lone => offset,
                None => return None,
            };
            let rest = bytes.get(usize::try_from(at.checked_sub(offset)?).ok()?..)?;
            (at < end && rest.starts_with(&b"HTTP/1."[..rest.len().min(7)])).then_some((index, rest))
        });
        let Some((index, rest)) = found else { return false };
        self.waiting.drain(..index);
        *bytes = rest;
        let server = self.server.get_or_insert_default();
        server.lines.clear();
        (server.head, server.status) = (Head::default(), None);
        server.state = ServerState::Head;
        true
    }

    fn lose_client(&mut self, reason: Unclassified, observation: &mut Observation) {
        self.client.lost = true;
        self.client.lines.clear();
        self.client.head = Head::default();
        self.client.request = None;
        observation.set_unclassified(reason);
    }

    fn lose_server(&mut self, reason: Unclassified, observation: &mut Observation) {
        let offset = self.server.get_or_insert_default().offset;
        self.server.get_or_insert_default().lose(offset);
        observation.set_unclassified(reason);
    }
}

impl Server {
    /// Memory that it takes.
    fn held(&self) -> usize {
        size_of::<Self>() + self.lines.held() + self.refusal.capacity()
    }

    fn content(&mut self, content: &[u8], observation: &mut Observation) {
        if self.looks && !observation.kubernetes {
            observation.kubernetes = self.content.read(content);
            observation.other_reply |= self.content.is_other();
        }
        let room = self.refusal.capacity().min(REFUSAL).saturating_sub(self.refusal.len());
        if room > 0 && !observation.refused_by_tls_server {
            self.refusal.extend_from_slice(&content[..content.len().min(room)]);
            observation.refused_by_tls_server =
                REFUSALS.iter().any(|words| memchr::memmem::find(&self.refusal, words).is_some());
        }
    }

    fn lose(&mut self, offset: u64) {
        self.state = ServerState::Lost;
        self.lines.clear();
        (self.head, self.status, self.looks) = (Head::default(), None, false);
        self.refusal = Vec::new();
        self.offset = offset;
    }
}
