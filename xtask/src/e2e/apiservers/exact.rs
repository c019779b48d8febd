//! What the probe and the audit log's reader counted and told, beside the audit log itself: request by request, in both
//! directions.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use crate::e2e::audit::Request;
use crate::e2e::control_plane::ControlPlane;
use crate::e2e::monitor::{Monitor, Scrape};
use crate::interrupt;
use crate::lab::Lab;

use super::compare::{self, Outcome};

/// How long a counter may be behind the audit log.
const BEHIND: Duration = Duration::from_secs(10);
/// How long the probe may take to find its server, attach and try itself.
const ATTACHED: Duration = Duration::from_secs(30);
const ANONYMOUS: &str = "api_exposure_anonymous_requests_total";
const AGREEMENT: &str = "api_exposure_inference_agreement_total";
const LABELS: [&str; 3] = ["source", "verb", "path_class"];

/// What the audit log has.
pub struct Truth<'a> {
    /// Requests of `system:anonymous`.
    pub anonymous: Vec<&'a Request>,
    /// Requests to the insecure port, which the audit log's reader tells of as well.
    pub unsecured: Vec<&'a Request>,
    /// Requests about which the anonymous authenticator was asked: those, and those that its conditions refused.
    pub without: Vec<&'a Request>,
}

/// Waits until the probe has seen the monitor's own request.
pub fn wait_until_at_work(lab: &Lab) -> Result<()> {
    interrupt::wait_for("the probe's self-test", ATTACHED, || {
        Ok((Scrape::new(lab)?.sum("api_exposure_self_test_success", &[]) == 1).then_some(()))
    })
}

/// Compares both sources of exact evidence with the truth.
pub fn compare(
    truth: &Truth<'_>,
    control: &ControlPlane,
    monitor: &Monitor,
    authenticator: bool,
    outcome: &mut Outcome,
) -> Result<()> {
    let unsecured = truth.unsecured.as_slice();
    for (evidence, requests, more) in [("probe", &truth.without, &[][..]), ("audit", &truth.anonymous, unsecured)] {
        let counts = compare::requests(requests.iter().copied());
        let told = told(requests.iter().chain(more).map(|request| (request.source.to_string(), request.path.clone())));
        let differences = || -> Result<Vec<String>> {
            let scrape = Scrape::new(&control.lab)?;
            let counted = scrape.sums(ANONYMOUS, &[("evidence", evidence)], &LABELS);
            let mut differences = compare::differences(&format!("{evidence} counts"), &counts, &counted);
            let events = monitor.events("anonymous_request")?;
            let events = events.iter().filter(|event| event.word("/evidence") == evidence);
            let events = events.map(|event| (event.source.to_string(), event.word("/path")));
            differences.extend(compare::differences(&format!("{evidence} tells of"), &told, &self::told(events)));
            Ok(differences)
        };
        let equal = || Ok(differences()?.is_empty().then_some(()));
        if interrupt::wait_for("equal counters", BEHIND, equal).is_err() {
            interrupt::check()?;
            outcome.failures.extend(differences()?);
        }
        outcome.exact += requests.len();
    }
    if authenticator {
        let agreed = |scrape: &Scrape| scrape.sum(AGREEMENT, &[]) > 0;
        let judged = interrupt::wait_for("the inference being judged", BEHIND, || {
            Ok(Some(Scrape::new(&control.lab)?).filter(agreed))
        });
        interrupt::check()?;
        // It begins anew whenever an API server comes or goes on this machine, another one's too: none is no failure.
        let scrape = judged.or_else(|_| Scrape::new(&control.lab))?;
        at_work(&scrape, outcome);
    }
    Ok(())
}

/// The probe has to have been at work, and to have lost nothing.
fn at_work(scrape: &Scrape, outcome: &mut Outcome) {
    for (metric, with, wanted) in [
        ("api_exposure_probe_attached", &[("component", "kube_apiserver")][..], 1),
        ("api_exposure_self_test_success", &[], 1),
        ("api_exposure_probe_lost_total", &[], 0),
        ("api_exposure_probe_hits_total", &[("outcome", "no_flow")], 0),
        ("api_exposure_audit_malformed_lines_total", &[], 0),
        ("api_exposure_records_lost_total", &[], 0),
    ] {
        let is = scrape.sum(metric, with);
        if is != wanted {
            outcome.failures.push(format!("{metric}{with:?} is {is} instead of {wanted}"));
        }
    }
    let agreement = scrape.sums(AGREEMENT, &[], &["actual", "inferred"]);
    for (words, count) in agreement {
        if let [actual, inferred] = words.as_slice() {
            (0..count).for_each(|_| outcome.agreement.add(actual, inferred));
        }
    }
}

/// How often each address asked for each path.
fn told(requests: impl Iterator<Item = (String, String)>) -> BTreeMap<Vec<String>, u64> {
    let mut counts = BTreeMap::new();
    for (source, path) in requests {
        *counts.entry(vec![source, path]).or_default() += 1;
    }
    counts
}
