//! The pure half of the kernel side: compiled for the kernel and natively.
#![cfg_attr(target_arch = "bpf", no_std)]
