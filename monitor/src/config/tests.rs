use std::path::Path;

use clap::{Args as _, Command, FromArgMatches as _};

use super::*;

fn from_flags(words: &[&str]) -> SettingsArgs {
    let command = SettingsArgs::augment_args(Command::new("test"));
    let matches = command.try_get_matches_from(std::iter::once(&"test").chain(words)).unwrap();
    SettingsArgs::from_arg_matches(&matches).unwrap()
}

fn load(words: &[&str]) -> Result<Settings, String> {
    Settings::load(&from_flags(words)).map_err(|error| error.to_string())
}

fn from_file(text: &str) -> Result<Settings, String> {
    Settings::from_toml(Path::new("monitor.toml"), text).map_err(|error| error.to_string())
}

fn addresses(words: &[&str]) -> Vec<IpAddr> {
    words.iter().map(|word| word.parse().unwrap()).collect()
}

fn nets(words: &[&str]) -> Vec<IpNet> {
    words.iter().map(|word| word.parse().unwrap()).collect()
}

#[test]
fn defaults() {
    let expected = Settings {
        secure_port: vec![6443],
        insecure_port: vec![8080, 8001],
        node_port: vec![],
        interface: vec![],
        node_address: vec![],
        cluster_node_cidr: vec![],
        pod_cidr: vec![],
        service_cidr: vec![],
        trusted_cidr: vec![],
        private_is_external: false,
        expected_sni: vec![],
        unauthenticated_goaway: UnauthenticatedGoaway::Auto,
        discover_plaintext: OnOff::On,
        probe: OnOff::Off,
        listen: "127.0.0.1:9464".parse().unwrap(),
        xdp_generic: false,
        tcx: true,
        audit_log: None,
        audit_state: None,
        discovery: DiscoveryMode::Auto,
        kubeconfig: None,
        manifest: None,
        output: None,
    };
    assert_eq!(Settings::default(), expected);
    assert_eq!(load(&[]), Ok(expected.clone()));
    assert_eq!(from_file(""), Ok(expected));
}

/// One line for each setting: the flag's words and the file's line that mean the same.
const SAME: &[(&[&str], &str)] = &[
    (&["--secure-port", "6443,8443"], "secure_port = [6443, 8443]"),
    (&["--secure-port", "6443", "--secure-port", "8443"], "secure_port = '6443,8443'"),
    (&["--insecure-port", "9090"], "insecure_port = 9090"),
    (&["--insecure-port", ""], "insecure_port = []"),
    (&["--node-port", "31443, 31444,31443"], "node_port = ['31443', 31_444]"),
    (&["--interface", "eth*,lo"], "interface = ['eth*', 'lo']"),
    (&["--node-address", "192.168.56.10,::ffff:10.0.0.1"], "node_address = ['192.168.56.10', '10.0.0.1']"),
    (&["--cluster-node-cidr", "192.168.56.7/24"], "cluster_node_cidr = '192.168.56.0/24'"),
    (&["--pod-cidr", "10.244.0.0/16,fd00:244::/48"], "pod_cidr = ['10.244.0.0/16', 'fd00:244::/48']"),
    (&["--service-cidr", "::ffff:10.96.0.0/108"], "service_cidr = '10.96.0.0/12'"),
    (&["--trusted-cidr", "203.0.113.7,2001:db8::1"], "trusted_cidr = ['203.0.113.7/32', '2001:db8::1/128']"),
    (&["--private-is-external"], "private_is_external = true"),
    (&["--expected-sni", "API.example.com.,api"], "expected_sni = ['api.example.com', 'api']"),
    (&["--discover-plaintext", "off"], "discover_plaintext = 'off'"),
    (&["--probe", "on"], "probe = 'on'"),
    (&["--unauthenticated-goaway", "off"], "unauthenticated_goaway = 'off'"),
    (&["--listen", "[::]:9464"], "listen = '[::]:9464'"),
    (&["--xdp-generic=true"], "xdp_generic = true"),
    (&["--tcx=false"], "tcx = false"),
    (&["--audit-log", "/var/log/kubernetes/audit.log"], "audit_log = '/var/log/kubernetes/audit.log'"),
    (&["--audit-state", "/var/lib/monitor/audit.state"], "audit_state = '/var/lib/monitor/audit.state'"),
    (&["--discovery", "none"], "discovery = 'none'"),
    (&["--kubeconfig", "/etc/kubernetes/monitor.conf"], "kubeconfig = '/etc/kubernetes/monitor.conf'"),
    (&["--manifest", "/etc/kubernetes/manifests/a.yaml"], "manifest = '/etc/kubernetes/manifests/a.yaml'"),
    (&["--output", "json"], "output = 'json'"),
];

