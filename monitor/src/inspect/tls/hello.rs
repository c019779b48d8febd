//! ClientHello and ServerHello, parsed by tls-parser; extension by extension, so that one that is odd hides no other.

use tls_parser::{
    SNIType, TlsExtension, parse_tls_extension_alpn_content, parse_tls_extension_sni_content,
    parse_tls_extension_unknown, parse_tls_handshake_client_hello, parse_tls_handshake_server_hello,
};

use crate::inspect::TlsVersion;

/// Protocols of the client's ALPN extension that are kept.
const PROTOCOLS: usize = 16;
/// PSK identities whose length is kept.
const IDENTITIES: usize = 16;
/// SHA-256 of "HelloRetryRequest", the random of a ServerHello that is one: RFC 8446 section 4.1.3.
const RETRY_RANDOM: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2, 0x11,
    0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// Extension numbers of the IANA registry "TLS ExtensionType Values".
mod extension {
    pub const SERVER_NAME: u16 = 0;
    pub const MAX_FRAGMENT_LENGTH: u16 = 1;
    pub const ALPN: u16 = 16;
    pub const RECORD_SIZE_LIMIT: u16 = 28;
    pub const SESSION_TICKET: u16 = 35;
    pub const PRE_SHARED_KEY: u16 = 41;
    pub const EARLY_DATA: u16 = 42;
    pub const SUPPORTED_VERSIONS: u16 = 43;
}

/// A hello that contradicts its format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// What a ClientHello says that matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// Host name of the server_name extension.
    pub sni: Option<String>,
    /// Protocols of the ALPN extension.
    pub alpn: Vec<String>,
    /// legacy_session_id.
    pub session_id: SessionId,
    /// Bytes of the session ticket (RFC 5077); 0 where none is offered.
    pub ticket: u16,
    /// Bytes of each PSK identity, in their order.
    pub identities: Vec<u16>,
    /// Early data follows.
    pub early_data: bool,
    /// Offers max_fragment_length or record_size_limit, which the server may answer in EncryptedExtensions.
    pub limits_records: bool,
}

/// What a ServerHello says that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerHello<'a> {
    /// supported_versions' word, else legacy_version.
    pub version: TlsVersion,
    /// It is a HelloRetryRequest.
    pub retry: bool,
    /// legacy_session_id(_echo).
    pub session_id: SessionId,
    /// The suite.
    pub cipher: u16,
    /// The protocol of the ALPN extension (up to TLS 1.2).
    pub alpn: Option<&'a [u8]>,
    /// Index of the PSK identity that was selected.
    pub selected_identity: Option<u16>,
}

/// A session id of up to 32 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionId {
    bytes: [u8; 32],
    length: u8,
}

impl SessionId {
    /// From the wire; anything longer than 32 bytes is cut.
    pub fn new(id: &[u8]) -> Self {
        let mut bytes = [0; 32];
        let length = id.len().min(bytes.len());
        bytes[..length].copy_from_slice(&id[..length]);
        Self { bytes, length: length as u8 }
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl ClientHello {
    /// Parses the body of a client_hello.
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let (_, contents) = parse_tls_handshake_client_hello(body).map_err(|_| Malformed)?;
        let mut hello = Self { session_id: SessionId::new(contents.session_id.unwrap_or_default()), ..Self::default() };
        for (number, data) in extensions(contents.ext.unwrap_or_default()) {
            match number {
                extension::SERVER_NAME => hello.sni = server_name(data),
                extension::ALPN => hello.alpn = protocols(data),
                extension::SESSION_TICKET => hello.ticket = data.len() as u16,
                extension::PRE_SHARED_KEY => hello.identities = identities(data),
                extension::EARLY_DATA => hello.early_data = true,
                extension::MAX_FRAGMENT_LENGTH | extension::RECORD_SIZE_LIMIT => hello.limits_records = true,
                _ => {}
            }
        }
        Ok(hello)
    }

    /// Parses a hello in the format of SSL 2.0 (RFC 5246 appendix E.2), from its message type on.
    pub fn parse_old(hello: &[u8]) -> Self {
        let session_id = hello.get(3..9).and_then(|lengths| {
            let [ciphers, session] = [[lengths[0], lengths[1]], [lengths[2], lengths[3]]].map(u16::from_be_bytes);
            let start = 9 + usize::from(ciphers);
            hello.get(start..start + usize::from(session))
        });
        Self { session_id: SessionId::new(session_id.unwrap_or_default()), ..Self::default() }
    }
}

impl<'a> ServerHello<'a> {
    /// Parses the body of a server_hello.
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let (_, contents) = parse_tls_handshake_server_hello(body).map_err(|_| Malformed)?;
        let mut hello = Self {
            version: TlsVersion(contents.version.0),
            retry: contents.random == &RETRY_RANDOM[..],
            session_id: SessionId::new(contents.session_id.unwrap_or_default()),
            cipher: contents.cipher.0,
            alpn: None,
            selected_identity: None,
        };
        for (number, data) in extensions(contents.ext.unwrap_or_default()) {
            match (number, data) {
                (extension::SUPPORTED_VERSIONS, &[high, low]) => {
                    hello.version = TlsVersion(u16::from_be_bytes([high, low]))
                }
                (extension::PRE_SHARED_KEY, &[high, low]) => {
                    hello.selected_identity = Some(u16::from_be_bytes([high, low]))
                }
                (extension::ALPN, _) => {
                    hello.alpn = match parse_tls_extension_alpn_content(data) {
                        Ok((_, TlsExtension::ALPN(protocols))) => protocols.first().copied(),
                        _ => None,
                    }
                }
                _ => {}
            }
        }
        Ok(hello)
    }
}

