//! The pure half of the kernel side, compiled for the kernel and natively: bounds, parse, discover, select and track. What
//! they need of their surroundings (maps in the kernel, tables in `replay`) is the trait [`tables::Tables`].
#![cfg_attr(target_arch = "bpf", no_std)]
#![forbid(unsafe_code)]

pub mod bounds;
pub mod discover;
pub mod parse;
pub mod select;
pub mod tables;
pub mod track;
