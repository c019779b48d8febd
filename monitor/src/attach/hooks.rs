//! Attaching to the hooks of one interface, without ever replacing or removing what another program put there.

use aya::programs::links::Link as _;
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact, qdisc_detach_program,
};
use aya::programs::xdp::XdpLink;
use aya::programs::{LinkOrder, ProgramError, TcAttachType, XdpMode};
use monitor_common::closed_set;

use super::interfaces::Interface;
use super::object::{KernelHalf, one_line, os_error, permission_denied, program};
use super::{privileges, traffic_control};

/// Priority of the clsact filters: behind those that network plugins put first (Cilium's is 1).
pub const CLSACT_PRIORITY: u16 = 10;

/// Handle of the clsact filters, by which they are known for ours.
const CLSACT_HANDLE: TcHandle = TcHandle::new(0xa91, 0xe);

closed_set! {
    /// How a program sits on its hook.
    AttachMode {
        /// XDP in the driver.
        Native = "native",
        /// XDP in the kernel's generic path, after the socket buffer was made.
        Generic = "generic",
        /// A link of the tcx chain (kernel 6.6 and later), ingress and egress.
        Tcx = "tcx",
        /// A filter of the clsact qdisc, ingress and egress.
        Clsact = "clsact",
    }
}

closed_set! {
    /// Why a program is not on an interface's hook.
    NotAttached {
        /// Another program is there.
        Taken = "taken",
        /// The driver or the kernel does not offer it.
        Unsupported = "unsupported",
        /// The process may not.
        NotPermitted = "not_permitted",
        /// Any other error; the log has it.
        Failed = "failed",
    }
}

/// Why a hook could not be had: the word of the metric, and the words for people.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The word of the metric.
    pub reason: NotAttached,
    /// The words for people.
    pub words: String,
}

impl Refusal {
    fn new(reason: NotAttached, words: impl Into<String>) -> Self {
        Self { reason, words: words.into() }
    }
}

/// What may be used of XDP and TC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Generic XDP where there is no native one.
    pub xdp_generic: bool,
    /// tcx where the kernel has it; off to test the older way.
    pub tcx: bool,
}

/// Our programs on one interface. Dropping it detaches them; a qdisc goes with them where we made it and nobody else
/// uses it by then.
pub struct Attached {
    interface: u32,
    /// Why XDP does not count here.
    xdp: Result<(XdpLink, AttachMode), Refusal>,
    taps: Vec<Tap>,
    /// The clsact qdisc was not there before.
    made_qdisc: bool,
}

/// Our TC program in one direction.
struct Tap {
    direction: TcAttachType,
    mode: AttachMode,
    /// The kernel's id of the program.
    program: u32,
    link: SchedClassifierLink,
}

/// Where our TC programs stand among others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// They see every packet.
    First,
    /// Others see packets before them, and let by what they will: those, by name.
    Behind(Vec<String>),
    /// Somebody took one of them away.
    Gone,
}

impl Attached {
    /// Attaches to `interface`: XDP counts where it can be had, TC reads, and counts where XDP does not.
    ///
    /// # Errors
    /// TC can be attached in neither way; nothing is left behind.
    pub fn new(kernel: &mut KernelHalf, interface: &Interface, policy: Policy) -> Result<Self, Refusal> {
        let xdp = attach_xdp(kernel, interface, policy);
        let (ingress_program, egress_program) = match (interface.ethernet, &xdp) {
            (true, Ok(_)) => (program::INGRESS, program::EGRESS),
            (true, Err(_)) => (program::INGRESS_COUNT, program::EGRESS),
            (false, _) => (program::INGRESS_IP, program::EGRESS_IP),
        };
        let mut attached = Self { interface: interface.index, xdp, taps: Vec::new(), made_qdisc: false };
        attached.attach_tc(kernel, interface, ingress_program, TcAttachType::Ingress, policy)?;
        attached.attach_tc(kernel, interface, egress_program, TcAttachType::Egress, policy)?;
        Ok(attached)
    }

