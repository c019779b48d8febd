//! A client with the kube crate, as controllers in Rust are: `kube_client PATH` asks for a path with the kubeconfig that
//! KUBECONFIG names, and prints how long the answer is.

use anyhow::Context as _;
use hyper::http::Request;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).context("no path given")?;
    let kubeconfig = Kubeconfig::read().context("KUBECONFIG names no kubeconfig")?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = kube::Client::try_from(config)?;
    let answer = client.request_text(Request::get(path).body(Vec::new())?).await?;
    println!("{} characters", answer.len());
    Ok(())
}
