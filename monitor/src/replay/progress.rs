//! A progress bar while a file is read: on a terminal only.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How many bytes have to be read before the bar is told: it costs more than a packet.
const STEP: u64 = 4 << 20;

const OF_A_FILE: &str = "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
const OF_A_STREAM: &str = "{prefix} {spinner} {bytes} {bytes_per_sec}";

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
    let template = if total.is_some() { OF_A_FILE } else { OF_A_STREAM };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_prefix(name.to_owned());
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_can_be_read() {
        for template in [OF_A_FILE, OF_A_STREAM] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn the_bar_is_told_in_steps() {
        let mut progress = Progress { bar: Some(ProgressBar::hidden()), next: STEP };
        let told = |progress: &Progress| progress.bar.as_ref().map(ProgressBar::position);
        progress.at(STEP - 1);
        assert_eq!(told(&progress), Some(0));
        progress.at(STEP + 5);
        assert_eq!(told(&progress), Some(STEP + 5));
        progress.at(STEP + 6);
        assert_eq!(told(&progress), Some(STEP + 5));
        progress.finish();
    }
}
