//! attach: the kernel half onto the node's interfaces, and away again.

pub mod hooks;
pub mod interfaces;
pub mod object;
pub mod privileges;

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

pub use hooks::{AttachMode, Attached, NotAttached, Policy, Refusal};
use interfaces::{Interface, Patterns};
use object::KernelHalf;

/// Names of interfaces by index, shared with the reader of records.
pub type Names = Arc<RwLock<HashMap<u32, Arc<str>>>>;

/// Keeps the kernel half attached to the interfaces that are to be watched. Dropping it detaches everything.
pub struct Attacher {
    kernel: KernelHalf,
    patterns: Patterns,
    policy: Policy,
    attached: HashMap<u32, (Interface, Attached)>,
    /// Interfaces that took nothing, and why; not tried again before they change.
    refused: HashMap<u32, (Interface, Refusal)>,
    names: Names,
}

/// What changed about one interface.
#[derive(Clone, Debug)]
pub enum Change {
    /// Attached: TC so, XDP so or for that reason not.
    Attached(Interface, AttachMode, Result<AttachMode, Refusal>),
    /// Let go: it is gone, down or renamed.
    Released(Interface),
    /// It took nothing.
    Refused(Interface, Refusal),
}

impl Attacher {
    /// An attacher that has attached nothing yet.
    pub fn new(kernel: KernelHalf, patterns: Patterns, policy: Policy) -> Self {
        Self { kernel, patterns, policy, attached: HashMap::new(), refused: HashMap::new(), names: Names::default() }
    }

    /// The loaded kernel half.
    pub fn kernel(&mut self) -> &mut KernelHalf {
        &mut self.kernel
    }

    /// Names of all interfaces that were ever attached to, by index.
    pub fn names(&self) -> Names {
        Arc::clone(&self.names)
    }

    /// How many interfaces are attached to.
    pub fn count(&self) -> usize {
        self.attached.len()
    }

    /// Brings the attachments to the interfaces that there are.
    pub fn reconcile(&mut self, interfaces: &[Interface]) -> Vec<Change> {
        let mut changes = Vec::new();
        let same = |one: &Interface, other: &Interface| one.index == other.index && one.name == other.name;
        let is_there = |known: &Interface| interfaces.iter().any(|interface| same(known, interface));
        self.refused.retain(|_, (known, _)| is_there(known));
        let gone: Vec<u32> =
            self.attached.iter().filter(|(_, (known, _))| !is_there(known)).map(|(index, _)| *index).collect();
        for index in gone {
            if let Some((interface, _)) = self.attached.remove(&index) {
                changes.push(Change::Released(interface));
            }
        }
        for interface in interfaces {
            let known = self.attached.contains_key(&interface.index) || self.refused.contains_key(&interface.index);
            if known || !self.patterns.wants(&interface.name) {
                continue;
            }
            changes.push(self.attach(interface));
        }
        changes
    }

    fn attach(&mut self, interface: &Interface) -> Change {
        match Attached::new(&mut self.kernel, interface, self.policy) {
            Ok(attached) => {
                let change = Change::Attached(interface.clone(), attached.tc(), attached.xdp().map_err(Clone::clone));
                self.attached.insert(interface.index, (interface.clone(), attached));
                if let Ok(mut names) = self.names.write() {
                    names.insert(interface.index, Arc::from(interface.name.as_str()));
                }
                change
            }
            Err(refusal) => {
                self.refused.insert(interface.index, (interface.clone(), refusal.clone()));
                Change::Refused(interface.clone(), refusal)
            }
        }
    }

    /// Whether anything is attached to.
    ///
    /// # Errors
    /// Nothing is; with the first reason.
    pub fn require_one(&self) -> anyhow::Result<()> {
        if !self.attached.is_empty() {
            return Ok(());
        }
        match self.refused.values().next() {
            Some((_, refusal)) => anyhow::bail!("attached to no interface: {}", refusal.words),
            None => anyhow::bail!("attached to no interface: none that is up matches --interface"),
        }
    }
}
