//! The ways that probes go, and the sockets for them.
//!
//! Probes go where the traffic goes: in mode `nat` to the server's own address, in `dsr` and `ipip` to a VIP at the
//! server. For the latter see `through`.

mod capture;
mod emit;
mod filter;
mod guard;
mod registry;
mod room;
mod socket;
mod source;
mod through;
mod tun;

use std::net::{IpAddr, SocketAddr};

use socket2::Socket;
use tokio::sync::{OnceCell, watch};

use self::through::{Through, resolved};
use super::{ProbeError, Target};
use crate::neigh::Resolutions;

pub(super) use self::{socket::Transport, through::Lease};

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
    fn source(&self, to: IpAddr) -> Option<IpAddr> {
        self.sources.iter().find(|source| source.is_ipv4() == to.is_ipv4()).copied()
    }
}

/// How probes leave this host.
#[derive(Debug)]
pub struct Paths {
    settings: Settings,
    /// Next hops to servers.
    neighbours: watch::Receiver<Resolutions>,
    /// Made with the first probe that needs it; `None` where it cannot be made.
    through: OnceCell<Option<Through>>,
}

impl Default for Paths {
    /// As the kernel likes, and to the servers' own addresses.
    fn default() -> Self {
        Self::new(Settings::default(), watch::channel(Resolutions::default()).1)
    }
}

impl Paths {
    /// Ways as the traffic's, which the next hops say.
    pub fn new(settings: Settings, neighbours: watch::Receiver<Resolutions>) -> Self {
        Self { settings, neighbours, through: OnceCell::new() }
    }

    /// Opens a socket for a probe.
    pub(super) async fn open(&self, target: &Target, transport: Transport) -> Result<Opened, ProbeError> {
        if let Some(vip) = target.via.vip()
            && let Some(through) = self.through().await
        {
            // At a start neighbours answer a moment later. One that never does is a server that does not answer.
            let mut neighbours = self.neighbours.clone();
            let server = target.address.ip();
            let known = neighbours.wait_for(|known| resolved(known, server).is_some()).await;
            let hop = known.ok().and_then(|known| resolved(&known, server));
            let hop = hop.ok_or_else(|| ProbeError::NoWay("next hops are not followed".to_owned()))?;
            return through.socket(target, vip, transport, &self.settings, hop).await;
        }
        let remote = target.address;
        let socket = socket::open(remote.ip(), transport, self.settings.mark)?;
        if let Some(source) = self.settings.source(remote.ip()) {
            socket::bind_address(&socket, source)?;
        }
        Ok(Opened { socket, remote, id: fastrand::u16(..), lease: None })
    }

    /// Whether probes of a target have gone another way than to the server's own address.
    pub(super) fn differ(&self, target: &Target) -> bool {
        target.via.vip().is_some() && matches!(self.through.get(), Some(Some(_)))
    }

    async fn through(&self) -> Option<&Through> {
        let make = || async {
            let made = Through::open(&self.settings).await;
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
