//! *Monitor health*: what is watched, what is missed, what it costs.

use super::model::{Dashboard, Panel, Row};

/// The dashboard.
pub fn dashboard() -> Dashboard {
    Dashboard {
        name: "monitor-health",
        title: "API exposure / Monitor health",
        description: "Whether the monitors see what they should: attached, evidence, losses, discovery, cost.",
        rows: vec![one_look(), attached(), losses(), discovery(), cost()],
    }
}

fn rate(counter: &str, selector: &str, by: &str) -> String {
    format!("sum by ({by}) (rate({counter}{{$here{selector}}}[$__rate_interval])) > 0")
}

fn one_look() -> Row {
    Row {
        title: "One look",
        height: 4,
        panels: vec![
            Panel::stat("Monitors", "Monitors that answered the last scrape.", "none")
                .query("count(api_exposure_build_info{$here})", "")
                .green_from(1.0)
                .none("NONE")
                .runbook("ApiExposureMonitorAbsent")
                .width(4),
            Panel::stat("Interfaces read", "Interfaces to which TC is attached, over all monitors.", "none")
                .query(r#"sum(api_exposure_attached{$here,hook="tc"})"#, "")
                .green_from(1.0)
                .none("NONE")
                .runbook("ApiExposureMonitorBlindNotAttached")
                .width(4),
            Panel::stat("Interfaces not read", "Interfaces to which TC should be attached and is not.", "none")
                .query(
                    r#"sum(api_exposure_not_attached{$here,hook="tc"}) or 0 * count(api_exposure_build_info{$here})"#,
                    "",
                )
                .red_from(1.0)
                .none("NO MONITOR")
                .runbook("ApiExposureMonitorBlindNotAttached")
                .width(4),
            Panel::stat("Records lost", "The largest share of records that a monitor lost within 5 minutes.", "percentunit")
                .query("max(instance:api_exposure_records_lost:ratio_rate5m{$here})", "")
                .red_from(0.01)
                .none("no traffic")
                .runbook("ApiExposureMonitorBlindLosingRecords")
                .width(4),
            Panel::stat("Connections lost", "The largest share of connections that a full table took from a monitor's sight.", "percentunit")
                .query("max(instance:api_exposure_flows_lost:ratio_rate5m{$here})", "")
                .red_from(0.01)
                .none("no traffic")
                .runbook("ApiExposureMonitorBlindLosingRecords")
                .width(4),
            Panel::stat("Probe's self-test", "Whether the probe sees the monitor's own anonymous request.", "none")
                .query(
                    r#"min(api_exposure_self_test_success{$here} and on (cluster, node, instance) api_exposure_detection_tier{tier="probe",reason="working"} == 1)"#,
                    "",
                )
                .green_from(1.0)
                .word("0", "FAILS", "red")
                .word("1", "passes", "green")
                .none("no probe")
                .runbook("ApiExposureMonitorBlindSelfTest")
                .width(4),
        ],
    }
}

fn attached() -> Row {
    Row {
        title: "What is watched",
        height: 9,
        panels: vec![
            Panel::table(
                "Attached",
                "Programs of the monitor, by interface, hook and way of attaching.",
                "none",
                &[("node", "node"), ("interface", "interface"), ("hook", "hook"), ("mode", "mode"), ("Value", "attached")],
            )
            .query("max by (node, interface, hook, mode) (api_exposure_attached{$here})", "")
            .none("nothing attached")
            .runbook("ApiExposureMonitorBlindNotAttached")
            .width(8),
            Panel::table(
                "Not attached, and why",
                "Without XDP, TC counts instead; without TC nothing is read there. A program of others that is first may hide packets.",
                "none",
                &[("node", "node"), ("interface", "interface"), ("hook", "hook"), ("reason", "reason"), ("Value", "missing")],
            )
            .query("max by (node, interface, hook, reason) (api_exposure_not_attached{$here}) > 0", "")
            .query(
                r#"label_replace(max by (node, interface, hook) (api_exposure_behind_others{$here}) > 0, "reason", "behind others", "", "")"#,
                "",
            )
            .none("all attached")
            .runbook("ApiExposureMonitorBlindNotAttached")
            .width(8),
            Panel::table(
                "Evidence",
                "Which source of evidence works, and why one does not.",
                "none",
                &[("node", "node"), ("tier", "evidence"), ("reason", "state"), ("Value", "works")],
            )
            .query("max by (node, tier, reason) (api_exposure_detection_tier{$here})", "")
            .word("0", "no", "text")
            .word("1", "yes", "green")
            .runbook("ApiExposureMonitorBlindTierFallen")
            .width(8),
        ],
    }
}

fn losses() -> Row {
    Row {
        title: "What is missed",
        height: 8,
        panels: vec![
            Panel::lines("Records", "Records a second that the kernel side sent and that user space took.", "cps")
                .query(rate("api_exposure_records_sent_total", "", "node"), "{{node}} sent")
                .query(rate("api_exposure_records_received_total", "", "node"), "{{node}} received")
                .runbook("ApiExposureMonitorBlindLosingRecords"),
            Panel::areas("Losses", "Records, connections and lines of events a second that were lost, and records that made no sense.", "cps")
                .query(rate("api_exposure_records_lost_total", "", "reason"), "records: {{reason}}")
                .query(rate("api_exposure_records_malformed_total", "", "node"), "malformed records")
                .query(rate("api_exposure_flows_evicted_total", "", "node"), "connections evicted")
                .query(rate("api_exposure_event_lines_lost_total", "", "node"), "lines of events")
                .query(rate("api_exposure_probe_lost_total", "", "reason"), "probe: {{reason}}")
                .none("nothing lost")
                .runbook("ApiExposureMonitorBlindLosingRecords"),
            Panel::areas(
                "Packets that could not be read",
                "Packets a second that were left alone because they are cut, malformed, a fragment, in a tunnel, or found a table full.",
                "pps",
            )
            .query(
                rate(
                    "api_exposure_skipped_packets_total",
                    r#",reason=~"truncated|malformed|later_fragment|too_many_vlan_tags|too_many_extension_headers|encrypted|vxlan|geneve|gre|ip_in_ip|wireguard|table_full|ring_full""#,
                    "reason",
                ),
                "{{reason}}",
            )
            .none("none")
            .runbook("ApiExposureMonitorBlindLosingRecords"),
            Panel::areas("Holes in streams", "Holes a second, by why the bytes are missing. left_out is on purpose.", "cps")
                .query(rate("api_exposure_reassembly_gaps_total", "", "reason"), "{{reason}}")
                .none("none")
                .runbook("ApiExposureMonitorBlindLosingRecords"),
            Panel::lines(
                "Signs of hiding",
                "Bytes a second that differed from their first copy, or that belong nowhere in their stream: what somebody sends who wants to hide from a monitor.",
                "Bps",
            )
            .query(rate("api_exposure_reassembly_conflicting_bytes_total", "", "node"), "{{node}} conflicting")
            .query(rate("api_exposure_reassembly_outside_bytes_total", "", "node"), "{{node}} outside")
            .none("none")
            .runbook("ApiExposureMonitorBlindLosingRecords"),
            Panel::lines("Connections followed", "Connections that user space follows now.", "short")
                .query("sum by (node) (api_exposure_flows_tracked{$here})", "{{node}}")
                .runbook("ApiExposureMonitorBlindLosingRecords"),
        ],
    }
}

fn discovery() -> Row {
    Row {
        title: "What it knows of cluster and API server",
        height: 8,
        panels: vec![
            Panel::table(
                "Discovery from the Kubernetes API",
                "Objects known of each kind. Classes of sources are as good as this.",
                "short",
                &[("node", "node"), ("object", "objects"), ("Value", "known")],
            )
            .query("max by (node, object) (api_exposure_discovery_objects{$here})", "")
            .none("not asked for")
            .runbook("ApiExposureMonitorBlindTierFallen"),
            Panel::lines("Errors of discovery", "Errors a second, by kind of object and reason.", "cps")
                .query(rate("api_exposure_discovery_errors_total", "", "object, reason"), "{{object}}: {{reason}}")
                .none("none")
                .runbook("ApiExposureMonitorBlindTierFallen"),
            Panel::lines("Lines of the audit log", "Lines a second, by kind; those that made no sense.", "cps")
                .query(rate("api_exposure_audit_events_total", "", "kind"), "{{kind}}")
                .query(rate("api_exposure_audit_malformed_lines_total", "", "node"), "malformed")
                .none("not asked for")
                .runbook("ApiExposureMonitorBlindTierFallen"),
        ],
    }
}

fn cost() -> Row {
    Row {
        title: "What it costs",
        height: 8,
        panels: vec![
            Panel::lines("Processor, user side", "Cores that the monitor uses.", "short")
                .query(
                    "sum by (node) (rate(process_cpu_seconds_total{$here}[$__rate_interval]) and on (job, instance) api_exposure_build_info)",
                    "{{node}}",
                )
                .runbook("ApiExposureMonitorBlindLosingRecords"),
            Panel::lines(
                "Processor, kernel side",
                "Cores that the programs use; counted while the sysctl kernel.bpf_stats_enabled is 1.",
                "short",
            )
            .query(rate("api_exposure_kernel_program_run_seconds_total", "", "program"), "{{program}}")
            .none("kernel.bpf_stats_enabled is 0")
            .runbook("ApiExposureMonitorBlindLosingRecords"),
            Panel::lines("Memory, user side", "Resident memory of the monitor, without the kernel's maps.", "bytes")
                .query(
                    "sum by (node) (process_resident_memory_bytes{$here} and on (job, instance) api_exposure_build_info)",
                    "{{node}}",
                )
                .runbook("ApiExposureMonitorBlindLosingRecords"),
        ],
    }
}
