//! The probe's self-test: one anonymous `GET /livez` of our own, which has to come back through the probe.
//!
//! It goes to the API server over TLS, whose certificate is not verified: nothing secret is sent, and what comes back is
//! only a status code and whether there was a GOAWAY (see [`crate::classify`]).

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, Stream};

use super::{Hit, Probe};
use crate::inspect::http2::frame::{Head, flag, kind};

/// How long the request may take to come back through the probe, and to be answered.
const PATIENCE: Duration = Duration::from_secs(1);

/// Connecting and TLS may take longer on a node that is busy.
const CONNECTING: Duration = Duration::from_secs(2);

/// Bytes of an answer that are read at the most; /livez answers `ok`.
const ANSWER: usize = 64 << 10;

/// What came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The request came back through the probe.
    Passed {
        /// The time from sending it, or a bit more.
        took: Duration,
        /// What the server answered, where that was seen.
        answer: Option<Answer>,
    },
    /// The server refuses anonymous requests altogether (`--anonymous-auth=false`): there is nothing to be seen.
    NoAnonymous,
    /// Nobody listens there (yet).
    NotListening(String),
    /// The request was answered, or not, and did not come back.
    Failed(String),
}

/// What the server answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Whether it sent GOAWAY before its answer; `None` where it does not speak HTTP/2.
    pub goaway: Option<bool>,
}

/// Tests the API server at `endpoint`; what the probe sees of others meanwhile goes to `others`. Takes as long as
/// connecting and answering do, and a second more at the most.
pub fn run(probe: &mut Probe, endpoint: SocketAddr, others: &mut impl FnMut(Hit)) -> (Option<SocketAddr>, Outcome) {
    let connected = TcpStream::connect_timeout(&endpoint, CONNECTING)
        .and_then(|stream| Ok((stream.local_addr()?, stream)))
        .map_err(|error| format!("nobody listens at {endpoint}: {error}"));
    let (local, stream) = match connected {
        Ok((local, stream)) => (SocketAddr::new(local.ip().to_canonical(), local.port()), stream),
        Err(words) => return (None, Outcome::NotListening(words)),
    };
    let (tell, told) = mpsc::channel();
    let ask = move || {
        let said = tell.clone();
        // The test may have ended before this has an answer.
        let _ = tell.send(Said::Answer(ask(stream, endpoint, || drop(said.send(Said::Sending)))));
    };
    if let Err(error) = std::thread::Builder::new().name("self-test".to_owned()).spawn(ask) {
        return (Some(local), Outcome::Failed(format!("cannot start a thread: {error}")));
    }
    let outcome = wait(probe, local, &told, others);
    (Some(local), outcome)
}

enum Said {
    /// The request is sent now.
    Sending,
    /// It was answered, or went wrong.
    Answer(io::Result<Answer>),
}

fn wait(probe: &mut Probe, local: SocketAddr, told: &mpsc::Receiver<Said>, others: &mut impl FnMut(Hit)) -> Outcome {
    let began = Instant::now();
    let mut sent = None;
    let mut seen = None;
    let mut answer = None;
    loop {
        match told.try_recv() {
            Ok(Said::Sending) => sent = Some(Instant::now()),
            Ok(Said::Answer(result)) => answer = Some(result),
            Err(_) => {}
        }
        while let Some(hit) = probe.next_hit() {
            if hit.remote == Some(local) {
                seen = seen.or(Some(sent.unwrap_or(began).elapsed()));
            } else {
                others(hit);
            }
        }
        let late = sent.map_or(began.elapsed() >= CONNECTING, |sent| sent.elapsed() >= PATIENCE);
        match (seen, &answer) {
            (Some(took), Some(result)) => return Outcome::Passed { took, answer: result.as_ref().ok().copied() },
            (Some(took), None) if late => return Outcome::Passed { took, answer: None },
            (None, Some(Err(error))) => return Outcome::Failed(format!("its own request failed: {error}")),
            (None, Some(Ok(answer))) if late && answer.status == 401 => return Outcome::NoAnonymous,
            (None, Some(Ok(answer))) if late => {
                let status = answer.status;
                return Outcome::Failed(format!("its own request was answered ({status}) and did not come back"));
            }
            (None, None) if late => return Outcome::Failed("its own request was not answered in time".to_owned()),
            _ => {}
        }
        let mut descriptor = libc::pollfd { fd: probe.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: the pointer is to one `pollfd`, as the count says. What poll says is of no matter: all is looked at.
        unsafe { libc::poll(&raw mut descriptor, 1, 10) };
    }
}

/// Asks over TLS, by HTTP/2 where the server speaks it.
fn ask(mut stream: TcpStream, endpoint: SocketAddr, sending: impl FnOnce()) -> io::Result<Answer> {
    stream.set_read_timeout(Some(CONNECTING))?;
    stream.set_write_timeout(Some(CONNECTING))?;
    let mut tls = client(endpoint).map_err(io::Error::other)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut stream)?;
    }
    let http2 = tls.alpn_protocol() == Some(b"h2");
    let mut stream = Stream::new(&mut tls, &mut stream);
    let request = if http2 { http2_request(endpoint) } else { http1_request(endpoint) };
    sending();
    stream.write_all(&request)?;
    stream.flush()?;
    if http2 { http2_answer(&mut stream) } else { http1_answer(&mut stream) }
}

fn client(endpoint: SocketAddr) -> Result<ClientConnection, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    ClientConnection::new(Arc::new(config), ServerName::IpAddress(endpoint.ip().into()))
}

/// `Go-http-client` and the like say what they are; so does this, in the API server's audit log.
const USER_AGENT: &str = concat!("api-exposure-monitor/", env!("CARGO_PKG_VERSION"), " (self-test)");

