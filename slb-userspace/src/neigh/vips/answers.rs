//! Whether the kernel answers ARP (RFC 826) and neighbour solicitations (RFC 4861) for a VIP. This depends on Linux
//! defaults and settings (`arp_ignore`, `proxy_ndp`).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    net::IpAddr,
};

use anyhow::Result;

use crate::neigh::{
    Link,
    kernel::{Kernel, NeighbourKey},
    own_address::OwnAddress,
};

/// The setting that needs neither an address nor a sysctl.
const ANNOUNCE: &str = "write `announce = \"arp\"` in its load balancer";

/// The state of the host that the answer depends on.
pub(super) struct HostAddresses {
    links: HashMap<u32, Link>,
    addresses: Vec<OwnAddress>,
    proxied: HashSet<NeighbourKey>,
    settings: Sysctls,
    own_ports_from: u16,
}

/// First port from which the kernel chooses for connections of this host.
fn own_ports_from() -> u16 {
    /// The kernel's default, if the setting cannot be read.
    const DEFAULT: u16 = 32_768;
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(DEFAULT)
}

/// Values of interface settings by path, read once.
#[derive(Default)]
struct Sysctls(BTreeMap<String, u32>);

impl Sysctls {
    /// A setting of an interface; 0 if it cannot be read.
    fn get(&mut self, family: &str, interface: &str, name: &str) -> u32 {
        let path = format!("/proc/sys/net/{family}/conf/{interface}/{name}");
        *self.0.entry(path).or_insert_with_key(|path| {
            fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
        })
    }
}

impl HostAddresses {
    pub(super) async fn read(kernel: &mut Kernel) -> Result<Self> {
        Ok(Self {
            links: kernel.links().await?,
            addresses: kernel.addresses().await?,
            proxied: kernel.proxied().await?,
            settings: Sysctls::default(),
            own_ports_from: own_ports_from(),
        })
    }

    /// Whether an interface has the address.
    pub(super) fn has_address(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.address == address)
    }

    /// First port of the host's own connections, if the kernel may choose the address as their source: a primary address
    /// of an interface with a subnet, or without one if the interface has no other.
    pub(super) fn own_ports_from(&self, address: IpAddr) -> Option<u16> {
        let has_source = |interface| {
            self.addresses.iter().any(|own| {
                own.interface == interface
                    && own.address.is_ipv4() == address.is_ipv4()
                    && !matches!(own.address, IpAddr::V6(address) if address.is_unicast_link_local())
                    && own.is_source()
            })
        };
        let is_source =
            |own: &OwnAddress| own.is_source() || (!own.is_secondary && !has_source(own.interface));
        let is_chosen = self.addresses.iter().any(|own| own.address == address && is_source(own));
        is_chosen.then_some(self.own_ports_from)
    }

    /// Why hosts in the VIP's subnet do not reach it, and what to do; `None` if they do. `is_local`: whether the VIP is
    /// local.
    pub(super) fn unanswered(&mut self, vip: IpAddr, is_local: bool) -> Option<String> {
        let on_link: Vec<OwnAddress> =
            self.addresses.iter().filter(|own| own.contains(vip)).copied().collect();
        let mut seen = HashSet::new();
        let reasons: Vec<_> = on_link
            .into_iter()
            .filter(|own| seen.insert(own.interface))
            .filter_map(|own| {
                let link = self.links.get(&own.interface).filter(|link| link.up && link.mac.is_some())?;
                let name = link.name.clone();
                let why = match vip {
                    IpAddr::V4(_) => self.arp_problem(vip, is_local, own.interface, &name),
                    IpAddr::V6(_) => self.discovery_problem(vip, own.interface, &name),
                }?;
                let what = if vip.is_ipv4() { "ARP" } else { "neighbour solicitations" };
                let net = format!("{}/{}", own.network(), own.prefix);
                Some(format!("this host does not answer {what} for it on {name} ({net}): {why}"))
            })
            .collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    fn is_on_interface(&self, vip: IpAddr, interface: u32) -> bool {
        self.addresses.iter().any(|own| (own.interface, own.address) == (interface, vip) && own.is_usable)
    }

    /// The kernel answers on any interface for all local addresses, unless `arp_ignore` restricts that.
    fn arp_problem(&mut self, vip: IpAddr, is_local: bool, interface: u32, name: &str) -> Option<String> {
        let setting = |name: &str, settings: &mut Sysctls| settings.get("ipv4", name, "arp_ignore");
        let ignore = setting("all", &mut self.settings).max(setting(name, &mut self.settings));
        let is_on_interface = self.is_on_interface(vip, interface);
        match ignore {
            // A proxy entry depends on routes instead.
            _ if self.proxied.contains(&(interface, vip)) => None,
            0 | 3 if is_local => None,
            1 | 2 if is_on_interface => None,
            0 | 3 => Some(format!("it has no such address; {ANNOUNCE}, or `ip address add {vip}/32 dev lo`")),
            1 | 2 => Some(format!(
                "arp_ignore is {ignore}, and it is no address of {name}; `ip address add {vip}/32 dev {name}`"
            )),
            _ => Some(format!(
                "arp_ignore is {ignore}; `sysctl net.ipv4.conf.{name}.arp_ignore=0`, and the same of `all`"
            )),
        }
    }

    /// The kernel answers for addresses of the receiving interface and for its proxy entries.
    fn discovery_problem(&mut self, vip: IpAddr, interface: u32, name: &str) -> Option<String> {
        if self.is_on_interface(vip, interface) {
            return None;
        }
        let add = format!("`ip address add {vip}/128 dev {name} nodad preferred_lft 0`");
        if !self.proxied.contains(&(interface, vip)) {
            return Some(format!(
                "it is no address of {name}, and one of lo does not count; {ANNOUNCE}, {add}, or `ip neighbour add proxy {vip} dev {name}` with \
                 the sysctls forwarding and proxy_ndp of {name} set to 1"
            ));
        }
        let mut is_set = |interface: &str, setting: &str| self.settings.get("ipv6", interface, setting) != 0;
        let missing = if !is_set(name, "forwarding") {
            "forwarding"
        } else if !is_set("all", "proxy_ndp") && !is_set(name, "proxy_ndp") {
            "proxy_ndp"
        } else {
            return None;
        };
        Some(format!("its proxy entry needs `sysctl net.ipv6.conf.{name}.{missing}=1`"))
    }
}
