//! What stands on an interface's TC hooks: programs of the tcx chain, filters of the clsact qdisc, in the order in which
//! they see packets. Asked of the kernel in one call each, so that it can be asked where something is dropped too.

use std::io;
use std::mem::size_of;

use aya::programs::TcAttachType;
use rtnetlink::packet_core::{
    Emitable as _, ErrorBuffer, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NlaBuffer,
    NlasIterator,
};
use rtnetlink::packet_route::tc::{TcHandle, TcHeader, TcMessageBuffer};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// Bytes of a `struct nlmsghdr` (include/uapi/linux/netlink.h) and of the `struct tcmsg` behind it (rtnetlink.h).
const HEADER: usize = 16;
const MESSAGE: usize = HEADER + size_of::<[u32; 5]>();

/// Message types (include/uapi/linux/netlink.h and rtnetlink.h).
mod kind {
    pub const ERROR: u16 = 2;
    pub const DONE: u16 = 3;
    pub const DELETE_QDISC: u16 = 37;
    pub const GET_FILTER: u16 = 46;
}

/// Attributes of a filter (include/uapi/linux/rtnetlink.h), and of a bpf filter's options (pkt_cls.h).
mod attribute {
    pub const KIND: u16 = 1;
    pub const OPTIONS: u16 = 2;
    pub const CHAIN: u16 = 11;
    pub const BPF_NAME: u16 = 7;
}

/// A filter of a clsact qdisc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Lower ones see a packet first.
    pub priority: u16,
    /// Its number among those of its priority.
    pub handle: u32,
    /// What it is: `bpf`, `flower`, ...
    pub kind: String,
    /// A bpf filter's program.
    pub program: Option<String>,
}

impl Filter {
    /// Its name for people.
    pub fn name(&self) -> &str {
        self.program.as_deref().unwrap_or(&self.kind)
    }
}

/// The filters of this interface's clsact qdisc that every packet in this direction meets, in the order in which it
/// does; none where there is no such qdisc.
///
/// # Errors
/// The kernel does not answer.
pub fn filters(interface: u32, direction: TcAttachType) -> io::Result<Vec<Filter>> {
    let minor = match direction {
        TcAttachType::Egress => TcHandle::MIN_EGRESS,
        _ => TcHandle::MIN_INGRESS,
    };
    let header = TcHeader {
        index: interface as i32,
        parent: TcHandle { major: TcHandle::CLSACT.major, minor },
        ..TcHeader::default()
    };
    let mut filters = Vec::new();
    let answer = request(kind::GET_FILTER, NLM_F_DUMP, &header, |message| filters.extend(filter(message)));
    match answer.as_ref().map_err(io::Error::raw_os_error) {
        // Without the qdisc, or without the interface, some kernels say so and others give an empty list.
        Err(Some(libc::EINVAL | libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP)) => Ok(filters),
        _ => answer.map(|()| filters),
    }
}

/// Takes away the clsact qdisc of this interface, which has to be one that we made, where no filter is on it.
///
/// # Errors
/// The kernel refuses, or there is none.
pub fn remove_empty_clsact(interface: u32) -> io::Result<bool> {
    for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
        if !filters(interface, direction)?.is_empty() {
            return Ok(false);
        }
    }
    let header = TcHeader {
        index: interface as i32,
        handle: TcHandle { major: TcHandle::CLSACT.major, minor: 0 },
        parent: TcHandle::CLSACT,
        ..TcHeader::default()
    };
    request(kind::DELETE_QDISC, NLM_F_ACK, &header, |_| {})?;
    Ok(true)
}

