use std::time::UNIX_EPOCH;

use monitor_common::Role;

use super::*;
use crate::config::Settings;
use crate::export::examples::anonymous_over_tls;
use crate::inspect::{ClientCertificate, FirstRequest};

fn at(milliseconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000) + Duration::from_millis(milliseconds)
}

fn watch() -> Watch {
    Watch::new(&Settings::default(), &["192.168.56.10".parse().unwrap()])
}

fn connection(port: u16, began: u64) -> Connection {
    let mut connection = anonymous_over_tls();
    connection.source.port = port;
    connection.time = at(began);
    connection
}

fn evident(ip: &str, port: impl Into<Option<u16>>, path: &str, time: u64) -> Evident {
    Evident {
        time: at(time),
        ip: Some(ip.parse().unwrap()),
        port: port.into(),
        method: "GET".to_owned(),
        path: path.to_owned(),
        meaning: RequestMeaning::of_decoded("GET", path),
        decision: Decision::Unknown,
        let_in: true,
        evidence: Evidence::Probe,
    }
}

const CLIENT: &str = "203.0.113.7";

#[test]
fn a_connection_adds_what_packets_know() {
    let mut anonymous = Anonymous::new();
    anonymous.began(&connection(40_000, 0));
    let joined = anonymous.join(evident(CLIENT, 40_000, "/api/v1/secrets", 5), &watch());
    let (interface, destination) = joined.flow.expect("joined");
    assert_eq!((interface.as_deref(), destination.role, destination.port), (Some("eth0"), Role::Secure, 6443));
    assert_eq!(joined.class, Some(SourceClass::Public));

    let other_port = anonymous.join(evident(CLIENT, 40_001, "/api", 5), &watch());
    assert!(other_port.flow.is_none(), "another connection");
    assert_eq!(other_port.class, Some(SourceClass::Public), "the class follows from the address alone");
    assert_eq!(anonymous.join(evident("127.0.0.1", 1, "/api", 5), &watch()).class, Some(SourceClass::Loopback));
    let nobody = anonymous.join(Evident { ip: None, port: None, ..evident(CLIENT, None, "/api", 5) }, &watch());
    assert_eq!((nobody.class, nobody.flow.is_none(), nobody.exposures.len()), (None, true, 1));
}

#[test]
fn without_a_port_the_connection_begun_last_is_taken_while_it_is_recent() {
    let mut anonymous = Anonymous::new();
    let mut node_port = connection(40_001, 10);
    node_port.destination.role = Role::NodePort;
    anonymous.began(&connection(40_000, 0));
    anonymous.began(&node_port);
    let audit = |time| Evident { evidence: Evidence::Audit, ..evident(CLIENT, None, "/api", time) };
    let joined = anonymous.join(audit(20), &watch());
    assert_eq!(joined.flow.expect("joined").1.role, Role::NodePort);
    assert!(anonymous.join(audit(RECENT.as_millis() as u64 + 11), &watch()).flow.is_none());
}

#[test]
fn an_exposure_counts_once_for_each_connection() {
    let mut anonymous = Anonymous::new();
    anonymous.began(&connection(40_000, 0));
    let mut new = |evident: Evident| {
        let joined = anonymous.join(evident, &watch());
        (joined.exposures.len(), joined.new_exposures.len())
    };
    let refused = Evident { let_in: false, ..evident(CLIENT, 40_000, "/version", 1) };
    assert_eq!(new(refused), (0, 0), "refused");
    assert_eq!(new(evident(CLIENT, 40_000, "/api", 3)), (1, 1));
    assert_eq!(new(Evident { evidence: Evidence::Audit, ..evident(CLIENT, 40_000, "/api", 3) }), (1, 0));
    for (port, expected) in [(1, (1, 1)), (1, (1, 0)), (2, (1, 1))] {
        assert_eq!(new(evident("198.51.100.1", port, "/api", 4)), expected, "without a connection, port {port}");
    }
    // The same port again is another connection.
    let mut again = Anonymous::new();
    for began in [0, 50] {
        again.began(&connection(40_000, began));
        assert_eq!(again.join(evident(CLIENT, 40_000, "/api", began + 1), &watch()).new_exposures.len(), 1);
    }
    // What was read in the clear has told of it already.
    again.began(&connection(40_002, 60));
    again.exposed(&connection(40_002, 60));
    assert_eq!(again.join(evident(CLIENT, 40_002, "/api", 61), &watch()).new_exposures.len(), 0);
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut anonymous = Anonymous::new();
    for number in 0..ADDRESSES as u32 + 10 {
        let ip = std::net::Ipv4Addr::from(0x0800_0000 + number).to_string();
        anonymous.join(evident(&ip, 1, "/api", 0), &watch());
    }
    assert_eq!(anonymous.told.len(), ADDRESSES);
}

