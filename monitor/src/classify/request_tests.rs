use proptest::prelude::*;

use super::*;
use crate::inspect::Credential;

fn request(method: &str, target: &str) -> Request {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let has = |word: &str| query.split('&').any(|pair| pair == word);
    Request {
        method: method.into(),
        path: path.into(),
        query: QueryHints {
            watch: has("watch=true") || has("watch=1"),
            names_one: query.contains("fieldSelector=metadata.name"),
        },
        credential: Credential::None,
        status: None,
        reported: false,
    }
}

/// "verb resource/subresource in namespace: class", a dash for what is not there.
fn meaning(method: &str, target: &str) -> String {
    let meaning = RequestMeaning::of(&request(method, target));
    let word = |word: &Option<String>| word.clone().unwrap_or_else(|| "-".into());
    format!(
        "{} {}/{} in {}: {}",
        meaning.verb.label(),
        word(&meaning.resource),
        word(&meaning.subresource),
        word(&meaning.namespace),
        meaning.path_class.label()
    )
}

fn check(table: &[(&str, &str, &str)]) {
    for (method, target, expected) in table {
        assert_eq!(meaning(method, target), *expected, "{method} {target}");
    }
}

#[test]
fn verbs_of_resources() {
    check(&[
        ("GET", "/api/v1/pods", "list pods/- in -: resource"),
        ("HEAD", "/api/v1/pods", "list pods/- in -: resource"),
        ("GET", "/api/v1/pods?watch=true", "watch pods/- in -: resource"),
        ("GET", "/api/v1/pods?watch=1&resourceVersion=7", "watch pods/- in -: resource"),
        ("GET", "/api/v1/pods?watch=false", "list pods/- in -: resource"),
        ("GET", "/api/v1/namespaces/web/pods", "list pods/- in web: resource"),
        ("GET", "/api/v1/namespaces/web/pods/", "list pods/- in web: resource"),
        ("GET", "/api/v1/namespaces/web/pods/shop-0", "get pods/- in web: resource"),
        ("HEAD", "/api/v1/namespaces/web/pods/shop-0", "get pods/- in web: resource"),
        ("GET", "/api/v1/namespaces/web/pods/shop-0?watch=true", "get pods/- in web: resource"),
        ("GET", "/api/v1/namespaces/web/pods?fieldSelector=metadata.name=shop-0", "list pods/- in web: resource"),
        (
            "GET",
            "/api/v1/namespaces/web/pods?fieldSelector=metadata.name=shop-0&watch=true",
            "watch pods/- in web: resource",
        ),
        ("POST", "/api/v1/namespaces/web/pods", "create pods/- in web: resource"),
        ("PUT", "/api/v1/namespaces/web/pods/shop-0", "update pods/- in web: resource"),
        ("PATCH", "/api/v1/namespaces/web/pods/shop-0", "patch pods/- in web: resource"),
        ("DELETE", "/api/v1/namespaces/web/pods/shop-0", "delete pods/- in web: resource"),
        ("DELETE", "/api/v1/namespaces/web/pods", "deletecollection pods/- in web: resource"),
        ("DELETE", "/api/v1/nodes?watch=true", "deletecollection nodes/- in -: resource"),
        ("OPTIONS", "/api/v1/pods", "other pods/- in -: resource"),
        ("get", "/api/v1/pods", "other pods/- in -: resource"),
        ("", "/api/v1/pods", "other pods/- in -: resource"),
    ]);
}

#[test]
fn groups_namespaces_and_subresources() {
    check(&[
        ("GET", "/apis/apps/v1/deployments", "list deployments/- in -: resource"),
        ("GET", "/apis/apps/v1/namespaces/web/deployments/shop", "get deployments/- in web: resource"),
        ("PATCH", "/apis/apps/v1/namespaces/web/deployments/shop/scale", "patch deployments/scale in web: resource"),
        ("GET", "/apis/metrics.k8s.io/v1beta1/nodes", "list nodes/- in -: resource"),
        ("GET", "/api/v1/namespaces", "list namespaces/- in -: resource"),
        ("GET", "/api/v1/namespaces/web", "get namespaces/- in web: resource"),
        ("DELETE", "/api/v1/namespaces/web", "delete namespaces/- in web: resource"),
        ("DELETE", "/api/v1/namespaces", "deletecollection namespaces/- in -: resource"),
        ("PUT", "/api/v1/namespaces/web/finalize", "update namespaces/finalize in web: resource"),
        ("GET", "/api/v1/namespaces/web/status", "get namespaces/status in web: resource"),
        ("GET", "/api/v1/namespaces/web/pods/shop-0/status", "get pods/status in web: resource"),
        ("GET", "/api/v1/namespaces/web/pods/shop-0/log", "get pods/log in web: resource"),
        ("POST", "/api/v1/namespaces/web/pods/shop-0/eviction", "create pods/eviction in web: resource"),
        ("POST", "/api/v1/namespaces/web/serviceaccounts/ci/token", "create serviceaccounts/token in web: resource"),
        ("GET", "/api/v1/nodes/cp-0/status/and/more", "get nodes/status in -: resource"),
    ]);
}

