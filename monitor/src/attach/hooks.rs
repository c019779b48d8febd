//! Attaching to the hooks of one interface, without ever replacing or removing what another program put there.

use anyhow::{Context as _, Result, bail};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact, qdisc_detach_program,
};
use aya::programs::xdp::XdpLink;
use aya::programs::{LinkOrder, ProgramError, TcAttachType, XdpMode};
use monitor_common::closed_set;

use super::interfaces::Interface;
use super::object::{KernelHalf, os_error, permission_denied, program};

/// Priority of the clsact filters: behind those that network plugins put first (Cilium's is 1).
const CLSACT_PRIORITY: u16 = 10;

/// Handle of the clsact filters, by which they are known for ours.
const CLSACT_HANDLE: TcHandle = TcHandle::new(0xa91, 0xe);

closed_set! {
    /// How a program stands on its hook.
    Mode {
        /// XDP in the driver.
        Native = "native",
        /// XDP in the network stack.
        Generic = "generic",
        /// TC by a tcx link (kernel 6.6 and later), first in the chain.
        Tcx = "tcx",
        /// TC by a filter on a clsact qdisc.
        Clsact = "clsact",
    }
}

closed_set! {
    /// A hook of an interface.
    HookPoint {
        /// eXpress Data Path.
        Xdp = "xdp",
        /// Traffic control, on the way in.
        Ingress = "tc_ingress",
        /// Traffic control, on the way out.
        Egress = "tc_egress",
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

/// Our programs on one interface. Dropping it detaches them; a qdisc stays, since others may use it by then.
pub struct Attached {
    /// XDP, where it could be had, and how.
    xdp: Option<(XdpLink, Mode)>,
    ingress: Option<SchedClassifierLink>,
    egress: Option<SchedClassifierLink>,
    /// How TC is attached.
    tc: Mode,
    /// Why XDP is not there.
    xdp_refused: Option<String>,
}

impl Attached {
    /// Attaches to `interface`: XDP counts where it can be had, TC reads, and counts where XDP does not.
    ///
    /// # Errors
    /// TC can be attached in neither way; nothing is left behind.
    pub fn new(kernel: &mut KernelHalf, interface: &Interface, policy: Policy) -> Result<Self> {
        let (xdp, xdp_refused) = match attach_xdp(kernel, interface, policy) {
            Ok(xdp) => (Some(xdp), None),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        let (ingress_program, egress_program) = match (interface.ethernet, &xdp) {
            (true, Some(_)) => (program::INGRESS, program::EGRESS),
            (true, None) => (program::INGRESS_COUNT, program::EGRESS),
            (false, _) => (program::INGRESS_IP, program::EGRESS_IP),
        };
        let (ingress, tc) = attach_tc(kernel, interface, ingress_program, TcAttachType::Ingress, policy)?;
        let (egress, _) = attach_tc(kernel, interface, egress_program, TcAttachType::Egress, policy)?;
        Ok(Self { xdp, ingress: Some(ingress), egress: Some(egress), tc, xdp_refused })
    }

    /// Which hooks are taken, and how.
    pub fn modes(&self) -> Vec<(HookPoint, Mode)> {
        let xdp = self.xdp.iter().map(|(_, mode)| (HookPoint::Xdp, *mode));
        xdp.chain([(HookPoint::Ingress, self.tc), (HookPoint::Egress, self.tc)]).collect()
    }

    /// Why XDP does not count here.
    pub fn xdp_refused(&self) -> Option<&str> {
        self.xdp_refused.as_deref()
    }
}

/// XDP: the driver's first, generic only when it was asked for. What is there already stays.
fn attach_xdp(kernel: &mut KernelHalf, interface: &Interface, policy: Policy) -> Result<(XdpLink, Mode)> {
    if !interface.ethernet {
        bail!("an interface without Ethernet header has no XDP that could read it");
    }
    if let Some(id) = interface.xdp_program {
        bail!("XDP program {id} of somebody else is there");
    }
    let mut refused = anyhow::Error::msg("no XDP mode was tried");
    let modes = [(XdpMode::Driver, Mode::Native), (XdpMode::Skb, Mode::Generic)];
    let tried = if interface.loopback || policy.xdp_generic { &modes[..] } else { &modes[..1] };
    for (xdp_mode, mode) in tried {
        if interface.loopback && *mode == Mode::Native || *mode == Mode::Generic && !policy.xdp_generic {
            continue;
        }
        for name in [program::XDP, program::XDP_LINEAR] {
            let xdp = match kernel.xdp(name) {
                Ok(xdp) => xdp,
                Err(error) => {
                    refused = error;
                    continue;
                }
            };
            match xdp.attach_to_if_index(interface.index, *xdp_mode).and_then(|id| xdp.take_link(id)) {
                Ok(link) => return Ok((link, *mode)),
                Err(error) => refused = explain_xdp(&error),
            }
        }
    }
    if interface.loopback && !policy.xdp_generic {
        bail!("the loopback interface has no native XDP");
    }
    Err(refused)
}

fn explain_xdp(error: &ProgramError) -> anyhow::Error {
    match os_error(error) {
        Some(libc::EBUSY | libc::EEXIST) => anyhow::Error::msg("an XDP program of somebody else is there"),
        Some(libc::EOPNOTSUPP) => anyhow::Error::msg("its driver has no native XDP"),
        Some(libc::EINVAL | libc::ERANGE) => anyhow::Error::msg("its driver refuses XDP as it is set up (MTU, LRO)"),
        _ => anyhow::Error::msg(super::object::one_line(error)),
    }
}

/// TC: tcx first in the chain, or a filter on clsact.
fn attach_tc(
    kernel: &mut KernelHalf,
    interface: &Interface,
    name: &str,
    direction: TcAttachType,
    policy: Policy,
) -> Result<(SchedClassifierLink, Mode)> {
    let classifier = kernel.classifier(name)?;
    if policy.tcx {
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        match classifier.attach_with_options(&interface.name, direction, options) {
            Ok(id) => return Ok((classifier.take_link(id).context("tcx link")?, Mode::Tcx)),
            Err(error) if permission_denied(&error) => return Err(explain_tc(interface, &error)),
            Err(error) if os_error(&error) == Some(libc::ENODEV) => return Err(explain_tc(interface, &error)),
            // Before 6.6 the kernel knows no such attach type: EINVAL.
            Err(error) => tracing::debug!(interface = %interface.name, %error, "no tcx: trying clsact"),
        }
    }
    match qdisc_add_clsact(&interface.name) {
        Ok(()) => tracing::debug!(interface = %interface.name, "added a clsact qdisc"),
        Err(TcError::AlreadyAttached) => {}
        Err(error) => return Err(explain_tc(interface, &error)).context("adding its clsact qdisc"),
    }
    // What a killed predecessor left behind: a filter outlives its process, and these names are only ours.
    for left in program::TC {
        if qdisc_detach_program(&interface.name, direction, left).is_ok() {
            tracing::info!(interface = %interface.name, program = left, "removed the filter that a predecessor left");
        }
    }
    let options = NlOptions { priority: CLSACT_PRIORITY, handle: CLSACT_HANDLE, classid: None };
    let id = classifier
        .attach_with_options(&interface.name, direction, TcAttachOptions::Netlink(options))
        .map_err(|error| explain_tc(interface, &error))?;
    Ok((classifier.take_link(id).context("clsact filter")?, Mode::Clsact))
}

fn explain_tc(interface: &Interface, error: &(dyn std::error::Error + 'static)) -> anyhow::Error {
    let name = &interface.name;
    match os_error(error) {
        Some(libc::EPERM | libc::EACCES) => {
            anyhow::anyhow!("no privilege to attach to {name}: run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")
        }
        Some(libc::ENODEV) => anyhow::anyhow!("interface {name} is gone"),
        _ => anyhow::anyhow!("attaching TC to {name}: {}", super::object::one_line(error)),
    }
}
