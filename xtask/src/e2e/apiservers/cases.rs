//! Clients and credentials: one start of a client each, and what has to become of it.

use crate::e2e::audit::Actor;
use crate::e2e::control_plane::SECURE;
use crate::e2e::credentials::{BOOTSTRAP_TOKEN, STATIC_TOKEN, WRONG_TOKEN};
use crate::lab::network::CONTROL_PLANE;

/// What a client shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    /// Nothing.
    None,
    /// A good client certificate, with the file's name.
    Certificate(&'static str),
    /// One whose time is over.
    Expired,
    /// A service account's token.
    ServiceAccount,
    /// A bootstrap token.
    Bootstrap,
    /// A static token.
    Static,
    /// A token that nobody knows.
    Wrong,
    /// `Authorization: Bearer` and nothing behind it.
    Empty,
    /// `Authorization: Basic`.
    Basic,
}

impl Credential {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::None,
        Self::Certificate("client"),
        Self::Expired,
        Self::ServiceAccount,
        Self::Bootstrap,
        Self::Static,
        Self::Wrong,
        Self::Empty,
        Self::Basic,
    ];

    /// The word in names.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Certificate(name) => name,
            Self::Expired => "expired",
            Self::ServiceAccount => "service-account",
            Self::Bootstrap => "bootstrap",
            Self::Static => "static",
            Self::Wrong => "wrong",
            Self::Empty => "empty",
            Self::Basic => "basic",
        }
    }

    /// As whom a server that lets anonymous requests in takes it.
    pub const fn actor(self) -> Actor {
        match self {
            Self::None | Self::Empty | Self::Basic => Actor::Anonymous,
            Self::Expired | Self::Wrong => Actor::Refused,
            Self::Certificate(_) | Self::ServiceAccount | Self::Bootstrap | Self::Static => Actor::Accepted,
        }
    }

    /// The name of the certificate's files.
    pub const fn certificate(self) -> Option<&'static str> {
        match self {
            Self::Certificate(name) => Some(name),
            Self::Expired => Some("expired"),
            _ => None,
        }
    }

    /// The header's value; `token` is the service account's.
    pub fn authorization(self, token: &str) -> Option<String> {
        let bearer = |token: &str| Some(format!("Bearer {token}"));
        match self {
            Self::ServiceAccount => bearer(token),
            Self::Bootstrap => bearer(BOOTSTRAP_TOKEN),
            Self::Static => bearer(STATIC_TOKEN),
            Self::Wrong => bearer(WRONG_TOKEN),
            Self::Empty => bearer(""),
            Self::Basic => Some("Basic ZTJlOmUyZQ==".to_owned()),
            Self::None | Self::Certificate(_) | Self::Expired => None,
        }
    }
}

/// One start of a client.
#[derive(Clone, Debug)]
pub struct Case {
    /// Client, protocol and credential.
    pub name: String,
    /// The program and its arguments; files are looked up in the lab's folder.
    pub words: Vec<String>,
    /// What it reads from standard input.
    pub input: Option<String>,
    /// What it shows.
    pub credential: Credential,
    /// The path that it asks for.
    pub path: &'static str,
    /// The connections that it makes, in their order.
    pub connections: Vec<Expected>,
}

/// One connection as it has to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// `1.2` or `1.3`.
    pub tls: &'static str,
    /// Over HTTP/2.
    pub http2: bool,
    /// The session of the one before is resumed.
    pub resumed: bool,
    /// The client shows a certificate, in this session or in the one that it resumes.
    pub certificate: bool,
}

impl Expected {
    /// The word for the client's certificate.
    pub const fn client_certificate(&self) -> &'static str {
        match (self.resumed, self.certificate) {
            (false, true) => "presented",
            (false, false) => "absent",
            (true, true) => "resumed_presented",
            (true, false) => "resumed_absent",
        }
    }
}

/// Paths that are asked for in turn: one of each class that the monitor knows and a GET can reach.
const PATHS: [&str; 6] = [
    "/api/v1/namespaces/default/secrets",
    "/version",
    "/livez",
    "/apis",
    "/api/v1/nodes",
    "/api/v1/namespaces/kube-public/configmaps/cluster-info",
];

/// Makes cases, each with the next path.
struct Maker<'a> {
    token: &'a str,
    paths: usize,
    cases: Vec<Case>,
}