/// Number and data of each extension, as far as they are whole.
fn extensions(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || match parse_tls_extension_unknown(bytes) {
        Ok((rest, TlsExtension::Unknown(number, data))) => {
            bytes = rest;
            Some((number.0, data))
        }
        _ => None,
    })
}

fn server_name(data: &[u8]) -> Option<String> {
    let Ok((_, TlsExtension::SNI(names))) = parse_tls_extension_sni_content(data) else { return None };
    let (_, name) = names.into_iter().find(|(kind, _)| *kind == SNIType::HostName)?;
    Some(text(name))
}

fn protocols(data: &[u8]) -> Vec<String> {
    match parse_tls_extension_alpn_content(data) {
        Ok((_, TlsExtension::ALPN(protocols))) => protocols.into_iter().take(PROTOCOLS).map(text).collect(),
        _ => Vec::new(),
    }
}

/// Text of the wire, at most 255 bytes of it: longer is neither a host name nor a protocol.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(255)]).into_owned()
}

/// `PskIdentity identities<7..2^16-1>`, each an opaque identity<1..2^16-1> and four bytes of age: RFC 8446 section 4.2.11.
fn identities(data: &[u8]) -> Vec<u16> {
    let Some((length, rest)) = data.split_first_chunk::<2>() else { return Vec::new() };
    let mut list = &rest[..rest.len().min(usize::from(u16::from_be_bytes(*length)))];
    let mut lengths = Vec::new();
    while let Some((length, rest)) = list.split_first_chunk::<2>() {
        let length = u16::from_be_bytes(*length);
        let Some(rest) = rest.get(usize::from(length) + 4..) else { break };
        list = rest;
        lengths.push(length);
        if lengths.len() == IDENTITIES {
            break;
        }
    }
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::tls::tests::{client_hello, server_hello};

    #[test]
    fn a_client_hello_says_what_matters() {
        let body = client_hello(
            &[7; 32],
            &[
                (0x1a1a, b""),
                (0, b"\0\x0d\0\0\x0akubernetes"),
                (16, b"\0\x0c\x02h2\x08http/1.1"),
                (35, &[1; 129]),
                (28, b"\x40\x01"),
                (42, b""),
                (41, &[&b"\0\x10\0\x03abc....\0\x01x...."[..], b"binders"].concat()),
            ],
        );
        let hello = ClientHello::parse(&body).expect("a hello");
        assert_eq!(hello.sni.as_deref(), Some("kubernetes"));
        assert_eq!(hello.alpn, ["h2", "http/1.1"]);
        assert_eq!((hello.ticket, hello.identities.as_slice()), (129, &[3, 1][..]));
        assert!(hello.early_data && hello.limits_records);
        assert_eq!(hello.session_id, SessionId::new(&[7; 32]));
    }

    #[test]
    fn one_odd_extension_hides_no_other() {
        let body = client_hello(&[], &[(10, b"\xff"), (16, b"\xff\xff"), (0, b"\0\x04\0\0\x01x")]);
        let hello = ClientHello::parse(&body).expect("a hello");
        assert_eq!((hello.sni.as_deref(), hello.alpn.len()), (Some("x"), 0));
    }

    #[test]
    fn no_prefix_of_a_hello_is_more_than_the_whole() {
        let body = client_hello(&[7; 32], &[(0, b"\0\x0d\0\0\x0akubernetes"), (16, b"\0\x03\x02h2")]);
        let whole = ClientHello::parse(&body).expect("a hello");
        for length in 0..body.len() {
            if let Ok(part) = ClientHello::parse(&body[..length]) {
                assert!(part.sni.is_none() || part.sni == whole.sni, "{length}");
            }
        }
        assert_eq!(ClientHello::parse(&body[..20]), Err(Malformed));
    }

    #[test]
    fn a_server_hello_says_what_was_chosen() {
        let body = server_hello(0x0303, &[1; 32], &[9; 32], 0x1301, &[(43, b"\x03\x04"), (41, b"\0\x01")]);
        let hello = ServerHello::parse(&body).expect("a hello");
        assert_eq!((hello.version, hello.retry, hello.selected_identity), (TlsVersion(0x0304), false, Some(1)));
        let body = server_hello(0x0303, &RETRY_RANDOM, &[], 0x1301, &[(43, b"\x03\x04")]);
        assert!(ServerHello::parse(&body).expect("a hello").retry);
        let body = server_hello(0x0303, &[1; 32], &[], 0xc02f, &[(16, b"\0\x03\x02h2")]);
        let hello = ServerHello::parse(&body).expect("a hello");
        assert_eq!((hello.version, hello.alpn, hello.cipher), (TlsVersion(0x0303), Some(&b"h2"[..]), 0xc02f));
        let body = server_hello(0x0300, &[1; 32], &[], 0x000a, &[]);
        assert_eq!(ServerHello::parse(&body).expect("a hello").version, TlsVersion(0x0300));
        assert_eq!(ServerHello::parse(b"\x7f\x12"), Err(Malformed));
    }
}
