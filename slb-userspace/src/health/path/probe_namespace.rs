//! The room that probes through another way start from: a network namespace of its own.
//!
//! There no VIP is local and no route leads anywhere but into the TUN device, so that the kernel's own TCP can be used
//! for packets that the host itself would keep, or send elsewhere. The host's routes, rules and addresses stay as they
//! are, and all of it is gone with the process.

use std::{
    fs, io,
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use futures_util::StreamExt as _;
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
};
use rtnetlink::{
    Handle, LinkUnspec, RouteMessageBuilder, new_connection,
    packet_route::{
        address::AddressHeaderFlags,
        route::{RouteScope, RouteType},
    },
};
use tokio::{
    runtime,
    sync::oneshot,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::tun::{self, Tun};

const DEVICE: &str = "slb-probe";

/// The smallest MTU of IPv6 (RFC 8200, section 5): it fits into any tunnel.
const MTU: u32 = 1_280;

/// Packets that may wait in the device: as many as probes begin at once, several times.
const QUEUE: u32 = 4_096;

/// Most time until an address is in use, and time between two looks whether it is.
const SETTLED: Duration = Duration::from_secs(2);
const SETTLING: Duration = Duration::from_millis(1);

type Job = Box<dyn FnOnce() + Send>;

/// The namespace; it goes when this is dropped, and the last socket is closed.
#[derive(Debug)]
pub(super) struct ProbeNamespace {
    jobs: mpsc::Sender<Job>,
    netlink: Handle,
    device: u32,
    _connection: JoinSet<()>,
}

/// What is made inside, by the thread that lives there.
struct Made {
    device: fs::File,
    index: u32,
    connection: JoinSet<()>,
    netlink: Handle,
}

impl ProbeNamespace {
    /// Makes the room and its device.
    pub(super) async fn make() -> Result<(Self, Tun)> {
        let (jobs, work) = mpsc::channel::<Job>();
        let (ready, made) = oneshot::channel();
        let runtime = runtime::Handle::current();
        thread::Builder::new().name("slb-probe".to_owned()).spawn(move || {
            // The runtime takes the sockets that are made here.
            let _entered = runtime.enter();
            if ready.send(furnish()).is_ok() {
                // One that panics is answered as one that could not be run.
                work.into_iter().for_each(|job| drop(catch_unwind(AssertUnwindSafe(job))));
            }
        })?;
        let Made { device, index, connection, netlink } = made.await.context("its thread ended")??;
        let room = Self { jobs, netlink, device: index, _connection: connection };
        room.connect().await?;
        Ok((room, Tun::new(device)?))
    }

    /// Runs a closure inside.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<io::Result<T>> {
        let (done, result) = oneshot::channel();
        // Whoever asked may have given up.
        let job = Box::new(move || drop(done.send(call())));
        let gone = || anyhow!("the thread of the probes' namespace does not answer");
        self.jobs.send(job).map_err(|_| gone())?;
        result.await.map_err(|_| gone())
    }

    /// Makes an address one of the room's own, so that probes can come from it.
    pub(super) async fn add_address(&self, address: IpAddr) -> Result<()> {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        let mut request = self.netlink.address().add(self.device, address, prefix);
        // Its owner is this host: there is nobody to ask (RFC 4862, section 5.4).
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        request.replace().execute().await.with_context(|| format!("cannot add {address}"))?;
        timeout(SETTLED, self.receives(address)).await.with_context(|| format!("{address} is not in use"))?
    }

    /// Waits until what comes to an address of the room is received. The kernel routes an IPv6 address to itself some time
    /// after it has become one of its own: a probe that was quicker than that would not hear its answer.
    async fn receives(&self, address: IpAddr) -> Result<()> {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        loop {
            let question = RouteMessageBuilder::<IpAddr>::new().destination_prefix(address, prefix)?.build();
            let answer = self.netlink.route().get(question).execute().next().await;
            if matches!(answer, Some(Ok(route)) if route.header.kind == RouteType::Local) {
                return Ok(());
            }
            sleep(SETTLING).await;
        }
    }

    /// Everything leaves through the device.
    async fn connect(&self) -> Result<()> {
        let up = LinkUnspec::new_with_index(self.device).mtu(MTU).txqueuelen(QUEUE).up().build();
        self.netlink.link().change(up).execute().await.context("cannot bring up the device")?;
        let v4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .output_interface(self.device)
            .scope(RouteScope::Link)
            .build();
        self.netlink.route().add(v4).execute().await.context("cannot add a route")?;
        let v6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new().output_interface(self.device).build();
        if let Err(error) = self.netlink.route().add(v6).execute().await {
            tracing::debug!(%error, "no IPv6 for probes on the way of the traffic");
        }
        Ok(())
    }
}

/// Leaves the host's namespace for one of the calling thread's own.
fn furnish() -> Result<Made> {
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
    // What the host has switched off for its own interfaces is of no concern here; without IPv6 there are no such files.
    for conf in ["all", "default"] {
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{conf}/disable_ipv6"), "0");
    }
    let device = tun::make(DEVICE).context("cannot make a TUN device")?;
    let index = if_nametoindex(DEVICE)?;
    let (connection, netlink, _) = new_connection()?;
    Ok(Made { device, index, connection: JoinSet::from_iter([connection]), netlink })
}
