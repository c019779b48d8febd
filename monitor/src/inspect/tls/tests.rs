//! TLS connections, made by hand.

/// Body of a client_hello with these extensions.
pub fn client_hello(session_id: &[u8], extensions: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([0x11; 32]);
    body.push(session_id.len() as u8);
    body.extend(session_id);
    body.extend([0, 4, 0x13, 0x01, 0xc0, 0x2f, 1, 0]);
    body.extend(with_extensions(extensions));
    body
}

/// Body of a server_hello with these extensions.
pub fn server_hello(
    version: u16,
    random: &[u8; 32],
    session_id: &[u8],
    cipher: u16,
    extensions: &[(u16, &[u8])],
) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    body.extend(random);
    body.push(session_id.len() as u8);
    body.extend(session_id);
    body.extend(cipher.to_be_bytes());
    body.push(0);
    body.extend(with_extensions(extensions));
    body
}

fn with_extensions(extensions: &[(u16, &[u8])]) -> Vec<u8> {
    if extensions.is_empty() {
        return Vec::new();
    }
    let list: Vec<u8> = extensions
        .iter()
        .flat_map(|(number, data)| [&number.to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), data].concat())
        .collect();
    [&(list.len() as u16).to_be_bytes()[..], &list].concat()
}

use monitor_common::Side::{Client, Server};

use super::message::kind;
use crate::inspect::testing::Said::{self, Bytes, End, Gap};
use crate::inspect::testing::observe;
use crate::inspect::{
    CertificateUnknown, ClientCertificate, Evidence, FirstRequest, FirstResponse, Protocol, TlsHandshake,
    TlsObservation, TlsVersion, Unclassified,
};

fn record(kind: u8, fragment: &[u8]) -> Vec<u8> {
    [&[kind, 3, 3][..], &(fragment.len() as u16).to_be_bytes(), fragment].concat()
}

fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &(body.len() as u32).to_be_bytes()[1..], body].concat()
}

/// Encrypted records of these lengths.
fn encrypted(lengths: &[usize]) -> Vec<u8> {
    lengths.iter().flat_map(|length| record(23, &vec![0xee; *length])).collect()
}

fn change_cipher_spec() -> Vec<u8> {
    record(20, &[1])
}

/// The encrypted Finished of TLS up to 1.2.
fn finished() -> Vec<u8> {
    record(22, &[0xee; 40])
}

/// A ClientHello that offers h2 and http/1.1, and whatever else.
fn hello_with(session_id: &[u8], more: &[(u16, &[u8])]) -> Vec<u8> {
    let offers: [(u16, &[u8]); 2] = [(0, b"\0\x0d\0\0\x0akubernetes"), (16, b"\0\x0c\x02h2\x08http/1.1")];
    record(22, &handshake(kind::CLIENT_HELLO, &client_hello(session_id, &[&offers[..], more].concat())))
}

fn hello() -> Vec<u8> {
    hello_with(&[7; 32], &[])
}

fn psk(length: usize) -> Vec<u8> {
    let identity = [&(length as u16).to_be_bytes()[..], &vec![1; length], &[0; 4]].concat();
    [&(identity.len() as u16).to_be_bytes()[..], &identity, b"\0\x21\x20", &[2; 32]].concat()
}

fn server_hello_13(more: &[(u16, &[u8])]) -> Vec<u8> {
    let version: [(u16, &[u8]); 1] = [(43, b"\x03\x04")];
    let body = server_hello(0x0303, &[1; 32], &[7; 32], 0x1301, &[&version[..], more].concat());
    [record(22, &handshake(kind::SERVER_HELLO, &body)), change_cipher_spec()].concat()
}

fn server_hello_12(session_id: &[u8], alpn: &str) -> Vec<u8> {
    let data = [&[0, alpn.len() as u8 + 1, alpn.len() as u8][..], alpn.as_bytes()].concat();
    let extensions: &[(u16, &[u8])] = if alpn.is_empty() { &[] } else { &[(16, &data)] };
    record(22, &handshake(kind::SERVER_HELLO, &server_hello(0x0303, &[1; 32], session_id, 0xc02f, extensions)))
}

/// The rest of a server's flight up to TLS 1.2, with or without asking for a certificate.
fn flight_12(asks: bool) -> Vec<u8> {
    let mut messages =
        [handshake(kind::CERTIFICATE, &[5; 900]), handshake(kind::SERVER_KEY_EXCHANGE, &[5; 200])].concat();
    if asks {
        messages.extend(handshake(kind::CERTIFICATE_REQUEST, &[5; 60]));
    }
    messages.extend(handshake(kind::SERVER_HELLO_DONE, &[]));
    record(22, &messages)
}

