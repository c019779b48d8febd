//! The type that inspect makes: what one connection was seen to say.

use monitor_common::closed_set;

/// What one connection was seen to say; grows while its chunks come. Absent knowledge is `None` or `unknown`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// Chosen once from the first bytes.
    pub protocol: Protocol,
    /// Filled when `protocol` is TLS, also when a TLS client was answered in the clear; boxed, since requests in the clear
    /// have none.
    pub tls: Option<Box<TlsObservation>>,
    /// Requests in the clear in the order in which the client sent them, at most [`Observation::REQUESTS`].
    pub requests: Vec<Request>,
    /// Requests that came after the cap; they are still counted and still reported through [`Observation::take_overflow`].
    pub requests_omitted: u64,
    /// The replies' content says that this is the Kubernetes API.
    pub kubernetes: bool,
    /// A reply was read as far as it is looked at, and nothing in it says that this is the Kubernetes API.
    pub other_reply: bool,
    /// HTTP in the clear that a TLS port answered with its 400 ("Client sent an HTTP request to an HTTPS server") or
    /// with a TLS alert: no bypass.
    pub refused_by_tls_server: bool,
    /// Why this connection (or what follows in it) could not be read, the first reason that was met.
    pub unclassified: Option<Unclassified>,
    /// Requests after the cap, done and waiting for [`Observation::take_overflow`].
    pub(crate) overflow: Vec<Request>,
}

impl Observation {
    /// Requests listed for one connection at the most.
    pub const REQUESTS: usize = 1_000;

    /// Requests after the cap that are done since the last call: to be counted, not to be listed.
    pub fn take_overflow(&mut self) -> Vec<Request> {
        std::mem::take(&mut self.overflow)
    }

    /// Names why this connection could not be read, unless an earlier reason stands.
    pub(super) fn set_unclassified(&mut self, reason: Unclassified) {
        self.unclassified.get_or_insert(reason);
    }
}

closed_set! {
    /// What is spoken.
    #[derive(Default)]
    Protocol {
        /// No payload was seen.
        #[default]
        None = "none",
        /// TLS (or SSL 3.0) by its record layer.
        Tls = "tls",
        /// HTTP/1.0 or 1.1 in the clear.
        Http1 = "http1",
        /// HTTP/2 in the clear, by prior knowledge.
        Http2 = "http2",
        /// Anything else.
        Other = "other",
    }
}

/// What a TLS connection shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsObservation {
    /// Negotiated version of the ServerHello (its supported_versions extension first); `None` without a ServerHello.
    pub version: Option<TlsVersion>,
    /// Host name of the server_name extension.
    pub sni: Option<String>,
    /// Protocols of the client's ALPN extension, in its order.
    pub alpn_offered: Vec<String>,
    /// The server's choice: in the clear up to TLS 1.2, later inferred.
    pub alpn: Option<String>,
    /// `record_length` where `alpn` was inferred from the length of TLS 1.3's EncryptedExtensions.
    pub alpn_evidence: Option<Evidence>,
    /// Whether the session was resumed; `None` when that cannot be told.
    pub resumed: Option<bool>,
    /// How far the handshake came.
    pub handshake: TlsHandshake,
    /// What the client showed of a certificate.
    pub client_certificate: ClientCertificate,
    /// Where `client_certificate` is known from; `None` while it is unknown.
    pub evidence: Option<Evidence>,
    /// Why `client_certificate` is unknown, where the connection was read to that point.
    pub certificate_unknown: Option<CertificateUnknown>,
    /// What the server's records showed about the first request over HTTP/2.
    pub first_response: FirstResponse,
    /// The server answered in the clear: a TLS client came to a plaintext port.
    pub answered_in_the_clear: bool,
}

impl TlsObservation {
    /// Memory beside itself.
    pub fn memory(&self) -> usize {
        let names = self.sni.iter().chain(&self.alpn_offered).chain(&self.alpn);
        names.map(String::capacity).sum::<usize>() + self.alpn_offered.capacity() * size_of::<String>()
    }
}

/// A TLS version number as on the wire; unknown values stay numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TlsVersion(pub u16);

impl TlsVersion {
    /// The word in JSON and metrics: `3.0` for SSL 3.0, `1.0` to `1.3`; anything else is `other`.
    pub const fn label(self) -> &'static str {
        match self.0 {
            0x0300 => "ssl3.0",
            0x0301 => "1.0",
            0x0302 => "1.1",
            0x0303 => "1.2",
            0x0304 => "1.3",
            _ => "other",
        }
    }
}

closed_set! {
    /// How far a TLS handshake came.
    #[derive(Default)]
    TlsHandshake {
        /// Neither completed nor refused while it was watched.
        #[default]
        Incomplete = "incomplete",
        /// Both sides have finished.
        Completed = "completed",
        /// The client hung up on the server's certificate or hello.
        RejectedByClient = "rejected_by_client",
        /// The server refused the client.
        RejectedByServer = "rejected_by_server",
    }
}

closed_set! {
    /// What the client showed of a certificate.
    #[derive(Default)]
    ClientCertificate {
        /// Not told by what was seen.
        #[default]
        Unknown = "unknown",
        /// The client sent one.
        Presented = "presented",
        /// The server asked and the client sent none.
        Absent = "absent",
        /// The server did not ask.
        NotRequested = "not_requested",
        /// Resumed session whose ticket carries a certificate.
        ResumedPresented = "resumed_presented",
        /// Resumed session whose ticket carries none.
        ResumedAbsent = "resumed_absent",
    }
}

