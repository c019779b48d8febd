//! What crosses the boundary between kernel and user side: keys, records, closed sets, limits. Nothing else.
#![no_std]

pub mod count;
pub mod discover;
pub mod flow;
pub mod hit;
pub mod labels;
pub mod limits;
pub mod record;
pub mod skip;

pub use count::{Hook, KernelEvent, PacketCount};
pub use discover::Asked;
pub use flow::{Decision, FlowKey, FlowState, Handshake, Side, SideState, Verdict};
pub use hit::{HitHeader, HitKind, HitRecord, ProbeLayout, Unread};
pub use labels::{PacketKind, Role, SourceClass};
pub use record::{LossReason, RecordFlags, RecordHeader};
pub use skip::Skip;

/// Makes a closed set: a `repr(u8)` enum whose value indexes a counter and whose name is a metric's label.
#[macro_export]
macro_rules! closed_set {
    ($(#[$meta:meta])* $name:ident { $($(#[$item_meta:meta])* $item:ident = $label:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name { $($(#[$item_meta])* $item),+ }

        impl $name {
            /// Every member, in the order of its value.
            pub const ALL: &'static [Self] = &[$(Self::$item),+];
            /// How many members there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The word used in metrics, JSON and flags.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$item => $label),+ }
            }

            /// The member with this value, `None` for a value outside the set.
            pub const fn from_value(value: u8) -> Option<Self> {
                $(if value == Self::$item as u8 { return Some(Self::$item); })+
                None
            }

            /// The member that this word names.
            pub fn from_label(label: &str) -> Option<Self> {
                match label { $($label => Some(Self::$item),)+ _ => None }
            }
        }
    };
}