/// Ids of the programs in the tcx chain of this interface, in the order in which they see packets; none where the kernel
/// has no tcx. Asked for by the interface's index and without descriptors of the programs, which need CAP_SYS_ADMIN.
///
/// # Errors
/// The interface is gone, or there are more programs than the kernel lets be attached.
pub fn tcx_programs(interface: u32, direction: TcAttachType) -> io::Result<Vec<u32>> {
    /// BPF_PROG_QUERY of `enum bpf_cmd`, BPF_TCX_INGRESS and BPF_TCX_EGRESS of `enum bpf_attach_type`, and the query
    /// part of `union bpf_attr` (include/uapi/linux/bpf.h, 6.6 and later).
    const QUERY: libc::c_long = 16;
    const TCX_INGRESS: u32 = 46;
    const TCX_EGRESS: u32 = 47;
    /// Programs in one chain at the most (BPF_MPROG_MAX, include/linux/bpf_mprog.h, 6.6 to 6.18).
    const MOST: usize = 64;
    #[repr(C)]
    #[derive(Default)]
    struct Query {
        interface: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        reserved: u32,
        program_attach_flags: u64,
        link_ids: u64,
        link_attach_flags: u64,
        revision: u64,
    }
    let mut ids = [0_u32; MOST];
    let mut query = Query {
        interface,
        attach_type: if direction == TcAttachType::Egress { TCX_EGRESS } else { TCX_INGRESS },
        ids: ids.as_mut_ptr() as u64,
        count: MOST as u32,
        ..Query::default()
    };
    // SAFETY: the kernel reads and writes `query` within the size that is given, and writes at most `count` ids, for
    // which `ids` has room; both live until the call returns.
    let outcome = unsafe { libc::syscall(libc::SYS_bpf, QUERY, &raw mut query, size_of::<Query>()) };
    if outcome < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            // Before 6.6 the kernel knows no such attach type; built without CONFIG_NET_XGRESS neither.
            Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOENT) => Ok(Vec::new()),
            _ => Err(error),
        };
    }
    Ok(ids.into_iter().take(query.count as usize).collect())
}

/// A program's name for people; its number where the kernel does not tell a name, which needs CAP_SYS_ADMIN.
pub fn program_name(id: u32) -> String {
    let program = aya::programs::loaded_programs().flatten().find(|program| program.id() == id);
    let name = program.as_ref().and_then(|program| program.name_as_str()).filter(|name| !name.is_empty());
    name.map_or_else(|| format!("program {id}"), str::to_owned)
}

/// One request and its answers, up to the last.
fn request(
    kind: u16,
    flags: u16,
    header: &TcHeader,
    mut answer: impl FnMut(&TcMessageBuffer<&[u8]>),
) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut bytes = [0; MESSAGE];
    let mut envelope = NetlinkHeader::default();
    envelope.length = MESSAGE as u32;
    envelope.message_type = kind;
    envelope.flags = NLM_F_REQUEST | flags;
    envelope.emit(&mut bytes[..HEADER]);
    header.emit(&mut bytes[HEADER..]);
    socket.send(&bytes, 0)?;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while let Ok(message) = NetlinkBuffer::new_checked(rest) {
            match message.message_type() {
                kind::DONE => return Ok(()),
                kind::ERROR => {
                    let error = ErrorBuffer::new_checked(message.payload()).ok().and_then(|error| error.code());
                    return error.map_or(Ok(()), |code| Err(io::Error::from_raw_os_error(-code.get())));
                }
                _ => {
                    if let Ok(message) = TcMessageBuffer::new_checked(message.payload()) {
                        answer(&message);
                    }
                }
            }
            let length = (message.length() as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

/// A filter that packets meet: not the entry for all of one priority, and not one of a chain that only another filter
/// leads to.
fn filter(message: &TcMessageBuffer<&[u8]>) -> Option<Filter> {
    let mut filter = Filter {
        priority: (message.info() >> 16) as u16,
        handle: message.handle(),
        kind: String::new(),
        program: None,
    };
    for attribute in message.attributes().flatten() {
        match attribute.kind() {
            attribute::KIND => filter.kind = text(&attribute),
            attribute::CHAIN if attribute.value().iter().any(|byte| *byte != 0) => return None,
            attribute::OPTIONS => {
                let options = NlasIterator::new(attribute.value()).flatten();
                let mut names = options.filter(|option| option.kind() == attribute::BPF_NAME);
                filter.program = names.next().map(|name| text(&name));
            }
            _ => {}
        }
    }
    (filter.handle != 0).then_some(filter)
}

fn text<T: AsRef<[u8]> + ?Sized>(attribute: &NlaBuffer<&T>) -> String {
    String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned()
}