impl Maker<'_> {
    fn path(&mut self) -> &'static str {
        self.paths += 1;
        PATHS.get(self.paths % PATHS.len()).copied().unwrap_or("/version")
    }

    fn add(&mut self, name: &str, words: Vec<String>, credential: Credential, path: &'static str, one: Expected) {
        let name = format!("{name}, {}", credential.word());
        self.cases.push(Case { name, words, input: None, credential, path, connections: vec![one] });
    }

    fn expected(credential: Credential, tls: &'static str, http2: bool) -> Expected {
        Expected { tls, http2, resumed: false, certificate: credential.certificate().is_some() }
    }

    fn curl(&mut self, credential: Credential, tls: &'static str, http2: bool) {
        let path = self.path();
        let line = "curl --silent --show-error --max-time 20 --output /dev/null --cacert ca.crt";
        let mut words = split(line);
        words.extend([format!("--tlsv{tls}"), "--tls-max".to_owned(), tls.to_owned()]);
        words.push(if http2 { "--http2" } else { "--http1.1" }.to_owned());
        if let Some(name) = credential.certificate() {
            words.extend(["--cert".into(), format!("{name}.crt"), "--key".into(), format!("{name}.key")]);
        }
        if let Some(value) = credential.authorization(self.token) {
            words.extend(["--header".into(), format!("Authorization: {value}")]);
        }
        words.push(url(path));
        let name = format!("curl TLS {tls} HTTP/{}", if http2 { "2" } else { "1.1" });
        self.add(&name, words, credential, path, Self::expected(credential, tls, http2));
    }

    fn script(&mut self, program: &str, credential: Credential, tls: &'static str, http2: bool, resume: bool) {
        let path = self.path();
        let mut words = split(program);
        words.extend([url(path), "--tls".into(), tls.to_owned()]);
        if program.starts_with("node") {
            words.extend(["--http".into(), if http2 { "2" } else { "1" }.to_owned()]);
        }
        words.extend(credential.certificate().into_iter().flat_map(|name| ["--cert".into(), name.to_owned()]));
        // With `=`, so that a value that begins like an option is none.
        words.extend(credential.authorization(self.token).map(|value| format!("--authorization={value}")));
        words.extend(resume.then(|| "--resume".to_owned()));
        let language = if http2 || program.starts_with("node") { "node" } else { "python" };
        let name = format!("{language} TLS {tls} HTTP/{}", if http2 { "2" } else { "1.1" });
        let one = Self::expected(credential, tls, http2);
        let name = if resume { format!("{name} resumed") } else { name };
        self.add(&name, words, credential, path, one);
        if resume {
            self.resumes(one);
        }
    }

    /// The case added last makes a second connection, which resumes the first.
    fn resumes(&mut self, one: Expected) {
        if let Some(case) = self.cases.last_mut() {
            case.connections.push(Expected { resumed: true, ..one });
        }
    }

    fn java(&mut self, credential: Credential, tls: &'static str, http2: bool, times: usize) {
        let path = self.path();
        let mut words = split("java -cp . -XX:TieredStopAtLevel=1 Client");
        words.extend([url(path), if http2 { "2" } else { "1" }.to_owned(), tls.to_owned()]);
        words.push(credential.certificate().unwrap_or("-").to_owned());
        words.push(credential.authorization(self.token).unwrap_or_else(|| "-".to_owned()));
        words.push(times.to_string());
        let one = Self::expected(credential, tls, http2);
        let again = if times > 1 { " resumed" } else { "" };
        let name = format!("java TLS {tls} HTTP/{}{again}", if http2 { "2" } else { "1.1" });
        self.add(&name, words, credential, path, one);
        (1..times).for_each(|_| self.resumes(one));
    }

    fn wget(&mut self, credential: Credential, tls: &'static str) {
        let path = self.path();
        let mut words =
            split("wget --quiet --tries=1 --timeout=20 --output-document=/dev/null --ca-certificate=ca.crt");
        // `--secure-protocol=TLSv1_2` takes 1.3 as well.
        words.extend((tls == "1.2").then(|| "--ciphers=NORMAL:-VERS-TLS1.3".to_owned()));
        if let Some(name) = credential.certificate() {
            words.extend([format!("--certificate={name}.crt"), format!("--private-key={name}.key")]);
        }
        words.extend(credential.authorization(self.token).map(|value| format!("--header=Authorization: {value}")));
        words.push(url(path));
        let one = Self::expected(credential, tls, false);
        self.add(&format!("wget TLS {tls} HTTP/1.1"), words, credential, path, one);
    }

    fn openssl(&mut self, credential: Credential, tls: &'static str, session: Option<&str>) {
        let path = self.path();
        let mut words = split("openssl s_client -quiet -ign_eof -CAfile ca.crt -connect");
        words.extend([format!("{CONTROL_PLANE}:{SECURE}"), format!("-tls{}", tls.replace('.', "_"))]);
        if let Some(name) = credential.certificate() {
            words.extend(["-cert".into(), format!("{name}.crt"), "-key".into(), format!("{name}.key")]);
        }
        words.extend(session.into_iter().flat_map(|option| [option.to_owned(), format!("session-{tls}")]));
        let resumed = session == Some("-sess_in");
        let one = Expected { resumed, ..Self::expected(credential, tls, false) };
        let again = if resumed { " resumed" } else { "" };
        self.add(&format!("openssl TLS {tls} HTTP/1.1{again}"), words, credential, path, one);
        let authorization = credential.authorization(self.token).map(|value| format!("Authorization: {value}\r\n"));
        if let Some(case) = self.cases.last_mut() {
            let lines = authorization.unwrap_or_default();
            case.input = Some(format!("GET {path} HTTP/1.1\r\nHost: kubernetes\r\n{lines}Connection: close\r\n\r\n"));
        }
    }

    fn kubeconfig(&mut self, program: &[String], name: &str, credential: Credential, http2: bool) {
        let path = self.path();
        let kubeconfig = match credential {
            Credential::Certificate(_) => "certificate",
            other => other.word(),
        };
        let mut words = vec!["env".to_owned(), format!("KUBECONFIG={kubeconfig}.kubeconfig"), "HOME=.".to_owned()];
        words.extend_from_slice(program);
        words.push(path.to_owned());
        let one = Self::expected(credential, "1.3", http2);
        self.add(name, words, credential, path, one);
    }
}

