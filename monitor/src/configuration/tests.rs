use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::arguments::Arguments;
use super::authentication::Anonymous;
use super::certificate::Certificate;
use super::follow::{Known, with_traffic};
use super::release::Release;
use super::rules::{self, Named, Server};
use super::system::{self, Places};
use super::*;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn server(minor: u32, line: &str) -> Server {
    Server {
        subject: "kube-apiserver (process 1)".to_owned(),
        arguments: Arguments::read(line.split(' ').filter(|word| !word.is_empty())),
        release: (minor > 0).then_some(Release::minor(minor)),
        authentication: Named::No,
        certificate: Named::No,
    }
}

/// Whether it is found (with its severity), fine, or cannot be told.
fn judged(server: &Server, kind: FindingKind) -> Option<Option<Severity>> {
    let findings = rules::judge(server, NOW);
    let of_kind: Vec<_> = findings.iter().filter(|finding| finding.kind == kind).collect();
    assert!(of_kind.len() < 2, "{of_kind:?}");
    let finding = of_kind.first()?;
    assert!(!finding.evidence.is_empty() && finding.found == finding.advice.is_some(), "{finding:?}");
    Some(finding.found.then_some(finding.severity))
}

#[test]
fn each_rule_by_flags_and_release() {
    use FindingKind::*;
    use Severity::*;
    let (found, fine) = (|severity| Some(Some(severity)), Some(None));
    for (kind, minor, line, expected) in [
        (AnonymousAuthEnabled, 37, "--authorization-mode=RBAC", found(Medium)),
        (AnonymousAuthEnabled, 37, "--authorization-mode=RBAC --anonymous-auth=true", found(Medium)),
        (AnonymousAuthEnabled, 37, "--authorization-mode=RBAC --anonymous-auth=false", fine),
        (AnonymousAuthEnabled, 37, "--authorization-mode=RBAC --anonymous-auth=maybe", None),
        // AlwaysAllow switches it off, whatever the flag says.
        (AnonymousAuthEnabled, 37, "", fine),
        (AnonymousAuthEnabled, 37, "--authorization-mode=AlwaysAllow --anonymous-auth=true", fine),
        (InsecurePort, 19, "", found(High)),
        (InsecurePort, 19, "--insecure-port=0", fine),
        (InsecurePort, 19, "--insecure-port=8888", found(High)),
        (InsecurePort, 19, "--insecure-bind-address=0.0.0.0", found(Critical)),
        (InsecurePort, 19, "--insecure-bind-address=127.0.0.9", found(High)),
        (InsecurePort, 20, "--insecure-port=0", fine),
        (InsecurePort, 37, "", fine),
        (InsecurePort, 0, "--insecure-port=8080", found(High)),
        (InsecurePort, 0, "--insecure-port=0", fine),
        (InsecurePort, 0, "--insecure-bind-address=0.0.0.0", found(High)),
        (InsecurePort, 0, "", None),
        (AuthorizationAlwaysAllow, 37, "", found(Critical)),
        (AuthorizationAlwaysAllow, 37, "--authorization-mode=Node,AlwaysAllow", found(Critical)),
        (AuthorizationAlwaysAllow, 37, "--authorization-mode=Node,RBAC", fine),
        (AuthorizationAlwaysAllow, 37, "--authorization-config=/etc/x.yaml", None),
        (NodeRestrictionMissing, 37, "", found(High)),
        (NodeRestrictionMissing, 37, "--enable-admission-plugins=NodeRestriction", fine),
        (NodeRestrictionMissing, 37, "--enable-admission-plugins=PodSecurity", found(High)),
        (
            NodeRestrictionMissing,
            37,
            "--enable-admission-plugins=PodSecurity --enable-admission-plugins=NodeRestriction",
            fine,
        ),
        (
            NodeRestrictionMissing,
            37,
            "--enable-admission-plugins=NodeRestriction --disable-admission-plugins=NodeRestriction",
            found(High),
        ),
        (KubernetesServiceNodePort, 37, "", fine),
        (KubernetesServiceNodePort, 37, "--kubernetes-service-node-port=0", fine),
        (KubernetesServiceNodePort, 37, "--kubernetes-service-node-port=31443", found(High)),
        (TokenAuthFile, 37, "--token-auth-file=/etc/tokens.csv", found(Medium)),
        (TokenAuthFile, 37, "", fine),
        (ProfilingEnabled, 37, "", found(Low)),
        (ProfilingEnabled, 37, "--profiling=false", fine),
        (ProfilingEnabled, 37, "--profiling", found(Low)),
        (CertificateExpires, 37, "", None),
        (CertificatePublicName, 37, "", None),
        (AnonymousConditions, 37, "--authorization-mode=RBAC", None),
    ] {
        assert_eq!(judged(&server(minor, line), kind), expected, "{} 1.{minor} {line}", kind.label());
    }
}

