//! A server that multipath routes lead to, over two links.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
};

use anyhow::Result;

use super::{
    super::{pass, run},
    BACKEND, Backend, Family, SLB, Topology,
};

/// Number of the second link.
const LINK: u8 = 99;

impl Topology {
    /// Adds a second link to backend `index`, which is `second0` in `slb`. Routes over both links lead to addresses of the
    /// backend that are of no link's subnet, and back to the client. The link carries packets until the returned
    /// descriptor is closed.
    ///
    /// # Errors
    /// A command fails, or the link exists.
    pub fn multipath(&self, index: usize) -> Result<([IpAddr; 2], OwnedFd)> {
        let backend = &self.backends[index];
        let peer = backend.namespace.name();
        self.slb.ip(&format!("link add second0 type veth peer name eth1 netns {peer}"))?;
        backend.namespace.ip("link set eth1 up")?;
        for (namespace, device) in [(&self.slb, "second0"), (&backend.namespace, "eth1")] {
            run(namespace.command("ethtool").args(["-K", device, "tx", "off"]), "")?;
            for family in ["ipv4", "ipv6"] {
                namespace.sysctl(&format!("net/{family}/conf/all/ignore_routes_with_linkdown"), "1")?;
                // A device's own setting decides, which it took from the default when it was made.
                for device in [device, if device == "eth1" { "eth0" } else { &backend.name }] {
                    namespace
                        .sysctl(&format!("net/{family}/conf/{device}/ignore_routes_with_linkdown"), "1")?;
                }
            }
        }
        for family in Family::ALL {
            let own = family.host(LINK, BACKEND);
            backend.namespace.ip(&format!(
                "addr add {own}/{} dev eth1\naddr add {} dev lo\nroute replace default {}",
                family.prefix(),
                server(family),
                paths(family, backend.link, SLB)
            ))?;
        }
        self.restore_paths(index)?;
        Ok((Family::ALL.map(server), backend.namespace.on_thread(|| pass::attach("eth1"))?))
    }

    /// Sets both links to backend `index` up in `slb`, with addresses and routes, which a link that was down has lost.
    ///
    /// # Errors
    /// A command fails.
    pub fn restore_paths(&self, index: usize) -> Result<()> {
        let Backend { name, link, .. } = &self.backends[index];
        self.slb.ip(&format!("link set {name} up\nlink set second0 up"))?;
        for family in Family::ALL {
            let prefix = family.prefix();
            self.slb.ip(&format!(
                "addr replace {}/{prefix} dev {name}\naddr replace {}/{prefix} dev second0\nroute replace {} {}",
                family.host(*link, SLB),
                family.host(LINK, SLB),
                server(family),
                paths(family, *link, BACKEND)
            ))?;
        }
        Ok(())
    }
}

/// Address of the server, of no link's subnet.
fn server(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(203, 0, 113, 77).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x200, 0, 0, 0, 0, 0x77).into(),
    }
}

/// Paths of a route over both links, through the host with this number on each.
fn paths(family: Family, first: u8, host: u8) -> String {
    format!("nexthop via {} nexthop via {}", family.host(first, host), family.host(LINK, host))
}
