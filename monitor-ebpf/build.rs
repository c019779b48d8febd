//! Tells the linker of the kernel object what every kernel that runs it can do: packets may be read unaligned on
//! x86-64 and arm64.
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // aya-build says which machine's registers the probe reads.
    println!("cargo:rustc-check-cfg=cfg(bpf_target_arch, values(\"x86_64\", \"aarch64\"))");
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|architecture| architecture == "bpf") {
        println!("cargo:rustc-link-arg-bins=--cpu-features=+allows-misaligned-mem-access");
    }
}
