//! What lengths tell where the bytes are encrypted: every rule as data, each with its source.
//!
//! Lengths of records are those of the record header (without its five bytes). Measured means: on real kube-apiservers
//! 1.19, 1.20, 1.30, 1.31 and 1.37 with real clients, the truth from the session keys and the audit log.

use std::ops::RangeInclusive;

use ClientFlight::{Alert, Certificate, FinishedOnly, NoCertificate, NoCertificateAndFinished};

/// What a client's first encrypted record of TLS 1.3 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientFlight {
    /// An empty Certificate; Finished follows in a record of its own.
    NoCertificate,
    /// An empty Certificate and Finished in one record.
    NoCertificateAndFinished,
    /// Finished alone: the server did not ask, or the session is resumed.
    FinishedOnly,
    /// An alert.
    Alert,
    /// A Certificate with at least one entry.
    Certificate,
}

/// A rule: records of these lengths mean this.
#[derive(Clone, Debug)]
pub struct LengthRule<Meaning: 'static> {
    /// Lengths, both ends included.
    pub lengths: RangeInclusive<u16>,
    /// What they mean.
    pub meaning: Meaning,
    /// Who sends them, and how that is known.
    pub source: &'static str,
}

const fn rule<Meaning>(lengths: RangeInclusive<u16>, meaning: Meaning, source: &'static str) -> LengthRule<Meaning> {
    LengthRule { lengths, meaning, source }
}

/// The client's first encrypted record after the last ServerHello. An empty Certificate has 8 bytes, Finished 36
/// (SHA-256) or 52 (SHA-384), an alert 2; each record adds a content type and a tag of 16 (RFC 8446 sections 4.4 and 5.2).
/// A length that no rule names is unknown.
pub const CLIENT_FLIGHT: &[LengthRule<ClientFlight>] = &[
    rule(19..=19, Alert, "2 + 17; measured: OpenSSL, GnuTLS, Go"),
    rule(24..=24, Alert, "measured: a client that hangs up on the server's certificate"),
    rule(25..=25, NoCertificate, "8 + 17; measured: OpenSSL, GnuTLS, Go 1.19 to 1.27, kubectl 1.20 to 1.37"),
    rule(35..=35, Alert, "2 + 16 of padding + 17: Java"),
    rule(40..=40, Alert, "as 24, with Java's 16 of padding"),
    rule(41..=41, NoCertificate, "8 + 16 of padding + 17; measured: Java's HttpsURLConnection"),
    rule(53..=53, FinishedOnly, "36 + 17; measured: all"),
    rule(61..=61, NoCertificateAndFinished, "8 + 36 + 17; measured: rustls, BoringSSL"),
    rule(69..=69, FinishedOnly, "52 + 17, or 36 + 16 + 17 of Java; measured: all"),
    rule(77..=77, NoCertificateAndFinished, "8 + 52 + 17 (rustls), or 8 + 36 + 16 + 17 (Java); measured"),
    rule(85..=85, FinishedOnly, "52 + 16 of padding + 17: Java with SHA-384"),
    rule(93..=93, NoCertificateAndFinished, "8 + 52 + 16 of padding + 17; measured: Java with SHA-384"),
    rule(200..=u16::MAX, Certificate, "30 and the certificate; the smallest of 181 bytes measured at 211"),
];

/// What the client's first encrypted record of this length is, by [`CLIENT_FLIGHT`].
pub fn client_flight(length: u16) -> Option<ClientFlight> {
    CLIENT_FLIGHT.iter().find(|rule| rule.lengths.contains(&length)).map(|rule| rule.meaning)
}

/// Whether a session's ticket (TLS 1.2) or PSK identity (TLS 1.3) of this length carries a client certificate.
pub const TICKETS: &[LengthRule<bool>] = &[
    rule(100..=255, false, "without, measured: 105 (Go 1.26), 113 (Go 1.19), 123, 129, 192, 224 (nginx)"),
    rule(256..=u16::MAX, true, "with, measured: 291 and more (PSK identity), 309 and more (session ticket)"),
];

/// Whether a ticket of this length carries a client certificate; shorter ones are ids of sessions that the server
/// keeps, or external keys, and say nothing.
pub fn ticket(length: u16) -> Option<bool> {
    TICKETS.iter().find(|rule| rule.lengths.contains(&length)).map(|rule| rule.meaning)
}

/// What the server chose by ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// `h2`.
    H2,
    /// `http/1.1`.
    Http11,
}

impl Alpn {
    /// The protocol's name in the IANA registry.
    pub const fn name(self) -> &'static str {
        match self {
            Self::H2 => "h2",
            Self::Http11 => "http/1.1",
        }
    }
}

