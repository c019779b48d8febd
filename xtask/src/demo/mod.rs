//! `cargo xtask demo`: the main job, on real traffic between real programs.

use std::fs::{self, File};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::lab::network::NODES;
use crate::lab::{self, Host, Lab, servers};
use crate::setup::{self, Group};
use crate::terminal::Steps;
use crate::{build, interrupt, workspace};

pub mod connection;
mod metrics;
mod recorded;
mod report;
pub mod script;

use connection::Connection;

/// Where the monitor serves, in the control plane's own network.
pub const LISTEN: &str = "127.0.0.1:9464";
/// How long after the last client the last line of events may come.
const LAST_EVENT: Duration = Duration::from_secs(15);

/// Starts servers and clients in network namespaces of their own, watches them, compares what was seen with what was sent.
#[derive(clap::Args)]
pub struct Arguments {
    /// Leave the lab and the monitor running, and print how to enter and how to take it away.
    #[arg(long)]
    keep: bool,
    /// Take away a lab that was kept.
    #[arg(long, value_name = "LAB", conflicts_with = "keep")]
    clean: Option<String>,
}

/// What is left running.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    Nothing,
    /// Hosts, servers and the monitor.
    Running,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    if let Some(suffix) = &arguments.clean {
        lab::remove(suffix)?;
        println!("the lab {suffix} is gone");
        return Ok(());
    }
    setup::ensure(&[Group::Build, Group::Lab])?;
    build::binary()?;
    main_job(if arguments.keep { Keep::Running } else { Keep::Nothing })
}

/// The main job: live as root, from shipped captures otherwise. The release binary has to be there.
pub fn main_job(keep: Keep) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return live(keep);
    }
    println!("without root there is no live traffic to be had: replaying captures of a real kube-apiserver instead");
    recorded::replay()
}

fn live(keep: Keep) -> Result<()> {
    let acts = script::acts();
    let mut steps = Steps::new("demo", 5)?;
    let mut lab = steps.within("network namespaces: control plane, worker, an outside host, a router", Lab::new)?;
    steps.within("servers on the control plane: TLS on 6443 and 31443, plaintext on 8080, 8082 and 8001", || {
        servers::start(&mut lab)
    })?;
    steps.within("the monitor, attached to every interface of the control plane", || start_monitor(&mut lab))?;
    steps.within(&format!("{} connections by curl, openssl and wget", acts.len()), || {
        acts.iter().try_for_each(|act| {
            interrupt::check()?;
            act.client.run(&lab)
        })
    })?;
    let (seen, scrape) = steps.within("what the monitor tells of them", || read_monitor(&mut lab, &acts))?;

    let sent: Vec<Connection> = acts.iter().map(|act| act.connection.clone()).collect();
    let clients: Vec<String> =
        acts.iter().map(|act| format!("{} ({})", act.client.name(), act.client.host.name())).collect();
    let pairs = connection::compare(&sent, &seen);
    println!("\n{}", report::table(&clients, &sent, &seen, &pairs));
    println!("metrics were at http://{LISTEN}/metrics in the control plane's namespace; some of them:");
    metrics::shown(&scrape).iter().for_each(|line| println!("  {line}"));
    let miscounted = metrics::differences(&metrics::expected(&sent), &metrics::connections(&scrape));

    if keep == Keep::Running {
        lab.keep();
        say_how_to_go_on(&lab);
    } else {
        // It must let go of its interfaces and end by itself: an error if not.
        lab.stop("monitor")?;
    }
    let unequal = pairs.iter().filter(|pair| !pair.equal).count();
    miscounted.iter().for_each(|line| println!("metrics differ: {line}"));
    if unequal > 0 || !miscounted.is_empty() {
        println!("the monitor said:\n{}", lab.log_of("monitor"));
        bail!("what was seen is not what was sent: {unequal} connections and {} counters differ", miscounted.len());
    }
    println!("\nwhat was seen is what was sent: {} connections, in both directions", pairs.len());
    Ok(())
}

/// Starts it on the control plane and follows its events.
pub fn start_monitor(lab: &mut Lab) -> Result<()> {
    let ports = [servers::INSECURE, servers::INSECURE_HTTP2, servers::WEB].map(|port| port.to_string()).join(",");
    let mut monitor = lab.command(Host::ControlPlane, workspace::binary());
    monitor.args(["run", "--listen", LISTEN, "--cluster-node-cidr", NODES, "--insecure-port", &ports]);
    monitor.args(["--node-port", &servers::NODE_PORT.to_string()]);
    lab.start("monitor", &mut monitor)?;
    lab.wait_for("monitor", "the monitor being ready", |lab| Ok(get(lab, "readyz").ok()))?;

    // The stream of events is followed from before the first connection: it is open once its headers are there.
    let (events, headers) = (lab.directory().join("events"), lab.directory().join("events.headers"));
    let mut follow = lab.command(Host::ControlPlane, "curl");
    follow.args(["--silent", "--no-buffer", "--dump-header"]).arg(&headers).arg(format!("http://{LISTEN}/events"));
    follow.stdout(File::create(&events).context("cannot write the events")?).stderr(Stdio::null());
    lab.start_with_output("events", &mut follow)?;
    lab.wait_for("events", "the stream of events", |_| {
        let headers = fs::read_to_string(&headers).unwrap_or_default();
        Ok(headers.contains("\r\n\r\n").then_some(()))
    })
}

/// The events until the last act is among them and as many as there were acts, and the scrape after that.
fn read_monitor(lab: &mut Lab, acts: &[script::Act]) -> Result<(Vec<Connection>, String)> {
    let events = lab.directory().join("events");
    let last = acts.last().map(|act| &act.connection);
    let complete = |seen: &[Connection]| seen.len() >= acts.len() && last.is_none_or(|last| seen.contains(last));
    let waited = interrupt::wait_for("all connections among the events", LAST_EVENT, || {
        let seen = read_events(&events)?;
        Ok(complete(&seen).then_some(seen))
    });
    interrupt::check()?;
    // Too few is for the table to say.
    let seen = waited.or_else(|_| read_events(&events))?;
    Ok((seen, get(lab, "metrics")?))
}

fn read_events(path: &std::path::Path) -> Result<Vec<Connection>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    // The last line may not be whole yet.
    let whole = text.rfind('\n').and_then(|end| text.get(..end)).unwrap_or_default();
    whole.lines().filter_map(|line| Connection::from_json(line).transpose()).collect()
}

/// GET from the monitor, inside the control plane's namespace.
fn get(lab: &Lab, path: &str) -> Result<String> {
    let mut curl = lab.command(Host::ControlPlane, "curl");
    let output = curl
        .args(["--silent", "--show-error", "--fail", "--max-time", "5", &format!("http://{LISTEN}/{path}")])
        .output()
        .context("cannot start curl")?;
    if !output.status.success() {
        bail!("/{path} of the monitor: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn say_how_to_go_on(lab: &Lab) {
    let namespace = lab.namespace(Host::ControlPlane);
    println!("\nall of it goes on running; files and logs are in {}", lab.directory().display());
    println!("  a shell on a host:  nsenter --net=/run/netns/{} -- bash", lab.namespace(Host::Outside));
    println!("  the metrics:        nsenter --net=/run/netns/{namespace} -- curl -s http://{LISTEN}/metrics");
    println!("  the events:         nsenter --net=/run/netns/{namespace} -- curl -sN http://{LISTEN}/events");
    println!("  take it away:       cargo xtask demo --clean {}", lab.suffix());
}