/// Programs that are not found by name.
pub struct Programs {
    /// Kubernetes' own client.
    pub kubectl: String,
    /// The program with the kube crate.
    pub kube_rs: String,
}

/// Every client with every credential that it can show.
pub fn all(token: &str, programs: &Programs) -> Vec<Case> {
    let mut maker = Maker { token, paths: 0, cases: Vec::new() };
    // The anonymous ones come first: from then on the server is known to send GOAWAY.
    for credential in Credential::ALL {
        for (tls, http2) in [("1.3", true), ("1.3", false), ("1.2", true), ("1.2", false)] {
            maker.curl(credential, tls, http2);
        }
    }
    for credential in ["client-rsa", "client-ed25519"].map(Credential::Certificate) {
        maker.curl(credential, "1.3", true);
        maker.curl(credential, "1.2", true);
    }
    for credential in Credential::ALL {
        maker.script("python3 client.py", credential, "1.3", false, false);
        maker.script("node client.mjs", credential, "1.3", true, false);
    }
    for credential in [Credential::None, Credential::Certificate("client"), Credential::ServiceAccount] {
        maker.script("python3 client.py", credential, "1.2", false, true);
        maker.script("python3 client.py", credential, "1.3", false, true);
        maker.script("node client.mjs", credential, "1.3", true, true);
        maker.script("node client.mjs", credential, "1.2", false, true);
        maker.wget(credential, "1.3");
        maker.wget(credential, "1.2");
        for tls in ["1.3", "1.2"] {
            maker.openssl(credential, tls, Some("-sess_out"));
            maker.openssl(credential, tls, Some("-sess_in"));
        }
        maker.java(credential, "1.3", true, 1);
        maker.java(credential, "1.2", false, 1);
        maker.java(credential, "1.3", false, 2);
    }
    kubernetes(&mut maker, programs);
    maker.cases
}

/// The clients that are Kubernetes' own.
fn kubernetes(maker: &mut Maker<'_>, programs: &Programs) {
    let kubectl: Vec<String> = [programs.kubectl.as_str(), "get", "--raw"].map(str::to_owned).into();
    let kube_rs = std::slice::from_ref(&programs.kube_rs);
    // Without a credential kubectl asks for a name and a password, and sends them as Basic.
    for credential in Credential::ALL {
        if !matches!(credential, Credential::Empty | Credential::None) {
            maker.kubeconfig(&kubectl, "kubectl TLS 1.3 HTTP/2", credential, true);
        }
        if !matches!(credential, Credential::Empty) {
            maker.kubeconfig(kube_rs, "kube-rs TLS 1.3 HTTP/1.1", credential, false);
        }
    }
}

/// A few clients with every credential: where the server is another, not the clients.
pub fn few(token: &str, programs: &Programs) -> Vec<Case> {
    let mut maker = Maker { token, paths: 0, cases: Vec::new() };
    for credential in Credential::ALL {
        maker.curl(credential, "1.3", true);
        maker.curl(credential, "1.2", true);
        maker.curl(credential, "1.3", false);
        // Each credential meets other paths with each client.
        maker.paths += 1;
    }
    kubernetes(&mut maker, programs);
    maker.cases
}

fn url(path: &str) -> String {
    format!("https://{CONTROL_PLANE}:{SECURE}{path}")
}

fn split(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}
