use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// Lines of a real API server of release 1.37.2, without what is of no interest.
const LIVEZ: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"546815af-af15-4894-9000-e02f136a39f6","stage":"ResponseComplete","requestURI":"/livez","verb":"get","user":{"username":"system:anonymous","groups":["system:unauthenticated"]},"sourceIPs":["127.0.0.1"],"userAgent":"curl/7.88.1","responseStatus":{"metadata":{},"code":200},"requestReceivedTimestamp":"2026-11-25T07:15:01.954733Z","stageTimestamp":"2026-11-25T07:15:01.961417Z","annotations":{"authorization.k8s.io/decision":"allow","authorization.k8s.io/reason":"RBAC: allowed by ClusterRoleBinding \"system:public-info-viewer\" of ClusterRole \"system:public-info-viewer\" to Group \"system:unauthenticated\""}}"#;
const WATCH: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"36de3ab3-06fb-45d0-9c64-e7d505774dd3","stage":"ResponseStarted","requestURI":"/api/v1/pods?watch=1","verb":"watch","user":{"username":"system:anonymous","groups":["system:unauthenticated"]},"sourceIPs":["127.0.0.1"],"userAgent":"curl/7.88.1","objectRef":{"resource":"pods","apiVersion":"v1"},"responseStatus":{"metadata":{},"status":"Failure","message":"pods is forbidden: User \"system:anonymous\" cannot watch resource \"pods\" in API group \"\" at the cluster scope","reason":"Forbidden","details":{"kind":"pods"},"code":403},"requestReceivedTimestamp":"2026-11-25T07:15:02.101408Z","stageTimestamp":"2026-11-25T07:15:02.102069Z","annotations":{"authorization.k8s.io/decision":"forbid","authorization.k8s.io/reason":""}}"#;
const REFUSED: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"1c3c843f-b309-4225-bd68-9d71fd691e91","stage":"ResponseStarted","requestURI":"/api","verb":"get","user":{},"sourceIPs":["127.0.0.1"],"userAgent":"curl/7.88.1","responseStatus":{"metadata":{},"status":"Failure","message":"Unauthorized","reason":"Unauthorized","code":401},"requestReceivedTimestamp":"2026-11-25T07:15:02.041101Z","stageTimestamp":"2026-11-25T07:15:02.041862Z"}"#;
const PROXIED: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"692aea7f-9b79-4539-8321-1757f91f4807","stage":"ResponseComplete","requestURI":"/version","verb":"get","user":{"username":"system:anonymous","groups":["system:unauthenticated"]},"sourceIPs":["9.9.9.9","8.8.8.8","::ffff:192.0.2.7"],"userAgent":"curl/7.88.1","responseStatus":{"metadata":{},"code":200},"requestReceivedTimestamp":"2026-11-25T07:15:02.138325Z","stageTimestamp":"2026-11-25T07:15:02.138932Z","annotations":{"authorization.k8s.io/decision":"allow"}}"#;
const TAINTS: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"d7d2bca4-0020-4418-89ff-74f0d436dd13","stage":"ResponseComplete","requestURI":"/api/v1/nodes/n1","verb":"patch","user":{"username":"system:node:n1","uid":"2","groups":["system:nodes","system:authenticated"]},"sourceIPs":["127.0.0.1"],"userAgent":"curl/7.88.1","objectRef":{"resource":"nodes","name":"n1","apiVersion":"v1"},"responseStatus":{"metadata":{},"status":"Failure","message":"nodes \"n1\" is forbidden: node \"n1\" is not allowed to modify taints","reason":"Forbidden","details":{"name":"n1","kind":"nodes"},"code":403},"requestReceivedTimestamp":"2026-11-25T07:15:46.969559Z","stageTimestamp":"2026-11-25T07:15:46.973389Z","annotations":{"authorization.k8s.io/decision":"allow","authorization.k8s.io/reason":""}}"#;
const LEASE: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"953786b1-96e5-4705-bc97-ae91f0bfa3b0","stage":"ResponseComplete","requestURI":"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n2","verb":"update","user":{"username":"system:node:n1","uid":"2","groups":["system:nodes","system:authenticated"]},"sourceIPs":["127.0.0.1"],"userAgent":"curl/7.88.1","objectRef":{"resource":"leases","namespace":"kube-node-lease","name":"n2","apiGroup":"coordination.k8s.io","apiVersion":"v1"},"responseStatus":{"metadata":{},"status":"Failure","message":"leases.coordination.k8s.io \"n2\" is forbidden: User \"system:node:n1\" cannot update resource \"leases\" in API group \"coordination.k8s.io\" in the namespace \"kube-node-lease\": node: can only access node lease with the same name as the requesting node","reason":"Forbidden","details":{"name":"n2","group":"coordination.k8s.io","kind":"leases"},"code":403},"requestReceivedTimestamp":"2026-11-25T07:15:03.838053Z","stageTimestamp":"2026-11-25T07:15:03.838536Z","annotations":{"authorization.k8s.io/decision":"forbid","authorization.k8s.io/reason":"node: can only access node lease with the same name as the requesting node"}}"#;
const ADMIN: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"de4ab996-b4ea-4731-888e-0c84d4d89da7","stage":"ResponseComplete","requestURI":"/api/v1/nodes","verb":"create","user":{"username":"admin","uid":"1","groups":["system:masters","system:authenticated"]},"sourceIPs":["127.0.0.1"],"userAgent":"curl/7.88.1","objectRef":{"resource":"nodes","name":"n2","apiVersion":"v1"},"responseStatus":{"metadata":{},"code":201},"requestReceivedTimestamp":"2026-11-25T07:15:02.165059Z","stageTimestamp":"2026-11-25T07:15:02.175864Z","annotations":{"authorization.k8s.io/decision":"allow","authorization.k8s.io/reason":""}}"#;
const ALL: [&str; 7] = [LIVEZ, WATCH, REFUSED, PROXIED, TAINTS, LEASE, ADMIN];

