//! A second network namespace, and a veth pair between it and the first.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;
use std::sync::mpsc;

use anyhow::{Context as _, Result, anyhow};
use futures_util::TryStreamExt as _;
use rtnetlink::{Handle, LinkUnspec, LinkVeth, new_connection};

/// The end of the veth pair where the monitor and the server are.
pub const OURS: &str = "api0";
/// The client's end.
const THEIRS: &str = "client0";
/// The server's addresses.
pub const SERVER: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 168, 56, 10)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x56, 0, 0, 0, 0, 0, 0x10))];
/// The client's addresses.
const CLIENT: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 168, 56, 11)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x56, 0, 0, 0, 0, 0, 0x11))];

type Work = Box<dyn FnOnce() + Send>;

/// A network namespace with a thread in it.
pub struct Namespace {
    work: mpsc::Sender<Work>,
    file: File,
}

impl Namespace {
    /// Makes one.
    pub fn new() -> Result<Self> {
        let (work, todo) = mpsc::channel::<Work>();
        let (tell, made) = mpsc::channel();
        std::thread::spawn(move || {
            // SAFETY: takes a number only; this thread alone changes its namespace.
            let outcome = match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
                0 => File::open("/proc/thread-self/ns/net"),
                _ => Err(std::io::Error::last_os_error()),
            };
            if tell.send(outcome).is_ok() {
                todo.into_iter().for_each(|work| work());
            }
        });
        Ok(Self { work, file: made.recv()?.context("making a network namespace")? })
    }

    /// Does this in the namespace.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let (tell, done) = mpsc::channel();
        let work = Box::new(move || {
            // Who asked waits below.
            let _ = tell.send(work());
        });
        self.work.send(work).map_err(|_| anyhow!("the namespace's thread is gone"))?;
        done.recv().context("the namespace's thread panicked")?
    }
}

/// A veth pair with addresses: ours here, the client's there. Also brings both loopback interfaces up.
pub fn make_wire(client: &Namespace) -> Result<()> {
    let there = client.file.as_raw_fd();
    without_duplicate_detection()?;
    client.run(without_duplicate_detection)?;
    with_netlink(async |handle| {
        handle.link().add(LinkVeth::new(OURS, THEIRS).build()).execute().await.context("making the veth pair")?;
        let theirs = index(&handle, THEIRS).await?;
        let into = LinkUnspec::new_with_index(theirs).setns_by_fd(there).build();
        handle.link().set(into).execute().await.context("moving the veth pair's other end")?;
        up(&handle, "lo", &[]).await?;
        up(&handle, OURS, &SERVER).await
    })?;
    client.run(|| {
        with_netlink(async |handle| {
            up(&handle, "lo", &[]).await?;
            up(&handle, THEIRS, &CLIENT).await
        })
    })
}

/// Does what needs a netlink socket of this thread's namespace.
pub fn with_netlink<T>(work: impl AsyncFnOnce(Handle) -> Result<T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting tokio")?;
    runtime.block_on(async {
        let (connection, handle, _) = new_connection().context("opening a netlink socket")?;
        let netlink = tokio::spawn(connection);
        let outcome = work(handle).await;
        netlink.abort();
        outcome
    })
}

/// IPv6 addresses work at once.
fn without_duplicate_detection() -> Result<()> {
    fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").context("switching duplicate detection off")
}

async fn index(handle: &Handle, name: &str) -> Result<u32> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    let link = links.try_next().await.with_context(|| format!("looking for {name}"))?;
    Ok(link.with_context(|| format!("no interface {name}"))?.header.index)
}

async fn up(handle: &Handle, name: &str, addresses: &[IpAddr]) -> Result<()> {
    let index = index(handle, name).await?;
    let change = LinkUnspec::new_with_index(index).up().build();
    handle.link().set(change).execute().await.with_context(|| format!("bringing {name} up"))?;
    for address in addresses {
        let length = if address.is_ipv4() { 24 } else { 64 };
        let added = handle.address().add(index, *address, length).execute().await;
        added.with_context(|| format!("giving {name} {address}"))?;
    }
    Ok(())
}