fn tls(said: &[Said]) -> TlsObservation {
    let (observation, _) = observe(said);
    assert_eq!(observation.protocol, Protocol::Tls);
    *observation.tls.expect("TLS")
}

/// TLS 1.3 with a server flight of kube-apiserver, then these records of the client and of the server.
fn connection_13(client: &[usize], server: &[usize]) -> Vec<Said> {
    vec![
        Bytes(Client, hello()),
        Bytes(Server, [server_hello_13(&[]), encrypted(&[32, 125, 993, 281, 53])].concat()),
        Bytes(Client, [change_cipher_spec(), encrypted(client)].concat()),
        Bytes(Server, encrypted(server)),
    ]
}

#[test]
fn tls_13_by_record_lengths() {
    use ClientCertificate::{Absent, NotRequested, Presented, Unknown};
    for (description, client, certificate, reason) in [
        ("Go and OpenSSL without", &[25, 53, 87][..], Absent, None),
        ("rustls without", &[61, 190], Absent, None),
        ("Java without", &[93, 70], Absent, None),
        ("Go and OpenSSL with RSA 2048", &[864, 281, 53, 87], Presented, None),
        ("the smallest certificate", &[211, 96, 53, 87], Presented, None),
        ("not asked", &[53, 87], NotRequested, None),
        ("padded to 64", &[80, 80, 144, 80, 80, 80, 80, 80, 80], Unknown, Some(CertificateUnknown::Padded)),
        ("nobody's length", &[144, 53, 87], Unknown, Some(CertificateUnknown::Length)),
        ("an alert", &[19], Unknown, Some(CertificateUnknown::HungUp)),
    ] {
        let tls = tls(&connection_13(client, &[62, 30]));
        assert_eq!((tls.client_certificate, tls.certificate_unknown), (certificate, reason), "{description}");
        let evidence = (certificate != Unknown).then_some(Evidence::RecordLength);
        assert_eq!(tls.evidence, evidence, "{description}");
        assert_eq!((tls.version, tls.resumed), (Some(TlsVersion(0x0304)), Some(false)), "{description}");
        assert_eq!(tls.sni.as_deref(), Some("kubernetes"), "{description}");
        assert_eq!(tls.alpn_offered, ["h2", "http/1.1"], "{description}");
        assert_eq!(
            (tls.alpn.as_deref(), tls.alpn_evidence),
            (Some("h2"), Some(Evidence::RecordLength)),
            "{description}"
        );
    }
}

#[test]
fn the_first_response_over_http2() {
    use FirstResponse::{Goaway, GoawayLong, GoawayShort, NoGoaway, Unclear, Unseen};
    for (description, client, server, expected) in [
        ("anonymous", &[25, 53, 87, 135][..], &[139, 62, 34, 274, 28][..], GoawayLong),
        ("anonymous, control frames before", &[25, 53, 87], &[62, 30, 26, 34, 217], GoawayLong),
        ("refused", &[25, 53, 87], &[62, 39, 34, 120, 155], GoawayShort),
        ("neither size", &[25, 53, 87], &[62, 34, 180], Goaway),
        ("GOAWAY and nothing more", &[25, 53, 87], &[62, 34], Goaway),
        ("accepted", &[25, 53, 87, 1108], &[62, 30, 26, 221, 114], NoGoaway),
        ("settings of an older Go", &[25, 53, 87], &[56, 26, 220], NoGoaway),
        ("refused on a busy machine: no GOAWAY, measured", &[25, 53, 145], &[62, 30, 26, 137, 155], Unclear),
        ("the client's PING first", &[25, 53, 87, 34], &[62, 34, 221], Unclear),
        ("no settings", &[25, 53, 87], &[34, 217], Unseen),
        ("an unknown record", &[25, 53, 87], &[62, 60, 34, 217], Unseen),
        ("after the first response", &[25, 53, 87], &[62, 221, 34], NoGoaway),
    ] {
        let tls = tls(&connection_13(client, server));
        assert_eq!(tls.first_response, expected, "{description}");
    }
}

#[test]
fn what_the_facts_mean_depends_on_the_server() {
    for (facts, unknown_server, known_server) in [
        (FirstResponse::NoGoaway, FirstRequest::Unknown, FirstRequest::Accepted),
        (FirstResponse::GoawayShort, FirstRequest::Refused, FirstRequest::Refused),
        (FirstResponse::GoawayLong, FirstRequest::Anonymous, FirstRequest::Anonymous),
        (FirstResponse::Goaway, FirstRequest::Unknown, FirstRequest::Unknown),
        (FirstResponse::Unclear, FirstRequest::Unknown, FirstRequest::Unknown),
        (FirstResponse::Unseen, FirstRequest::Unknown, FirstRequest::Unknown),
    ] {
        assert_eq!(
            (facts.first_request(false), facts.first_request(true)),
            (unknown_server, known_server),
            "{facts:?}"
        );
    }
}

