//! What is sent in the demo, and what is right to say of each connection.

use crate::lab::Host;
use crate::lab::clients::Client;
use crate::lab::network::{CONTROL_PLANE, OUTSIDE, WORKER};
use crate::lab::servers::{INSECURE, INSECURE_HTTP2, NODE_PORT, SECURE, WEB};

use super::connection::{Connection, Request, Tls};

/// One client and the one connection that it makes.
#[derive(Debug)]
pub struct Act {
    /// Who does it.
    pub client: Client,
    /// What happened, in the monitor's words.
    pub connection: Connection,
}

/// Some token of no cluster.
const TOKEN: &str = "Authorization: Bearer made-up-for-the-demo";
const WITH_CERTIFICATE: &str = "--cert client.crt --key client.key";

/// The whole of it, in order. The last one is the sign that all before it has been told.
pub fn acts() -> Vec<Act> {
    use Host::{ControlPlane, Outside, Worker};
    let version_over_tls = "GET /version HTTP/1.1\r\nHost: 192.168.56.10\r\nConnection: close\r\n\r\n";
    let secure = "https://192.168.56.10:6443";
    let insecure = "http://192.168.56.10:8080";
    let curl = Client::curl;
    vec![
        // A node of the cluster, over TLS.
        tls(curl(Worker, &format!("--tls-max 1.2 {secure}/version"), &[200]), WORKER, "1.2", "absent"),
        tls(curl(Worker, &format!("--tls-max 1.2 {WITH_CERTIFICATE} {secure}/api"), &[200]), WORKER, "1.2", "presented"),
        tls(curl(Worker, &format!("--tlsv1.3 {secure}/version"), &[200]), WORKER, "1.3", "absent"),
        tls(curl(Worker, &format!("--tlsv1.3 {WITH_CERTIFICATE} {secure}/api"), &[200]), WORKER, "1.3", "presented"),
        tls(curl(Worker, &format!("--tlsv1.3 {secure}/api"), &[200]).argument("--header", TOKEN), WORKER, "1.3", "absent"),
        tls(
            curl(Worker, &format!("--http1.1 {secure}/api {secure}/apis {secure}/nothing"), &[200, 200, 404]),
            WORKER,
            "1.3",
            "absent",
        ),
        tls(
            curl(Worker, &format!("--resolve kubernetes:6443:{CONTROL_PLANE} https://kubernetes:6443/version"), &[200]),
            WORKER,
            "1.3",
            "absent",
        )
        .asking_for("kubernetes"),
        tls(
            Client::program(Worker, "openssl s_client -quiet -noservername -CAfile ca.crt -tls1_2 -connect 192.168.56.10:6443")
                .reads(version_over_tls),
            WORKER,
            "1.2",
            "absent",
        ),
        tls(
            Client::program(
                Worker,
                "openssl s_client -quiet -noservername -CAfile ca.crt -tls1_3 -cert client.crt -key client.key -connect \
                 192.168.56.10:6443",
            )
            .reads(version_over_tls),
            WORKER,
            "1.3",
            "presented",
        ),
        tls(
            Client::program(Worker, &format!("wget --quiet --tries=1 --ca-certificate=ca.crt -O /dev/null {secure}/version")),
            WORKER,
            "1.3",
            "absent",
        ),
        // The control plane itself: over loopback, and over loopback to its own address.
        tls(curl(ControlPlane, "--tls-max 1.2 https://127.0.0.1:6443/livez", &[200]), "127.0.0.1", "1.2", "absent"),
        tls(curl(ControlPlane, &format!("--tlsv1.3 {secure}/readyz"), &[200]), CONTROL_PLANE, "1.3", "absent"),
        // From outside, over TLS.
        tls(curl(Outside, &format!("--tlsv1.3 {secure}/version"), &[200]), OUTSIDE, "1.3", "absent"),
        tls(curl(Outside, &format!("--tls-max 1.2 {WITH_CERTIFICATE} {secure}/api"), &[200]), OUTSIDE, "1.2", "presented"),
        tls(
            curl(
                Outside,
                &format!("--resolve api.cluster.example:6443:{CONTROL_PLANE} https://api.cluster.example:6443/version"),
                &[200],
            ),
            OUTSIDE,
            "1.3",
            "absent",
        )
        .asking_for("api.cluster.example")
        .exposing("unexpected_sni"),
        tls(curl(Outside, "--tls-max 1.2 https://192.168.56.10:31443/version", &[200]), OUTSIDE, "1.2", "absent")
            .to(NODE_PORT, "node_port")
            .exposing("node_port"),
        // A client that does not trust the server hangs up before it would show a certificate.
        tls(
            Client::program(Outside, &format!("curl --silent --tls-max 1.2 --max-time 20 {secure}/version")).exits(60),
            OUTSIDE,
            "1.2",
            "unknown",
        )
        .rejected_by_client(),
        // HTTP in the clear to the TLS port.
        plain(curl(Outside, "http://192.168.56.10:6443/version", &[400]), OUTSIDE, SECURE, &[("GET", "/version", 400)])
            .to(SECURE, "secure")
            .exposing("plaintext_to_secure_port"),
        // The API in the clear.
        plain(curl(Worker, &format!("{insecure}/version"), &[200]), WORKER, INSECURE, &[("GET", "/version", 200)])
            .exposing_the_api(),
        plain(
            curl(
                Worker,
                &format!("{insecure}/api {insecure}/api/v1/namespaces {insecure}/api/v1/namespaces/kube-system/secrets?limit=500"),
                &[200, 200, 200],
            ),
            WORKER,
            INSECURE,
            &[
                ("GET", "/api", 200),
                ("GET", "/api/v1/namespaces", 200),
                ("GET", "/api/v1/namespaces/kube-system/secrets", 200),
            ],
        )
        .exposing_the_api(),
        plain(
            curl(ControlPlane, "http://127.0.0.1:8080/api/v1/pods", &[200]).argument("--header", TOKEN),
            "127.0.0.1",
            INSECURE,
            &[("GET", "/api/v1/pods", 200)],
        )
        .with_bearer()
        .exposing("plaintext_api"),
        plain(
            Client::program(Outside, &format!("wget --quiet --tries=1 -O /dev/null {insecure}/api/v1/secrets")),
            OUTSIDE,
            INSECURE,
            &[("GET", "/api/v1/secrets", 200)],
        )
        .exposing_the_api(),
        plain(
            curl(Outside, &format!("--data {{}} {insecure}/api/v1/namespaces/default/pods"), &[201]),
            OUTSIDE,
            INSECURE,
            &[("POST", "/api/v1/namespaces/default/pods", 201)],
        )
        .exposing_the_api(),
        plain(curl(Outside, &format!("{insecure}/nothing/here"), &[404]), OUTSIDE, INSECURE, &[("GET", "/nothing/here", 404)])
            .exposing_the_api(),
        plain(
            curl(Outside, "--http2-prior-knowledge http://192.168.56.10:8082/apis", &[200]),
            OUTSIDE,
            INSECURE_HTTP2,
            &[("GET", "/apis", 200)],
        )
        .over("http2")
        .exposing_the_api(),
        // A web page on such a port is no Kubernetes API.
        plain(curl(Worker, "http://192.168.56.10:8001/", &[200]), WORKER, WEB, &[("GET", "/", 200)]),
        plain(curl(Worker, &format!("{insecure}/livez"), &[200]), WORKER, INSECURE, &[("GET", "/livez", 200)])
            .exposing_the_api(),
    ]
}

