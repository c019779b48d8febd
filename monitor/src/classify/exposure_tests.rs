use std::time::SystemTime;

use super::super::{Classifier, Destination, Outcome, PathClass, Source, Verb};
use super::*;
use crate::config::UnauthenticatedGoaway;
use crate::inspect::{FirstRequest, FirstResponse, QueryHints, Request, TlsObservation};

fn connection(class: SourceClass, role: Role, observation: Observation) -> Connection {
    Connection {
        time: SystemTime::UNIX_EPOCH,
        interface: None,
        source: Source { ip: "203.0.113.7".parse().unwrap(), port: 51234, class },
        destination: Destination { ip: "192.168.56.10".parse().unwrap(), port: 6443, role },
        outcome: Outcome::Established,
        observation,
        requests: Vec::new(),
        first_request: FirstRequest::Unknown,
        exposures: Vec::new(),
    }
}

fn request(path: &str, credential: Credential) -> Request {
    Request {
        method: "GET".into(),
        path: path.into(),
        query: QueryHints::default(),
        credential,
        status: None,
        reported: false,
    }
}

fn plaintext(protocol: Protocol, kubernetes: bool, credential: Credential) -> Observation {
    Observation { protocol, kubernetes, requests: vec![request("/api/v1/secrets", credential)], ..Default::default() }
}

fn tls(sni: Option<&str>) -> Observation {
    Observation {
        protocol: Protocol::Tls,
        tls: Some(Box::new(TlsObservation { sni: sni.map(Into::into), ..Default::default() })),
        ..Default::default()
    }
}

fn exposures(settings: &Settings, connection: &mut Connection) -> Vec<&'static str> {
    Classifier::new(settings).classify(connection).into_iter().map(ExposureKind::label).collect()
}

#[test]
fn the_api_in_the_clear() {
    let settings = Settings::default();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut seen = connection(SourceClass::Pod, Role::Insecure, plaintext(protocol, true, Credential::None));
        assert_eq!(exposures(&settings, &mut seen), ["plaintext_api", "anonymous_request"]);
        for credential in [Credential::Bearer, Credential::Other] {
            let mut seen = connection(SourceClass::Pod, Role::Insecure, plaintext(protocol, true, credential));
            assert_eq!(exposures(&settings, &mut seen), ["plaintext_api"]);
        }
        // A web server, etcd, a service mesh: whatever port they are on, nothing is said of them.
        for role in Role::ALL.iter().filter(|role| **role != Role::NodePort) {
            let mut seen = connection(SourceClass::Pod, *role, plaintext(protocol, false, Credential::None));
            assert_eq!(exposures(&settings, &mut seen), [""; 0]);
        }
    }
    for protocol in [Protocol::Tls, Protocol::Other, Protocol::None] {
        let mut seen = connection(SourceClass::Pod, Role::Insecure, plaintext(protocol, true, Credential::None));
        assert_eq!(exposures(&settings, &mut seen), [""; 0]);
    }
}

#[test]
fn a_tls_port_refuses_what_is_in_the_clear() {
    let observation = Observation { refused_by_tls_server: true, ..plaintext(Protocol::Http1, true, Credential::None) };
    let mut seen = connection(SourceClass::ClusterNode, Role::Secure, observation);
    assert_eq!(exposures(&Settings::default(), &mut seen), ["plaintext_to_secure_port"]);
}

#[test]
fn external_is_public_and_by_a_switch_private() {
    let strict = Settings { private_is_external: true, ..Settings::default() };
    for class in SourceClass::ALL {
        let mut seen = connection(*class, Role::Secure, tls(None));
        let expected: &[&str] = if *class == SourceClass::Public { &["external_source"] } else { &[] };
        assert_eq!(exposures(&Settings::default(), &mut seen), expected, "{class:?}");
        let mut seen = connection(*class, Role::Secure, tls(None));
        let external = matches!(class, SourceClass::Public | SourceClass::Private);
        assert_eq!(exposures(&strict, &mut seen).contains(&"external_source"), external, "{class:?}");
    }
}

