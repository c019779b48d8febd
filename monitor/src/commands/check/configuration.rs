//! The lines about the API server's configuration, and the exit code that they make.

use std::time::SystemTime;

use super::{Finding, Status, finding};
use crate::config::Settings;
use crate::configuration::system::{self, Places};
use crate::configuration::{Report, Severity};

/// The configuration has findings that matter to whoever asks.
#[derive(Debug, thiserror::Error)]
#[error("the API server's configuration has {count} findings of severity {severity} or worse")]
pub struct Exposed {
    count: usize,
    severity: &'static str,
}

/// Reads what is here.
pub fn look(settings: &Settings) -> Report {
    let places = Places { proc: "/proc".into(), manifest: settings.manifest.clone() };
    system::look(&places, SystemTime::now())
}

/// One line for each thing that was looked at, the worst first.
pub fn lines(report: &Report) -> Vec<Finding> {
    let mut lines: Vec<Finding> = report
        .unreadable
        .iter()
        .map(|(source, why)| finding(format!("configuration {}", source.label()), Status::Limited, why.as_str()))
        .collect();
    if report.subjects.is_empty() && report.unreadable.is_empty() {
        let found = "no API server was found on this node: in a pod its process is seen with hostPID, its manifest where it \
                     is mounted";
        lines.push(finding("configuration", Status::Limited, found));
    }
    let fine = report.findings.iter().filter(|finding| !finding.found);
    lines.extend(report.found().into_iter().chain(fine).map(line));
    lines
}

fn line(about: &crate::configuration::Finding) -> Finding {
    let cis = about.cis.map(|cis| format!(", CIS {cis}")).unwrap_or_default();
    let (status, found) = match about.advice {
        None => (Status::Ok, about.evidence.clone()),
        Some(advice) => (
            Status::Limited,
            format!("{}{cis}: {}; {}. To do: {advice}", about.severity.label(), about.subject, about.evidence),
        ),
    };
    Finding {
        check: format!("configuration {}", about.kind.label()),
        status,
        found,
        configuration: Some(about.clone()),
    }
}

/// Whether nothing was found that is as severe as this.
///
/// # Errors
/// There is.
pub fn judge(report: &Report, at_least: Option<Severity>) -> anyhow::Result<()> {
    let Some(at_least) = at_least else { return Ok(()) };
    let count = report.found().iter().filter(|finding| finding.severity >= at_least).count();
    if count > 0 {
        return Err(Exposed { count, severity: at_least.label() }.into());
    }
    Ok(())
}
