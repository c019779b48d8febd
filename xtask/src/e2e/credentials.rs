//! Certificates, keys and tokens of a control plane, made anew for each run.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// A token that the server knows from its file of static tokens.
pub const STATIC_TOKEN: &str = "static-token-of-the-lab-0123456789abcdef";
/// A token of the form that kubeadm makes, known from a Secret.
pub const BOOTSTRAP_TOKEN: &str = "e2etok.0123456789abcdef";
/// A token that nobody knows.
pub const WRONG_TOKEN: &str = "wrong-token-of-the-lab-0123456789abcdef";

/// How a key is made.
const P256: &[&str] = &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
const RSA: &[&str] = &["-newkey", "rsa:2048"];
const ED25519: &[&str] = &["-newkey", "ed25519"];

/// What is signed: file name, subject, extensions of `certificates.cnf`, key.
const SIGNED: &[(&str, &str, &str, &[&str])] = &[
    ("server", "/CN=kube-apiserver", "server", P256),
    ("admin", "/O=system:masters/CN=kubernetes-admin", "client", P256),
    ("client", "/O=e2e/CN=e2e-client", "client", P256),
    ("client-rsa", "/O=e2e/CN=e2e-client-rsa", "client", RSA),
    ("client-ed25519", "/O=e2e/CN=e2e-client-ed25519", "client", ED25519),
    ("kubelet", "/O=system:nodes/CN=system:node:worker", "client", P256),
];

/// Writes all of it into a folder that holds `certificates.cnf`.
pub fn make(folder: &Path) -> Result<()> {
    let request = ["req", "-x509", "-config", "certificates.cnf", "-noenc", "-days", "2"];
    let mut ca = openssl(folder);
    ca.args(request).args(P256).args(["-subj", "/CN=kubernetes", "-extensions", "ca"]);
    run(ca.args(["-keyout", "ca.key", "-out", "ca.crt"]))?;
    for (name, subject, extensions, key) in SIGNED {
        let mut command = openssl(folder);
        command.args(request).args(*key).args(["-subj", subject, "-extensions", extensions]);
        command.args(["-CA", "ca.crt", "-CAkey", "ca.key"]);
        run(command.args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.crt")]))?;
    }
    expired(folder)?;
    run(openssl(folder).args(["genpkey", "-algorithm", "RSA", "-out", "service-account.key"]))?;
    run(openssl(folder).args(["pkey", "-in", "service-account.key", "-pubout", "-out", "service-account.pub"]))?;
    for name in ["client", "expired"] {
        // What Java reads.
        let mut store = openssl(folder);
        store.args(["pkcs12", "-export", "-inkey", &format!("{name}.key"), "-in", &format!("{name}.crt")]);
        run(store.args(["-passout", "pass:changeit", "-out", &format!("{name}.p12")]))?;
    }
    let tokens = format!("{STATIC_TOKEN},e2e-static,e2e-static,e2e\n");
    fs::write(folder.join("tokens.csv"), tokens).context("cannot write tokens.csv")
}

/// A client certificate that ended a day ago. Only `openssl ca` takes a date of the past.
fn expired(folder: &Path) -> Result<()> {
    let mut request = openssl(folder);
    request.args(["req", "-new", "-config", "certificates.cnf", "-noenc"]).args(P256);
    request.args(["-subj", "/O=e2e/CN=e2e-expired", "-keyout", "expired.key", "-out", "expired.csr"]);
    run(&mut request)?;
    for (name, text) in [("index.txt", ""), ("serial", "1000\n")] {
        fs::write(folder.join(name), text).with_context(|| format!("cannot write {name}"))?;
    }
    let mut sign = openssl(folder);
    sign.args(["ca", "-batch", "-config", "certificates.cnf", "-name", "authority", "-in", "expired.csr"]);
    sign.args(["-out", "expired.crt", "-notext", "-extensions", "client"]);
    run(sign.args(["-startdate", "20200101000000Z", "-enddate", "20200102000000Z"]))
}

fn openssl(folder: &Path) -> Command {
    let mut command = Command::new("openssl");
    command.current_dir(folder);
    command
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().context("cannot start openssl")?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// A kubeconfig for `server` with these lines below `user:`.
pub fn kubeconfig(server: &str, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: lab\n  cluster:\n    server: {server}\n    \
         certificate-authority: ca.crt\nusers:\n- name: lab\n  user: {user}\ncontexts:\n- name: lab\n  context:\n    \
         cluster: lab\n    user: lab\ncurrent-context: lab\n"
    )
}