#[test]
fn what_connects() {
    check(&[
        ("GET", "/api/v1/namespaces/web/pods/shop-0/exec?command=id", "connect pods/exec in web: exec"),
        ("POST", "/api/v1/namespaces/web/pods/shop-0/exec", "connect pods/exec in web: exec"),
        ("POST", "/api/v1/namespaces/web/pods/shop-0/attach", "connect pods/attach in web: exec"),
        ("POST", "/api/v1/namespaces/web/pods/shop-0/portforward", "connect pods/portforward in web: exec"),
        ("GET", "/api/v1/namespaces/web/pods/shop-0/proxy/a/b", "connect pods/proxy in web: exec"),
        ("DELETE", "/api/v1/namespaces/web/services/https:shop:443/proxy/x", "connect services/proxy in web: exec"),
        ("GET", "/api/v1/nodes/cp-0/proxy/metrics", "connect nodes/proxy in -: exec"),
        ("GET", "/api/v1/namespaces/web/secrets/s/proxy", "connect secrets/proxy in web: exec"),
        // A resource or an object of such a name connects to nothing.
        ("GET", "/api/v1/namespaces/web/pods/exec", "get pods/- in web: resource"),
        ("GET", "/apis/example.com/v1/proxies/exec/status", "get proxies/status in -: resource"),
    ]);
}

#[test]
fn verbs_in_the_path() {
    check(&[
        ("GET", "/api/v1/watch/pods", "watch pods/- in -: resource"),
        ("GET", "/api/v1/watch/namespaces/web/pods", "watch pods/- in web: resource"),
        ("GET", "/api/v1/watch/namespaces/web/pods/shop-0", "watch pods/- in web: resource"),
        ("DELETE", "/api/v1/watch/namespaces/web/secrets", "watch secrets/- in web: secret"),
        ("GET", "/apis/apps/v1/watch/deployments?watch=false", "watch deployments/- in -: resource"),
        ("GET", "/api/v1/proxy/nodes/cp-0", "connect nodes/- in -: exec"),
        ("GET", "/api/v1/proxy/namespaces/web/pods/shop-0/a/b/c", "connect pods/- in web: exec"),
        // "unable to determine kind and namespace from url"
        ("GET", "/api/v1/watch", "get -/- in -: other"),
        ("POST", "/apis/apps/v1/proxy/", "create -/- in -: other"),
    ]);
}

#[test]
fn secrets_and_cluster_info() {
    check(&[
        ("GET", "/api/v1/secrets", "list secrets/- in -: secret"),
        ("GET", "/api/v1/namespaces/kube-system/secrets?limit=500", "list secrets/- in kube-system: secret"),
        ("GET", "/api/v1/namespaces/kube-system/secrets/token", "get secrets/- in kube-system: secret"),
        ("GET", "/api/v1/namespaces/kube-system/%73ecrets", "list secrets/- in kube-system: secret"),
        ("GET", "/api/v1/namespaces/kube-system%2Fsecrets", "list secrets/- in kube-system: secret"),
        ("GET", "/apis/example.com/v1/secrets", "list secrets/- in -: resource"),
        (
            "GET",
            "/api/v1/namespaces/kube-public/configmaps/cluster-info",
            "get configmaps/- in kube-public: cluster_info",
        ),
        ("GET", "/api/v1/namespaces/kube-public/configmaps", "list configmaps/- in kube-public: resource"),
        ("GET", "/api/v1/namespaces/web/configmaps/cluster-info", "get configmaps/- in web: resource"),
        (
            "GET",
            "/apis/example.com/v1/namespaces/kube-public/configmaps/cluster-info",
            "get configmaps/- in kube-public: resource",
        ),
    ]);
}

#[test]
fn paths_that_are_no_resource() {
    let classes = [
        ("/healthz", "health"),
        ("/healthz/", "health"),
        ("/healthz/etcd", "health"),
        ("/livez", "health"),
        ("/livez/poststarthook/start-apiextensions-controllers", "health"),
        ("/readyz?verbose", "health"),
        ("/healthzz", "other"),
        ("/version", "version"),
        ("/version/", "version"),
        ("/version/x", "other"),
        ("/api", "discovery"),
        ("/api/", "discovery"),
        ("/api/v1", "discovery"),
        ("/api/v1/", "discovery"),
        ("/apis", "discovery"),
        ("/apis/apps", "discovery"),
        ("/apis/apps/v1", "discovery"),
        ("/openapi/v2", "discovery"),
        ("/openapi/v3", "discovery"),
        ("/openapi/v3/apis/apps/v1", "discovery"),
        ("/swagger.json", "discovery"),
        ("/.well-known/openid-configuration", "discovery"),
        ("/openid/v1/jwks", "discovery"),
        ("/.well-known/oauth-authorization-server", "other"),
        ("/", "other"),
        ("/metrics", "other"),
        ("/debug/pprof/profile", "other"),
        ("/logs/", "other"),
        ("/API/v1/pods", "other"),
        ("/not-api/v1/pods", "other"),
    ];
    for (target, class) in classes {
        assert_eq!(meaning("GET", target), format!("get -/- in -: {class}"), "{target}");
    }
    check(&[
        ("POST", "/version", "create -/- in -: version"),
        ("HEAD", "/healthz", "get -/- in -: health"),
        ("head", "/healthz", "get -/- in -: health"),
        ("PROPFIND", "/healthz", "other -/- in -: health"),
    ]);
}

