//! TLS, from SSL 3.0 to 1.3: what the hellos and the handshake say in the clear, and what record lengths tell of the rest.

pub mod hello;
mod judge;
pub mod lengths;
pub mod message;
pub mod record;
mod response;
#[cfg(test)]
pub(super) mod tests;

use monitor_common::Side;

use super::{
    CertificateUnknown, ClientCertificate, Evidence, Observation, TlsHandshake, TlsObservation, TlsVersion,
    Unclassified,
};
use hello::{ClientHello, ServerHello, SessionId};
use lengths::{Alpn, Padding};
use message::{Message, Messages, kind};
use record::{NotARecord, Piece, Records, content};
use response::ResponseReader;

/// TLS 1.3, RFC 8446.
const TLS_13: TlsVersion = TlsVersion(0x0304);
/// AlertLevel fatal.
const FATAL: u8 = 2;
/// AlertDescription close_notify.
const CLOSE_NOTIFY: u8 = 0;
/// AlertDescription no_certificate, SSL 3.0 only: the answer to a CertificateRequest, RFC 6101 section 5.4.2.
const NO_CERTIFICATE: u8 = 41;
/// AlertDescription user_canceled.
const USER_CANCELED: u8 = 90;
/// Encrypted records of a server's flight at the most: EncryptedExtensions to Finished in more records is no known server.
const FLIGHT_RECORDS: u8 = 16;
/// Encrypted records of a server's flight that does not ask for a certificate, in a record for each message.
const FLIGHT_WITHOUT_REQUEST: u8 = 4;

/// Reads one TLS connection until its verdict stands.
#[derive(Debug, Default)]
pub struct Tls {
    streams: [Stream; 2],
    /// A hello in the format of SSL 2.0 that is being collected, and its length.
    old_hello: Option<(usize, Vec<u8>)>,
    client_hello: bool,
    server_hello: bool,
    offers_h2: bool,
    offers_http11: bool,
    early_data: bool,
    limits_records: bool,
    session_id: SessionId,
    ticket: u16,
    identities: Vec<u16>,
    /// Index of the PSK identity that the server selected.
    selected: Option<u16>,
    /// Cipher suite of the ServerHello.
    cipher: u16,
    certificate_request: bool,
    server_hello_done: bool,
    client_key_exchange: bool,
    /// Length of the client's first encrypted record of TLS 1.3.
    first: Option<u16>,
    client_records: u8,
    padding: Padding,
    /// The verdict on the client's certificate stands, `unknown` included.
    judged: bool,
    /// Encrypted records of the server's flight.
    flight: u8,
    /// The server's Finished was seen.
    flight_over: bool,
    /// Something of the server was seen that comes after the whole handshake.
    after_handshake: bool,
    response: ResponseReader,
    /// Nothing that may come changes what is known.
    over: bool,
}

/// One direction.
#[derive(Debug, Default)]
struct Stream {
    records: Records,
    messages: Messages,
    /// Content type of the current record.
    kind: u8,
    /// Its length.
    length: u16,
    /// The current record's fragment is of no use: encrypted, or not looked into.
    opaque: bool,
    alert: Option<u8>,
    began: bool,
    change_cipher_spec: bool,
    finished: bool,
    lost: bool,
    ended: bool,
}

impl Tls {
    /// For a connection whose first record is about to come; `old_hello` is the length of a hello in the format of SSL 2.0.
    pub fn new(old_hello: Option<u16>, observation: &mut Observation) -> Self {
        observation.tls = Some(Box::default());
        Self { old_hello: old_hello.map(|length| (usize::from(length), Vec::new())), ..Self::default() }
    }

    /// Memory beside the reader itself.
    pub fn held(&self) -> usize {
        let messages: usize = self.streams.iter().map(|stream| stream.messages.held()).sum();
        messages + self.old_hello.as_ref().map_or(0, |(_, hello)| hello.capacity()) + self.identities.capacity() * 2
    }

    /// Whether nothing that may come changes what is known.
    pub const fn over(&self) -> bool {
        self.over
    }

