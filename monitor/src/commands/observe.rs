//! `observe`: connections and exposures as they happen, a line each.
//!
//! They come from the `/events` of a monitor, at `--from URL` or at the address where one on this machine listens; where
//! none does, this attaches by itself for as long as it runs.

mod client;
mod text;

use std::io::{self, IsTerminal as _, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

use super::arguments::ObserveArgs;
use crate::attach::Policy;
use crate::config::{self, Settings};
use crate::export::{Events, Filter, Health, Metrics};
use crate::live;
use client::{EventStream, OpenError, Url};

monitor_common::closed_set! {
    /// How the events are printed.
    Output {
        /// A line for people.
        Text = "text",
        /// The monitor's own line of JSON.
        Json = "json",
    }
}

/// Batches of lines that wait for a slow terminal or pipe; what comes after them waits in the monitor and is lost there,
/// counted.
const WAITING: usize = 4;

/// How often to look whether the reader of our output is still there, while there is nothing to write.
const LOOK: Duration = Duration::from_millis(250);

/// What was read may take this long to be printed after the end was asked for.
const LAST_LINES: Duration = Duration::from_millis(300);

/// What this attached may take this long to be gone.
const DETACH: Duration = Duration::from_secs(5);

/// Prints events of a running monitor, else of this node.
///
/// # Errors
/// There is no monitor at `--from`, it breaks off, or nothing can be attached here.
pub fn run(args: &ObserveArgs, settings: Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let output = match settings.output_of("observe", ObserveArgs::FORMATS)? {
        config::Output::Json => Output::Json,
        _ => Output::Text,
    };
    let filter = args.filter();
    let observed = observe(&settings, args.from.as_deref(), &filter, output);
    runtime.context("starting the async runtime")?.block_on(observed)
}

/// Prints events until Ctrl-C, SIGTERM, or the reader of our output leaves, which are all fine; or until the monitor
/// ends the stream. Without `from` and without a monitor at `settings.listen`, attaches by itself.
pub async fn observe(settings: &Settings, from: Option<&str>, filter: &Filter, output: Output) -> anyhow::Result<()> {
    let url = match from {
        Some(from) => Url::parse(from)?,
        None => Url::of(settings.listen),
    };
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let (sink, lines) = mpsc::channel(WAITING);
    let stdout = io::stdout();
    let coloured = stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut printed = print(lines, output, coloured, stdout)?;
    let (end, mut ended) = watch::channel(false);
    let source = async {
        match EventStream::open(&url, filter).await {
            Ok(stream) => tokio::select! {
                broken_off = forward(stream, &url, sink) => broken_off,
                _ = ended.wait_for(|end| *end) => Ok(()),
            },
            Err(OpenError::NobodyThere(_)) if from.is_none() => attach_and_stream(settings, filter, sink, ended).await,
            Err(error) => Err(error.into()),
        }
    };
    let mut source = std::pin::pin!(source);
    let outcome = tokio::select! {
        outcome = &mut source => Some(outcome),
        closed = &mut printed => {
            // Printing ends first only when the reader of our output has left, or writing to it fails.
            end.send_replace(true);
            let _ = tokio::time::timeout(DETACH, source).await;
            return unless_closed(closed);
        }
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        () = output_closed() => None,
    };
    let outcome = match outcome {
        Some(outcome) => outcome,
        None => {
            end.send_replace(true);
            tokio::time::timeout(DETACH, source).await.unwrap_or(Ok(()))
        }
    };
    // The source has ended, and with it the sending end: the printer ends once it has printed what waits.
    if let Ok(printed) = tokio::time::timeout(LAST_LINES, printed).await {
        unless_closed(printed)?;
    }
    outcome
}

/// Attaches here as `run` does, and hands the events that the filter takes to `sink`, in whole lines of JSON. Returns
/// once all that was attached is gone.
async fn attach_and_stream(
    settings: &Settings,
    filter: &Filter,
    sink: mpsc::Sender<Bytes>,
    shutdown: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    eprintln!("no monitor answers at {}: attaching here", settings.listen);
    let metrics = Arc::new(Metrics::new());
    let events = Events::new(Arc::clone(&metrics));
    let mut subscription = events.subscribe(filter.clone())?;
    let forward = async {
        while let Some(lines) = subscription.next().await {
            if sink.send(lines).await.is_err() {
                return;
            }
        }
    };
    let mut forward = std::pin::pin!(forward);
    let policy = Policy { xdp_generic: settings.xdp_generic, tcx: settings.tcx };
    let publish = events.clone();
    let live =
        live::run(settings, policy, metrics, Arc::new(Health::new()), move |event| publish.publish(&event), shutdown);
    let mut live = std::pin::pin!(live);
    let ended = tokio::select! {
        ended = &mut live => ended,
        // The printer is gone; the caller sees that too, and asks for the end.
        () = &mut forward => return live.await,
    };
    events.close();
    // A printer that is stuck does not keep this from ending.
    let _ = tokio::time::timeout(LAST_LINES, forward).await;
    ended
}

/// Hands on what the monitor sends, until it ends the stream or the printer is gone.
async fn forward(mut stream: EventStream, url: &Url, sink: mpsc::Sender<Bytes>) -> anyhow::Result<()> {
    while let Some(lines) = stream.lines().await.with_context(|| format!("the stream of {url} broke off"))? {
        if sink.send(lines).await.is_err() {
            return Ok(());
        }
    }
    eprintln!("{url} ended the stream");
    Ok(())
}

/// Prints in a thread of its own: writing to a pipe or terminal that is not read blocks, and Ctrl-C has to work
/// meanwhile. A thread that still blocks when the process ends does not hold it up.
fn print(
    mut lines: mpsc::Receiver<Bytes>,
    output: Output,
    coloured: bool,
    mut writer: impl Write + Send + 'static,
) -> io::Result<oneshot::Receiver<io::Result<()>>> {
    let (done, printed) = oneshot::channel();
    std::thread::Builder::new().name("print".into()).spawn(move || {
        let mut print = || {
            let mut buffer = Vec::new();
            while let Some(batch) = lines.blocking_recv() {
                match output {
                    Output::Json => writer.write_all(&batch)?,
                    Output::Text => {
                        buffer.clear();
                        for line in batch.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                            text::write_line(&mut buffer, line, coloured);
                        }
                        writer.write_all(&buffer)?;
                    }
                }
                writer.flush()?;
            }
            Ok(())
        };
        // Nobody waits any more where the command has ended before.
        let _ = done.send(print());
    })?;
    Ok(printed)
}

/// A reader that left (`observe | head`) is no error.
fn unless_closed(printed: Result<io::Result<()>, oneshot::error::RecvError>) -> anyhow::Result<()> {
    match printed {
        Ok(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("cannot write the output"),
        Ok(_) => Ok(()),
        Err(_) => anyhow::bail!("printing ended unexpectedly"),
    }
}

/// Comes back when the reader of our standard output has left, also while there is nothing to write.
async fn output_closed() {
    loop {
        let mut output = libc::pollfd { fd: libc::STDOUT_FILENO, events: 0, revents: 0 };
        // SAFETY: one entry, which lives over the call; poll with a timeout of 0 does not wait.
        let ready = unsafe { libc::poll(&raw mut output, 1, 0) };
        if ready > 0 && output.revents & (libc::POLLERR | libc::POLLHUP) != 0 {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
#[path = "observe/tests.rs"]
mod tests;