fn judged(first: FirstRequest, hit: Option<u64>, complete: Option<u64>) -> Vec<(&'static str, &'static str)> {
    let mut anonymous = Anonymous::new();
    anonymous.set_probe_complete(complete.map(at));
    let mut connection = connection(40_000, 100);
    anonymous.began(&connection);
    if let Some(time) = hit {
        anonymous.join(evident(CLIENT, 40_000, "/api", time), &watch());
    }
    connection.first_request = first;
    anonymous.judged(&connection, at(200), &watch());
    assert!(anonymous.agreements(at(4_000)).is_empty(), "a hit may still come");
    let agreements = anonymous.agreements(at(5_300));
    assert!(anonymous.agreements(at(9_000)).is_empty(), "each once");
    agreements.iter().map(|agreement| (agreement.inferred, agreement.actual.label())).collect()
}

#[test]
fn what_was_inferred_is_compared_with_the_probe() {
    use FirstRequest::{Accepted, Anonymous, Unknown};
    assert_eq!(judged(Anonymous, Some(150), Some(0)), [("anonymous", "anonymous"), ("absent", "anonymous")]);
    assert_eq!(judged(Accepted, None, Some(0)), [("accepted", "not_anonymous"), ("absent", "not_anonymous")]);
    // A hit after the response is of a later request; for the certificate it may be the first.
    assert_eq!(judged(Accepted, Some(300), Some(0)), [("accepted", "not_anonymous"), ("absent", "anonymous")]);
    assert_eq!(judged(Unknown, Some(150), Some(0)), [("absent", "anonymous")]);
    assert!(judged(Anonymous, Some(150), None).is_empty(), "the probe is not there");
    assert!(judged(Anonymous, Some(150), Some(101)).is_empty(), "it came after the connection's beginning");
}

#[test]
fn only_what_the_probe_can_see_is_compared() {
    let mut anonymous = Anonymous::new();
    anonymous.set_probe_complete(Some(at(0)));
    let mut elsewhere = connection(1, 1);
    elsewhere.destination.ip = "192.168.56.11".parse().unwrap();
    let mut node_port = connection(2, 1);
    node_port.destination.role = Role::NodePort;
    let mut unknown = connection(3, 1);
    unknown.observation.tls.as_mut().unwrap().client_certificate = ClientCertificate::Unknown;
    for connection in [&elsewhere, &node_port, &unknown] {
        anonymous.began(connection);
        anonymous.judged(connection, at(2), &watch());
    }
    // One that took the port of an earlier one is not compared with that one's verdict.
    let earlier = connection(4, 1);
    anonymous.began(&earlier);
    anonymous.judged(&earlier, at(2), &watch());
    anonymous.began(&connection(4, 3));
    assert!(anonymous.agreements(at(100_000)).is_empty());
    // One of our own, whose hit does not come here.
    let own = connection(5, 1);
    anonymous.began(&own);
    anonymous.judged(&own, at(2), &watch());
    anonymous.own(std::net::SocketAddr::new(own.source.ip, own.source.port));
    assert!(anonymous.agreements(at(100_000)).is_empty());
    // A loss while it waited: nothing can be said.
    anonymous.judged(&connection(4, 3), at(4), &watch());
    anonymous.set_probe_complete(Some(at(5)));
    assert!(anonymous.agreements(at(100_000)).is_empty());
}
