//! A router between `slb` and the client or a backend, with a narrower link behind it.
//!
//! ```text
//! slb client0 ---- near router far ---- eth0 client
//! ```
//! Both sides keep their addresses: the router answers ARP and neighbour solicitations for the other side.

use std::{os::fd::OwnedFd, sync::PoisonError};

use anyhow::Result;

use super::{
    super::{pass, run},
    BACKEND, BackendProgram, CLIENT_SOURCES, FIRST_SOURCE, Family, Namespace, SLB, Topology, addressing,
    quiet,
};

/// Host number of a router on its link.
const ROUTER: u8 = 200;

/// A router.
#[derive(Debug)]
pub struct Router {
    /// Its namespace.
    pub namespace: Namespace,
    /// Keeps an XDP program attached: of the client, or in front of a backend of the router's interface `near`.
    _program: OwnedFd,
}

impl Topology {
    /// Puts a router between `slb` and the client (link 0) or backend number `link`. It forwards packets of at most
    /// `mtu` bytes to that host, and answers larger ones by ICMP errors. The name of its namespace begins with
    /// `prefix`.
    ///
    /// # Errors
    /// A command fails, or the router exists.
    pub fn insert_router(&self, prefix: &str, link: u8, mtu: u16) -> Result<Router> {
        let namespace = Namespace::create(&format!("{prefix}-r{link}"))?;
        quiet(&namespace)?;
        let (host, hosts) = match link.checked_sub(1) {
            None => (&self.client, (FIRST_SOURCE..FIRST_SOURCE + CLIENT_SOURCES).collect()),
            Some(index) => (&self.backends[usize::from(index)].namespace, vec![BACKEND]),
        };
        host.ip(&format!("link set eth0 netns {0} name near", namespace.name()))?;
        namespace.ip(&format!("link add far type veth peer name eth0 netns {}", host.name()))?;
        for (namespace, device) in [(&namespace, "far"), (host, "eth0")] {
            run(namespace.command("ethtool").args(["-K", device, "tx", "off"]), "")?;
            namespace.ip(&format!("link set {device} up"))?;
        }
        host.ip(&addressing(link, &hosts, "eth0"))?;
        configure(&namespace, link, &hosts, mtu)?;
        let at_host = host.on_thread(|| pass::attach("eth0"))?;
        // The client's program has moved to the router with its interface. Replacing a backend's detaches it.
        let program = match link.checked_sub(1) {
            None => at_host,
            Some(index) => {
                let program = &self.backends[usize::from(index)].program;
                *program.lock().unwrap_or_else(PoisonError::into_inner) =
                    BackendProgram::Pass { _link: at_host };
                namespace.on_thread(|| pass::attach("near"))?
            }
        };
        Ok(Router { namespace, _program: program })
    }
}

fn configure(router: &Namespace, link: u8, hosts: &[u8], mtu: u16) -> Result<()> {
    for device in ["near", "far"] {
        router.ip(&format!("link set {device} up"))?;
        router.sysctl(&format!("net/ipv4/conf/{device}/proxy_arp"), "1")?;
        router.sysctl(&format!("net/ipv6/conf/{device}/proxy_ndp"), "1")?;
        for family in ["ipv4", "ipv6"] {
            router.sysctl(&format!("net/{family}/neigh/{device}/proxy_delay"), "0")?;
        }
    }
    router.sysctl("net/ipv4/ip_forward", "1")?;
    router.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    let mut lines = Vec::new();
    for family in Family::ALL {
        let slb = family.host(link, SLB);
        lines.push(format!("addr add {} dev lo", family.host(link, ROUTER)));
        lines.push(format!("route add {slb} dev near"));
        lines.push(format!("route add default via {slb} dev near onlink"));
        for host in hosts {
            let host = family.host(link, *host);
            lines.push(format!("route add {host} dev far mtu lock {mtu}"));
            if family == Family::V6 {
                lines.push(format!("neigh add proxy {host} dev near"));
            }
        }
        if family == Family::V6 {
            lines.push(format!("neigh add proxy {slb} dev far"));
        }
    }
    router.ip(&lines.join("\n"))
}
