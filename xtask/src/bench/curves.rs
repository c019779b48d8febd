//! How the cost of a packet grows with flows, prefixes and processors: for the JSON, as rows, and as a picture.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::row::{Goal, Peer, Row};
use super::{directory, kernel};
use crate::workspace;

/// The picture, relative to the workspace.
pub const PICTURE: &str = "docs/benchmarks.png";

/// Each: its name, what is measured, how many times the first figure the last may be. Prefixes grow 1,600 times, a walk
/// by their logarithm about 4 times; flows and processors are to cost nothing, but for what the caches do not hold.
const CURVES: [(&str, &str, f64); 3] = [
    ("flows", "TC ingress, established and done, by flows seen", 1.25),
    ("prefixes", "TC egress, acknowledgement to an unknown client, by prefixes", 4.0),
    ("processors", "TC ingress, established and done, by processors at once", 1.25),
];

/// A curve: nanoseconds a packet by a number of something.
pub struct Curve {
    name: &'static str,
    what: &'static str,
    points: Vec<(f64, f64)>,
}

impl Curve {
    /// For programs.
    pub fn json(&self) -> Value {
        json!({ "name": self.name, "what": self.what, "unit": "ns", "points": self.points })
    }
}

/// Measures them, and says of each how far its end lies from its beginning.
pub fn measure(curves: &mut Vec<Curve>) -> Result<Vec<Row>> {
    let figures = match kernel::ask(&["curves"]) {
        Ok(figures) => figures,
        Err(error) => return Ok(vec![Row::missing("how costs grow", "ns", format!("{error:#}"))]),
    };
    let mut rows = Vec::new();
    for (name, what, times) in CURVES {
        let points = figures[name].as_array().into_iter().flatten();
        let points: Vec<(f64, f64)> =
            points.filter_map(|point| Some((point[0].as_f64()?, point[1].as_f64()?))).collect();
        if let (Some((from, first)), Some((to, last))) = (points.first(), points.last()) {
            let row = Row::new(&format!("{what}: {to}"), "ns", Some(*last));
            rows.push(row.peer(Peer::measured(&from.to_string(), *first)).goal(Goal::PartOfPeer(times)));
        }
        curves.push(Curve { name, what, points });
    }
    Ok(rows)
}

/// Draws the picture, where there is something to draw and gnuplot to draw it.
pub fn draw(curves: &[Curve]) -> Result<bool> {
    if curves.is_empty() {
        return Ok(false);
    }
    if !workspace::has_program("gnuplot") {
        eprintln!("gnuplot is not installed: the curves are not drawn");
        return Ok(false);
    }
    let picture = workspace::root().join(PICTURE);
    if let Some(folder) = picture.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let mut script = format!(
        "set terminal pngcairo size 1200,400\nset output '{}'\nset multiplot layout 1,{}\n\
         set yrange [0:*]\nset ylabel 'ns a packet'\nset logscale x\nset key off\n",
        picture.display(),
        curves.len()
    );
    for curve in curves {
        let _ = writeln!(script, "set title \"{}\"\nset xlabel '{}'", curve.what.replace(", by", ",\\nby"), curve.name);
        let _ = writeln!(script, "plot '-' with linespoints pointtype 7");
        for (number, nanoseconds) in &curve.points {
            let _ = writeln!(script, "{number} {nanoseconds}");
        }
        script.push_str("e\n");
    }
    let path = directory()?.join("curves.gnuplot");
    fs::write(&path, script).with_context(|| format!("cannot write {}", path.display()))?;
    let output = Command::new("gnuplot").arg(&path).output().context("cannot start gnuplot")?;
    if !output.status.success() {
        bail!("gnuplot: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(true)
}
