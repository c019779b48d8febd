//! `replay`: capture files through the same stages as live traffic.

use std::io::{self, Write as _};
use std::sync::Arc;

use anyhow::Context as _;

use super::arguments::ReplayArgs;
use crate::config::{Output, Settings};
use crate::export::{KernelCounts, KernelSource, Metrics, json};
use crate::pipeline::Event;
use crate::replay::{Capture, replay, table::Summary};

/// Replays the files one after the other and prints what was found.
///
/// # Errors
/// A file cannot be read, is no capture or is cut short. What could be read is printed all the same, and the other
/// files are read too; the first error is returned.
pub fn run(args: &ReplayArgs, settings: Settings) -> anyhow::Result<()> {
    let output = settings.output_of("replay", ReplayArgs::FORMATS)?;
    let metrics = Arc::new(Metrics::new());
    let mut counts = KernelCounts::default();
    let mut out = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let mut summary = Summary::default();
    let mut line = Vec::new();
    let mut failed: Option<anyhow::Error> = None;
    for file in &args.files {
        let mut written = Ok(());
        let mut capture = match Capture::open(file) {
            Ok(capture) => capture,
            Err(error) => {
                failed.get_or_insert(error.into());
                continue;
            }
        };
        let outcome = replay(&mut capture, &settings, &metrics, &mut counts, |event| {
            let Event::Connection(connection) = event else { return };
            match output {
                Output::Json if written.is_ok() => {
                    line.clear();
                    written = json::write_connection(&mut line, connection)
                        .map_err(io::Error::from)
                        .and_then(|()| out.write_all(&line));
                }
                Output::Table => summary.add(connection),
                _ => {}
            }
        });
        written.context("writing to standard output")?;
        if let Err(error) = outcome {
            failed.get_or_insert(error.into());
        }
    }
    match output {
        Output::Table if failed.is_none() || !summary.is_empty() => summary.print(&mut out),
        Output::Metrics => {
            metrics.set_kernel_source(Some(Arc::new(Counted(counts))));
            out.write_all(metrics.encode().as_bytes())
        }
        _ => Ok(()),
    }
    .and_then(|()| out.flush())
    .context("writing to standard output")?;
    failed.map_or(Ok(()), Err)
}

/// What the native kernel half has counted.
struct Counted(KernelCounts);

impl KernelSource for Counted {
    fn read(&self) -> anyhow::Result<KernelCounts> {
        Ok(self.0.clone())
    }
}
