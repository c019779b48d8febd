//! A progress bar while a file is read: on a terminal only.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How many bytes have to be read before the bar is told: it costs more than a packet.
const STEP: u64 = 4 << 20;

/// A bar on standard error, nothing where that is no terminal.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    next: u64,
}

impl Progress {
    /// A bar for a capture of `total` bytes, a spinner where that is not known.
    pub fn new(name: &str, total: Option<u64>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| bar(name, total));
        Self { next: if bar.is_some() { STEP } else { u64::MAX }, bar }
    }

    /// So many bytes were read.
    #[inline]
    pub fn at(&mut self, position: u64) {
        if position >= self.next {
            self.next = position.saturating_add(STEP);
            if let Some(bar) = &self.bar {
                bar.set_position(position);
            }
        }
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(name: &str, total: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    let template = match total {
        Some(_) => "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        None => "{prefix} {spinner} {bytes} {bytes_per_sec}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_prefix(name.to_owned());
    bar
}