#[test]
fn a_connection_that_is_told_is_settled() {
    let (_, settled) = observe(&connection_13(&[25, 53, 87], &[62, 34, 274]));
    assert!(settled, "with its first response");
    let (_, settled) = observe(&connection_13(&[25, 53, 87], &[62, 30, 26]));
    assert!(!settled, "its first response is to come");
}

#[test]
fn resumption_of_tls_13_by_the_selected_identity() {
    for (length, certificate) in [
        (105, ClientCertificate::ResumedAbsent),
        (224, ClientCertificate::ResumedAbsent),
        (291, ClientCertificate::ResumedPresented),
        (32, ClientCertificate::Unknown),
    ] {
        let tls = tls(&[
            Bytes(Client, hello_with(&[7; 32], &[(41, &psk(length))])),
            Bytes(Server, [server_hello_13(&[(41, b"\0\0")]), encrypted(&[32, 53])].concat()),
            Bytes(Client, encrypted(&[53, 87])),
        ]);
        assert_eq!((tls.resumed, tls.client_certificate), (Some(true), certificate), "{length}");
        let told = certificate != ClientCertificate::Unknown;
        assert_eq!(tls.evidence, told.then_some(Evidence::TicketLength), "{length}");
    }
    let not_selected = tls(&[
        Bytes(Client, hello_with(&[7; 32], &[(41, &psk(291))])),
        Bytes(Server, [server_hello_13(&[]), encrypted(&[32, 125, 993, 281, 53])].concat()),
        Bytes(Client, encrypted(&[25, 53])),
    ]);
    assert_eq!((not_selected.resumed, not_selected.client_certificate), (Some(false), ClientCertificate::Absent));
}

#[test]
fn early_data_is_no_flight() {
    let tls = tls(&[
        Bytes(Client, [hello_with(&[7; 32], &[(42, b""), (41, &psk(105))]), encrypted(&[61, 190])].concat()),
        Bytes(Server, [server_hello_13(&[]), encrypted(&[32, 125, 993, 281, 53])].concat()),
        Bytes(Client, encrypted(&[864, 281, 53])),
    ]);
    assert_eq!(tls.client_certificate, ClientCertificate::Unknown);
    assert_eq!(tls.certificate_unknown, Some(CertificateUnknown::EarlyData));
}

#[test]
fn a_retry_is_no_server_hello() {
    const RETRY: [u8; 32] = [
        0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2,
        0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
    ];
    let retry =
        record(22, &handshake(kind::SERVER_HELLO, &server_hello(0x0303, &RETRY, &[], 0x1301, &[(43, b"\x03\x04")])));
    let mut said = vec![
        Bytes(Client, hello()),
        Bytes(Server, [retry, change_cipher_spec()].concat()),
        Bytes(Client, [change_cipher_spec(), hello()].concat()),
        Bytes(Server, [server_hello_13(&[]), encrypted(&[32, 125, 993, 281, 53])].concat()),
        Bytes(Client, encrypted(&[25, 53])),
    ];
    let whole = tls(&said);
    assert_eq!((whole.client_certificate, whole.resumed), (ClientCertificate::Absent, Some(false)));
    said.truncate(2);
    said.push(End(Client));
    let hung_up = tls(&said);
    assert_eq!((hung_up.client_certificate, hung_up.resumed), (ClientCertificate::Unknown, None));
    assert_eq!(hung_up.certificate_unknown, Some(CertificateUnknown::HungUp));
}

/// TLS 1.2 with these messages of the client in one record, as Java sends them.
fn connection_12(asks: bool, client: &[Vec<u8>]) -> Vec<Said> {
    vec![
        Bytes(Client, hello()),
        Bytes(Server, [server_hello_12(&[9; 32], "h2"), flight_12(asks)].concat()),
        Bytes(Client, [record(22, &client.concat()), change_cipher_spec(), finished()].concat()),
        Bytes(Server, [change_cipher_spec(), finished()].concat()),
    ]
}