    /// The next bytes of one direction.
    pub fn bytes(&mut self, side: Side, mut bytes: &[u8], observation: &mut Observation) {
        if side == Side::Client && self.old_hello.is_some() {
            bytes = self.old_hello_bytes(bytes);
        }
        while !self.over {
            let stream = &mut self.streams[side as usize];
            if stream.lost {
                return;
            }
            match stream.records.next(&mut bytes) {
                Ok(None) => return,
                Ok(Some(Piece::Header { kind, length })) => self.header(side, kind, length, observation),
                Ok(Some(Piece::Fragment(fragment))) => {
                    if !stream.opaque {
                        self.fragment(side, fragment, observation);
                    } else if stream.records.whole() {
                        self.record_ended(side, observation);
                    }
                }
                Err(NotARecord) => return self.not_a_record(side, observation),
            }
        }
    }

    /// Bytes of one direction that will not come.
    pub fn gap(&mut self, side: Side, length: u64, observation: &mut Observation) {
        let stream = &mut self.streams[side as usize];
        let in_clear = !stream.opaque && stream.kind == content::HANDSHAKE;
        if stream.lost {
            return;
        }
        if stream.records.skip(length) && (!in_clear || stream.messages.skip(length)) {
            if stream.opaque && stream.records.whole() {
                self.record_ended(side, observation);
            }
            return;
        }
        self.lose(side, Unclassified::Gap, observation);
    }

    /// One direction has ended.
    pub fn end(&mut self, side: Side, observation: &mut Observation) {
        let other_ended = self.streams[side.other() as usize].ended;
        self.streams[side as usize].ended = true;
        let Some(tls) = &mut observation.tls else { return };
        if tls.handshake == TlsHandshake::Incomplete && !other_ended {
            let client_done = self.first.is_some() || self.streams[Side::Client as usize].finished;
            match side {
                Side::Client if self.server_hello && !client_done => tls.handshake = TlsHandshake::RejectedByClient,
                Side::Server if self.client_hello && (!self.server_hello || client_done) => {
                    tls.handshake = TlsHandshake::RejectedByServer;
                }
                _ => {}
            }
        }
        if side == Side::Client {
            self.judge_at_last(tls);
        }
        self.over |= other_ended;
    }

    /// Nothing more will come of either direction.
    pub fn finish(&mut self, observation: &mut Observation) {
        self.over = true;
        let Some(tls) = &mut observation.tls else { return };
        self.judge_at_last(tls);
        if tls.handshake == TlsHandshake::Incomplete && self.is_13(tls) && self.streams[Side::Client as usize].finished
        {
            tls.handshake = TlsHandshake::Completed;
        }
    }

    fn is_13(&self, tls: &TlsObservation) -> bool {
        // Drafts and experiments of 1.3 have its record layer.
        tls.version.is_some_and(|TlsVersion(version)| version == TLS_13.0 || version > 0x7000)
    }

