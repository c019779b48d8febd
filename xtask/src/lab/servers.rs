//! Servers of the control plane: nginx in the place of an API server.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::workspace;

use super::network::wait_until_listening;
use super::{Host, Lab};

/// TLS, asks for a client certificate.
pub const SECURE: u16 = 6443;
/// The same server, as the NodePort of the `kubernetes` Service.
pub const NODE_PORT: u16 = 31443;
/// The API in the clear.
pub const INSECURE: u16 = 8080;
/// The API in the clear over HTTP/2.
pub const INSECURE_HTTP2: u16 = 8082;
/// A web page that is no API.
pub const WEB: u16 = 8001;

/// Makes the certificates and starts the servers; returns when all of them listen.
pub fn start(lab: &mut Lab) -> Result<()> {
    let configurations = workspace::root().join("lab");
    for name in ["nginx.conf", "kubernetes-api.conf", "certificates.cnf"] {
        let from = configurations.join(name);
        fs::copy(&from, lab.directory().join(name)).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    certificates(lab.directory())?;
    let mut nginx = lab.command(Host::ControlPlane, "nginx");
    nginx.arg("-p").arg(lab.directory()).arg("-c").arg(lab.directory().join("nginx.conf")).args(["-e", "stderr"]);
    let process = lab.start("nginx", &mut nginx)?;
    wait_until_listening(lab, "nginx", process, &[SECURE, NODE_PORT, INSECURE, INSECURE_HTTP2, WEB])
}

/// The lines that the server has written, one for each request that it answered; see `log_format` in `lab/nginx.conf`.
#[cfg(test)]
pub fn witness(lab: &Lab) -> Result<Vec<String>> {
    let path = lab.directory().join("access.log");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// A CA and what it signed: `ca.crt`, `server.crt`, `client.crt` and their keys, good for two days.
fn certificates(directory: &Path) -> Result<()> {
    let common =
        ["req", "-x509", "-config", "certificates.cnf", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
    for (name, subject) in [
        ("ca", "/CN=kubernetes"),
        ("server", "/CN=kube-apiserver"),
        ("client", "/O=system:masters/CN=kubernetes-admin"),
    ] {
        let mut openssl = Command::new("openssl");
        openssl.current_dir(directory).args(common).args([
            "-noenc",
            "-days",
            "2",
            "-subj",
            subject,
            "-extensions",
            name,
        ]);
        openssl.args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.crt")]);
        if name != "ca" {
            openssl.args(["-CA", "ca.crt", "-CAkey", "ca.key"]);
        }
        let output = openssl.output().context("cannot start openssl")?;
        if !output.status.success() {
            bail!("openssl made no {name}.crt: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
    }
    Ok(())
}
