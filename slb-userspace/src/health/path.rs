//! Paths of probes, and their sockets.
//!
//! Probes take the path of the traffic: in mode `nat` to the server's own address, in `dsr`, `ipip` and `gue` to a VIP at the
//! server. For the latter see `vip_path`.

mod capture;
mod filter;
mod port_guard;
mod probe_namespace;
mod registry;
mod sender;
mod socket;
mod source;
mod tun;
mod vip_path;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use socket2::Socket;
use tokio::{
    sync::{OnceCell, mpsc, watch},
    time::{Instant, timeout_at},
};

use self::{
    registry::SendError,
    vip_path::{VipPath, resolved},
};
use super::{ProbeError, Target};
use crate::neigh::{NextHop, Resolution, Resolutions, Unresolved};

pub use self::source::is_own_address;
pub(super) use self::{socket::Transport, vip_path::Lease};

/// A socket that is not connected yet, bound if its source address matters.
#[derive(Debug)]
pub(super) struct ProbeSocket {
    pub(super) socket: Socket,
    /// The endpoint to connect to.
    pub(super) remote: SocketAddr,
    /// Identifier for ICMP echo requests.
    pub(super) id: u16,
    /// Keeps the path open for this socket's packets.
    pub(super) lease: Option<Lease>,
}

/// Settings for all probes.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ProbeSettings {
    /// Source addresses, at most one per address family. The kernel chooses for a family without one.
    pub sources: Vec<IpAddr>,
    /// `SO_MARK` of probe packets, for this host's firewall and routing rules.
    pub mark: Option<u32>,
    /// Source addresses of tunnels.
    pub tunnel_addresses: Vec<IpAddr>,
    /// UDP destination port of tunnels of mode `gue`.
    pub gue_port: u16,
}

impl ProbeSettings {
    /// The configured source address for probes to this address, if any.
    ///
    /// # Errors
    /// The address is not local. An echo request on the VIP path would still be sent from it, and the missing answer
    /// would be blamed on the server.
    fn source(&self, to: IpAddr) -> Result<Option<IpAddr>, ProbeError> {
        let source = self.sources.iter().find(|source| source.is_ipv4() == to.is_ipv4()).copied();
        match source {
            Some(source) if !is_own_address(source) => Err(ProbeError::NoProbePath(format!(
                "this machine has no address {source}, which is [daemon] probe_source"
            ))),
            source => Ok(source),
        }
    }
}

/// Opens paths for probes.
#[derive(Debug)]
pub struct ProbePaths {
    settings: ProbeSettings,
    /// Next hops of servers.
    neighbours: watch::Receiver<Resolutions>,
    /// Channel for servers whose next hop may be stale.
    doubts: mpsc::Sender<IpAddr>,
    /// The VIP path, opened by the first probe that needs it; `None` if it cannot be opened.
    vip_path: OnceCell<Option<VipPath>>,
}

/// The path of one probe.
#[derive(Debug)]
pub(super) struct ProbeRoute<'p> {
    paths: &'p ProbePaths,
    target: &'p Target,
    /// For a probe to a VIP: the VIP path, the VIP, and the next hop to the server.
    vip_path: Option<(&'p VipPath, IpAddr, NextHop)>,
    send_error: SendError,
}