#[test]
fn node_port_by_its_role() {
    let mut seen = connection(SourceClass::Pod, Role::NodePort, Observation::default());
    assert_eq!(exposures(&Settings::default(), &mut seen), ["node_port"]);
}

#[test]
fn names_that_nobody_inside_uses() {
    let settings = Settings { expected_sni: vec!["api.example.com".into()], ..Settings::default() };
    let unexpected = |class, sni| {
        let mut seen = connection(class, Role::Secure, tls(sni));
        exposures(&settings, &mut seen).contains(&"unexpected_sni")
    };
    let inside = ["loopback", "node", "cluster_node", "pod", "service"];
    for class in SourceClass::ALL {
        let outside = !inside.contains(&class.label());
        assert_eq!(unexpected(*class, Some("api.other.example")), outside, "{class:?}");
        assert_eq!(unexpected(*class, Some("kubernetes.example.com")), outside, "{class:?}");
        assert!(!unexpected(*class, None), "{class:?}");
    }
    for name in NAMES_INSIDE {
        assert!(!unexpected(SourceClass::Public, Some(name)), "{name}");
    }
    for name in ["API.example.com", "api.example.com.", "Kubernetes"] {
        assert!(!unexpected(SourceClass::Public, Some(name)), "{name}");
    }
    for name in ["", ".", "api.example.com.evil.example", "kubernetes.default.svc.cluster.locale", "203.0.113.10"] {
        assert!(unexpected(SourceClass::Public, Some(name)), "{name}");
    }
}

#[test]
fn each_exposure_is_told_once_and_as_soon_as_it_is_known() {
    let mut classifier = Classifier::new(&Settings::default());
    let mut seen =
        connection(SourceClass::Public, Role::Insecure, plaintext(Protocol::Http1, false, Credential::Bearer));
    assert_eq!(classifier.classify(&mut seen), [ExposureKind::ExternalSource]);
    assert_eq!(classifier.classify(&mut seen), []);
    // The reply's content comes later, and later still a request without a credential.
    seen.observation.kubernetes = true;
    assert_eq!(classifier.classify(&mut seen), [ExposureKind::PlaintextApi]);
    seen.observation.requests.push(request("/version", Credential::None));
    assert_eq!(classifier.classify(&mut seen), [ExposureKind::AnonymousRequest]);
    let before = format!("{seen:?}");
    assert_eq!(classifier.classify(&mut seen), []);
    assert_eq!(format!("{seen:?}"), before);
    let all = [ExposureKind::ExternalSource, ExposureKind::PlaintextApi, ExposureKind::AnonymousRequest];
    assert_eq!(seen.exposures, all);
}

#[test]
fn in_the_clear_nothing_is_expected_without_a_credential() {
    let shown = |class, path: &str| {
        let observation = Observation {
            protocol: Protocol::Http1,
            kubernetes: true,
            requests: vec![request(path, Credential::None)],
            ..Default::default()
        };
        exposures(&Settings::default(), &mut connection(class, Role::Insecure, observation))
    };
    assert_eq!(shown(SourceClass::Node, "/livez"), ["plaintext_api", "anonymous_request"]);
    assert_eq!(shown(SourceClass::Pod, "/livez"), ["plaintext_api", "anonymous_request"]);
    assert_eq!(shown(SourceClass::Node, "/api/v1/pods"), ["plaintext_api", "anonymous_request"]);
}

