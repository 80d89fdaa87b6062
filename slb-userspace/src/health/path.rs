//! The ways that probes go, and the sockets for them.
//!
//! Probes go where the traffic goes: in mode `nat` to the server's own address, in `dsr` and `ipip` to a VIP at the
//! server. For the latter see `through`.

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

pub use self::source::is_here;
pub(super) use self::{socket::Transport, vip_path::Lease};

/// A socket that is bound where that matters, and not connected yet.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) socket: Socket,
    /// What it is to be connected to.
    pub(super) remote: SocketAddr,
    /// Identifier for echo requests.
    pub(super) id: u16,
    /// Keeps the way open for the packets of this socket.
    pub(super) lease: Option<Lease>,
}

/// What the configuration says of probes.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Addresses that probes come from, one of each family at most; the kernel's choice otherwise.
    pub sources: Vec<IpAddr>,
    /// Mark of the packets of probes, by which this host's firewall and routes can know them.
    pub mark: Option<u32>,
    /// Where tunnels begin.
    pub tunnel_addresses: Vec<IpAddr>,
}

impl Settings {
    /// Where probes to this address come from, if that is configured.
    ///
    /// # Errors
    /// It is not an address of this host. An echo request on the way of the traffic would be sent from it nonetheless, and the
    /// silence be taken for the server's.
    fn source(&self, to: IpAddr) -> Result<Option<IpAddr>, ProbeError> {
        let source = self.sources.iter().find(|source| source.is_ipv4() == to.is_ipv4()).copied();
        match source {
            Some(source) if !is_here(source) => Err(ProbeError::NoWay(format!(
                "this machine has no address {source}, which is [daemon] probe_source"
            ))),
            source => Ok(source),
        }
    }
}

/// How probes leave this host.
#[derive(Debug)]
pub struct Paths {
    settings: Settings,
    /// Next hops to servers.
    neighbours: watch::Receiver<Resolutions>,
    /// Where to name servers whose next hop may be gone.
    doubts: mpsc::Sender<IpAddr>,
    /// Made with the first probe that needs it; `None` where it cannot be made.
    through: OnceCell<Option<VipPath>>,
}

/// The way of one probe.
#[derive(Debug)]
pub(super) struct Route<'p> {
    paths: &'p Paths,
    target: &'p Target,
    /// Where the probe goes to a VIP: what joins it to the host, the VIP, and the next hop to the server.
    through: Option<(&'p VipPath, IpAddr, NextHop)>,
    send_error: SendError,
}

impl<'p> Route<'p> {
    fn new(paths: &'p Paths, target: &'p Target, through: Option<(&'p VipPath, IpAddr, NextHop)>) -> Self {
        Self { paths, target, through, send_error: SendError::default() }
    }

    /// Opens a socket for the probe.
    pub(super) async fn open(&self, transport: Transport) -> Result<Opened, ProbeError> {
        let settings = &self.paths.settings;
        if let Some((through, vip, hop)) = &self.through {
            return through
                .socket(self.target, *vip, transport, settings, hop, self.send_error.clone())
                .await;
        }
        let remote = self.target.address;
        let socket = socket::open(remote.ip(), transport, settings.mark)?;
        if let Some(source) = settings.source(remote.ip())? {
            socket::bind_address(&socket, source)?;
        }
        Ok(Opened { socket, remote, id: fastrand::u16(..), lease: None })
    }

    /// Whether packets of probes do not leave this host: what becomes of a probe says nothing about the server.
    pub(super) fn is_broken(&self) -> bool {
        self.through.as_ref().is_some_and(|(through, ..)| through.is_broken())
    }

    /// Why this host did not send a packet of the probe, where that says nothing about the server.
    pub(super) fn send_error(&self) -> Option<ProbeError> {
        // An error cannot be copied; what it says can.
        let error = self.send_error.get()?.raw_os_error().map(io::Error::from_raw_os_error)?;
        Some(ProbeError::from(error)).filter(|error| !error.blames_server())
    }

    /// Tells the silence of a server, which may be as good as an answer, from that of one that cannot be reached. Whether it
    /// can is looked into for the next time: the kernel alone may take a minute to notice.
    pub(super) fn silence(&self) -> Result<(), ProbeError> {
        use Unresolved::{InterfaceDown, NoNeighbour, NoRoom, NoRoute};
        let server = self.target.address.ip();
        let known = self.paths.neighbours.borrow();
        if let Some(Resolution::Unresolved(
            why @ (NoRoute | NoNeighbour { .. } | NoRoom { .. } | InterfaceDown { .. }),
        )) = known.get(&server)
        {
            return Err(ProbeError::Unreachable(why.clone()));
        }
        // Too many to look into, or nobody to do so: the next silence asks again.
        let _ = self.paths.doubts.try_send(server);
        Ok(())
    }
}

impl Default for Paths {
    /// As the kernel likes, and to the servers' own addresses.
    fn default() -> Self {
        Self::new(Settings::default(), watch::channel(Resolutions::default()).1, mpsc::channel(1).0)
    }
}

impl Paths {
    /// Ways as the traffic's, which the next hops say. Who is silent is named to `doubts`.
    pub fn new(
        settings: Settings,
        neighbours: watch::Receiver<Resolutions>,
        doubts: mpsc::Sender<IpAddr>,
    ) -> Self {
        Self { settings, neighbours, doubts, through: OnceCell::new() }
    }

    /// Finds the way to a target, for which a neighbour may have to answer first. Returns by when the probe is to be over, which
    /// leaves out what it takes to be able to go any such way: that is not the server's time.
    pub(super) async fn route<'p>(
        &'p self,
        target: &'p Target,
        timeout: Duration,
    ) -> Result<(Route<'p>, Instant), ProbeError> {
        let through = match target.via.vip() {
            Some(vip) => self.through().await.map(|through| (vip, through)),
            None => None,
        };
        let deadline = Instant::now() + timeout;
        let Some((vip, through)) = through else {
            return Ok((Route::new(self, target, None), deadline));
        };
        let mut neighbours = self.neighbours.clone();
        let server = target.address.ip();
        let known = neighbours.wait_for(|known| resolved(known, server).is_some());
        match timeout_at(deadline, known).await {
            Ok(Ok(known)) => {
                let hop = resolved(&known, server).map(|hop| (through, vip, hop));
                Ok((Route::new(self, target, hop), deadline))
            }
            Ok(Err(_)) => Err(ProbeError::NoWay("next hops are not followed".to_owned())),
            Err(_elapsed) => match self.neighbours.borrow().get(&server) {
                Some(Resolution::Unresolved(why)) => Err(ProbeError::Unreachable(why.clone())),
                _ => Err(ProbeError::NoWay("nothing is known of its next hop yet".to_owned())),
            },
        }
    }

    /// Whether probes of a target have gone another way than to the server's own address.
    pub(super) fn differ(&self, target: &Target) -> bool {
        target.via.vip().is_some() && matches!(self.through.get(), Some(Some(_)))
    }

    async fn through(&self) -> Option<&VipPath> {
        let make = || async {
            let made = VipPath::open(&self.settings).await;
            made.inspect_err(|error| {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "health checks of listeners in the modes `dsr` and `ipip` go to the servers' own addresses, not the way \
                     the traffic goes"
                );
            })
            .ok()
        };
        self.through.get_or_init(make).await.as_ref()
    }
}
