//! What the machines reported, as one table: features down, kernels across.

use std::fmt;
use std::time::Duration;

/// The verifier gives up on a program after a million instructions (BPF_COMPLEXITY_LIMIT_INSNS in the kernel's
/// include/linux/bpf.h). Half of that is the budget: 5.10 and 6.1 follow several times as many as later kernels, and a
/// change that comes near the limit is to be seen before a kernel refuses it.
const INSTRUCTIONS: u64 = 500_000;

/// How the rows begin whose words are a count of instructions.
const COUNT: &str = "verifier: ";

/// One kernel's results.
#[derive(Debug, PartialEq, Eq)]
pub struct Column {
    release: String,
    rows: Vec<Row>,
    took: Duration,
}

#[derive(Debug, PartialEq, Eq)]
struct Row {
    name: String,
    outcome: Outcome,
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Works(String),
    Absent(String),
    Failed(String),
}

impl Column {
    /// Reads a report; `None` when it has no end.
    pub fn read(release: &str, report: &str, took: Duration) -> Option<Self> {
        let mut rows = Vec::new();
        let mut ended = false;
        for line in report.lines() {
            ended |= line.trim() == "end";
            let mut fields = line.trim_end().splitn(4, '\t');
            if fields.next() != Some("row") {
                continue;
            }
            let (name, word, words) = (fields.next()?, fields.next()?, fields.next().unwrap_or_default().to_owned());
            let outcome = match word {
                "works" => within_budget(name, words),
                "absent" => Outcome::Absent(words),
                _ => Outcome::Failed(words),
            };
            rows.push(Row { name: name.to_owned(), outcome });
        }
        ended.then(|| Self { release: release.to_owned(), rows, took })
    }

    /// How many tests failed.
    pub fn failures(&self) -> usize {
        self.rows.iter().filter(|row| matches!(row.outcome, Outcome::Failed(_))).count()
    }

    fn cell(&self, name: &str) -> String {
        let row = self.rows.iter().find(|row| row.name == name);
        match row.map(|row| &row.outcome) {
            Some(Outcome::Works(words)) if words.is_empty() => "yes".to_owned(),
            Some(Outcome::Works(words)) => words.clone(),
            Some(Outcome::Absent(words)) => format!("- ({words})"),
            Some(Outcome::Failed(_)) => "FAILED".to_owned(),
            None => "?".to_owned(),
        }
    }
}

/// A count over the budget is a failure.
fn within_budget(name: &str, words: String) -> Outcome {
    if !name.starts_with(COUNT) {
        return Outcome::Works(words);
    }
    match words.parse::<u64>() {
        Ok(count) if count <= INSTRUCTIONS => Outcome::Works(words),
        Ok(count) => Outcome::Failed(format!("{count} instructions, more than the budget of {INSTRUCTIONS}")),
        Err(_) => Outcome::Failed(format!("`{words}` is no count")),
    }
}

/// The columns side by side, then the words of what failed.
pub struct Table<'a>(pub &'a [Column]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<&str> = Vec::new();
        for row in self.0.iter().flat_map(|column| &column.rows) {
            if !names.contains(&row.name.as_str()) {
                names.push(&row.name);
            }
        }
        let mut lines: Vec<(String, Vec<String>)> =
            vec![(String::new(), self.0.iter().map(|column| column.release.clone()).collect())];
        lines.extend(
            names.iter().map(|name| ((*name).to_owned(), self.0.iter().map(|column| column.cell(name)).collect())),
        );
        let took = self.0.iter().map(|column| format!("{} s", column.took.as_secs())).collect();
        lines.push(("took".to_owned(), took));
        let first = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.0.len())
            .map(|at| lines.iter().map(|(_, cells)| cells[at].chars().count()).max().unwrap_or(0))
            .collect();
        for (name, cells) in &lines {
            write!(f, "{name:first$}")?;
            for (cell, width) in cells.iter().zip(&widths) {
                write!(f, "  {cell:>width$}")?;
            }
            writeln!(f)?;
        }
        writeln!(f, "verifier: instructions that it followed; the budget is {INSTRUCTIONS}")?;
        for column in self.0 {
            for row in &column.rows {
                if let Outcome::Failed(words) = &row.outcome {
                    writeln!(f, "FAILED on {}: {}: {words}", column.release, row.name)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "row\tloads\tworks\t\r\nrow\tverifier: a\tworks\t500000\r\nrow\tverifier: b\tworks\t500001\r\n\
                          row\ttcx\tabsent\tfrom 6.6\r\nrow\tlo\tfailed\tno\tword\r\nnoise\r\nend\r\n";

    #[test]
    fn a_report_becomes_a_column_and_the_budget_is_kept() {
        let column = Column::read("6.1", REPORT, Duration::from_secs(3)).unwrap();
        assert_eq!(column.failures(), 2);
        let cells: Vec<_> =
            ["loads", "verifier: a", "verifier: b", "tcx", "lo", "x"].map(|row| column.cell(row)).into();
        assert_eq!(cells, ["yes", "500000", "FAILED", "- (from 6.6)", "FAILED", "?"]);
        let text = Table(&[column]).to_string();
        assert!(
            text.contains("FAILED on 6.1: verifier: b: 500001 instructions, more than the budget of 500000"),
            "{text}"
        );
        assert!(text.contains("FAILED on 6.1: lo: no\tword"), "{text}");
    }

    #[test]
    fn a_report_without_its_end_is_none() {
        let cut = REPORT.strip_suffix("end\r\n").unwrap();
        assert_eq!(Column::read("6.1", cut, Duration::ZERO), None);
        assert_eq!(Column::read("6.1", "", Duration::ZERO), None);
    }
}
