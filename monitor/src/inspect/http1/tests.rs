//! HTTP/1 connections, whole and in pieces.

use monitor_common::Side::{Client, Server};

use crate::inspect::testing::Said::{self, Bytes, Gap};
use crate::inspect::testing::{observe, play};
use crate::inspect::{Credential, Observation, Protocol, Unclassified};

fn client(text: &str) -> Said {
    Bytes(Client, text.as_bytes().to_vec())
}

fn server(text: &str) -> Said {
    Bytes(Server, text.as_bytes().to_vec())
}

/// Method, path and status of each request.
fn listed(observation: &Observation) -> Vec<(&str, &str, Option<u16>)> {
    observation.requests.iter().map(|request| (&*request.method, &*request.path, request.status)).collect()
}

#[test]
fn every_request_has_its_own_status() {
    for (description, said, expected) in [
        (
            "keep-alive with bodies of all framings",
            vec![
                client("GET /a?x HTTP/1.1\r\nHost: h\r\n\r\n"),
                server("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHTTP/"),
                client("POST /b HTTP/1.1\r\nContent-Length: 9\r\n\r\nGET / HTT"),
                server("HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
                client("PUT /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4;e\r\nPUT \r\n0\r\nT: x\r\n\r\n"),
                server("HTTP/1.1 409 Conflict\r\n\r\nup to the end HTTP/1.1 500"),
            ],
            vec![("GET", "/a", Some(200)), ("POST", "/b", Some(201)), ("PUT", "/c", Some(409))],
        ),
        (
            "pipelined",
            vec![
                client("GET /a HTTP/1.1\r\n\r\nHEAD /b HTTP/1.1\r\n\r\nGET /c HTTP/1.1\r\n\r\n"),
                server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 404 x\r\nContent-Length: 9\r\n\r\n"),
                server("HTTP/1.1 204 No Content\r\n\r\n"),
            ],
            vec![("GET", "/a", Some(200)), ("HEAD", "/b", Some(404)), ("GET", "/c", Some(204))],
        ),
        (
            "interim responses",
            vec![
                client("POST /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"),
                server("HTTP/1.1 100 Continue\r\n\r\n"),
                client("x"),
                server("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
            ],
            vec![("POST", "/a", Some(200))],
        ),
        (
            "line ends of one byte, empty lines before, HTTP/1.0, an absolute target",
            vec![client("\r\n\nGET http://x/version?a HTTP/1.0\nA: b\n\n"), server("HTTP/1.0 400 Bad Request\n\n")],
            vec![("GET", "/version", Some(400))],
        ),
        (
            "not modified, then more",
            vec![
                client("GET /a HTTP/1.1\r\n\r\n"),
                server("HTTP/1.1 304 x\r\nContent-Length: 7\r\n\r\n"),
                client("GET /b HTTP/1.1\r\n\r\n"),
                server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
            ],
            vec![("GET", "/a", Some(304)), ("GET", "/b", Some(200))],
        ),
        (
            "refused before its body",
            vec![
                client("POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\n"),
                server("HTTP/1.1 413 x\r\nContent-Length: 0\r\n\r\n"),
                client("abcGET /b HTTP/1.1\r\n\r\n"),
            ],
            vec![("POST", "/a", Some(413)), ("GET", "/b", None)],
        ),
        (
            "refused before its head was whole",
            vec![client("GET /a HTTP/1.1\r\nA: "), server("HTTP/1.1 431 x\r\n\r\n"), client("b\r\n\r\n")],
            vec![("GET", "/a", Some(431))],
        ),
        ("never answered", vec![client("GET /a HTTP/1.1\r\n\r\n")], vec![("GET", "/a", None)]),
        ("half a head", vec![client("GET /a HTTP/1.1\r\nHost: x\r\n")], vec![]),
    ] {
        let (observation, _) = observe(&said);
        assert_eq!(observation.protocol, Protocol::Http1, "{description}");
        assert_eq!(listed(&observation), expected, "{description}");
        assert_eq!(observation.unclassified, None, "{description}");
    }
}

#[test]
fn credentials_of_each_request() {
    let (observation, _) = observe(&[client(
        "GET /a HTTP/1.1\r\nAuthorization: Bearer x\r\n\r\nGET /b HTTP/1.1\r\n\r\nGET /c HTTP/1.1\r\nAuthorization:\r\n Bearer x\r\n\r\n\
         GET /d HTTP/1.1\r\nX-Remote-User: x\r\n\r\n",
    )]);
    let credentials: Vec<Credential> = observation.requests.iter().map(|request| request.credential).collect();
    assert_eq!(credentials, [Credential::Bearer, Credential::None, Credential::Bearer, Credential::Other]);
    assert!(!format!("{observation:?}").contains("Bearer x"));
}

#[test]
fn upgrades_end_or_go_on_as_http2() {
    let exec = client("POST /exec HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n");
    let switching = server("HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\n\r\n");
    let (observation, settled) = observe(&[exec, switching, client("\x01\x02GET / HTTP/1.1\r\n\r\n")]);
    assert_eq!(listed(&observation), [("POST", "/exec", Some(101))]);
    assert!(settled, "what is behind an upgrade is not read");
    let ignored = observe(&[
        client(
            "GET /a HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        ),
        server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        client("GET /b HTTP/1.1\r\n\r\n"),
        server("HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n"),
    ]);
    assert_eq!(listed(&ignored.0), [("GET", "/a", Some(200)), ("GET", "/b", Some(404))]);
    let tunnel = observe(&[client("CONNECT h:1 HTTP/1.1\r\n\r\n"), server("HTTP/1.1 200 OK\r\n\r\nx")]);
    assert_eq!((listed(&tunnel.0), tunnel.1), (vec![("CONNECT", "h:1", Some(200))], true));
}

#[test]
fn the_kubernetes_api_is_told_by_its_replies() {
    for (description, reply, expected) in [
        ("a header", "HTTP/1.1 200 OK\r\nAudit-Id: 1\r\nContent-Length: 0\r\n\r\n", true),
        (
            "a body by length",
            "HTTP/1.1 403 x\r\nContent-Length: 33\r\n\r\n{\"kind\":\"Status\",\"apiVersion\":1}",
            true,
        ),
        (
            "a body in chunks",
            "HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{\"kind\":1\r\nf\r\n,\"apiVersion\":1\r\n",
            true,
        ),
        ("a body up to the end", "HTTP/1.0 200 x\r\n\r\n{\"kind\":1,\"versions\":[]}", true),
        ("packed", "HTTP/1.1 200 x\r\nContent-Encoding: gzip\r\n\r\n{\"kind\":1,\"versions\":[]}", false),
        ("text", "HTTP/1.1 200 x\r\nContent-Length: 2\r\n\r\nok", false),
    ] {
        let (observation, _) = observe(&[client("GET / HTTP/1.1\r\n\r\n"), server(reply)]);
        assert_eq!(observation.kubernetes, expected, "{description}");
    }
}

#[test]
fn a_tls_port_refuses_http() {
    for (description, reply, expected) in [
        ("Go", "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n", true),
        (
            "nginx",
            "HTTP/1.1 400 Bad Request\r\nContent-Length: 90\r\n\r\n<html>\r\n<head><title>400 The plain HTTP request was sent to HTTPS port</title></head>",
            true,
        ),
        ("another 400", "HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nbad", false),
        ("the words elsewhere", "HTTP/1.1 200 OK\r\n\r\nClient sent an HTTP request to an HTTPS server.\n", false),
    ] {
        let (observation, _) = observe(&[client("GET / HTTP/1.0\r\n\r\n"), server(reply)]);
        assert_eq!(observation.refused_by_tls_server, expected, "{description}");
    }
    let said = [client("GET / HTTP/1.0\r\n\r\n"), Bytes(Server, b"\x15\x03\x01\0\x02\x02\x46".to_vec())];
    let (observation, settled) = play(true, &said);
    assert!(observation.refused_by_tls_server && settled, "a TLS alert");
}

#[test]
fn bytes_may_be_left_out_of_bodies() {
    let (observation, _) = observe(&[
        client("POST /a HTTP/1.1\r\nContent-Length: 1000\r\n\r\nabc"),
        Gap(Client, 997),
        client("GET /b HTTP/1.1\r\n\r\n"),
        server("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc"),
        Gap(Server, 997),
        server("HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n"),
    ]);
    assert_eq!(listed(&observation), [("POST", "/a", Some(200)), ("GET", "/b", Some(404))]);
    assert_eq!(observation.unclassified, None);
}

#[test]
fn after_bytes_left_out_of_chunks_the_next_request_says_where_its_response_begins() {
    let said = [
        client("GET /a HTTP/1.1\r\n\r\n"),
        server("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nabc"),
        Gap(Server, 5_000),
        client("GET /b HTTP/1.1\r\n\r\n"),
        server("HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n"),
        client("GET /c HTTP/1.1\r\n\r\n"),
        server("HTTP/1.1 200 x\r\nContent-Length: 0\r\n\r\n"),
    ];
    let (observation, _) = play(true, &said);
    assert_eq!(listed(&observation), [("GET", "/a", Some(200)), ("GET", "/b", Some(404)), ("GET", "/c", Some(200))]);
    let lost_response = [
        client("GET /a HTTP/1.1\r\n\r\n"),
        Gap(Server, 5_000),
        client("GET /b HTTP/1.1\r\n\r\n"),
        server("HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n"),
    ];
    assert_eq!(listed(&play(true, &lost_response).0), [("GET", "/a", None), ("GET", "/b", Some(404))]);
}

#[test]
fn after_bytes_of_the_client_are_lost_it_goes_on_at_a_clean_request() {
    let (observation, _) = play(
        true,
        &[
            client("GET /a HTTP/1.1\r\nHost"),
            Gap(Client, 20),
            client("x: y\r\n\r\n"),
            client("GET /b HTTP/1.1\r\n\r\n"),
        ],
    );
    assert_eq!(listed(&observation), [("GET", "/b", None)]);
    assert_eq!(observation.unclassified, Some(Unclassified::Gap));
}

#[test]
fn in_the_middle_of_a_connection_the_next_request_is_the_first() {
    let (observation, _) = play(
        false,
        &[
            server("rest of a body HTTP/1.1 500 x\r\n\r\n"),
            client("rest of a head\r\n\r\n"),
            client("GET /b HTTP/1.1\r\n\r\n"),
            server("HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n"),
        ],
    );
    assert_eq!((observation.protocol, observation.unclassified), (Protocol::Http1, Some(Unclassified::NoStart)));
    assert_eq!(listed(&observation), [("GET", "/b", Some(404))]);
}

#[test]
fn limits() {
    let header = format!("A: {}\r\n", "x".repeat(60_000));
    let mut said = vec![client("GET /a HTTP/1.1\r\n")];
    said.extend((0..17).map(|_| client(&header)));
    assert_eq!(play(true, &said).0.unclassified, None);
    said.push(client(&header));
    assert_eq!(play(true, &said).0.unclassified, Some(Unclassified::TooLong));
    let long = format!(
        "GET /{}?q={} HTTP/1.1\r\nAuthorization: Bearer {}\r\n\r\n",
        "p".repeat(3_000),
        "q".repeat(9_000),
        "t".repeat(90_000)
    );
    let (observation, _) = play(true, &[client(&long)]);
    assert_eq!((observation.requests[0].path.len(), observation.requests[0].credential), (2_048, Credential::Bearer));
    let pipelined = "GET / HTTP/1.1\r\n\r\n".repeat(5_000);
    let (observation, _) = play(true, &[client(&pipelined)]);
    assert_eq!((observation.requests.len(), observation.requests_omitted), (Observation::REQUESTS, 4_000));
}

#[test]
fn an_answer_that_was_captured_first_is_no_other_protocol() {
    let said = [server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), client("GET /a HTTP/1.1\r\n\r\n")];
    let (observation, _) = play(true, &said);
    assert_eq!((observation.protocol, listed(&observation)), (Protocol::Http1, vec![("GET", "/a", Some(200))]));
}