#[test]
fn flags_and_file_say_the_same() {
    for (words, line) in SAME {
        let settings = load(words).unwrap();
        assert_eq!(from_file(line).as_ref(), Ok(&settings), "{words:?}");
        assert_ne!(settings, Settings::default(), "{words:?}");
    }
    for entry in TABLE.iter() {
        assert!(
            SAME.iter().any(|(words, _)| words[0].starts_with(entry.flag)),
            "{} is not in the table above",
            entry.flag
        );
    }
}

#[test]
fn values_are_read_as_they_are_meant() {
    assert_eq!(load(&["--insecure-port", ""]).unwrap().insecure_port, [0_u16; 0]);
    assert_eq!(load(&["--node-port", "31443,31443"]).unwrap().node_port, [31443]);
    let settings = load(&["--node-address", "::ffff:10.0.0.1,fe80::1"]).unwrap();
    assert_eq!(settings.node_address, addresses(&["10.0.0.1", "fe80::1"]));
    let settings = load(&["--pod-cidr", "10.1.2.3/8,fd00::1/8,10.0.0.1,::1,::ffff:10.96.0.1/108"]).unwrap();
    assert_eq!(settings.pod_cidr, nets(&["10.0.0.0/8", "fd00::/8", "10.0.0.1/32", "::1/128", "10.96.0.0/12"]));
    let settings = load(&["--private-is-external=false", "--xdp-generic=true"]).unwrap();
    assert_eq!((settings.private_is_external, settings.xdp_generic), (false, true));
}

#[test]
fn wrong_values_are_named_with_what_is_expected() {
    let expected: &[(&[&str], &str)] = &[
        (&["--secure-port", "6443,70000"], "--secure-port `70000`: expected a port from 1 to 65535"),
        (&["--insecure-port", "0"], "--insecure-port `0`: expected a port"),
        (&["--node-port", "31443,,1"], "--node-port ``: expected a port"),
        (&["--node-port=-1"], "--node-port `-1`: expected a port"),
        (&["--interface", "eth0 eth1"], "--interface `eth0 eth1`: expected the name of an interface"),
        (&["--node-address", "10.0.0.0/8"], "--node-address `10.0.0.0/8`: expected an IPv4 or IPv6 address"),
        (&["--pod-cidr", "10.0.0.0/33"], "--pod-cidr `10.0.0.0/33`: expected a CIDR such as 10.0.0.0/8"),
        (&["--trusted-cidr", "10.0.0/8"], "--trusted-cidr `10.0.0/8`: expected a CIDR"),
        (&["--private-is-external=yes"], "--private-is-external `yes`: expected true or false"),
        (
            &["--expected-sni", "https://api.example.com"],
            "--expected-sni `https://api.example.com`: expected a host name",
        ),
        (&["--unauthenticated-goaway", "On"], "--unauthenticated-goaway `On`: expected one of auto, on, off"),
        (&["--listen", "9464"], "--listen `9464`: expected an address and a port"),
        (&["--listen", "127.0.0.1:0"], "--listen `127.0.0.1:0`: expected an address and a port"),
    ];
    for (words, start) in expected {
        let error = load(words).unwrap_err();
        assert!(error.starts_with(start), "{error}");
        assert!(!error.contains('\n'), "{error}");
        assert!(Settings::load(&from_flags(words)).unwrap_err().is_usage(), "{error}");
    }
}

#[test]
fn what_is_wrong_in_the_file_is_named_with_its_line() {
    let expected = [
        ("\nsecure_prot = 1", "monitor.toml:2: unknown key `secure_prot`: did you mean `secure_port`?"),
        ("secure-port = 1", "monitor.toml:1: unknown key `secure-port`: did you mean `secure_port`?"),
        ("pod_cidrs = ''", "monitor.toml:1: unknown key `pod_cidrs`: did you mean `pod_cidr`?"),
        ("[listen]\nport = 1", "monitor.toml:1: listen = `"),
        ("[server]\nlisten = ''", "monitor.toml:1: unknown key `server`: did you mean `"),
        ("# ports\n\nsecure_port = 70000", "monitor.toml:3: secure_port = `70000`: expected a port from 1 to 65535"),
        ("secure_port = [6443, 'x']", "monitor.toml:1: secure_port = `x`: expected a port"),
        ("secure_port = [6443, [1]]", "monitor.toml:1: secure_port = `[6443, [1]]`: expected a port"),
        ("secure_port = 6443.5", "monitor.toml:1: secure_port = `6443.5`: expected a port"),
        ("secure_port = true", "monitor.toml:1: secure_port = `true`: expected a port"),
        ("private_is_external = 'yes'", "monitor.toml:1: private_is_external = `'yes'`: expected true or false"),
        ("listen = ['127.0.0.1:9464']", "monitor.toml:1: listen = `['127.0.0.1:9464']`: expected an address"),
        ("output = 'xml'", "monitor.toml:1: output = `xml`: expected one of text, table, json, metrics"),
        ("unauthenticated_goaway = false", "monitor.toml:1: unauthenticated_goaway = `false`: expected one of auto"),
        ("listen = '127.0.0.1:1'\nlisten = '127.0.0.1:2'", "monitor.toml:2: duplicate key"),
        ("\n\nsecure_port 6443", "monitor.toml:3: "),
    ];
    for (text, start) in expected {
        let error = from_file(text).unwrap_err();
        assert!(error.starts_with(start), "{error}");
        assert!(!error.contains('\n'), "{error}");
        assert!(!Settings::from_toml(Path::new("monitor.toml"), text).unwrap_err().is_usage());
    }
    let long = format!("secure_port = {{ a = '{}' }}", "é".repeat(4_000));
    assert!(from_file(&long).unwrap_err().len() < 400);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = Settings::load(&from_flags(&["--config", "/does/not/exist.toml"])).unwrap_err();
    let line = format!("{:#}", anyhow::Error::from(error));
    assert_eq!(line, "cannot read the configuration file /does/not/exist.toml: No such file or directory (os error 2)");
}

