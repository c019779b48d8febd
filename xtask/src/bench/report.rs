//! All rows of a run, with the machine and the day, for people and for programs.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::curves::{Curve, PICTURE};
use super::row::Row;

const HEADINGS: [&str; 6] = ["measured", "figure", "peer, same run", "against it", "goal", ""];

/// A run.
pub struct Report {
    machine: String,
    date: String,
    rows: Vec<Row>,
    curves: Vec<Curve>,
}

impl Report {
    /// What was measured, here and now.
    pub fn new(rows: Vec<Row>, curves: Vec<Curve>) -> Result<Self> {
        let date = Command::new("date").args(["-u", "+%Y-%m-%d"]).output().context("cannot run date")?;
        let date = String::from_utf8_lossy(&date.stdout).trim().to_owned();
        Ok(Self { machine: machine(), date, rows, curves })
    }

    /// How costs grow.
    pub fn curves(&self) -> &[Curve] {
        &self.curves
    }

    /// For a terminal.
    pub fn table(&self) -> String {
        let cells: Vec<[String; 6]> =
            std::iter::once(HEADINGS.map(str::to_owned)).chain(self.rows.iter().map(Row::cells)).collect();
        let widths: [usize; 6] =
            std::array::from_fn(|column| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
        let mut text = format!("{}, {}\n\n", self.machine, self.date);
        for row in cells {
            for (cell, width) in row.iter().zip(widths) {
                let _ = write!(text, "{cell:width$}  ");
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> String {
        let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
        let curves: Vec<Value> = self.curves.iter().map(Curve::json).collect();
        let report = json!({ "machine": self.machine, "date": self.date, "rows": rows, "curves": curves });
        format!("{report:#}\n")
    }

    /// BENCHMARKS.md, with the picture where it was drawn.
    pub fn markdown(&self, drawn: bool) -> String {
        let mut text = format!(
            "# Benchmarks\n\nMade by `cargo xtask bench --write`: {}, {}. Each figure stands beside a peer that was \
             measured in the same run; the machine had other work, so compare within a row and not across machines. \
             Rates are by processor time, programs in the kernel are measured with BPF_PROG_TEST_RUN, whose own cost \
             is in every figure. The best of several runs counts.\n\n",
            self.machine, self.date
        );
        let line = |text: &mut String, cells: &[String]| {
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        };
        line(&mut text, &HEADINGS.map(str::to_owned));
        line(&mut text, &HEADINGS.map(|_| "---".to_owned()));
        for row in &self.rows {
            line(&mut text, &row.cells());
        }
        if drawn {
            let _ = writeln!(text, "\n![nanoseconds a packet by flows, prefixes and processors]({PICTURE})");
        }
        text
    }
}

/// Processor, how many, and the kernel.
fn machine() -> String {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models: Vec<&str> = processors
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, model)| model.trim()))
        .collect();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{} x {}, Linux {}", models.len(), models.first().unwrap_or(&"unknown processor"), kernel.trim())
}