#[test]
fn odd_paths_as_go_reads_them() {
    check(&[
        // Trimmed at both ends, not cleaned in between.
        ("GET", "//api/v1/pods//", "list pods/- in -: resource"),
        ("GET", "/api//v1/pods", "get v1/- in -: resource"),
        ("GET", "/api/v1//pods", "get -/- in -: resource"),
        ("GET", "/apis//v1/secrets", "list secrets/- in -: secret"),
        ("GET", "/api/v1/namespaces//pods", "list pods/- in -: resource"),
        ("GET", "/%61pi/v1/pods", "list pods/- in -: resource"),
        ("GET", "/api/v1/pods%3Fwatch=true", "list pods?watch=true/- in -: resource"),
        ("GET", "/api/v1/a+b", "list a+b/- in -: resource"),
        ("GET", "/api/v1/%ff", "list \u{fffd}/- in -: resource"),
        // Never one of the classes that are open to anybody.
        ("GET", "/healthz/../api/v1/secrets", "get -/- in -: other"),
        ("GET", "/healthz/%2e%2e/api/v1/secrets", "get -/- in -: other"),
        ("GET", "/openapi//v2", "get -/- in -: other"),
        // Refused with 400 by net/http.
        ("GET", "/api/v1/%", "other -/- in -: other"),
        ("GET", "/api/v1/%7", "other -/- in -: other"),
        ("GET", "/healthz%zz", "other -/- in -: other"),
        ("GET", "/healthz\u{7f}", "other -/- in -: other"),
        ("GET", "healthz", "other -/- in -: other"),
        ("OPTIONS", "*", "other -/- in -: other"),
        ("CONNECT", "10.0.0.1:443", "other -/- in -: other"),
        ("GET", "", "other -/- in -: other"),
    ]);
}

#[test]
fn an_escape_that_the_inspector_cut_is_no_bad_escape() {
    let path = format!("/api/v1/namespaces/web/secrets/{}", "a".repeat(2_015));
    assert_eq!(meaning("GET", &format!("{path}%2")), "get secrets/- in web: secret");
    assert_eq!(meaning("GET", &format!("{path}%")), "get secrets/- in web: secret");
    assert_eq!(meaning("GET", &format!("{path}%zz")), "other -/- in -: other");
}

#[test]
fn the_credential_is_handed_on() {
    for credential in Credential::ALL {
        let request = Request { credential: *credential, ..request("GET", "/api") };
        assert_eq!(RequestMeaning::of(&request).credential, *credential);
    }
}

proptest! {
    #[test]
    fn never_panics(method in ".{0,12}", path in ".{0,80}", watch: bool, names_one: bool) {
        let request = Request { query: QueryHints { watch, names_one }, ..request(&method, "") };
        RequestMeaning::of(&Request { path, ..request });
    }

    #[test]
    fn never_panics_on_paths_made_of_the_words_that_matter(
        parts in proptest::collection::vec(
            prop::sample::select(vec![
                "", "api", "apis", "v1", "watch", "proxy", "namespaces", "status", "secrets", "%", "%2f", "..", "exec",
            ]),
            0..9,
        )
    ) {
        let meaning = RequestMeaning::of(&request("GET", &format!("/{}", parts.join("/"))));
        prop_assert!(meaning.resource.is_none_or(|resource| !resource.is_empty()));
        prop_assert!(meaning.path_class != PathClass::Health && meaning.path_class != PathClass::Version);
    }

    #[test]
    fn escaping_changes_nothing(path in "/(api|apis/apps)/v1/[a-z]{1,8}(/[a-z]{1,8}){0,4}", every in 1_usize..4) {
        let escaped: String = path.bytes().enumerate().map(|(at, byte)| {
            if at > 0 && at % every == 0 { format!("%{byte:02X}") } else { char::from(byte).to_string() }
        }).collect();
        prop_assert_eq!(
            RequestMeaning::of(&request("GET", &path)),
            RequestMeaning::of(&request("GET", &escaped))
        );
    }
}
