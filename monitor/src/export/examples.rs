//! Connections that the tests of this stage share.

use std::time::{Duration, UNIX_EPOCH};

use monitor_common::{Role, SourceClass};

use crate::anonymous::{AnonymousRequest, Decision, Evident};
use crate::classify::{
    Connection, Destination, ExposureKind, Outcome, PathClass, Probing, RequestMeaning, Source, Verb,
};
use crate::inspect::{
    ClientCertificate, Credential, Evidence, FirstRequest, Observation, Protocol, QueryHints, Request, TlsHandshake,
    TlsObservation, TlsVersion, Unclassified,
};

/// A client from outside without a certificate, over TLS 1.3.
pub fn anonymous_over_tls() -> Connection {
    Connection {
        time: UNIX_EPOCH + Duration::new(1_795_453_200, 123_456_789),
        interface: Some("eth0".into()),
        source: Source { ip: "203.0.113.7".parse().unwrap(), port: 51234, class: SourceClass::Public },
        destination: Destination { ip: "192.168.56.10".parse().unwrap(), port: 6443, role: Role::Secure },
        outcome: Outcome::Established,
        observation: Observation {
            protocol: Protocol::Tls,
            tls: Some(Box::new(TlsObservation {
                version: Some(TlsVersion(0x0304)),
                sni: Some("kubernetes".into()),
                alpn_offered: vec!["h2".into(), "http/1.1".into()],
                resumed: Some(false),
                handshake: TlsHandshake::Completed,
                client_certificate: ClientCertificate::Absent,
                evidence: Some(Evidence::RecordLength),
                ..Default::default()
            })),
            ..Default::default()
        },
        requests: Vec::new(),
        first_request: FirstRequest::Unknown,
        exposures: vec![ExposureKind::ExternalSource],
    }
}

/// Two requests to the Kubernetes API in the clear, from outside, over IPv6: one without a credential, one not answered.
pub fn plaintext() -> Connection {
    let request = |path: &str, credential, status| Request {
        method: "GET".into(),
        path: path.into(),
        query: QueryHints::default(),
        credential,
        status,
        reported: false,
    };
    let meaning = |resource: Option<&str>, namespace: Option<&str>, verb, path_class, credential| RequestMeaning {
        verb,
        resource: resource.map(Into::into),
        subresource: None,
        namespace: namespace.map(Into::into),
        path_class,
        credential,
    };
    Connection {
        time: UNIX_EPOCH + Duration::new(1_795_453_200, 0),
        interface: Some("eth0".into()),
        source: Source { ip: "2001:db8::7".parse().unwrap(), port: 40000, class: SourceClass::Public },
        destination: Destination { ip: "2001:db8::10".parse().unwrap(), port: 8080, role: Role::Insecure },
        outcome: Outcome::Established,
        observation: Observation {
            protocol: Protocol::Http1,
            requests: vec![
                request("/api/v1/namespaces/default/secrets", Credential::None, Some(200)),
                request("/version", Credential::Bearer, None),
            ],
            requests_omitted: 3,
            kubernetes: true,
            ..Default::default()
        },
        requests: vec![
            meaning(Some("secrets"), Some("default"), Verb::List, PathClass::Secret, Credential::None),
            meaning(None, None, Verb::Get, PathClass::Version, Credential::Bearer),
        ],
        first_request: FirstRequest::Unknown,
        exposures: vec![ExposureKind::PlaintextApi, ExposureKind::AnonymousRequest, ExposureKind::ExternalSource],
    }
}

/// A pod's TLS connection that was there before the monitor.
pub fn silent() -> Connection {
    Connection {
        time: UNIX_EPOCH,
        interface: None,
        source: Source { ip: "10.244.1.5".parse().unwrap(), port: 39000, class: SourceClass::Pod },
        destination: Destination { ip: "10.96.0.1".parse().unwrap(), port: 6443, role: Role::Secure },
        outcome: Outcome::Midstream,
        observation: Observation {
            protocol: Protocol::Tls,
            tls: Some(Box::default()),
            unclassified: Some(Unclassified::NoStart),
            ..Default::default()
        },
        requests: Vec::new(),
        first_request: FirstRequest::Unknown,
        exposures: Vec::new(),
    }
}

/// A request that the probe saw, of the connection above or of none that was seen.
pub fn evident(joined: bool) -> AnonymousRequest {
    let connection = anonymous_over_tls();
    let path = "/api/v1/namespaces/default/secrets";
    AnonymousRequest {
        request: Evident {
            time: connection.time,
            ip: Some(connection.source.ip),
            port: Some(connection.source.port),
            method: "GET".into(),
            path: path.into(),
            meaning: RequestMeaning::of_decoded("GET", path),
            decision: Decision::Unknown,
            let_in: true,
            evidence: Evidence::Probe,
        },
        class: Some(connection.source.class),
        flow: joined.then_some((connection.interface, connection.destination)),
        exposures: vec![ExposureKind::AnonymousRequest],
        new_exposures: vec![ExposureKind::AnonymousRequest],
    }
}

/// A burst of refused requests.
pub fn probing() -> Probing {
    let Connection { time, source, .. } = anonymous_over_tls();
    Probing { time, ip: source.ip, class: source.class, evidence: Evidence::Audit }
}
