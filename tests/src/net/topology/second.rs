//! A second load balancer in front of the same servers, with its own links to the client and to each of them.
//!
//! No host resolves neighbours on these links: they carry the addresses of the first links, where hosts answer for
//! them.

use std::{net::IpAddr, os::fd::OwnedFd, sync::Arc};

use anyhow::Result;

use super::{
    super::{pass, run},
    Backend, Family, Namespace, Topology, quiet,
};

/// Host number of the second load balancer on each link.
const SECOND: u8 = 2;

/// Namespace and links of the second load balancer.
#[derive(Debug)]
pub struct SecondNode {
    /// Its namespace. The interfaces have the same names as those of `slb`.
    pub slb: Arc<Namespace>,
    /// Keep the XDP programs on the client's and the backends' interfaces attached.
    _programs: Vec<OwnedFd>,
}

/// The client or a backend, connected to both nodes.
struct LinkedHost<'n> {
    /// Number of its link. `interface` is the interface of a node that leads there.
    link: u8,
    interface: &'n str,
    namespace: &'n Namespace,
    addresses: Vec<IpAddr>,
}

impl Topology {
    /// Creates the links of a second node; the name of its namespace begins with `prefix`. Backends decapsulate tunnel
    /// packets from it. No route leads through it yet.
    ///
    /// # Errors
    /// A command fails, or the node exists.
    pub fn second_node(&self, prefix: &str) -> Result<SecondNode> {
        let slb = Arc::new(Namespace::create(&format!("{prefix}-slb2"))?);
        quiet(&slb)?;
        let vips = Family::ALL.map(|family| format!("addr add {} dev lo", family.vip()));
        slb.ip(&vips.join("\n"))?;
        slb.sysctl("net/ipv4/conf/all/accept_local", "1")?;
        slb.sysctl("net/ipv4/ip_forward", "1")?;
        slb.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        let mut programs = Vec::new();
        for host in self.hosts() {
            host.connect(&slb)?;
            if host.link == 0 {
                programs.push(host.namespace.on_thread(|| pass::attach("eth1"))?);
            }
        }
        for backend in &self.backends {
            backend.decapsulate_at("eth1", &Family::ALL.map(second_address))?;
        }
        Ok(SecondNode { slb, _programs: programs })
    }

    /// Routes all packets between the client and the servers through the second node, or through the first one.
    ///
    /// # Errors
    /// A command fails.
    pub fn route_through_second(&self, second: bool) -> Result<()> {
        let (node, device) = if second { (SECOND, "eth1") } else { (super::SLB, "eth0") };
        for host in self.hosts() {
            let route = |family: Family| {
                let via = family.host(host.link, node);
                format!("route del default\nroute add default via {via} dev {device} onlink")
                    .replace("route", if family == Family::V6 { "-6 route" } else { "route" })
            };
            for line in Family::ALL.map(route).join("\n").lines() {
                run(host.namespace.command("ip").args(line.split_whitespace()), "")?;
            }
        }
        Ok(())
    }

    fn hosts(&self) -> impl Iterator<Item = LinkedHost<'_>> {
        let client = LinkedHost {
            link: 0,
            interface: "client0",
            namespace: &self.client,
            addresses: Family::ALL.iter().flat_map(|family| self.sources(*family)).collect(),
        };
        let host = |backend: &'_ Backend| Family::ALL.map(|family| backend.address(family)).to_vec();
        let backends = self.backends.iter().map(move |backend| LinkedHost {
            link: backend.link,
            interface: &backend.name,
            namespace: &backend.namespace,
            addresses: host(backend),
        });
        std::iter::once(client).chain(backends)
    }
}

/// Address of the second node itself on the client's link.
pub fn second_address(family: Family) -> IpAddr {
    family.host(0, SECOND)
}

impl LinkedHost<'_> {
    fn connect(&self, slb: &Namespace) -> Result<()> {
        let Self { link, interface, namespace, addresses } = self;
        slb.ip(&format!("link add {interface} type veth peer name eth1 netns {}", namespace.name()))?;
        for (namespace, device) in [(slb, *interface), (namespace, "eth1")] {
            run(namespace.command("ethtool").args(["-K", device, "tx", "off"]), "")?;
            namespace.ip(&format!("link set {device} up"))?;
        }
        let [ours, theirs] = [slb.mac(interface)?, namespace.mac("eth1")?]
            .map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":"));
        for family in Family::ALL {
            let own = family.host(*link, SECOND);
            slb.ip(&format!("addr add {own}/{} dev {interface}", family.prefix()))?;
            namespace.ip(&format!(
                "route add {own} dev eth1\nneigh add {own} lladdr {ours} dev eth1 nud permanent"
            ))?;
        }
        let known = addresses
            .iter()
            .map(|address| format!("neigh add {address} lladdr {theirs} dev {interface} nud permanent"));
        slb.ip(&known.collect::<Vec<_>>().join("\n"))
    }
}
