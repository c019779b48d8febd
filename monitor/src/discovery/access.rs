//! Which API is asked, with which credentials: those of a kubeconfig that the settings name, else those of the pod.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use kube::config::{Kubeconfig, KubeconfigError};
use kube::{Client, Config};

use crate::config::{DiscoveryMode, Settings};

/// A connection to the API server is waited for this long.
const CONNECT: Duration = Duration::from_secs(5);

/// Silence on a connection that is waited for: longer than a watch lasts ([`super::follow::WATCH_SECONDS`]).
const SILENCE: Duration = Duration::from_secs(super::follow::WATCH_SECONDS as u64 + 10);

/// A kubeconfig has a few kilobytes, with certificates for some clusters a few more.
const KUBECONFIG: u64 = 4 << 20;

/// Where Kubernetes puts a pod's credentials.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// A client of the API that the settings mean; `None` where they mean none, or leave it open and there is none.
///
/// # Errors
/// `--discovery kubernetes`, and there are no credentials or they cannot be read.
pub fn client(settings: &Settings) -> Result<Option<Client>> {
    let client = match (settings.discovery, &settings.kubeconfig) {
        (DiscoveryMode::None, _) => return Ok(None),
        (_, Some(path)) => {
            from_file(path).and_then(connect).with_context(|| format!("--kubeconfig {}", path.display()))
        }
        (_, None) if is_in_cluster() => Config::incluster()
            .map_err(anyhow::Error::from)
            .and_then(connect)
            .context("the pod's service account cannot be used"),
        (DiscoveryMode::Kubernetes, None) => {
            Err(anyhow!("not in a pod with a service account: name a kubeconfig with --kubeconfig"))
        }
        (DiscoveryMode::Auto, None) => {
            tracing::info!(
                "the Kubernetes API is not asked: neither in a pod with a service account nor is a --kubeconfig named; \
                 what is known of the cluster is what the flags say"
            );
            return Ok(None);
        }
    };
    match (client, settings.discovery) {
        (Ok(client), _) => Ok(Some(client)),
        (Err(error), DiscoveryMode::Auto) => {
            tracing::warn!(
                "the Kubernetes API is not asked: {error:#}; what is known of the cluster is what the flags say"
            );
            Ok(None)
        }
        (Err(error), _) => Err(error.context("--discovery kubernetes")),
    }
}

fn is_in_cluster() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some_and(|host| !host.is_empty())
        && Path::new(SERVICE_ACCOUNT).exists()
}

fn from_file(path: &Path) -> Result<Config> {
    let file = std::fs::metadata(path).context("cannot be read")?;
    if !file.is_file() || file.len() > KUBECONFIG {
        bail!("is no kubeconfig: not a file of {} MiB at the most", KUBECONFIG >> 20);
    }
    let kubeconfig = Kubeconfig::read_from(path).map_err(explain)?;
    Config::try_from(kubeconfig).map_err(explain)
}

/// The parser's own words may quote the line, which may be a token's.
fn explain(error: KubeconfigError) -> anyhow::Error {
    match error {
        KubeconfigError::Parse(error) => match error.location() {
            Some(place) => {
                anyhow!("is no kubeconfig: YAML is wrong in line {}, column {}", place.line(), place.column())
            }
            None => anyhow!("is no kubeconfig: its YAML is wrong"),
        },
        KubeconfigError::ReadConfig(error, _) => anyhow::Error::new(error).context("cannot be read"),
        error => anyhow!("{error}"),
    }
}

fn connect(mut config: Config) -> Result<Client> {
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    // A connection may have been idle before: then silence counts from the request on.
    config.reset_reader_on_write = true;
    // The watches try again themselves, and say so.
    config.default_retry = false;
    Client::try_from(config).map_err(|error| match error {
        kube::Error::Auth(_) => anyhow!("its credentials cannot be used"),
        kube::Error::InferKubeconfig(error) => explain(error),
        error => anyhow!("no client can be made of it: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "secret-token-of-nobody";

    fn outcome(text: &[u8], discovery: DiscoveryMode) -> Result<bool, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(&path, text).unwrap();
        let settings = Settings { discovery, kubeconfig: Some(path), ..Settings::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(async { client(&settings) });
        client.map(|client| client.is_some()).map_err(|error| format!("{error:#}"))
    }

    fn kubeconfig() -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: k\n  cluster: {{server: 'http://127.0.0.1:1'}}\n\
             contexts:\n- name: c\n  context: {{cluster: k, user: u}}\nusers:\n- name: u\n  user: {{token: {TOKEN}}}\n"
        )
    }

    #[test]
    fn a_kubeconfig_is_taken() {
        assert_eq!(outcome(kubeconfig().as_bytes(), DiscoveryMode::Kubernetes), Ok(true));
        assert_eq!(outcome(kubeconfig().as_bytes(), DiscoveryMode::Auto), Ok(true));
        assert_eq!(outcome(kubeconfig().as_bytes(), DiscoveryMode::None), Ok(false));
    }

    #[test]
    fn one_that_is_wrong_is_named_without_what_is_in_it() {
        let whole = kubeconfig();
        let garbled = [
            whole.replace("token:", "token: [").into_bytes(),
            whole.replace("users:", "\tusers:").into_bytes(),
            whole.replace("current-context: c", "").into_bytes(),
            whole.replace("current-context: c", "current-context: d").into_bytes(),
            whole.replace("http://127.0.0.1:1", "::no url::").into_bytes(),
            whole.replace("{token:", "{client-certificate-data: '%%%', client-key-data:").into_bytes(),
            format!("token {TOKEN}").into_bytes(),
            [whole.as_bytes(), b"\xff\xfe"].concat(),
            b"\0\0\0".to_vec(),
            Vec::new(),
        ];
        for text in garbled {
            let error = outcome(&text, DiscoveryMode::Kubernetes).unwrap_err();
            assert!(error.contains("--kubeconfig /") && error.contains("--discovery kubernetes"), "{error}");
            assert!(!error.contains(TOKEN) && !error.contains('\n') && error.len() < 300, "{error}");
            assert_eq!(outcome(&text, DiscoveryMode::Auto), Ok(false));
        }
    }

    #[test]
    fn one_that_is_not_there_is_named() {
        let settings = Settings {
            discovery: DiscoveryMode::Kubernetes,
            kubeconfig: Some("/does/not/exist".into()),
            ..Settings::default()
        };
        let error = format!("{:#}", client(&settings).map(|_| ()).unwrap_err());
        assert!(
            error.starts_with("--discovery kubernetes: --kubeconfig /does/not/exist: cannot be read: No such"),
            "{error}"
        );
    }
}
