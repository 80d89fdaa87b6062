//! Clients: many short exchanges, connections that stay open, bulk transfers, pings.
//!
//! Everything is bounded in number and time. Every failure is recorded with its start time, so that a scenario can say
//! what must not fail, and when.

mod beat;
mod bulk;
mod exchange;
mod flood;
mod load;
mod long;
mod ping;
mod steady;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    net::{Backend, Family, Namespace, Topology},
    server::Service,
};

pub use beat::{Heartbeat, HeartbeatResult};
pub use bulk::Direction;
pub use flood::{Flood, FloodKind};
pub use load::{Batch, ExchangeFailure, Load};
pub use long::{BrokenConnection, LongLived};
pub use steady::{FlowEvent, FlowReport, Interval, ListenerTerms, ListenerView, SteadyFlows};

use long::ConnectionKind;

/// Time limit of an exchange; longer than TCP needs for several retransmissions.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The client's side of a world.
#[derive(Debug, Clone)]
pub struct Client {
    namespace: Arc<Namespace>,
    v4: Arc<[IpAddr]>,
    v6: Arc<[IpAddr]>,
}

impl Client {
    /// The client of this network.
    pub fn new(topology: &Topology) -> Self {
        let sources = |family| topology.sources(family).into();
        Self { namespace: topology.client.clone(), v4: sources(Family::V4), v6: sources(Family::V6) }
    }

    /// A client on a backend, with these addresses of the backend.
    pub fn on_backend(backend: &Backend, v4: IpAddr, v6: IpAddr) -> Self {
        Self { namespace: backend.namespace.clone(), v4: [v4].into(), v6: [v6].into() }
    }

    /// The client with those of its addresses alone for which `is_used` holds: at least one of each family.
    #[must_use]
    pub fn with_addresses(self, is_used: impl Fn(&IpAddr) -> bool) -> Self {
        let used = |all: &[IpAddr]| all.iter().copied().filter(|address| is_used(address)).collect();
        Self { v4: used(&self.v4), v6: used(&self.v6), namespace: self.namespace }
    }

    /// Its addresses of both families.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.iter().chain(self.v6.iter()).copied()
    }

    /// Makes `count` exchanges with `target`, `concurrency` at a time, from the client addresses in turn. An HTTP
    /// exchange has its own TCP connection, a UDP exchange its own client port.
    ///
    /// # Panics
    /// The service is neither HTTP nor UDP echo.
    pub fn exchanges(&self, service: Service, target: SocketAddr, count: u64, concurrency: usize) -> Batch {
        self.load(service, target, count, concurrency).finish()
    }

    /// As [`Self::exchanges`], in the background.
    ///
    /// # Panics
    /// The service is neither HTTP nor UDP echo.
    pub fn load(&self, service: Service, target: SocketAddr, count: u64, concurrency: usize) -> Load {
        Load::start(&self.namespace, self.sources(target), service, target, count, concurrency)
    }

    /// Makes one exchange; returns the name of the server.
    ///
    /// # Errors
    /// The exchange fails.
    pub fn exchange(&self, service: Service, target: SocketAddr) -> Result<String> {
        let mut batch = self.exchanges(service, target, 1, 1);
        match batch.failures.pop() {
            Some(failure) => Err(anyhow::anyhow!("{failure}")),
            None => batch.tally.pop_first().map(|(server, _)| server).context("neither answer nor failure"),
        }
    }

    /// Opens `count` connections to a line server that keep exchanging lines.
    ///
    /// # Errors
    /// A connection cannot be opened.
    pub fn long_lived(&self, target: SocketAddr, count: usize) -> Result<LongLived> {
        LongLived::open(&self.namespace, &self.sources(target), target, count, ConnectionKind::Active)
    }

    /// Opens `count` connections to a line server that become idle after their first line.
    ///
    /// # Errors
    /// A connection cannot be opened.
    pub fn silent(&self, target: SocketAddr, count: usize) -> Result<LongLived> {
        LongLived::open(&self.namespace, &self.sources(target), target, count, ConnectionKind::Idle)
    }

    /// Begins short flows and keeps long ones at these listeners until the result is dropped. Half of the client
    /// addresses use listeners with direct answers, half the others: flows of one client endpoint through two listeners
    /// may not share a server port.
    pub fn steady(&self, views: &[ListenerView]) -> SteadyFlows {
        let with_sources = |view: &ListenerView| {
            let all = self.sources(view.target);
            let (to_servers, direct) = all.split_at(all.len() / 2);
            (*view, if view.direct { direct } else { to_servers }.into())
        };
        SteadyFlows::start(&self.namespace, views.iter().map(with_sources).collect())
    }

    /// Sends datagrams of one flow to an echo server at a fixed rate.
    pub fn beat(&self, target: SocketAddr) -> Heartbeat {
        Heartbeat::start(&self.namespace, self.sources(target)[0], target)
    }

    /// Stops sending, and returns what was lost.
    ///
    /// # Errors
    /// The socket fails.
    pub fn stop(&self, beat: Heartbeat) -> Result<HeartbeatResult> {
        beat.stop(&self.namespace)
    }

    /// Transfers `bytes` bytes over each of `connections` concurrent connections, and compares hashes.
    ///
    /// # Errors
    /// A transfer fails, or the received bytes differ from the sent ones.
    pub fn bulk(
        &self,
        target: SocketAddr,
        direction: Direction,
        bytes: u64,
        connections: usize,
    ) -> Result<()> {
        bulk::transfer(&self.namespace, &self.sources(target), target, direction, bytes, connections)
    }

    /// Floods these targets from all CPUs, until the result is dropped.
    pub fn flood(&self, kind: FloodKind, targets: &[SocketAddr]) -> Flood {
        let targets: Vec<_> = targets.iter().map(|target| (*target, self.sources(*target))).collect();
        Flood::start(&self.namespace, kind, &targets)
    }

    /// Sends an ICMP or ICMPv6 echo request. Returns the round-trip time, or `Ok(None)` without a reply within `limit`.
    ///
    /// # Errors
    /// The request cannot be sent, or another message arrives.
    pub fn ping(&self, target: IpAddr, limit: Duration) -> Result<Option<Duration>> {
        let source = self.sources((target, 0).into())[0];
        self.namespace.on_thread(|| ping::ping(source, target, limit))
    }

    fn sources(&self, target: SocketAddr) -> Arc<[IpAddr]> {
        if target.is_ipv4() { self.v4.clone() } else { self.v6.clone() }
    }
}

/// Milliseconds from `start` to `end`, for messages.
fn millis(start: Instant, end: Instant) -> u128 {
    end.saturating_duration_since(start).as_millis()
}