fn http1_request(endpoint: SocketAddr) -> Vec<u8> {
    format!("GET /livez HTTP/1.1\r\nHost: {endpoint}\r\nUser-Agent: {USER_AGENT}\r\nConnection: close\r\n\r\n")
        .into_bytes()
}

/// The preface, empty SETTINGS and one request (RFC 9113 sections 3.4 and 8.3.1).
fn http2_request(endpoint: SocketAddr) -> Vec<u8> {
    let authority = endpoint.to_string();
    let headers = [
        (&b":method"[..], &b"GET"[..]),
        (b":scheme", b"https"),
        (b":path", b"/livez"),
        (b":authority", authority.as_bytes()),
        (b"user-agent", USER_AGENT.as_bytes()),
    ];
    let block = loona_hpack::Encoder::new().encode(headers);
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes.extend(frame(kind::HEADERS, flag::END_STREAM | flag::END_HEADERS, 1, &block));
    bytes
}

const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn http1_answer(stream: &mut impl Read) -> io::Result<Answer> {
    let mut bytes = Vec::new();
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(&bytes) {
            Ok(httparse::Status::Complete(_)) => {
                return Ok(Answer { status: response.code.unwrap_or_default(), goaway: None });
            }
            Ok(httparse::Status::Partial) if bytes.len() < ANSWER => {}
            _ => return Err(io::Error::other("its answer is no HTTP")),
        }
        let mut piece = [0; 4_096];
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(piece.get(..count).unwrap_or_default());
    }
}

/// Reads up to the answer's head; the API server's GOAWAY comes before it.
fn http2_answer(stream: &mut impl Read) -> io::Result<Answer> {
    let mut goaway = false;
    let mut read = 0;
    while read < ANSWER {
        let mut head = [0; Head::SIZE];
        stream.read_exact(&mut head)?;
        let head = Head::parse(head);
        let mut payload = Vec::new();
        stream.take(head.length.into()).read_to_end(&mut payload)?;
        read += Head::SIZE + payload.len();
        match head.kind {
            GOAWAY => goaway = true,
            kind::HEADERS if head.stream == 1 => {
                let mut status = None;
                // Neither padding nor priority is what a server puts into an answer (Go's does not).
                let decoded = loona_hpack::Decoder::new().decode_with_cb(&payload, |name, value| {
                    if *name == *b":status" {
                        status = std::str::from_utf8(&value).ok().and_then(|value| value.parse().ok());
                    }
                });
                return match (decoded, status) {
                    (Ok(()), Some(status)) => Ok(Answer { status, goaway: Some(goaway) }),
                    _ => Err(io::Error::other("the head of its answer cannot be read")),
                };
            }
            _ => {}
        }
    }
    Err(io::Error::other("its answer is too long"))
}

/// Takes any certificate; the handshake's signature is still checked, so that the server has the certificate's key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> SocketAddr {
        "127.0.0.1:6443".parse().unwrap()
    }

    fn headers(status: &[u8]) -> Vec<u8> {
        let block = loona_hpack::Encoder::new().encode([(&b":status"[..], status), (b"content-type", b"text/plain")]);
        frame(kind::HEADERS, flag::END_HEADERS, 1, &block)
    }

    #[test]
    fn an_answer_over_http2_is_read_with_its_goaway() {
        let settings = frame(SETTINGS, 0, 0, &[0; 6]);
        let goaway = frame(GOAWAY, 0, 0, &[0; 8]);
        let answer = |frames: &[&[u8]]| http2_answer(&mut &frames.concat()[..]).ok();
        let (ok, refused) = (headers(b"200"), headers(b"401"));
        type Row<'a> = (&'a [&'a [u8]], Option<(u16, bool)>);
        let table: [Row<'_>; 5] = [
            (&[&settings, &goaway, &ok], Some((200, true))),
            (&[&settings, &ok, &goaway], Some((200, false))),
            (&[&settings, &goaway, &refused], Some((401, true))),
            (&[&settings, &goaway], None),
            (&[&settings, &ok[..ok.len() - 1]], None),
        ];
        for (frames, expected) in table {
            let expected = expected.map(|(status, goaway)| Answer { status, goaway: Some(goaway) });
            assert_eq!(answer(frames), expected);
        }
        assert!(http2_answer(&mut &frame(0, 0, 3, &[0; 16_000]).repeat(10)[..]).is_err(), "without an end");
    }

    #[test]
    fn an_answer_over_http1_is_read() {
        let answer = |bytes: &[u8]| http1_answer(&mut &bytes[..]).ok();
        let whole = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(answer(whole), Some(Answer { status: 403, goaway: None }));
        for length in 0..whole.len() {
            assert_eq!(answer(&whole[..length]), None, "{length}");
        }
        assert_eq!(answer(b"SSH-2.0-x\r\n"), None);
    }

    #[test]
    fn the_request_asks_for_livez_and_nothing_else() {
        let request = http2_request(endpoint());
        let frames = &request[24..];
        let first = Head::parse(frames[..9].try_into().unwrap());
        let second = Head::parse(frames[9..18].try_into().unwrap());
        assert_eq!((first.kind, first.length, second.kind, second.stream), (SETTINGS, 0, kind::HEADERS, 1));
        let decoded = loona_hpack::Decoder::new().decode(&frames[18..]).unwrap();
        assert!(decoded.contains(&(b":path".to_vec(), b"/livez".to_vec())), "{decoded:?}");
        assert_eq!(decoded.len(), 5, "no credential");
        assert!(
            String::from_utf8(http1_request(endpoint()))
                .unwrap()
                .starts_with("GET /livez HTTP/1.1\r\nHost: 127.0.0.1:6443\r\n")
        );
    }
}
