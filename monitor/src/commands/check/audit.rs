//! Whether the audit log can be followed here.

use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::{Finding, Status, finding};
use crate::audit::event::Event;
use crate::audit::follower;
use crate::audit::position::Position;
use crate::config::Settings;

/// Bytes at the log's end that are looked at for an event.
const LOOKED_AT: u64 = 1 << 20;

/// A line for the log, and one for where the position in it is kept. `run` goes on without either.
pub fn look(settings: &Settings) -> Vec<Finding> {
    let Some(log) = &settings.audit_log else {
        let found = "not followed; --audit-log PATH takes the API server's own word on anonymous requests";
        return vec![finding("audit log", Status::Ok, found)];
    };
    let (status, found) = match readable(log) {
        Ok(found) => (Status::Ok, found.to_owned()),
        Err(trouble) => (Status::Limited, trouble),
    };
    let mut findings = vec![finding("audit log", status, format!("{}: {found}", log.display()))];
    if let Some(state) = &settings.audit_state {
        let (status, found) = match kept(state) {
            Ok(found) => (Status::Ok, found.to_owned()),
            Err(trouble) => (Status::Limited, trouble),
        };
        findings.push(finding("audit state", status, format!("{}: {found}", state.display())));
    }
    findings
}

fn readable(log: &Path) -> Result<&'static str, String> {
    let file = follower::open(log).map_err(|trouble| trouble.to_string())?;
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    let from = length.saturating_sub(LOOKED_AT);
    let mut end = vec![0; (length - from) as usize];
    // It may be cut while it is read.
    let count = file.read_at(&mut end, from).map_err(|error| format!("it cannot be read: {error}"))?;
    let mut lines = end[..count].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).peekable();
    if lines.peek().is_none() {
        return Ok("it can be read, and is empty yet");
    }
    if lines.any(|line| Event::from_json(line).is_ok()) {
        Ok("it can be read, and has audit events in JSON")
    } else {
        Err("no line at its end is an audit event in JSON; is it the file of the API server's --audit-log-path, and \
             --audit-log-format json?"
            .to_owned())
    }
}

fn kept(state: &Path) -> Result<&'static str, String> {
    let position = Position::load(state).map_err(|error| error.to_string())?;
    let folder = state.parent().filter(|folder| folder.is_dir());
    let folder = folder.ok_or("its folder is not there: make it, or choose another path")?;
    tempfile_in(folder).map_err(|error| format!("its folder cannot be written to: {error}"))?;
    Ok(match position {
        Some(_) => "the position that an earlier process left is there",
        None => "no position is there yet: the log will be followed from its end",
    })
}

/// Whether a file can be made there; it has no name, so nothing is left behind.
fn tempfile_in(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(folder).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(log: &Path, state: Option<&Path>) -> Vec<(Status, String)> {
        let settings =
            Settings { audit_log: Some(log.to_owned()), audit_state: state.map(Path::to_owned), ..Settings::default() };
        look(&settings).into_iter().map(|finding| (finding.status, finding.found)).collect()
    }

    #[test]
    fn what_can_be_followed_and_what_not() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("audit.log");
        let said = |expected: Status, words: &str| {
            let findings = of(&log, None);
            assert_eq!(findings[0].0, expected, "{findings:?}");
            assert!(findings[0].1.contains(words) && findings[0].1.contains("audit.log"), "{findings:?}");
        };
        said(Status::Limited, "there is no such file");
        std::fs::create_dir(&log).unwrap();
        said(Status::Limited, "it is no file");
        std::fs::remove_dir(&log).unwrap();
        std::fs::write(&log, "").unwrap();
        said(Status::Ok, "empty");
        std::fs::write(&log, "nonsense\n").unwrap();
        said(Status::Limited, "no line");
        let event = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","auditID":"1","stage":"ResponseComplete","requestURI":"/","verb":"get"}"#;
        std::fs::write(&log, format!("end of one}}\n{event}\n{{\"half")).unwrap();
        said(Status::Ok, "has audit events");

        let state = folder.path().join("audit.state");
        assert_eq!(of(&log, Some(&state))[1].0, Status::Ok);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing was left");
        assert_eq!(of(&log, Some(&folder.path().join("missing/state")))[1].0, Status::Limited);
        std::fs::write(&state, "nonsense").unwrap();
        assert_eq!(of(&log, Some(&state))[1].0, Status::Limited);
        assert_eq!(look(&Settings::default())[0].status, Status::Ok);
    }
}