#[test]
fn the_file_beats_the_default_of_the_flag() {
    let path = || "/etc/authn.yaml".to_owned();
    for (said, mode) in [
        (Named::Read(Anonymous::Off, path()), AnonymousMode::Off),
        (Named::Read(Anonymous::Everywhere, path()), AnonymousMode::All),
        (Named::Read(Anonymous::Paths(vec!["/livez".into()]), path()), AnonymousMode::Paths),
        (Named::Read(Anonymous::NotSaid, path()), AnonymousMode::All),
        (Named::Unreadable, AnonymousMode::Unknown),
    ] {
        let server = Server { authentication: said, ..server(37, "--authorization-mode=RBAC") };
        assert_eq!(rules::anonymous(&server).0, mode);
        let expected = (mode == AnonymousMode::Paths).then_some(Some(Severity::Info));
        assert_eq!(judged(&server, FindingKind::AnonymousConditions), expected);
    }
}

#[test]
fn certificates_by_their_end_and_names() {
    let day = Duration::from_secs(86_400);
    let with = |ends: SystemTime, names: &[&str]| Server {
        certificate: Named::Read(
            Certificate {
                names: names.iter().map(|name| (*name).to_owned()).collect(),
                addresses: Vec::new(),
                issuer: "ca".to_owned(),
                ends,
            },
            "/etc/a.crt".to_owned(),
        ),
        ..server(37, "")
    };
    let now = NOW + 1_000 * day;
    let severity = |ends| {
        let findings = rules::judge(&with(ends, &[]), now);
        let finding = findings.iter().find(|finding| finding.kind == FindingKind::CertificateExpires).expect("judged");
        finding.found.then_some(finding.severity)
    };
    assert_eq!(severity(now + 31 * day), None);
    assert_eq!(severity(now + 29 * day), Some(Severity::Medium));
    assert_eq!(severity(now + 6 * day), Some(Severity::High));
    assert_eq!(severity(now - day), Some(Severity::High));
    let public = FindingKind::CertificatePublicName;
    assert_eq!(judged(&with(now, &["kubernetes", "api.example.com"]), public), Some(Some(Severity::Medium)));
    assert_eq!(judged(&with(now, &["kubernetes.default.svc"]), public), Some(None));
}

#[test]
fn every_kind_says_what_to_do() {
    for kind in FindingKind::ALL {
        assert!(!kind.advice().is_empty() && !kind.advice().contains("  "), "{}", kind.label());
    }
}

#[test]
fn configuration_and_traffic_are_one_finding() {
    assert_eq!(with_traffic(Some(AnonymousMode::Off), 3), None, "nobody is let in: the traffic has another cause");
    assert_eq!(with_traffic(None, 3), None);
    assert!(!with_traffic(Some(AnonymousMode::All), 0).expect("judged").found);
    let finding = with_traffic(Some(AnonymousMode::All), 12).expect("judged");
    assert!(finding.found && finding.evidence.contains("12 anonymous requests from public addresses"));
}