    /// Tries XDP again where it was taken: TC stops counting first, so that nothing is counted twice. `None` where
    /// nothing has changed.
    ///
    /// # Errors
    /// TC could not be changed over; then this interface has to be attached to anew.
    pub fn retry_xdp(
        &mut self,
        kernel: &mut KernelHalf,
        interface: &Interface,
        policy: Policy,
    ) -> anyhow::Result<Option<AttachMode>> {
        let taken = matches!(&self.xdp, Err(refusal) if refusal.reason == NotAttached::Taken);
        if !taken || interface.xdp_program.is_some() {
            return Ok(None);
        }
        self.change_ingress(kernel, program::INGRESS)?;
        match attach_xdp(kernel, interface, policy) {
            Ok((link, mode)) => {
                self.xdp = Ok((link, mode));
                Ok(Some(mode))
            }
            Err(refusal) => {
                self.xdp = Err(refusal);
                self.change_ingress(kernel, program::INGRESS_COUNT)?;
                Ok(None)
            }
        }
    }

    /// Puts another program in the place of the one on ingress; no packet passes between.
    fn change_ingress(&mut self, kernel: &mut KernelHalf, name: &str) -> anyhow::Result<()> {
        let Some(at) = self.taps.iter().position(|tap| tap.direction == TcAttachType::Ingress) else {
            return Ok(());
        };
        let Tap { direction, mode, link, .. } = self.taps.swap_remove(at);
        let classifier = kernel.classifier(name)?;
        let program = classifier.info()?.id();
        let id = classifier.attach_to_link(link)?;
        self.taps.push(Tap { direction, mode, program, link: classifier.take_link(id)? });
        Ok(())
    }

    /// Where our TC programs stand now: others come and go.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn standing(&self) -> std::io::Result<Standing> {
        let mut before: Vec<String> = Vec::new();
        let mut add = |name: String| {
            if !before.contains(&name) {
                before.push(name);
            }
        };
        for tap in &self.taps {
            let programs = traffic_control::tcx_programs(self.interface, tap.direction)?;
            let own = programs.iter().position(|id| *id == tap.program);
            // tcx comes before clsact (sch_handle_ingress in the kernel's net/core/dev.c, 6.6 to 6.18).
            let others = programs.iter().take(own.unwrap_or(programs.len()));
            others.for_each(|id| add(traffic_control::program_name(*id)));
            if tap.mode == AttachMode::Tcx {
                if own.is_none() {
                    return Ok(Standing::Gone);
                }
                continue;
            }
            let filters = traffic_control::filters(self.interface, tap.direction)?;
            let ours = |filter: &traffic_control::Filter| {
                filter.priority == CLSACT_PRIORITY && filter.handle == u32::from(CLSACT_HANDLE)
            };
            let Some(own) = filters.iter().position(ours) else {
                return Ok(Standing::Gone);
            };
            filters.iter().take(own).for_each(|filter| add(filter.name().to_owned()));
        }
        Ok(if before.is_empty() { Standing::First } else { Standing::Behind(before) })
    }

    /// How XDP is attached, or why it is not.
    pub fn xdp(&self) -> Result<AttachMode, &Refusal> {
        self.xdp.as_ref().map(|(_, mode)| *mode)
    }

    /// How TC is attached.
    pub fn tc(&self) -> AttachMode {
        self.taps.first().map_or(AttachMode::Tcx, |tap| tap.mode)
    }

    /// TC: tcx first in the chain, or a filter on clsact.
    fn attach_tc(
        &mut self,
        kernel: &mut KernelHalf,
        interface: &Interface,
        name: &str,
        direction: TcAttachType,
        policy: Policy,
    ) -> Result<(), Refusal> {
        let failed = |error: anyhow::Error| Refusal::new(NotAttached::Failed, format!("{error:#}"));
        let classifier = kernel.classifier(name).map_err(failed)?;
        let program = classifier.info().map_err(|error| explain_tc(interface, &error))?.id();
        if policy.tcx {
            let options = TcAttachOptions::TcxOrder(LinkOrder::first());
            let link = classifier.attach_with_options(&interface.name, direction, options);
            match link.and_then(|id| classifier.take_link(id)) {
                Ok(link) => {
                    self.taps.push(Tap { direction, mode: AttachMode::Tcx, program, link });
                    return Ok(());
                }
                Err(error) if permission_denied(&error) => return Err(explain_tc(interface, &error)),
                Err(error) if os_error(&error) == Some(libc::ENODEV) => return Err(explain_tc(interface, &error)),
                // Before 6.6 the kernel knows no such attach type: EINVAL.
                Err(error) => tracing::debug!(interface = %interface.name, %error, "no tcx: trying clsact"),
            }
        }
        match qdisc_add_clsact(&interface.name) {
            Ok(()) => {
                self.made_qdisc = true;
                tracing::debug!(interface = %interface.name, "added a clsact qdisc");
            }
            Err(error) if is_there(&error) => {}
            Err(error) => return Err(explain_tc(interface, &error)),
        }
        // What a killed predecessor left behind: a filter outlives its process, and these names are only ours.
        for left in program::TC {
            if qdisc_detach_program(&interface.name, direction, left).is_ok() {
                tracing::info!(interface = %interface.name, program = left, "removed the filter that a predecessor left");
            }
        }
        let options = NlOptions { priority: CLSACT_PRIORITY, handle: CLSACT_HANDLE, classid: None };
        let link = classifier.attach_with_options(&interface.name, direction, TcAttachOptions::Netlink(options));
        let link = link.and_then(|id| classifier.take_link(id)).map_err(|error| explain_tc(interface, &error))?;
        self.taps.push(Tap { direction, mode: AttachMode::Clsact, program, link });
        Ok(())
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let mut ours = self.made_qdisc;
        for tap in self.taps.drain(..) {
            // A filter that is not there went with its qdisc: the one that is there now is somebody else's.
            ours &= tap.link.detach().is_ok();
        }
        if ours && let Err(error) = traffic_control::remove_empty_clsact(self.interface) {
            tracing::debug!(interface = self.interface, %error, "the clsact qdisc stays");
        }
    }
}