closed_set! {
    /// Why the client's certificate is unknown.
    CertificateUnknown {
        /// The client went away, or sent an alert, before the record that would tell.
        HungUp = "hung_up",
        /// Bytes are missing before the record that would tell.
        Gap = "gap",
        /// The client pads its records: their lengths say nothing.
        Padded = "padded",
        /// A length that no known client sends.
        Length = "length",
        /// Early data came before the record that would tell.
        EarlyData = "early_data",
        /// Resumed by something whose length says nothing: a session id, a short ticket, an external key.
        Ticket = "ticket",
        /// A version of TLS for which there are no rules.
        Version = "version",
    }
}

closed_set! {
    /// The raw facts about the first response over HTTP/2 inside TLS: what the server's record lengths showed.
    #[derive(Default)]
    FirstResponse {
        /// Nothing: not HTTP/2, not reached, bytes missing, or lengths that are not known.
        #[default]
        Unseen = "unseen",
        /// No GOAWAY before the first response.
        NoGoaway = "no_goaway",
        /// GOAWAY, then a response as short as a 401.
        GoawayShort = "goaway_short",
        /// GOAWAY, then a response too long for a 401.
        GoawayLong = "goaway_long",
        /// GOAWAY, and nothing that tells which of the two.
        Goaway = "goaway",
        /// A record as long as GOAWAY that may answer the client's own PING.
        Unclear = "unclear",
    }
}

closed_set! {
    /// What the API server made of a connection's first request over HTTP/2.
    #[derive(Default)]
    FirstRequest {
        /// Not told by what was seen.
        #[default]
        Unknown = "unknown",
        /// Served, or forbidden, as `system:anonymous`.
        Anonymous = "anonymous",
        /// 401.
        Refused = "refused",
        /// Its credential was accepted, whatever it was.
        Accepted = "accepted",
    }
}

impl FirstResponse {
    /// What it says of the first request. A GOAWAY counts by itself; its absence only where the server is known to
    /// send one to unauthenticated clients (Kubernetes 1.29 and later by default).
    pub const fn first_request(self, server_sends_goaway: bool) -> FirstRequest {
        match self {
            Self::GoawayShort => FirstRequest::Refused,
            Self::GoawayLong => FirstRequest::Anonymous,
            Self::NoGoaway if server_sends_goaway => FirstRequest::Accepted,
            Self::Unseen | Self::NoGoaway | Self::Goaway | Self::Unclear => FirstRequest::Unknown,
        }
    }

    /// Whether a GOAWAY was seen before the first response: the server is one that sends it.
    pub const fn goaway(self) -> bool {
        matches!(self, Self::GoawayShort | Self::GoawayLong | Self::Goaway)
    }
}

closed_set! {
    /// Where a verdict is known from. Exact and inferred evidence never share a series.
    Evidence {
        /// Read in the clear.
        Plaintext = "plaintext",
        /// The Certificate message of TLS up to 1.2.
        CertificateMessage = "certificate_message",
        /// Record lengths of TLS 1.3.
        RecordLength = "record_length",
        /// The length of a session ticket or PSK identity.
        TicketLength = "ticket_length",
        /// The server's HTTP/2 GOAWAY.
        Goaway = "goaway",
        /// The probe in the API server.
        Probe = "probe",
        /// The audit log.
        Audit = "audit",
    }
}

closed_set! {
    /// Why a connection could not be classified, or not to its end.
    Unclassified {
        /// Its start was not seen and what was seen does not tell.
        NoStart = "no_start",
        /// Bytes are missing where they were needed.
        Gap = "gap",
        /// A message contradicts its protocol.
        Malformed = "malformed",
        /// A message is longer than its limit.
        TooLong = "too_long",
        /// A protocol that is not read.
        Protocol = "protocol",
        /// Only the server spoke.
        NoClient = "no_client",
    }
}

closed_set! {
    /// The credential of a plaintext request, by the API server's own rule (bearertoken.go, Kubernetes 1.37).
    Credential {
        /// None that the API server would look at: absent, Basic, Negotiate, an empty token.
        None = "none",
        /// `Authorization: Bearer TOKEN`, or the WebSocket sub-protocol bearer.
        Bearer = "bearer",
        /// Something else that could be a credential: front-proxy headers (`X-Remote-User`).
        Other = "other",
    }
}

/// One request in the clear and what came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The method as sent, at most 32 bytes of it.
    pub method: String,
    /// Path without query; of an absolute URI only its path. At most 2,048 bytes of it.
    pub path: String,
    /// What the query says about the verb; the query itself is not kept.
    pub query: QueryHints,
    /// By the API server's own rule.
    pub credential: Credential,
    /// Status code of the final (not 1xx but 101) response; `None` when it was not seen.
    pub status: Option<u16>,
    /// Set by the pipeline once this request has been handed on, so that it is counted once.
    pub reported: bool,
}

impl Request {
    /// Memory that it takes.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.method.capacity() + self.path.capacity()
    }
}

/// What a query string says about the verb (requestinfo.go, Kubernetes 1.37).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueryHints {
    /// `watch` with a true value.
    pub watch: bool,
    /// `fieldSelector` that names one object (`metadata.name=...`).
    pub names_one: bool,
}