#[test]
fn tls_12_by_the_certificate_message() {
    let empty = handshake(kind::CERTIFICATE, &[0, 0, 0]);
    let certificate = handshake(kind::CERTIFICATE, &[&[0, 0, 4, 0, 0, 1][..], b"x"].concat());
    let key = handshake(kind::CLIENT_KEY_EXCHANGE, &[6; 66]);
    for (description, asks, client, expected) in [
        ("empty", true, &[empty, key.clone()][..], ClientCertificate::Absent),
        ("one", true, &[certificate, key.clone()], ClientCertificate::Presented),
        ("not asked", false, std::slice::from_ref(&key), ClientCertificate::NotRequested),
    ] {
        let mut said = connection_12(asks, client);
        said.push(Bytes(Server, encrypted(&[69, 41, 224])));
        let tls = tls(&said);
        assert_eq!(
            (tls.client_certificate, tls.evidence),
            (expected, Some(Evidence::CertificateMessage)),
            "{description}"
        );
        assert_eq!((tls.version, tls.resumed), (Some(TlsVersion(0x0303)), Some(false)), "{description}");
        assert_eq!((tls.alpn.as_deref(), tls.alpn_evidence), (Some("h2"), None), "{description}");
        assert_eq!(tls.handshake, TlsHandshake::Completed, "{description}");
        assert_eq!(tls.first_response, FirstResponse::GoawayLong, "{description}: AES-GCM adds 24");
    }
}

#[test]
fn resumption_of_tls_12_by_the_ticket() {
    for (ticket, certificate) in [
        (129, ClientCertificate::ResumedAbsent),
        (309, ClientCertificate::ResumedPresented),
        (0, ClientCertificate::Unknown),
    ] {
        for session_id in [&[7; 32][..], &[]] {
            let tls = tls(&[
                Bytes(Client, hello_with(&[7; 32], &[(35, &vec![1; ticket])])),
                Bytes(Server, [server_hello_12(session_id, ""), change_cipher_spec(), finished()].concat()),
                Bytes(Client, [change_cipher_spec(), finished()].concat()),
            ]);
            assert_eq!((tls.resumed, tls.client_certificate), (Some(true), certificate), "{ticket} {session_id:?}");
            assert_eq!(tls.handshake, TlsHandshake::Completed, "{ticket}");
        }
    }
}

#[test]
fn ssl_30_says_no_certificate_by_an_alert() {
    let sslv3 = |mut record: Vec<u8>| {
        record[2] = 0;
        record
    };
    let server = record(22, &handshake(kind::SERVER_HELLO, &server_hello(0x0300, &[1; 32], &[], 0x000a, &[])));
    let tls = tls(&[
        Bytes(Client, sslv3(hello())),
        Bytes(Server, [sslv3(server), sslv3(flight_12(true))].concat()),
        Bytes(
            Client,
            [sslv3(record(21, &[1, 41])), record(22, &handshake(kind::CLIENT_KEY_EXCHANGE, &[6; 66]))].concat(),
        ),
        Bytes(Client, [change_cipher_spec(), finished()].concat()),
        Bytes(Server, [change_cipher_spec(), finished()].concat()),
    ]);
    assert_eq!((tls.version, tls.client_certificate), (Some(TlsVersion(0x0300)), ClientCertificate::Absent));
    assert_eq!(tls.handshake, TlsHandshake::Completed);
}

#[test]
fn who_hung_up() {
    let server_flight = [server_hello_13(&[]), encrypted(&[32, 125, 993, 281, 53])].concat();
    let begun = [Bytes(Client, hello()), Bytes(Server, server_flight)];
    let half = encrypted(&[25])[..20].to_vec();
    for (description, rest, handshake, reason) in [
        ("the client, silently", vec![End(Client)], TlsHandshake::RejectedByClient, Some(CertificateUnknown::HungUp)),
        (
            "the client, with an alert",
            vec![Bytes(Client, record(21, &[2, 42]))],
            TlsHandshake::RejectedByClient,
            Some(CertificateUnknown::HungUp),
        ),
        (
            "the client, within its record",
            vec![Bytes(Client, half), End(Client)],
            TlsHandshake::RejectedByClient,
            Some(CertificateUnknown::HungUp),
        ),
        (
            "the server, after the client's flight",
            vec![Bytes(Client, encrypted(&[25, 53])), Bytes(Server, encrypted(&[19])), End(Server)],
            TlsHandshake::RejectedByServer,
            None,
        ),
        (
            "the server, with an alert in its flight",
            vec![Bytes(Server, record(21, &[2, 40]))],
            TlsHandshake::RejectedByServer,
            Some(CertificateUnknown::HungUp),
        ),
        ("nobody", vec![], TlsHandshake::Incomplete, None),
    ] {
        let tls = tls(&[&begun[..], &rest].concat());
        assert_eq!((tls.handshake, tls.certificate_unknown), (handshake, reason), "{description}");
    }
    let alert = tls(&[Bytes(Client, hello()), Bytes(Server, record(21, &[2, 70])), End(Server)]);
    assert_eq!((alert.handshake, alert.version), (TlsHandshake::RejectedByServer, None));
}