    fn old_hello_bytes<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let Some((length, collected)) = &mut self.old_hello else { return bytes };
        let (part, rest) = bytes.split_at(bytes.len().min(*length - collected.len()));
        collected.extend_from_slice(part);
        if collected.len() == *length {
            self.session_id = ClientHello::parse_old(collected.get(2..).unwrap_or_default()).session_id;
            self.client_hello = true;
            self.old_hello = None;
        }
        rest
    }

    fn header(&mut self, side: Side, kind: u8, length: u16, observation: &mut Observation) {
        let Some(tls) = &mut observation.tls else { return };
        let is_13 = self.is_13(tls);
        let stream = &mut self.streams[side as usize];
        (stream.began, stream.kind, stream.length) = (true, kind, length);
        let ciphered = stream.change_cipher_spec && !is_13;
        stream.opaque = match kind {
            content::HANDSHAKE | content::ALERT => ciphered,
            _ => true,
        };
        match kind {
            content::CHANGE_CIPHER_SPEC if !is_13 => self.change_cipher_spec(side, tls),
            // A client that goes away within a record has not sent it.
            content::APPLICATION_DATA if side == Side::Server => self.application_data(side, length, tls),
            content::HANDSHAKE if ciphered => {
                stream.finished = true;
                self.check_finished(tls);
            }
            content::ALERT if ciphered && tls.handshake == TlsHandshake::Incomplete => self.rejected(side, tls),
            _ => {}
        }
        self.check_over(tls);
    }

    /// The last byte of an encrypted record has come.
    fn record_ended(&mut self, side: Side, observation: &mut Observation) {
        let Some(tls) = &mut observation.tls else { return };
        let stream = &self.streams[side as usize];
        if side == Side::Client && stream.kind == content::APPLICATION_DATA {
            self.application_data(side, stream.length, tls);
            self.check_over(tls);
        }
    }

    fn fragment(&mut self, side: Side, mut fragment: &[u8], observation: &mut Observation) {
        let stream = &mut self.streams[side as usize];
        if stream.kind == content::ALERT {
            for byte in fragment {
                match self.streams[side as usize].alert.take() {
                    None => self.streams[side as usize].alert = Some(*byte),
                    Some(level) => self.alert(side, level, *byte, observation),
                }
            }
            return;
        }
        loop {
            match self.streams[side as usize].messages.next(&mut fragment) {
                Ok(Some(message)) => self.message(side, &message, observation),
                Ok(None) => return,
                Err(message::TooLong) => return self.lose(side, Unclassified::TooLong, observation),
            }
        }
    }

    fn message(&mut self, side: Side, message: &Message<'_>, observation: &mut Observation) {
        let Some(tls) = &mut observation.tls else { return };
        let parsed = match (side, message.kind) {
            (Side::Client, kind::CLIENT_HELLO) => {
                ClientHello::parse(&message.body).map(|hello| self.client_hello(hello, tls))
            }
            (Side::Server, kind::SERVER_HELLO) => {
                ServerHello::parse(&message.body).map(|hello| self.server_hello(&hello, tls))
            }
            _ if self.is_13(tls) => Ok(()),
            (Side::Client, kind::CERTIFICATE) => {
                let presented = message.body.get(..3).is_some_and(|length| length != [0; 3]);
                let verdict = if presented { ClientCertificate::Presented } else { ClientCertificate::Absent };
                self.judge(tls, verdict, Evidence::CertificateMessage);
                Ok(())
            }
            (Side::Client, kind::CLIENT_KEY_EXCHANGE) => {
                self.client_key_exchange = true;
                Ok(())
            }
            (
                Side::Server,
                kind::CERTIFICATE | kind::SERVER_KEY_EXCHANGE | kind::CERTIFICATE_REQUEST | kind::SERVER_HELLO_DONE,
            ) => {
                tls.resumed = Some(false);
                self.certificate_request |= message.kind == kind::CERTIFICATE_REQUEST;
                self.server_hello_done |= message.kind == kind::SERVER_HELLO_DONE;
                Ok(())
            }
            _ => Ok(()),
        };
        if self.client_key_exchange && self.server_hello_done && !self.certificate_request && !self.judged {
            self.judge(tls, ClientCertificate::NotRequested, Evidence::CertificateMessage);
        }
        if parsed.is_err() {
            self.lose(side, Unclassified::Malformed, observation);
        }
    }

    fn client_hello(&mut self, hello: ClientHello, tls: &mut TlsObservation) {
        self.client_hello = true;
        self.offers_h2 = hello.alpn.iter().any(|protocol| protocol == Alpn::H2.name());
        self.offers_http11 = hello.alpn.iter().any(|protocol| protocol == Alpn::Http11.name());
        // A second hello, after a HelloRetryRequest, may not offer early data, but what the first announced is on its way.
        self.early_data |= hello.early_data;
        self.limits_records = hello.limits_records;
        self.session_id = hello.session_id;
        self.ticket = hello.ticket;
        self.identities = hello.identities;
        tls.sni = hello.sni;
        tls.alpn_offered = hello.alpn;
    }

    fn server_hello(&mut self, hello: &ServerHello<'_>, tls: &mut TlsObservation) {
        tls.version = Some(hello.version);
        if hello.retry {
            return;
        }
        self.server_hello = true;
        self.cipher = hello.cipher;
        if self.is_13(tls) {
            self.selected = hello.selected_identity;
            tls.resumed = Some(self.selected.is_some());
            self.judge_13(tls);
        } else {
            tls.alpn = hello.alpn.map(hello::text);
            if !self.session_id.is_empty() && hello.session_id == self.session_id {
                tls.resumed = Some(true);
            }
        }
    }

    /// Up to TLS 1.2: what follows in this direction is encrypted.
    fn change_cipher_spec(&mut self, side: Side, tls: &mut TlsObservation) {
        self.streams[side as usize].change_cipher_spec = true;
        if side == Side::Server && self.server_hello && tls.resumed.is_none() {
            tls.resumed = Some(true);
        }
    }

    /// Up to TLS 1.2: one side has sent its Finished.
    fn check_finished(&mut self, tls: &mut TlsObservation) {
        let [client, server] = [Side::Client, Side::Server].map(|side| self.streams[side as usize].finished);
        if client && tls.resumed == Some(true) && !self.judged {
            self.judge_by_ticket(tls, Some(self.ticket));
        }
        if client && server && tls.handshake == TlsHandshake::Incomplete {
            self.complete_12(tls);
        }
    }

    fn complete_12(&mut self, tls: &mut TlsObservation) {
        tls.handshake = TlsHandshake::Completed;
        match lengths::overhead_12(self.cipher) {
            Some(overhead) if tls.alpn.as_deref() == Some(Alpn::H2.name()) => self.response.begin(overhead),
            _ => self.response.stop(),
        }
    }

    fn application_data(&mut self, side: Side, length: u16, tls: &mut TlsObservation) {
        if !self.is_13(tls) && tls.version.is_some() {
            if self.streams[side as usize].change_cipher_spec {
                let server_lost = self.streams[Side::Server as usize].lost;
                if tls.handshake == TlsHandshake::Incomplete && side == Side::Client && server_lost {
                    self.complete_12(tls);
                }
                self.response.record(side, length, tls);
            }
            return;
        }
        match side {
            Side::Client => {
                self.first.get_or_insert(length);
                self.client_records = self.client_records.saturating_add(1);
                self.padding.record(length);
                if self.is_13(tls) {
                    self.judge_13(tls);
                    self.response.record(side, length, tls);
                }
            }
            Side::Server => self.server_record_13(length, tls),
        }
    }

    fn alert(&mut self, side: Side, level: u8, description: u8, observation: &mut Observation) {
        let Some(tls) = &mut observation.tls else { return };
        if side == Side::Client && description == NO_CERTIFICATE && level != FATAL {
            return self.judge(tls, ClientCertificate::Absent, Evidence::CertificateMessage);
        }
        if level == FATAL || description == CLOSE_NOTIFY || description == USER_CANCELED {
            self.rejected(side, tls);
            self.over = true;
        }
    }

    fn rejected(&mut self, by: Side, tls: &mut TlsObservation) {
        if tls.handshake == TlsHandshake::Incomplete {
            tls.handshake = match by {
                Side::Client => TlsHandshake::RejectedByClient,
                Side::Server => TlsHandshake::RejectedByServer,
            };
        }
        self.response.stop();
        self.judge_at_last(tls);
        if !self.judged {
            self.unknown(tls, CertificateUnknown::HungUp);
        }
    }

    fn not_a_record(&mut self, side: Side, observation: &mut Observation) {
        let stream = &self.streams[side as usize];
        if side == Side::Server && !stream.began {
            let byte = stream.records.first_byte();
            if byte.is_ascii_graphic() {
                if let Some(tls) = &mut observation.tls {
                    tls.answered_in_the_clear = true;
                }
                self.over = true;
                return;
            }
        }
        self.lose(side, Unclassified::Malformed, observation);
    }

    /// The place of the next record or message of this direction is not known any more.
    fn lose(&mut self, side: Side, reason: Unclassified, observation: &mut Observation) {
        self.streams[side as usize].lost = true;
        self.streams[side as usize].messages = Messages::default();
        let Some(tls) = &mut observation.tls else { return };
        self.response.lose(tls);
        if side == Side::Client {
            self.judge_at_last(tls);
        }
        self.check_over(tls);
        if !self.over {
            self.over = self.streams.iter().all(|stream| stream.lost);
            observation.set_unclassified(reason);
        }
    }

    fn check_over(&mut self, tls: &mut TlsObservation) {
        if tls.handshake == TlsHandshake::Incomplete {
            return;
        }
        let rejected = tls.handshake != TlsHandshake::Completed;
        let server_lost = self.streams[Side::Server as usize].lost;
        let told = !self.is_13(tls) || self.after_handshake || rejected || server_lost;
        self.over |= self.judged && told && (self.response.is_over() || rejected);
    }
}