/// XDP: the driver's first, generic only when it was asked for. What is there already stays.
fn attach_xdp(
    kernel: &mut KernelHalf,
    interface: &Interface,
    policy: Policy,
) -> Result<(XdpLink, AttachMode), Refusal> {
    if !interface.ethernet {
        return Err(Refusal::new(
            NotAttached::Unsupported,
            "without Ethernet headers there is no XDP that could read it",
        ));
    }
    if let Some(id) = interface.xdp_program {
        return Err(Refusal::new(NotAttached::Taken, format!("somebody else's XDP program (id {id}) is there")));
    }
    let native = (!interface.loopback).then_some((XdpMode::Driver, AttachMode::Native));
    let generic = policy.xdp_generic.then_some((XdpMode::Skb, AttachMode::Generic));
    let mut refused = Refusal::new(NotAttached::Unsupported, "the loopback interface has no native XDP");
    for (xdp_mode, mode) in native.into_iter().chain(generic) {
        for name in [program::XDP, program::XDP_LINEAR] {
            let xdp = match kernel.xdp(name) {
                Ok(xdp) => xdp,
                Err(error) => {
                    refused = Refusal::new(NotAttached::Failed, format!("{error:#}"));
                    continue;
                }
            };
            match xdp.attach_to_if_index(interface.index, xdp_mode).and_then(|id| xdp.take_link(id)) {
                Ok(link) => return Ok((link, mode)),
                Err(error) => refused = explain_xdp(&error),
            }
        }
    }
    Err(refused)
}

fn explain_xdp(error: &ProgramError) -> Refusal {
    match os_error(error) {
        Some(libc::EBUSY | libc::EEXIST) => Refusal::new(NotAttached::Taken, "somebody else's XDP program is there"),
        Some(libc::EOPNOTSUPP) => Refusal::new(NotAttached::Unsupported, "its driver has no native XDP"),
        Some(libc::EINVAL | libc::ERANGE) => {
            Refusal::new(NotAttached::Unsupported, "its driver refuses XDP as it is set up (MTU, LRO)")
        }
        Some(libc::EPERM | libc::EACCES) => Refusal::new(NotAttached::NotPermitted, "no privilege for XDP"),
        _ => Refusal::new(NotAttached::Failed, one_line(error)),
    }
}

/// Whether a clsact qdisc could not be added because there is one: somebody else's, or ours from the other direction.
/// The kernel answers EEXIST (tc_modify_qdisc in net/sched/sch_api.c, 5.10 to 6.18).
fn is_there(error: &TcError) -> bool {
    match error {
        TcError::AlreadyAttached => true,
        TcError::NetlinkError(error) => error.raw_os_error() == Some(libc::EEXIST),
        _ => false,
    }
}

fn explain_tc(interface: &Interface, error: &(dyn std::error::Error + 'static)) -> Refusal {
    let name = &interface.name;
    match os_error(error) {
        Some(libc::EPERM | libc::EACCES) => Refusal::new(
            NotAttached::NotPermitted,
            format!("no privilege to attach to {name}: {}", privileges::way_out()),
        ),
        Some(libc::ENODEV) => Refusal::new(NotAttached::Failed, format!("interface {name} is gone")),
        _ => Refusal::new(NotAttached::Failed, format!("attaching TC to {name}: {}", one_line(error))),
    }
}