#[test]
fn a_burst_of_refusals_in_the_clear_is_probing() {
    let mut classifier = Classifier::new(&Settings::default());
    let mut told = |class, path: &str, credential, status| {
        let mut sent = request(path, credential);
        sent.status = Some(status);
        let observation =
            Observation { protocol: Protocol::Http1, kubernetes: true, requests: vec![sent], ..Default::default() };
        let mut seen = connection(class, Role::Insecure, observation);
        // Each by another address.
        let number = u32::from(status) << 16 | (class as u32) << 8 | path.len() as u32;
        seen.source.ip = std::net::Ipv4Addr::from(number).into();
        classifier.classify(&mut seen);
        let (sent, meaning) = (&seen.observation.requests[0], &seen.requests[0]);
        let mut refused = || classifier.refused_request(&seen, sent, meaning, SystemTime::UNIX_EPOCH).is_some();
        (0..30).filter(|_| refused()).count()
    };
    assert_eq!(told(SourceClass::Pod, "/api", Credential::None, 403), 1);
    assert_eq!(told(SourceClass::Pod, "/apis", Credential::Bearer, 401), 1);
    // Somebody who is known and may not: no probing of strangers.
    assert_eq!(told(SourceClass::Pod, "/api/v1", Credential::Bearer, 403), 0);
    assert_eq!(told(SourceClass::Pod, "/api/v1/pods", Credential::None, 404), 0);
    // Kubelet's probes of a server that lets nobody in without a credential.
    assert_eq!(told(SourceClass::Node, "/livez", Credential::None, 401), 0);
    assert_eq!(told(SourceClass::Private, "/livez", Credential::None, 401), 1);
}

#[test]
fn connections_whose_first_request_was_refused_are_probing_too() {
    let mut classifier = Classifier::new(&Settings::default());
    let mut told = |class, first_request| {
        let mut seen = connection(class, Role::Secure, tls(None));
        seen.first_request = first_request;
        seen.source.ip = std::net::Ipv4Addr::from(class as u32).into();
        let mut refused = || classifier.refused_first_request(&seen, SystemTime::UNIX_EPOCH).is_some();
        (0..30).filter(|_| refused()).count()
    };
    assert_eq!(told(SourceClass::Public, FirstRequest::Anonymous), 0);
    assert_eq!(told(SourceClass::Public, FirstRequest::Refused), 1);
    for class in [SourceClass::Loopback, SourceClass::Node, SourceClass::Trusted] {
        assert_eq!(told(class, FirstRequest::Refused), 0);
    }
}

#[test]
fn a_request_counts_that_came_before_the_api_was_known_for_what_it_is() {
    let mut classifier = Classifier::new(&Settings::default());
    let mut seen = connection(SourceClass::Pod, Role::Insecure, plaintext(Protocol::Http1, false, Credential::None));
    assert_eq!(classifier.classify(&mut seen), []);
    seen.observation.kubernetes = true;
    assert_eq!(classifier.classify(&mut seen), [ExposureKind::PlaintextApi, ExposureKind::AnonymousRequest]);
}

#[test]
fn requests_get_their_meaning_index_by_index() {
    let mut classifier = Classifier::new(&Settings::default());
    let mut seen = connection(SourceClass::Pod, Role::Insecure, plaintext(Protocol::Http1, false, Credential::Bearer));
    classifier.classify(&mut seen);
    seen.observation.requests.extend([request("/version", Credential::None), request("/healthz", Credential::Other)]);
    classifier.classify(&mut seen);
    let meanings: Vec<_> = seen.requests.iter().map(|meaning| (meaning.verb, meaning.path_class)).collect();
    let expected = [(Verb::List, PathClass::Secret), (Verb::Get, PathClass::Version), (Verb::Get, PathClass::Health)];
    assert_eq!(meanings, expected);
    let credentials: Vec<_> = seen.requests.iter().map(|meaning| meaning.credential).collect();
    assert_eq!(credentials, [Credential::Bearer, Credential::None, Credential::Other]);
}

#[test]
fn the_first_request_is_told_of_a_server_that_was_seen_to_send_goaway() {
    let answered = |first_response| Observation {
        protocol: Protocol::Tls,
        tls: Some(Box::new(TlsObservation { first_response, ..Default::default() })),
        ..Default::default()
    };
    let settings = Settings { unauthenticated_goaway: UnauthenticatedGoaway::Auto, ..Settings::default() };
    let mut classifier = Classifier::new(&settings);
    let mut verdict = |response| {
        let mut seen = connection(SourceClass::Pod, Role::Secure, answered(response));
        classifier.classify(&mut seen);
        seen.first_request
    };
    assert_eq!(verdict(FirstResponse::NoGoaway), FirstRequest::Unknown);
    assert_eq!(verdict(FirstResponse::GoawayLong), FirstRequest::Anonymous);
    assert_eq!(verdict(FirstResponse::NoGoaway), FirstRequest::Accepted);
}