fn event(line: &str) -> Event {
    Event::from_json(line.as_bytes()).unwrap()
}

fn request(line: &str) -> Request {
    match event(line).subject {
        Subject::Anonymous(request) | Subject::Unsecured(request) | Subject::Unauthenticated(request, _) => request,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_anonymous_request() {
    let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_590_901_954_733);
    let expected = Request {
        time: Some(time),
        source: Some("127.0.0.1".parse().unwrap()),
        method: "GET".into(),
        path: "/livez".into(),
        query: QueryHints::default(),
        code: Some(200),
        allowed: Some(true),
    };
    let event = event(LIVEZ);
    assert_eq!((event.stage, event.subject), (Stage::ResponseComplete, Subject::Anonymous(expected)));
    let watch = request(WATCH);
    assert_eq!((watch.path.as_str(), watch.query.watch), ("/api/v1/pods", true), "the query is not kept");
    assert_eq!((watch.code, watch.allowed), (Some(403), Some(false)));
}

#[test]
fn of_several_addresses_the_last_is_the_clients() {
    assert_eq!(request(PROXIED).source, Some("192.0.2.7".parse().unwrap()));
    for (list, source) in [
        ("[]", None),
        ("null", None),
        (r#"["9.9.9.9","nonsense"]"#, None),
        (r#"["2001:db8::1"]"#, Some("2001:db8::1".parse().unwrap())),
    ] {
        let line = PROXIED.replace(r#"["9.9.9.9","8.8.8.8","::ffff:192.0.2.7"]"#, list);
        assert_eq!(request(&line).source, source, "{list}");
    }
}

#[test]
fn the_insecure_port() {
    let line = LIVEZ.replace("system:anonymous", "system:unsecured");
    assert!(matches!(event(&line).subject, Subject::Unsecured(_)));
}

#[test]
fn refused_with_401() {
    let reason =
        |message: &str| match event(&REFUSED.replace(r#""Unauthorized","reason""#, &format!("{message:?},\"reason\"")))
            .subject
        {
            Subject::Unauthenticated(request, reason) => {
                assert_eq!(request.allowed, Some(false));
                reason.label()
            }
            other => panic!("{other:?}"),
        };
    for (message, expected) in [
        ("Unauthorized", "unknown"),
        ("", "unknown"),
        ("Authentication failed, no credentials provided", "no_credentials"),
        ("Authentication failed, attempted: basic", "no_credentials"),
        ("Authentication failed, attempted: access_token", "no_credentials"),
        ("Authentication failed, attempted: bearer", "bad_credential"),
        ("Authentication failed, attempted: basic, x509", "bad_credential"),
        ("Authentication failed, otherwise", "unknown"),
    ] {
        assert_eq!(reason(message), expected, "{message}");
    }
    // A server behind the API server refused somebody who is known.
    let line = REFUSED.replace(r#""user":{}"#, r#""user":{"username":"admin"}"#);
    assert_eq!(event(&line).subject, Subject::Other);
}

#[test]
fn what_nodes_were_refused() {
    let expected = Subject::NodeRestriction(NodeResource::Nodes, NodeRefusal::RestrictedField);
    assert_eq!(event(TAINTS).subject, expected);
    assert_eq!(event(LEASE).subject, Subject::NodeRefused, "the authorizer's is apart");
    // Reads, what succeeds, and what others are refused.
    for (from, to) in
        [(r#""verb":"patch""#, r#""verb":"get""#), ("403", "200"), ("system:node:n1", "system:serviceaccount:a:b")]
    {
        assert_eq!(event(&TAINTS.replace(from, to)).subject, Subject::Other, "{to}");
    }
    let line = TAINTS.replace(r#""resource":"nodes""#, r#""resource":"widgets""#);
    assert_eq!(event(&line).subject, Subject::NodeRestriction(NodeResource::Other, NodeRefusal::RestrictedField));
}

#[test]
fn a_decision_that_nobody_made_is_none() {
    let line = LIVEZ.replace(r#""authorization.k8s.io/decision":"allow","#, "");
    assert_eq!(request(&line).allowed, None);
    for (code, allowed) in [("429", None), ("401", Some(false)), ("403", Some(false))] {
        assert_eq!(request(&line.replace("200", code)).allowed, allowed, "{code}");
    }
}

#[test]
fn the_events_of_one_request_are_known_and_those_of_another_are_not() {
    let complete = event(&WATCH.replace("ResponseStarted", "ResponseComplete"));
    assert_eq!(complete.request, event(WATCH).request);
    // The id is whatever the client says in `Audit-Id`.
    let other = WATCH.replace(r#""requestURI":"/api/v1/pods?watch=1""#, r#""requestURI":"/api/v1/secrets?watch=1""#);
    assert_ne!(event(&other).request, event(WATCH).request);
}

#[test]
fn verbs_as_methods() {
    for (verb, expected) in [
        ("get", "GET"),
        ("list", "GET"),
        ("watch", "GET"),
        ("head", "GET"),
        ("create", "POST"),
        ("post", "POST"),
        ("update", "PUT"),
        ("patch", "PATCH"),
        ("delete", "DELETE"),
        ("deletecollection", "DELETE"),
        ("options", "OPTIONS"),
        ("", ""),
    ] {
        assert_eq!(method(verb), expected);
    }
    assert_eq!(method(&"x".repeat(1_000)).len(), 16);
}

#[test]
fn objects_of_any_depth_and_size_are_passed_over() {
    let object = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let line =
        LIVEZ.replacen('{', &format!("{{\"requestObject\":{object},\"responseObject\":{{\"kind\":\"Other\"}},"), 1);
    assert_eq!(event(&line).subject, event(LIVEZ).subject);
}

#[test]
fn what_is_no_event() {
    for line in [
        "",
        "{}",
        "[]",
        "null",
        "\u{0}",
        "2026-11-25T07:15:01Z AUDIT: id=\"1\"",
        &LIVEZ.replace(r#""kind":"Event""#, r#""kind":"Pod""#),
        &LIVEZ.replace("audit.k8s.io/v1", "v1"),
        &LIVEZ.replace("ResponseComplete", "Later"),
        &format!("{LIVEZ}{LIVEZ}"),
    ] {
        assert_eq!(Event::from_json(line.as_bytes()), Err(Malformed), "{line}");
    }
    for line in ALL {
        for end in 0..line.len() {
            assert_eq!(Event::from_json(&line.as_bytes()[..end]), Err(Malformed));
        }
    }
    assert!(Event::from_json(b"\xff\xfe").is_err());
}

proptest! {
    #[test]
    fn whatever_is_changed_is_no_panic(line in prop::sample::select(&ALL[..]), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = line.as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = Event::from_json(&bytes);
    }
}
