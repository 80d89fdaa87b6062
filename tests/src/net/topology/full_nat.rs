//! Servers for mode `full-nat`: they have no route through SLB, but to its local addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result};

use super::{super::run, Backend, Family, SLB, Topology};

/// Number of a further host on a server's link.
const BESIDE: u8 = 20;

impl Topology {
    /// Adds an address to `lo` of `slb`. Backends reach it after [`Backend::route_to`].
    ///
    /// # Errors
    /// The command fails.
    pub fn add_local_address(&self, address: IpAddr) -> Result<()> {
        self.slb.ip(&format!("addr add {address}/{} dev lo", if address.is_ipv4() { 32 } else { 128 }))
    }

    /// Address of `slb` on the link of backend `index`.
    pub fn slb_address_at(&self, index: usize, family: Family) -> IpAddr {
        family.host(self.backends[index].link, SLB)
    }
}

impl Family {
    /// A local address of no link's subnet.
    pub fn local_address(self, number: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(203, 0, 113, number).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x200, 0, 0, 0, 0, number.into()).into(),
        }
    }
}

impl Backend {
    /// Another address in its subnet, which no host has.
    pub fn address_beside(&self, family: Family) -> IpAddr {
        family.host(self.link, BESIDE)
    }

    /// Adds an address in its subnet.
    ///
    /// # Errors
    /// The command fails.
    pub fn add_address(&self, address: IpAddr) -> Result<()> {
        let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
        self.namespace.ip(&format!("addr add {address}/{} dev eth0", family.prefix()))
    }

    /// Removes its default routes: it then reaches its own link only.
    ///
    /// # Errors
    /// A command fails, or it has none.
    pub fn remove_default_routes(&self) -> Result<()> {
        for family in ["-4", "-6"] {
            run(self.namespace.command("ip").args([family, "route", "del", "default"]), "")?;
        }
        Ok(())
    }

    /// Adds a route to one address through `slb`.
    ///
    /// # Errors
    /// The command fails.
    pub fn route_to(&self, address: IpAddr) -> Result<()> {
        let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
        self.namespace.ip(&format!("route replace {address} via {}", family.host(self.link, SLB)))
    }

    /// Ends at the other side of the TCP connections that are open at a port of this backend.
    ///
    /// # Errors
    /// `ss` fails.
    pub fn peers(&self, port: u16) -> Result<Vec<SocketAddr>> {
        let filter = format!("sport = :{port}");
        let shown = run(self.namespace.command("ss").args(["-Htn", "state", "established", &filter]), "")?;
        let peers = shown.lines().map(|line| {
            let peer = line.split_whitespace().nth(3).with_context(|| format!("no peer: {line}"))?;
            let peer: SocketAddr = peer.parse().with_context(|| line.to_owned())?;
            Ok(SocketAddr::new(peer.ip().to_canonical(), peer.port()))
        });
        peers.collect()
    }
}