/// The server's first encrypted record: EncryptedExtensions of 6 bytes, its ALPN extension of 6 and the name, 4 more where
/// server_name is acknowledged, and 17.
pub const ENCRYPTED_EXTENSIONS: &[LengthRule<Alpn>] = &[
    rule(32..=32, Alpn::H2, "6 + 9 + 17; measured: kube-apiserver 1.20 with SNI too, 1.37 without"),
    rule(36..=36, Alpn::H2, "6 + 9 + 4 + 17; measured: kube-apiserver 1.37 with SNI"),
    rule(38..=38, Alpn::Http11, "6 + 15 + 17; measured: kube-apiserver 1.20 and 1.37"),
    rule(42..=42, Alpn::Http11, "6 + 15 + 4 + 17: with SNI"),
];

/// What a server with EncryptedExtensions of this length chose.
pub fn encrypted_extensions(length: u16) -> Option<Alpn> {
    ENCRYPTED_EXTENSIONS.iter().find(|rule| rule.lengths.contains(&length)).map(|rule| rule.meaning)
}

/// What an encrypted record of an HTTP/2 server is, by the bytes of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerFrames {
    /// SETTINGS as the first frame.
    Settings,
    /// WINDOW_UPDATE, acknowledgements of SETTINGS, or several in one record.
    Control,
    /// GOAWAY, or the answer to a PING.
    Goaway,
    /// The first response, as short as a 401.
    ShortResponse,
    /// The first response, too long for a 401.
    LongResponse,
    /// The first response, of a length between those of the two.
    Response,
}

/// The server's SETTINGS: 9 bytes and 6 for each setting (RFC 9113 section 6.5).
pub const SETTINGS: &[LengthRule<ServerFrames>] = &[
    rule(39..=39, ServerFrames::Settings, "measured: servers built with Go 1.19 to 1.25"),
    rule(45..=45, ServerFrames::Settings, "measured: servers built with Go 1.26 and 1.27"),
];

/// What follows SETTINGS until the first response, in bytes of content. Measured with TLS 1.3 (17 bytes more in the
/// record) and TLS 1.2 with AES-GCM (24 more).
pub const SERVER_FRAMES: &[LengthRule<ServerFrames>] = &[
    rule(9..=9, ServerFrames::Control, "acknowledgement of SETTINGS; measured: 26 in TLS 1.3, 33 in 1.2"),
    rule(13..=13, ServerFrames::Control, "WINDOW_UPDATE; measured: 30 in TLS 1.3, 37 in 1.2"),
    rule(17..=17, ServerFrames::Goaway, "GOAWAY without debug data; measured: 34 in TLS 1.3, 41 in 1.2"),
    rule(22..=22, ServerFrames::Control, "both in one record; measured: 39 in TLS 1.3, 46 in 1.2"),
    rule(26..=26, ServerFrames::Control, "two WINDOW_UPDATE, of connection and stream: 2 x 13"),
    rule(35..=35, ServerFrames::Control, "two WINDOW_UPDATE and an acknowledgement: 2 x 13 + 9"),
    rule(80..=125, ServerFrames::ShortResponse, "measured: 401 from 119 to 142 in TLS 1.3"),
    rule(126..=199, ServerFrames::Response, "between the two"),
    rule(200..=u16::MAX, ServerFrames::LongResponse, "measured: 217 to 470 for anonymous requests in TLS 1.3"),
];

/// What a server's record with this much content is, before its first response.
pub fn server_frames(content: u16) -> Option<ServerFrames> {
    SERVER_FRAMES.iter().find(|rule| rule.lengths.contains(&content)).map(|rule| rule.meaning)
}

/// Whether a server's record with this much content is its SETTINGS.
pub fn is_settings(content: u16) -> bool {
    SETTINGS.iter().any(|rule| rule.lengths.contains(&content))
}

/// Bytes that TLS 1.3 adds to a record's content: the content type and a tag of 16, with every suite of RFC 8446.
pub const OVERHEAD_13: u16 = 17;

/// Bytes that TLS 1.2 adds to a record's content with this suite; `None` where that is no constant.
pub const fn overhead_12(cipher: u16) -> Option<u16> {
    match cipher {
        // AES-GCM: explicit nonce of 8 and tag of 16 (RFC 5288, RFC 5289).
        0x009c..=0x00a7 | 0xc02b..=0xc032 => Some(24),
        // ChaCha20-Poly1305: tag of 16, no explicit nonce (RFC 7905).
        0xcca8..=0xccae => Some(16),
        _ => None,
    }
}

/// Whether a server's record of this length right after its handshake is an alert.
pub const fn is_alert(content: u16) -> bool {
    content == 2 || content == 18
}

/// Whether a client pads its records to a block, told by its first encrypted records.
///
/// A padded record's length is 16 modulo the block (RFC 8446 section 5.4: the tag is not padded). So with `g` the greatest
/// common divisor of all lengths less 16, a block can be at most `g`; a first record that is longer than the smallest
/// multiple of `g` that holds an empty Certificate with Finished (61) is a certificate all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Padding {
    first: u16,
    divisor: u16,
    seen: u8,
}

impl Padding {
    /// Records that are looked at.
    const RECORDS: u8 = 8;
    /// Smallest block that hides anything.
    const BLOCK: u16 = 16;
    /// An empty Certificate and Finished of SHA-384: the longest that says "none", without the tag.
    const NONE: u16 = 61;