#[test]
fn what_appears_and_what_is_closed_is_told_once() {
    let report = |line: &str| Report { findings: rules::judge(&server(37, line), NOW), ..Report::default() };
    let mut known = Known::default();
    let open = report("--authorization-mode=RBAC --profiling=false --enable-admission-plugins=NodeRestriction");
    let appeared = known.changes(&open);
    assert_eq!(
        appeared.iter().map(|finding| (finding.kind, finding.found)).collect::<Vec<_>>(),
        [(FindingKind::AnonymousAuthEnabled, true)]
    );
    assert_eq!(known.changes(&open), []);
    let closed = report(
        "--authorization-mode=RBAC --profiling=false --enable-admission-plugins=NodeRestriction --anonymous-auth=false",
    );
    let mut gone = Known::default();
    assert_eq!(gone.changes(&open).len(), 1);
    assert_eq!(gone.changes(&Report::default()), [], "a server that is gone is not closed");
    let told = known.changes(&closed);
    assert!(told.len() == 1 && !told[0].found && told[0].advice.is_none(), "{told:?}");
}

/// kubeadm's manifest, shortened.
const MANIFEST: &str = "apiVersion: v1
kind: Pod
metadata:
  name: kube-apiserver
spec:
  containers:
  - command:
    - kube-apiserver
    - --authorization-mode=Node,RBAC
    - --enable-admission-plugins=NodeRestriction
    - --secure-port=6443
    - --tls-cert-file=/nowhere/apiserver.crt
    image: registry.example/kube-apiserver:v1.33.4
    name: kube-apiserver
  hostNetwork: true
";

fn places(folder: &Path, manifest: &str) -> Places {
    let path = folder.join("kube-apiserver.yaml");
    fs::write(&path, manifest).expect("manifest");
    fs::create_dir_all(folder.join("proc")).expect("proc");
    Places { proc: folder.join("proc"), manifest: Some(path) }
}

#[test]
fn without_a_process_the_manifest_is_read() {
    let folder = tempfile::tempdir().expect("folder");
    let report = system::look(&places(folder.path(), MANIFEST), NOW);
    let found: Vec<_> = report.found().iter().map(|finding| finding.kind).collect();
    assert_eq!(found, [FindingKind::AnonymousAuthEnabled, FindingKind::ProfilingEnabled]);
    assert_eq!(report.anonymous, Some(AnonymousMode::All));
    assert!(report.findings.iter().any(|finding| finding.evidence.contains("default of 1.33")), "{report:?}");
    assert_eq!(report.unreadable.len(), 1, "{:?}", report.unreadable);
    assert_eq!(report.unreadable[0].0, Source::Certificate);
}

#[test]
fn what_cannot_be_read_is_said_and_the_rest_goes_on() {
    let folder = tempfile::tempdir().expect("folder");
    for manifest in ["", "{", "kind: Pod", "spec: {containers: []}", "spec: {containers: [{command: [etcd]}]}", "\u{1}"]
    {
        let report = system::look(&places(folder.path(), manifest), NOW);
        assert_eq!(report.unreadable.iter().map(|one| one.0).collect::<Vec<_>>(), [Source::Manifest], "{manifest:?}");
        assert_eq!((report.findings.len(), report.anonymous), (0, None));
    }
    let nowhere = Places { proc: folder.path().join("none"), manifest: Some(folder.path().join("none.yaml")) };
    let sources: Vec<_> = system::look(&nowhere, NOW).unreadable.iter().map(|one| one.0).collect();
    assert_eq!(sources, [Source::Processes, Source::Manifest]);
}

#[test]
fn a_proxy_among_the_processes_is_found() {
    let folder = tempfile::tempdir().expect("folder");
    let places = places(folder.path(), MANIFEST);
    let process = places.proc.join("41");
    fs::create_dir(&process).expect("process");
    fs::write(process.join("cmdline"), b"kubectl\0proxy\0--address=0.0.0.0\0").expect("command line");
    let report = system::look(&places, NOW);
    assert_eq!(report.found()[0].kind, FindingKind::KubectlProxyExposed);
    assert_eq!(report.found()[0].subject, "kubectl proxy (process 41)");
}
