//! *Exposure*: who reaches the API, from where, how. The first row says red or green.

use super::model::{Dashboard, Panel, Row, within};

/// Kinds that open something; HTTP that the TLS port refuses opens nothing.
const OPENS: &str = r#"kind!="plaintext_to_secure_port""#;

/// The dashboard.
pub fn dashboard() -> Dashboard {
    Dashboard {
        name: "exposure",
        title: "API exposure / Exposure",
        description: "Who reaches the Kubernetes API, from where and how, and what of that should not have been possible.",
        rows: vec![one_look(), over_time(), who(), configuration()],
    }
}

fn one_look() -> Row {
    let hour = |selector: &str| format!("round(sum(increase(api_exposure_exposures_total{{$here,{selector}}}[1h])))");
    let allowed = within(
        r#"api_exposure_anonymous_requests_total{$here,decision="allowed",evidence=~"probe|audit",path_class!~"health|version|cluster_info"}"#,
        "1h",
    );
    Row {
        title: "One look: the last hour",
        height: 5,
        panels: vec![
            Panel::stat(
                "Exposed",
                "How many kinds of exposure were seen within the last hour; green only while a monitor says so.",
                "suffix: kinds",
            )
            .query(
                format!("sum(ceil(sum by (kind) (increase(api_exposure_exposures_total{{$here,{OPENS}}}[1h]))) > bool 0)"),
                "",
            )
            .red_from(1.0)
            .word("0", "NOTHING SEEN", "green")
            .none("NO MONITOR")
            .runbook("ApiExposureMonitorAbsent")
            .width(6),
            Panel::stat(
                "Plaintext API, beyond loopback",
                "Connections within the last hour on which the Kubernetes API answered in the clear to more than loopback.",
                "short",
            )
            .query(hour(r#"kind="plaintext_api",source!="loopback""#), "")
            .red_from(0.5)
            .runbook("ApiExposurePlaintextOpen")
            .width(3),
            Panel::stat(
                "Plaintext API, loopback",
                "Connections within the last hour on which the Kubernetes API answered in the clear over loopback.",
                "short",
            )
            .query(hour(r#"kind="plaintext_api",source="loopback""#), "")
            .yellow_from(0.5)
            .runbook("ApiExposurePlaintextRequests")
            .width(3),
            Panel::stat(
                "Anonymous and allowed",
                "Exact: anonymous requests within the last hour that the API server allowed, beyond health, version and \
                 cluster-info. No data where neither probe nor audit log works, and before the first one.",
                "short",
            )
            .query(
                format!("round(max(sum by (evidence) ({allowed}))) or 0 * sum(api_exposure_detection_tier{{$here,tier=~\"probe|audit\",reason=\"working\"}})"),
                "",
            )
            .red_from(0.5)
            .none("not known")
            .runbook("ApiExposureAnonymousAllowed")
            .width(3),
            Panel::stat(
                "From outside",
                "Connections with payload within the last hour from public addresses (and private ones, where those count \
                 as external).",
                "short",
            )
            .query(hour(r#"kind="external_source""#), "")
            .red_from(0.5)
            .runbook("ApiExposurePublicSource")
            .width(3),
            Panel::stat(
                "By NodePort",
                "Connections within the last hour that came in by the NodePort of the kubernetes Service.",
                "short",
            )
            .query(hour(r#"kind="node_port""#), "")
            .red_from(0.5)
            .runbook("ApiExposureNodePortPublic")
            .width(3),
            Panel::stat(
                "Serious findings",
                "Configuration findings of high or critical severity that hold now, over all API servers.",
                "short",
            )
            .query(r#"sum(api_exposure_configuration_finding{$here,severity=~"critical|high"})"#, "")
            .red_from(0.5)
            .none("not checked")
            .runbook("ApiExposureConfigurationFinding")
            .width(3),
        ],
    }
}

fn over_time() -> Row {
    Row {
        title: "Over time",
        height: 8,
        panels: vec![
            Panel::areas(
                "Exposures by kind",
                "Connections on which an exposure was seen, once for each kind.",
                "short",
            )
            .query("sum by (kind) (increase(api_exposure_exposures_total{$here}[$__rate_interval])) > 0", "{{kind}}")
            .none("no exposure seen")
            .runbook("ApiExposurePlaintextOpen")
            .width(12),
            Panel::areas("Exposures by source", "The same by where the client's address belongs.", "short")
                .query(
                    "sum by (source) (increase(api_exposure_exposures_total{$here}[$__rate_interval])) > 0",
                    "{{source}}",
                )
                .none("no exposure seen")
                .runbook("ApiExposurePublicSource")
                .width(12),
        ],
    }
}

fn who() -> Row {
    let counted = |counter: &str, by: &str| {
        format!("sort_desc(round(sum by ({by}) ({})) > 0)", within(&format!("{counter}{{$here}}"), "$__range"))
    };
    Row {
        title: "Who reaches the API, and how: the whole time range",
        height: 9,
        panels: vec![
            Panel::table(
                "Connections",
                "Connections with payload, by where the client's address belongs, what the port is meant to be and what was spoken.",
                "short",
                &[("source", "source"), ("role", "port"), ("protocol", "protocol"), ("Value", "connections")],
            )
            .query(counted("api_exposure_connections_total", "source, role, protocol"), "")
            .runbook("ApiExposurePublicSource")
            .width(8),
            Panel::table(
                "Exposures",
                "Connections on which an exposure was seen, by kind and source.",
                "short",
                &[("kind", "exposure"), ("source", "source"), ("Value", "connections")],
            )
            .query("sort_desc(round(sum by (kind, source) (increase(api_exposure_exposures_total{$here}[$__range]))) > 0)", "")
            .none("no exposure seen")
            .runbook("ApiExposurePlaintextOpen")
            .width(8),
            Panel::table(
                "Requests in the clear",
                "Requests read in the clear: what they do, what their path leads to, with which credential, and the answer.",
                "short",
                &[
                    ("source", "source"),
                    ("verb", "verb"),
                    ("path_class", "path"),
                    ("credential", "credential"),
                    ("status", "status"),
                    ("Value", "requests"),
                ],
            )
            .query(counted("api_exposure_plaintext_requests_total", "source, verb, path_class, credential, status"), "")
            .none("none read")
            .runbook("ApiExposurePlaintextOpen")
            .width(8),
        ],
    }
}

fn configuration() -> Row {
    Row {
        title: "Configuration",
        height: 8,
        panels: vec![
            Panel::table(
                "Findings",
                "What the API servers' configuration opens, now. The command check says what was read where and what to do.",
                "none",
                &[("finding", "finding"), ("severity", "severity"), ("node", "node"), ("Value", "found")],
            )
            .query("max by (finding, severity, node) (api_exposure_configuration_finding{$here}) > 0", "")
            .none("nothing found, or not checked")
            .runbook("ApiExposureConfigurationFinding")
            .width(12),
            Panel::stat(
                "Serving certificate ends in",
                "Time until the first of the API servers' serving certificates ends.",
                "s",
            )
            .query("min(api_exposure_serving_certificate_expiry_timestamp_seconds{$here} - time())", "")
            .green_from(1_209_600.0)
            .none("not read")
            .runbook("ApiExposureCertificateExpires")
            .width(4),
            Panel::stat(
                "Anonymous requests are",
                "What the configuration says of anonymous requests: all, some paths only, off, or unknown.",
                "none",
            )
            .query("max by (mode) (api_exposure_anonymous_auth_mode{$here} == 1)", "{{mode}}")
            .plain()
            .word("1", "as configured", "blue")
            .none("not read")
            .runbook("ApiExposureAnonymousAllowed")
            .width(4),
            Panel::stat(
                "Configuration read",
                "How long ago the API servers' configuration was last read.",
                "s",
            )
            .query("max(time() - api_exposure_configuration_checked_timestamp_seconds{$here})", "")
            .yellow_from(7200.0)
            .none("never")
            .runbook("ApiExposureConfigurationFinding")
            .width(4),
        ],
    }
}