    /// Takes the length of the client's next encrypted record.
    pub const fn record(&mut self, length: u16) {
        if self.seen == Self::RECORDS {
            return;
        }
        let (mut a, mut b) = (self.divisor, length.saturating_sub(16));
        while b != 0 {
            (a, b) = (b, a % b);
        }
        self.divisor = a;
        if self.seen == 0 {
            self.first = length;
        }
        self.seen += 1;
    }

    /// Whether the first record's length can be taken at its word: yes, no (`false`), or not told before more records
    /// come (`None`).
    pub const fn trusted(&self) -> Option<bool> {
        if self.divisor < Self::BLOCK {
            return Some(true);
        }
        let block = self.divisor as u32;
        if self.first.saturating_sub(16) as u32 > block * (Self::NONE as u32).div_ceil(block) {
            return Some(true);
        }
        if self.seen == Self::RECORDS { Some(false) } else { None }
    }

    /// The same when no more records will come. A single record is taken at its word unless it is a multiple of 16: stacks
    /// that pad send Finished in a record of its own.
    pub const fn trusted_at_last(&self) -> bool {
        match self.trusted() {
            Some(trusted) => trusted,
            None => self.seen == 1 && !self.divisor.is_multiple_of(Self::BLOCK),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_met_at_both_its_ends_and_has_a_source() {
        fn rows<Meaning: Copy + PartialEq + std::fmt::Debug>(
            table: &[LengthRule<Meaning>],
            lookup: impl Fn(u16) -> Option<Meaning>,
        ) {
            let mut last = 0;
            for (row, rule) in table.iter().enumerate() {
                assert!(row == 0 || *rule.lengths.start() > last, "{rule:?}: rows are ascending and apart");
                last = *rule.lengths.end();
                for length in [*rule.lengths.start(), *rule.lengths.end()] {
                    assert_eq!(lookup(length), Some(rule.meaning), "{rule:?} at {length}");
                }
                assert!(!rule.source.is_empty());
            }
        }
        rows(CLIENT_FLIGHT, client_flight);
        rows(TICKETS, ticket);
        rows(ENCRYPTED_EXTENSIONS, encrypted_extensions);
        rows(SERVER_FRAMES, server_frames);
        rows(SETTINGS, |content| is_settings(content).then_some(ServerFrames::Settings));
    }

    #[test]
    fn lengths_that_were_measured_mean_what_they_were() {
        for none in [25, 41, 61, 77, 93] {
            assert!(
                matches!(client_flight(none), Some(NoCertificate | NoCertificateAndFinished)),
                "{none} is an empty certificate"
            );
        }
        for some in [211, 309, 347, 529, 614, 661, 722, 776, 864, 1164, 1196, 1676, 3240] {
            assert_eq!(client_flight(some), Some(Certificate), "{some}");
        }
        for unknown in [0, 18, 20, 26, 52, 54, 100, 144, 199] {
            assert_eq!(client_flight(unknown), None, "{unknown} is nobody's");
        }
        for (length, expected) in
            [(32, None), (105, Some(false)), (113, Some(false)), (224, Some(false)), (291, Some(true))]
        {
            assert_eq!(ticket(length), expected, "{length}");
        }
        assert_eq!(
            [23, 27, 32, 36, 38, 42].map(encrypted_extensions),
            [None, None, Some(Alpn::H2), Some(Alpn::H2), Some(Alpn::Http11), Some(Alpn::Http11)]
        );
    }

    #[test]
    fn padding_is_told_by_what_all_records_have_in_common() {
        fn judged(lengths: &[u16]) -> (Option<bool>, bool) {
            let mut padding = Padding::default();
            lengths.iter().for_each(|length| padding.record(*length));
            (padding.trusted(), padding.trusted_at_last())
        }
        for (description, lengths, expected) in [
            ("OpenSSL, none", &[25_u16, 53][..], (Some(true), true)),
            ("rustls, none, and nothing more", &[61], (None, true)),
            ("rustls, none, with a request", &[61, 190], (Some(true), true)),
            ("RSA 2048 with SHA-384: 16 + 53 x (16, 5, 1)", &[864, 281, 69], (Some(true), true)),
            ("blocks of 64", &[80, 80, 80, 144, 80, 80, 80, 80], (Some(false), false)),
            ("blocks of 256", &[272, 272, 272], (None, false)),
            ("blocks of 512 with a certificate in two of them", &[1040, 528, 528], (Some(true), true)),
            ("one record of a block of 64", &[80], (None, false)),
            ("one record of a block of 512", &[528], (None, false)),
        ] {
            assert_eq!(judged(lengths), expected, "{description}");
        }
    }

    #[test]
    fn what_a_suite_adds_is_known_or_not_said() {
        assert_eq!(
            [0xc02f, 0xc030, 0x009c, 0xcca8, 0xc013, 0x002f].map(overhead_12),
            [Some(24), Some(24), Some(24), Some(16), None, None]
        );
    }
}