#[test]
fn a_flag_beats_the_file_and_the_file_beats_the_default() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("monitor.toml");
    std::fs::write(&path, "secure_port = [443, 6443]\nlisten = '127.0.0.1:1'\nprivate_is_external = true\n").unwrap();
    let settings =
        load(&["--config", path.to_str().unwrap(), "--secure-port", "8443", "--private-is-external=false"]).unwrap();
    assert_eq!(settings.secure_port, [8443]);
    assert!(!settings.private_is_external);
    assert_eq!(settings.listen, "127.0.0.1:1".parse().unwrap());
    assert_eq!(settings.insecure_port, [8080, 8001]);
}

#[test]
fn a_port_has_one_role() {
    let error = load(&["--secure-port", "31443", "--node-port", "31443"]).unwrap_err();
    assert_eq!(error, "port 31443 is given with --secure-port and with --node-port: take it out of one of them");
    let error = from_file("insecure_port = [6443]\nsecure_port = [6443]").unwrap_err();
    assert_eq!(error, "port 6443 is given with --secure-port and with --insecure-port: take it out of one of them");
    // What is given takes a port from what is so by default only.
    let settings = load(&["--secure-port", "8080"]).unwrap();
    assert_eq!((settings.secure_port, settings.insecure_port), (vec![8080], vec![8001]));
    let settings = load(&["--node-port", "6443"]).unwrap();
    assert_eq!((settings.secure_port, settings.node_port), (vec![], vec![6443]));
    assert_eq!(load(&["--secure-port", "6443,6443"]).unwrap().secure_port, [6443]);
    let error = load(&["--secure-port", "", "--insecure-port", ""]).unwrap_err();
    assert!(error.starts_with("no port is watched: name one with --secure-port"), "{error}");
}

#[test]
fn a_command_prints_its_own_formats_only() {
    const FORMATS: &[Output] = &[Output::Text, Output::Json];
    let output = |text: &str| from_file(text).unwrap().output_of("observe", FORMATS).map_err(|error| error.to_string());
    assert_eq!(output(""), Ok(Output::Text));
    assert_eq!(output("output = 'json'"), Ok(Output::Json));
    assert_eq!(output("output = 'table'"), Err("output `table`: `observe` prints text, json".into()));
}

#[test]
fn the_documentation_has_every_setting() {
    let table = documentation();
    let rows: Vec<&str> = table.lines().skip(2).collect();
    assert_eq!(rows.len(), TABLE.len() + 1);
    assert!(rows.iter().all(|row| row.replace("\\|", "").matches('|').count() == 6), "{table}");
    let row = "| `--secure-port` | `API_EXPOSURE_SECURE_PORT` | `secure_port` | `6443` | Ports where the API server speaks TLS. |";
    assert!(rows.contains(&row), "{table}");
}

proptest::proptest! {
    #[test]
    fn no_file_and_no_value_panics(text in ".{0,60}", at in 0_usize..15) {
        let _ = from_file(&text);
        let entry = &TABLE[at % TABLE.len()];
        let _ = from_file(&format!("{} = {text}", entry.key));
        let command = SettingsArgs::augment_args(Command::new("test"));
        let matches = command.try_get_matches_from(["test".to_owned(), format!("{}={text}", entry.flag)]);
        if let Ok(matches) = matches {
            let _ = Settings::load(&SettingsArgs::from_arg_matches(&matches).unwrap());
        }
    }
}