#[test]
fn a_plaintext_server_answers_in_the_clear() {
    let (observation, settled) =
        observe(&[Bytes(Client, hello()), Bytes(Server, b"HTTP/1.1 400 Bad Request\r\nAudit-Id: x\r\n\r\n".to_vec())]);
    assert!(settled && !observation.kubernetes);
    let tls = *observation.tls.expect("TLS");
    assert!(tls.answered_in_the_clear && tls.version.is_none());
}

#[test]
fn hellos_over_several_records_and_in_the_old_format() {
    let message = handshake(kind::CLIENT_HELLO, &client_hello(&[7; 32], &[(0, b"\0\x0d\0\0\x0akubernetes")]));
    let pieces: Vec<u8> = message.chunks(50).flat_map(|piece| record(22, piece)).collect();
    let server = [server_hello_13(&[]), encrypted(&[32, 125, 993, 281, 53])].concat();
    let split = tls(&[Bytes(Client, pieces), Bytes(Server, server)]);
    assert_eq!(split.sni.as_deref(), Some("kubernetes"));
    let old = [&[0x80, 0x1c, 1, 3, 1, 0, 3, 0, 0, 0, 16, 0, 0, 0x2f][..], &[1; 16]].concat();
    let tls = tls(&[
        Bytes(Client, old),
        Bytes(Server, [server_hello_12(&[9; 32], ""), flight_12(false)].concat()),
        Bytes(Client, record(22, &handshake(kind::CLIENT_KEY_EXCHANGE, &[6; 66]))),
    ]);
    assert_eq!((tls.version, tls.client_certificate), (Some(TlsVersion(0x0303)), ClientCertificate::NotRequested));
}

#[test]
fn bytes_that_are_missing_make_it_unknown() {
    let (observation, _) = observe(&[
        Bytes(Client, hello()),
        Bytes(Server, [server_hello_13(&[]), encrypted(&[32, 125, 993, 281, 53])].concat()),
        Gap(Client, 50),
        Bytes(Client, encrypted(&[53, 87])),
        Bytes(Server, encrypted(&[62, 34, 217])),
    ]);
    let tls = *observation.tls.expect("TLS");
    assert_eq!(
        (tls.client_certificate, tls.certificate_unknown),
        (ClientCertificate::Unknown, Some(CertificateUnknown::Gap))
    );
    assert_eq!((tls.first_response, observation.unclassified), (FirstResponse::Unseen, Some(Unclassified::Gap)));
    let flight = flight_12(true);
    let (observation, _) = observe(&[
        Bytes(Client, hello()),
        Bytes(Server, [&server_hello_12(&[9; 32], "")[..], &flight[..100]].concat()),
        Gap(Server, 500),
        Bytes(Server, flight[600..].to_vec()),
        Bytes(Client, record(22, &handshake(kind::CERTIFICATE, &[0, 0, 0]))),
    ]);
    assert_eq!(observation.tls.expect("TLS").client_certificate, ClientCertificate::Absent);
    assert_eq!(observation.unclassified, None, "a gap inside the server's certificate is harmless");
}

#[test]
fn an_unseen_request_for_a_certificate_is_not_called_absent() {
    let tls = tls(&[
        Bytes(Client, hello()),
        Bytes(Server, server_hello_12(&[9; 32], "")),
        Gap(Server, 1_200),
        Bytes(
            Client,
            [record(22, &handshake(kind::CLIENT_KEY_EXCHANGE, &[6; 66])), change_cipher_spec(), finished()].concat(),
        ),
        Bytes(Client, encrypted(&[100])),
    ]);
    assert_eq!(
        (tls.client_certificate, tls.certificate_unknown),
        (ClientCertificate::Unknown, Some(CertificateUnknown::Gap))
    );
}

#[test]
fn an_answer_to_a_record_limit_is_not_taken_for_http() {
    let tls = tls(&[
        Bytes(Client, hello_with(&[7; 32], &[(28, b"\x40\x01")])),
        Bytes(Server, [server_hello_13(&[]), encrypted(&[38, 125, 993, 281, 53])].concat()),
        Bytes(Client, encrypted(&[25, 53])),
    ]);
    assert_eq!(tls.alpn, None);
}