impl<'p> ProbeRoute<'p> {
    fn new(
        paths: &'p ProbePaths,
        target: &'p Target,
        vip_path: Option<(&'p VipPath, IpAddr, NextHop)>,
    ) -> Self {
        Self { paths, target, vip_path, send_error: SendError::default() }
    }

    /// Opens a socket for the probe.
    pub(super) async fn open(&self, transport: Transport) -> Result<ProbeSocket, ProbeError> {
        let settings = &self.paths.settings;
        if let Some((vip_path, vip, hop)) = &self.vip_path {
            return vip_path
                .socket(self.target, *vip, transport, settings, hop, self.send_error.clone())
                .await;
        }
        let remote = self.target.address;
        let socket = socket::open(remote.ip(), transport, settings.mark)?;
        if let Some(source) = settings.source(remote.ip())? {
            socket::bind_address(&socket, source)?;
        }
        Ok(ProbeSocket { socket, remote, id: fastrand::u16(..), lease: None })
    }

    /// Whether probe packets cannot leave this host. Then the result says nothing about the server.
    pub(super) fn is_broken(&self) -> bool {
        self.vip_path.as_ref().is_some_and(|(vip_path, ..)| vip_path.is_broken())
    }

    /// Why this host did not send a packet of the probe, if the reason is not the server's.
    pub(super) fn send_error(&self) -> Option<ProbeError> {
        // `io::Error` is not `Clone`; the errno is enough.
        let error = self.send_error.get()?.raw_os_error().map(io::Error::from_raw_os_error)?;
        Some(ProbeError::from(error)).filter(|error| !error.blames_server())
    }

    /// Distinguishes silence of a server, which some checks accept, from silence of an unreachable one. It also
    /// requests a check of the next hop for the next probe, because the kernel alone may take a minute to notice.
    pub(super) fn silence(&self) -> Result<(), ProbeError> {
        use Unresolved::{InterfaceDown, NeighbourTableFull, NoNeighbour, NoRoute};
        let server = self.target.address.ip();
        let known = self.paths.neighbours.borrow();
        if let Some(Resolution::Unresolved(
            why @ (NoRoute | NoNeighbour { .. } | NeighbourTableFull { .. } | InterfaceDown { .. }),
        )) = known.get(&server)
        {
            return Err(ProbeError::Unreachable(why.clone()));
        }
        // If the queue is full or closed, the next silence requests it again.
        let _ = self.paths.doubts.try_send(server);
        Ok(())
    }
}

impl Default for ProbePaths {
    /// Probes to the servers' own addresses, with the kernel's choice of source address.
    fn default() -> Self {
        Self::new(ProbeSettings::default(), watch::channel(Resolutions::default()).1, mpsc::channel(1).0)
    }
}

impl ProbePaths {
    /// Paths that follow the next hops in `neighbours`. Silent servers are sent to `doubts`.
    pub fn new(
        settings: ProbeSettings,
        neighbours: watch::Receiver<Resolutions>,
        doubts: mpsc::Sender<IpAddr>,
    ) -> Self {
        Self { settings, neighbours, doubts, vip_path: OnceCell::new() }
    }

    /// Finds the path to a target, which may have to wait for its next hop. Returns the path and the deadline of the
    /// probe. The time to open the VIP path does not count towards the timeout.
    pub(super) async fn route<'p>(
        &'p self,
        target: &'p Target,
        timeout: Duration,
    ) -> Result<(ProbeRoute<'p>, Instant), ProbeError> {
        let vip_path = match target.via.vip() {
            Some(vip) => self.vip_path().await.map(|vip_path| (vip, vip_path)),
            None => None,
        };
        let deadline = Instant::now() + timeout;
        let Some((vip, vip_path)) = vip_path else {
            return Ok((ProbeRoute::new(self, target, None), deadline));
        };
        let mut neighbours = self.neighbours.clone();
        let server = target.address.ip();
        let known = neighbours.wait_for(|known| resolved(known, server).is_some());
        match timeout_at(deadline, known).await {
            Ok(Ok(known)) => {
                let hop = resolved(&known, server).map(|hop| (vip_path, vip, hop));
                Ok((ProbeRoute::new(self, target, hop), deadline))
            }
            Ok(Err(_)) => Err(ProbeError::NoProbePath("next hops are not monitored".to_owned())),
            Err(_elapsed) => match self.neighbours.borrow().get(&server) {
                Some(Resolution::Unresolved(why)) => Err(ProbeError::Unreachable(why.clone())),
                _ => Err(ProbeError::NoProbePath("its next hop is not resolved yet".to_owned())),
            },
        }
    }

    /// Whether probes of a target take another path than to the server's own address.
    pub(super) fn differ(&self, target: &Target) -> bool {
        target.via.vip().is_some() && matches!(self.vip_path.get(), Some(Some(_)))
    }

    async fn vip_path(&self) -> Option<&VipPath> {
        let make = || async {
            let made = VipPath::open(&self.settings).await;
            made.inspect_err(|error| {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "health checks of listeners in the modes `dsr`, `ipip` and `gue` go to the servers' own addresses, not along the path of the traffic"
                );
            })
            .ok()
        };
        self.vip_path.get_or_init(make).await.as_ref()
    }
}
