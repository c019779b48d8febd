//! `observe`: connections and exposures as they happen, a line each.
//!
//! They come from the `/events` of a monitor, at `--from URL` or at the address where one on this machine listens.

mod client;
mod text;

use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::config::Settings;
use crate::export::Filter;
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
    let source = async {
        match EventStream::open(&url, filter).await {
            Ok(stream) => forward(stream, &url, sink).await,
            Err(OpenError::NobodyThere(_)) if from.is_none() => attach_and_stream(settings, filter, sink).await,
            Err(error) => Err(error.into()),
        }
    };
    let ended = tokio::select! {
        ended = source => ended,
        printed = &mut printed => return unless_closed(printed),
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        () = output_closed() => return Ok(()),
    };
    // The source is gone, and with it the sending end: the printer ends once it has printed what waits.
    if let Ok(printed) = tokio::time::timeout(LAST_LINES, printed).await {
        unless_closed(printed)?;
    }
    ended
}

/// Attaches here as `run` does, and hands the events of [`crate::export::Events`] to `sink`, in whole lines of JSON.
///
/// Not built yet: `observe` needs a running monitor.
pub async fn attach_and_stream(
    settings: &Settings,
    _filter: &Filter,
    _sink: mpsc::Sender<Bytes>,
) -> anyhow::Result<()> {
    anyhow::bail!(
        "no monitor answers at {}: start `api-exposure-monitor run`, or name another one with --from URL",
        settings.listen
    )
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
