//! Probe namespace: a network namespace in which probes of `dsr`, `ipip` and `gue` start.
//!
//! No VIP is local there, and every route leads into the TUN device. The kernel's TCP can therefore be used for packets
//! that the host would deliver locally or route elsewhere. The host's routes, rules and addresses are unchanged, and
//! the namespace ends with the process.

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
use crate::advice::{Attempt, with_advice};

const DEVICE: &str = "slb-probe";

/// Minimum IPv6 MTU (RFC 8200, section 5): it fits into any tunnel.
const MTU: u32 = 1_280;

/// Queue length in packets, for several times the probes that start at once.
const QUEUE: u32 = 4_096;

/// Longest wait until an address is usable, and the polling interval.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(2);
const POLL_INTERVAL: Duration = Duration::from_millis(1);

type Job = Box<dyn FnOnce() + Send>;

/// The namespace. It ends when this is dropped and the last socket is closed.
#[derive(Debug)]
pub(super) struct ProbeNamespace {
    jobs: mpsc::Sender<Job>,
    netlink: Handle,
    device: u32,
    _connection: JoinSet<()>,
}

/// Resources made inside the namespace, by its thread.
struct NamespaceParts {
    device: fs::File,
    index: u32,
    connection: JoinSet<()>,
    netlink: Handle,
}

impl ProbeNamespace {
    /// Makes the namespace and its TUN device.
    pub(super) async fn create() -> Result<(Self, Tun)> {
        let (jobs, work) = mpsc::channel::<Job>();
        let (ready, made) = oneshot::channel();
        let runtime = runtime::Handle::current();
        thread::Builder::new().name("slb-probe".to_owned()).spawn(move || {
            // Netlink sockets made here belong to this runtime.
            let _entered = runtime.enter();
            if ready.send(set_up()).is_ok() {
                // A job that panics drops its channel, which its caller sees as an error.
                work.into_iter().for_each(|job| drop(catch_unwind(AssertUnwindSafe(job))));
            }
        })?;
        let NamespaceParts { device, index, connection, netlink } =
            made.await.context("its thread ended")??;
        let namespace = Self { jobs, netlink, device: index, _connection: connection };
        namespace.connect().await?;
        Ok((namespace, Tun::new(device)?))
    }

    /// Runs a closure in the namespace.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<io::Result<T>> {
        let (done, result) = oneshot::channel();
        // The caller may have given up.
        let job = Box::new(move || drop(done.send(call())));
        let gone = || anyhow!("the thread of the probes' namespace does not answer");
        self.jobs.send(job).map_err(|_| gone())?;
        result.await.map_err(|_| gone())
    }

    /// Adds an address to the namespace, so that probes can have it as source.
    pub(super) async fn add_address(&self, address: IpAddr) -> Result<()> {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        let mut request = self.netlink.address().add(self.device, address, prefix);
        // No duplicate address detection (RFC 4862, section 5.4): the address belongs to this host.
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        request.replace().execute().await.with_context(|| format!("cannot add {address}"))?;
        timeout(ADDRESS_TIMEOUT, self.receives(address))
            .await
            .with_context(|| format!("{address} is not in use"))?
    }

    /// Waits until packets to an address of the namespace are delivered. The kernel installs the local route of an IPv6
    /// address some time after adding the address. A faster probe would lose its answer.
    async fn receives(&self, address: IpAddr) -> Result<()> {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        loop {
            let question = RouteMessageBuilder::<IpAddr>::new().destination_prefix(address, prefix)?.build();
            let answer = self.netlink.route().get(question).execute().next().await;
            if matches!(answer, Some(Ok(route)) if route.header.kind == RouteType::Local) {
                return Ok(());
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Brings up the device and routes everything through it.
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
            tracing::debug!(%error, "no IPv6 for probes on the path of the traffic");
        }
        Ok(())
    }
}

/// Moves the calling thread into a new network namespace.
fn set_up() -> Result<NamespaceParts> {
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|error| with_advice(error.into(), Attempt::MakeNamespace))
        .context("cannot make a network namespace")?;
    // Settings copied from the host may disable IPv6. Without IPv6 these files do not exist.
    for conf in ["all", "default"] {
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{conf}/disable_ipv6"), "0");
    }
    let device = tun::create(DEVICE)
        .map_err(|error| with_advice(error.into(), Attempt::OpenTun))
        .context("cannot make a TUN device at /dev/net/tun")?;
    let index = if_nametoindex(DEVICE)?;
    let (connection, netlink, _) = new_connection()?;
    Ok(NamespaceParts { device, index, connection: JoinSet::from_iter([connection]), netlink })
}