/// Where each address of the lab belongs.
fn class(address: &str) -> &'static str {
    match address {
        CONTROL_PLANE => "node",
        WORKER => "cluster_node",
        OUTSIDE => "public",
        _ => "loopback",
    }
}

fn from(client: Client, address: &str) -> Act {
    let mut connection =
        Connection { source_ip: address.to_owned(), source: class(address).to_owned(), ..Connection::default() };
    if connection.source == "public" {
        connection.exposures.insert("external_source".to_owned());
    }
    Act { client, connection }
}

fn tls(client: Client, address: &str, version: &str, certificate: &str) -> Act {
    let mut act = from(client, address).to(SECURE, "secure").over("tls");
    act.connection.tls = Some(Tls {
        version: Some(version.to_owned()),
        sni: None,
        handshake: "completed".to_owned(),
        client_certificate: certificate.to_owned(),
    });
    act
}

fn plain(client: Client, address: &str, port: u16, requests: &[(&str, &str, u64)]) -> Act {
    let mut act = from(client, address).to(port, "insecure").over("http1");
    let requests = requests.iter().map(|(method, path, status)| Request {
        method: (*method).to_owned(),
        path: (*path).to_owned(),
        status: Some(*status),
        credential: "none".to_owned(),
    });
    act.connection.requests = requests.collect();
    act
}

impl Act {
    fn to(mut self, port: u16, role: &str) -> Self {
        (self.connection.port, self.connection.role) = (port, role.to_owned());
        self
    }

    fn over(mut self, protocol: &str) -> Self {
        self.connection.protocol = protocol.to_owned();
        self
    }

