//! *Anonymous access*: who comes without a credential, what they ask for, what they get; exact and inferred apart.

use super::model::{Dashboard, Panel, Row, within};

const EXPECTED: &str = r#"path_class=~"health|version|cluster_info""#;
const UNEXPECTED: &str = r#"path_class!~"health|version|cluster_info""#;

/// The dashboard.
pub fn dashboard() -> Dashboard {
    Dashboard {
        name: "anonymous-access",
        title: "API exposure / Anonymous access",
        description: "Requests without a credential: exact from the probe and the audit log, inferred where neither works.",
        rows: vec![now(), exact(), refused(), inferred()],
    }
}

/// Probe and audit log tell of the same requests: the larger counts, never the sum.
fn hour(selector: &str) -> String {
    let counter = format!(r#"api_exposure_anonymous_requests_total{{$here,evidence=~"probe|audit",{selector}}}"#);
    let working = r#"0 * sum(api_exposure_detection_tier{$here,tier=~"probe|audit",reason="working"})"#;
    format!("round(max(sum by (evidence) ({}))) or {working}", within(&counter, "1h"))
}

fn now() -> Row {
    Row {
        title: "The last hour",
        height: 5,
        panels: vec![
            Panel::stat(
                "Allowed, beyond what is public",
                "Exact: anonymous requests that the API server allowed for more than health, version and cluster-info.",
                "short",
            )
            .query(hour(&format!(r#"decision="allowed",{UNEXPECTED}"#)), "")
            .red_from(0.5)
            .none("not known")
            .runbook("ApiExposureAnonymousAllowed")
            .width(5),
            Panel::stat(
                "Refused or unknown, beyond what is public",
                "Exact: anonymous requests for more than health, version and cluster-info that were refused, or of which it \
                 is not known what became of them.",
                "short",
            )
            .query(hour(&format!(r#"decision!="allowed",{UNEXPECTED}"#)), "")
            .yellow_from(5.5)
            .none("not known")
            .runbook("ApiExposureAnonymousProbing")
            .width(5),
            Panel::stat(
                "Expected",
                "Exact: anonymous requests for health, version and cluster-info: kubelets, load balancers, joining nodes.",
                "short",
            )
            .query(hour(EXPECTED), "")
            .plain()
            .none("not known")
            .runbook("ApiExposureAnonymousAllowed")
            .width(5),
            Panel::stat("Anonymous requests are", "What the configuration says of anonymous requests.", "none")
                .query("max by (mode) (api_exposure_anonymous_auth_mode{$here} == 1)", "{{mode}}")
                .plain()
                .word("1", "as configured", "blue")
                .none("not read")
                .runbook("ApiExposureAnonymousAllowed")
                .width(4),
            Panel::table(
                "Evidence",
                "Which source of evidence works. Probe and audit log are exact; without them anonymous requests inside TLS are inferred or unknown.",
                "none",
                &[("tier", "evidence"), ("reason", "state"), ("node", "node"), ("Value", "works")],
            )
            .query(r#"max by (tier, reason, node) (api_exposure_detection_tier{$here,tier=~"probe|audit|goaway"})"#, "")
            .word("0", "no", "text")
            .word("1", "yes", "green")
            .runbook("ApiExposureMonitorBlindTierFallen")
            .width(5),
        ],
    }
}

fn exact() -> Row {
    let by = |selector: &str, label: &str| {
        format!(
            r#"max by ({label}) (sum by ({label}, evidence) (rate(api_exposure_anonymous_requests_total{{$here,evidence=~"probe|audit"{selector}}}[$__rate_interval]))) > 0"#
        )
    };
    Row {
        title: "Exact: probe and audit log",
        height: 8,
        panels: vec![
            Panel::areas("By source", "Anonymous requests a second by where the client's address belongs.", "reqps")
                .query(by("", "source"), "{{source}}")
                .none("none seen, or no exact evidence")
                .runbook("ApiExposureAnonymousProbing"),
            Panel::areas("By what the path leads to", "Anonymous requests a second by class of path.", "reqps")
                .query(by("", "path_class"), "{{path_class}}")
                .none("none seen, or no exact evidence")
                .runbook("ApiExposureAnonymousProbing"),
            Panel::areas(
                "Unexpected, by decision",
                "Anonymous requests a second for more than health, version and cluster-info, by what became of them.",
                "reqps",
            )
            .query(by(&format!(",{UNEXPECTED}"), "decision"), "{{decision}}")
            .none("none seen, or no exact evidence")
            .runbook("ApiExposureAnonymousAllowed"),
        ],
    }
}

fn refused() -> Row {
    Row {
        title: "Refused: the audit log",
        height: 8,
        panels: vec![
            Panel::areas("Answered with 401", "Requests a second that were not authenticated, by reason: no credential, or a bad one.", "reqps")
                .query(
                    "sum by (source, reason) (rate(api_exposure_unauthenticated_responses_total{$here}[$__rate_interval])) > 0",
                    "{{source}}: {{reason}}",
                )
                .none("none, or no audit log")
                .runbook("ApiExposureAnonymousProbing"),
            Panel::areas(
                "Refused by NodeRestriction",
                "Requests a second with which a kubelet's credential reached for what is not its node's.",
                "reqps",
            )
            .query(
                "sum by (resource, reason) (rate(api_exposure_node_restriction_refused_total{$here}[$__rate_interval])) > 0",
                "{{resource}}: {{reason}}",
            )
            .none("none, or no audit log")
            .runbook("ApiExposureConfigurationFinding"),
            Panel::areas("In the clear, without a credential", "Exact: requests a second that were read in the clear and had no credential.", "reqps")
                .query(
                    r#"sum by (source, decision) (rate(api_exposure_anonymous_requests_total{$here,evidence="plaintext"}[$__rate_interval])) > 0"#,
                    "{{source}}: {{decision}}",
                )
                .none("none read")
                .runbook("ApiExposurePlaintextOpen"),
        ],
    }
}

fn inferred() -> Row {
    Row {
        title: "Inferred: packet sizes",
        height: 8,
        panels: vec![
            Panel::areas(
                "First requests by source, inferred",
                "Inferred, not exact: connections a second whose first request the API server answered as anonymous or refused (401).",
                "cps",
            )
            .query(
                r#"sum by (source, first_request) (rate(api_exposure_first_requests_inferred_total{$here,first_request=~"anonymous|refused"}[$__rate_interval])) > 0"#,
                "{{source}}: {{first_request}}",
            )
            .none("none told")
            .runbook("ApiExposureAnonymousProbingInferred")
            .width(12),
            Panel::table(
                "Inferred beside exact",
                "Where the probe works, what was inferred of the same connections beside what it knows: how far to trust the inferred series of this cluster.",
                "short",
                &[("inferred", "inferred"), ("actual", "actual"), ("Value", "connections")],
            )
            .query("sum by (inferred, actual) (api_exposure_inference_agreement_total{$here}) > 0", "")
            .none("no probe")
            .runbook("ApiExposureAnonymousProbingInferred")
            .width(12),
        ],
    }
}
