//! attach: the kernel half onto the node's interfaces, and away again.

pub mod hooks;
pub mod interfaces;
pub mod object;
pub mod privileges;
pub mod traffic_control;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

pub use hooks::{AttachMode, Attached, NotAttached, Policy, Refusal, Standing};
use interfaces::{Interface, Patterns};
use object::KernelHalf;

/// Names of interfaces by index, shared with the reader of records.
pub type Names = Arc<RwLock<HashMap<u32, Arc<str>>>>;

/// An XDP hook that is taken at first is tried again for so long: it may be a predecessor's that is just ending. Later it
/// is left to whom it belongs, even while they restart.
const XDP_PATIENCE: Duration = Duration::from_secs(60);

/// How often it is looked up where our programs stand among others.
const LOOK: Duration = Duration::from_secs(5);

/// Names of interfaces that are gone, kept for what is still to be read of them. On a node whose pods come and go there
/// is no end of them.
const FORMER_NAMES: usize = 1_024;

/// Keeps the kernel half attached to the interfaces that are to be watched. Dropping it detaches everything.
pub struct Attacher {
    kernel: KernelHalf,
    patterns: Patterns,
    policy: Policy,
    attached: HashMap<u32, Place>,
    /// Interfaces that took nothing, and why; not tried again before they change.
    refused: HashMap<u32, (Interface, Refusal)>,
    names: Names,
    /// Indices of interfaces that were released, the oldest first.
    former: VecDeque<u32>,
    next_look: Instant,
}

/// An interface that is attached to.
struct Place {
    interface: Interface,
    attached: Attached,
    /// XDP is tried again until then.
    retry_xdp_until: Option<Instant>,
    standing: Standing,
}

/// What changed about one interface.
#[derive(Clone, Debug)]
pub enum Change {
    /// Attached: TC so, XDP so or for that reason not.
    Attached(Interface, AttachMode, Result<AttachMode, Refusal>),
    /// XDP, which was taken, is free and counts from now on.
    XdpAttached(Interface, AttachMode),
    /// Other programs see packets before ours now, or no longer do.
    Standing(Interface, Standing),
    /// Let go: it is gone, down or renamed, or somebody took our programs away.
    Released(Interface),
    /// It took nothing.
    Refused(Interface, Refusal),
}

impl Attacher {
    /// An attacher that has attached nothing yet.
    pub fn new(kernel: KernelHalf, patterns: Patterns, policy: Policy) -> Self {
        Self {
            kernel,
            patterns,
            policy,
            attached: HashMap::new(),
            refused: HashMap::new(),
            names: Names::default(),
            former: VecDeque::new(),
            next_look: Instant::now(),
        }
    }

    /// The loaded kernel half.
    pub fn kernel(&mut self) -> &mut KernelHalf {
        &mut self.kernel
    }

    /// Detaches everything, and gives the kernel half back.
    pub fn into_kernel(self) -> KernelHalf {
        self.kernel
    }

    /// Names of the interfaces that are attached to, and of those that were last, by index.
    pub fn names(&self) -> Names {
        Arc::clone(&self.names)
    }

    /// How many interfaces are attached to.
    pub fn count(&self) -> usize {
        self.attached.len()
    }

    /// Whether an XDP hook is taken that may become free soon: then this wants to be called again soon.
    pub fn waits(&self) -> bool {
        self.attached.values().any(|place| place.retry_xdp_until.is_some())
    }

    /// Brings the attachments to the interfaces that there are.
    pub fn reconcile(&mut self, interfaces: &[Interface]) -> Vec<Change> {
        let mut changes = Vec::new();
        let same = |one: &Interface, other: &Interface| one.index == other.index && one.name == other.name;
        let is_there = |known: &Interface| interfaces.iter().any(|interface| same(known, interface));
        self.refused.retain(|_, (known, _)| {
            let there = is_there(known);
            if !there {
                changes.push(Change::Released(known.clone()));
            }
            there
        });
        let gone: Vec<u32> =
            self.attached.iter().filter(|(_, place)| !is_there(&place.interface)).map(|(index, _)| *index).collect();
        for index in gone {
            changes.extend(self.release(index));
        }
        self.look_around(&mut changes);
        for interface in interfaces {
            if self.attached.contains_key(&interface.index) {
                changes.extend(self.retry_xdp(interface));
            } else if !self.refused.contains_key(&interface.index) && self.patterns.wants(&interface.name) {
                self.attach(interface, &mut changes);
            }
        }
        changes
    }

    fn attach(&mut self, interface: &Interface, changes: &mut Vec<Change>) {
        match Attached::new(&mut self.kernel, interface, self.policy) {
            Ok(attached) => {
                let xdp = attached.xdp().map_err(Clone::clone);
                let taken = matches!(&xdp, Err(refusal) if refusal.reason == NotAttached::Taken);
                changes.push(Change::Attached(interface.clone(), attached.tc(), xdp));
                let mut place = Place {
                    interface: interface.clone(),
                    attached,
                    retry_xdp_until: taken.then(|| Instant::now() + XDP_PATIENCE),
                    standing: Standing::First,
                };
                changes.extend(place.look());
                self.attached.insert(interface.index, place);
                if let Ok(mut names) = self.names.write() {
                    names.insert(interface.index, Arc::from(interface.name.as_str()));
                }
            }
            // It went while it was attached to: that is no failure.
            Err(_) if !interface.exists() => {}
            Err(refusal) => {
                self.refused.insert(interface.index, (interface.clone(), refusal.clone()));
                changes.push(Change::Refused(interface.clone(), refusal));
            }
        }
    }

    fn release(&mut self, index: u32) -> Option<Change> {
        let place = self.attached.remove(&index)?;
        self.former.push_back(index);
        if self.former.len() > FORMER_NAMES
            && let Some(oldest) = self.former.pop_front()
            && !self.attached.contains_key(&oldest)
            && let Ok(mut names) = self.names.write()
        {
            names.remove(&oldest);
        }
        Some(Change::Released(place.interface))
    }

    /// Tells where others have come before our programs or have gone; where somebody took ours away, lets go, so that
    /// they are attached anew.
    fn look_around(&mut self, changes: &mut Vec<Change>) {
        let now = Instant::now();
        if now < self.next_look {
            return;
        }
        self.next_look = now + LOOK;
        let mut gone = Vec::new();
        for (index, place) in &mut self.attached {
            let change = place.look();
            if place.standing == Standing::Gone {
                gone.push(*index);
            }
            changes.extend(change);
        }
        for index in gone {
            changes.extend(self.release(index));
        }
    }

    fn retry_xdp(&mut self, interface: &Interface) -> Option<Change> {
        let place = self.attached.get_mut(&interface.index)?;
        let until = place.retry_xdp_until?;
        match place.attached.retry_xdp(&mut self.kernel, interface, self.policy) {
            Ok(Some(mode)) => {
                place.retry_xdp_until = None;
                Some(Change::XdpAttached(interface.clone(), mode))
            }
            Ok(None) => {
                if Instant::now() >= until {
                    place.retry_xdp_until = None;
                }
                None
            }
            Err(error) => {
                tracing::debug!(interface = %interface.name, "attaching anew: {error:#}");
                self.release(interface.index)
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

impl Place {
    /// Looks where our programs stand; says it where that has changed.
    fn look(&mut self) -> Option<Change> {
        match self.attached.standing() {
            Ok(standing) if standing != self.standing => {
                self.standing = standing.clone();
                Some(Change::Standing(self.interface.clone(), standing))
            }
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(interface = %self.interface.name, %error, "cannot tell which programs are there");
                None
            }
        }
    }
}