    fn asking_for(mut self, name: &str) -> Self {
        self.connection.tls.get_or_insert_default().sni = Some(name.to_owned());
        self
    }

    fn rejected_by_client(mut self) -> Self {
        self.connection.tls.get_or_insert_default().handshake = "rejected_by_client".to_owned();
        self
    }

    fn with_bearer(mut self) -> Self {
        self.connection.requests.iter_mut().for_each(|request| request.credential = "bearer".to_owned());
        self
    }

    fn exposing(mut self, exposure: &str) -> Self {
        self.connection.exposures.insert(exposure.to_owned());
        self
    }

    /// The Kubernetes API, in the clear, to who has no credential.
    fn exposing_the_api(self) -> Self {
        self.exposing("plaintext_api").exposing("anonymous_request")
    }
}

#[cfg(test)]
mod tests {
    use crate::lab::{Lab, servers};

    use super::*;

    /// A connection as `lab/nginx.conf` logs it, from what is expected of the monitor; requests in TLS are not in it.
    fn expected_of_server(connection: &Connection) -> String {
        let tls = connection.tls.as_ref();
        let version =
            tls.and_then(|tls| tls.version.as_deref()).map_or("-".to_owned(), |version| format!("TLSv{version}"));
        let name = tls.and_then(|tls| tls.sni.as_deref()).unwrap_or("-");
        let certificate = match tls.map(|tls| tls.client_certificate.as_str()) {
            Some("presented") => "SUCCESS",
            // On its TLS port nginx says NONE of HTTP in the clear, too.
            Some(_) => "NONE",
            None => "-",
        };
        format!("{}|{}|{version}|{name}|{certificate}", connection.source_ip, connection.port)
    }

    #[test]
    #[ignore = "needs root"]
    fn every_act_does_what_it_says_and_nothing_is_left() {
        let mut lab = Lab::new().unwrap();
        let suffix = lab.suffix().to_owned();
        servers::start(&mut lab).unwrap();
        let mut told = 0;
        for act in acts() {
            act.client.run(&lab).unwrap();
            // The server logs a request when it has answered it: the client has ended by then, the log may come later.
            let answered = if act.client.exit == 0 { act.client.statuses.len().max(1) } else { 0 };
            let lines = lab
                .wait_for("nginx", "the server's own log", |lab| {
                    let lines = servers::witness(lab)?;
                    Ok((lines.len() >= told + answered).then_some(lines))
                })
                .unwrap();
            assert_eq!(lines.len(), told + answered, "{act:?}: {lines:?}");
            let first = lines.get(told).map(|line| line.split('|').collect::<Vec<_>>());
            for (index, line) in lines.iter().skip(told).enumerate() {
                let fields: Vec<&str> = line.split('|').collect();
                assert_eq!(fields[1..6].join("|"), expected_of_server(&act.connection), "{act:?}");
                assert_eq!(Some(fields[0]), first.as_ref().map(|first| first[0]), "one connection: {act:?}");
                if let Some(request) = act.connection.requests.get(index) {
                    let path = fields[7].split('?').next().unwrap();
                    let status = request.status.unwrap().to_string();
                    assert_eq!(fields[6..9], [request.method.as_str(), fields[7], status.as_str()], "{act:?}");
                    assert_eq!(path, request.path);
                }
            }
            told += answered;
        }
        // A client whose outcome is another than it should be is noticed.
        let mut wrong = acts().remove(0).client;
        wrong.statuses = vec![403];
        assert!(wrong.run(&lab).is_err());
        drop(lab);
        assert_eq!(crate::lab::remove(&suffix).unwrap_err().to_string(), format!("there is no lab {suffix}"));
    }

    #[test]
    fn every_role_class_protocol_and_exposure_of_the_contract_is_shown() {
        let acts = acts();
        let has = |found: &dyn Fn(&Connection) -> bool| acts.iter().any(|act| found(&act.connection));
        for role in ["secure", "insecure", "node_port"] {
            assert!(has(&|connection| connection.role == role), "{role}");
        }
        for class in ["loopback", "node", "cluster_node", "public"] {
            assert!(has(&|connection| connection.source == class), "{class}");
        }
        for protocol in ["tls", "http1", "http2"] {
            assert!(has(&|connection| connection.protocol == protocol), "{protocol}");
        }
        for exposure in [
            "plaintext_api",
            "anonymous_request",
            "external_source",
            "node_port",
            "plaintext_to_secure_port",
            "unexpected_sni",
        ] {
            assert!(has(&|connection| connection.exposures.contains(exposure)), "{exposure}");
        }
    }
}
