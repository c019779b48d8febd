//! What is needed, for what, and where it comes from.

use clap::ValueEnum;

/// What a set-up is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Group {
    /// The kernel object: a compiler that can build `core` for eBPF, and bpf-linker.
    Build,
    /// The lab of demo and tests: servers, clients, network namespaces.
    Lab,
    /// What the tests call beside the lab.
    Test,
    /// What CI checks beside the tests.
    Ci,
    /// What bench measures with and against.
    Bench,
    /// The virtual machines with other kernels.
    Vm,
    /// Real API servers: Go that builds them, etcd, and clients.
    Kubernetes,
    /// What dashboards are checked with, and drawn with.
    Dashboards,
    /// A real cluster: containers, their network, and Prometheus with its Alertmanager.
    Cluster,
}

impl Group {
    /// What `setup` sets up when nothing is named.
    pub const DEFAULT: &[Self] = &[Self::Build, Self::Lab, Self::Test];

    /// The word on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Lab => "lab",
            Self::Test => "test",
            Self::Ci => "ci",
            Self::Bench => "bench",
            Self::Vm => "vm",
            Self::Kubernetes => "kubernetes",
            Self::Cluster => "cluster",
            Self::Dashboards => "dashboards",
        }
    }
}

/// One thing that has to be there.
#[derive(Debug, PartialEq, Eq)]
pub struct Need {
    /// What it is for.
    pub group: Group,
    /// A program of this name shows that it is there.
    pub program: &'static str,
    /// Where it comes from.
    pub from: From,
}

/// Where a program comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The Debian package of this name.
    Package(&'static str),
    /// The package of this name, which bookworm has in its backports only.
    Backports(&'static str),
    /// `cargo install`, at a version that the compiler of `rust-toolchain.toml` builds.
    Cargo { package: &'static str, version: &'static str },
    /// See [`super::plan`]: with the compiler for the kernel object.
    KernelToolchain,
}

/// bpf-linker: the version that links what rustc 1.96 and the nightlies of its time make.
pub const BPF_LINKER: &str = "0.13.0";

/// All needs; what more than one group needs stands with the first of them.
pub const NEEDS: &[Need] = &[
    Need { group: Group::Build, program: "bpf-linker", from: From::KernelToolchain },
    Need { group: Group::Lab, program: "ip", from: From::Package("iproute2") },
    Need { group: Group::Lab, program: "nsenter", from: From::Package("util-linux") },
    Need { group: Group::Lab, program: "nginx", from: From::Package("nginx-light") },
    Need { group: Group::Lab, program: "curl", from: From::Package("curl") },
    Need { group: Group::Lab, program: "openssl", from: From::Package("openssl") },
    Need { group: Group::Lab, program: "wget", from: From::Package("wget") },
    Need { group: Group::Lab, program: "tcpdump", from: From::Package("tcpdump") },
    Need { group: Group::Test, program: "promtool", from: From::Package("prometheus") },
    Need { group: Group::Ci, program: "cargo-deny", from: From::Cargo { package: "cargo-deny", version: "0.20.2" } },
    Need { group: Group::Bench, program: "xdp-filter", from: From::Package("xdp-tools") },
    Need { group: Group::Bench, program: "wrk", from: From::Package("wrk") },
    Need { group: Group::Bench, program: "gnuplot", from: From::Package("gnuplot-nox") },
    Need { group: Group::Bench, program: "hping3", from: From::Package("hping3") },
    Need { group: Group::Bench, program: "suricata", from: From::Backports("suricata") },
    Need { group: Group::Vm, program: "qemu-system-x86_64", from: From::Package("qemu-system-x86") },
    Need { group: Group::Vm, program: "dpkg-deb", from: From::Package("dpkg") },
    Need { group: Group::Vm, program: "xz", from: From::Package("xz-utils") },
    Need { group: Group::Vm, program: "zstd", from: From::Package("zstd") },
    Need { group: Group::Kubernetes, program: "go", from: From::Backports("golang-go") },
    Need { group: Group::Kubernetes, program: "etcd", from: From::Package("etcd-server") },
    Need { group: Group::Kubernetes, program: "iptables", from: From::Package("iptables") },
    Need { group: Group::Kubernetes, program: "python3", from: From::Package("python3") },
    Need { group: Group::Kubernetes, program: "node", from: From::Package("nodejs") },
    Need { group: Group::Kubernetes, program: "javac", from: From::Package("default-jdk-headless") },
    Need { group: Group::Dashboards, program: "python3", from: From::Package("python3-venv") },
    Need { group: Group::Dashboards, program: "npm", from: From::Package("npm") },
    Need { group: Group::Dashboards, program: "chromium", from: From::Package("chromium") },
    Need { group: Group::Cluster, program: "containerd", from: From::Package("containerd") },
    Need { group: Group::Cluster, program: "runc", from: From::Package("runc") },
    // Plugins are called by containerd and lie where nobody's PATH leads.
    Need { group: Group::Cluster, program: "/usr/lib/cni/ptp", from: From::Package("containernetworking-plugins") },
    Need { group: Group::Cluster, program: "iptables", from: From::Package("iptables") },
    Need { group: Group::Cluster, program: "bpftool", from: From::Package("bpftool") },
    Need { group: Group::Cluster, program: "prometheus-alertmanager", from: From::Package("prometheus-alertmanager") },
];
