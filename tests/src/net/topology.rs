//! The links and addresses of a world.
//!
//! ```text
//! client eth0 ---- client0 slb b1 ---- eth0 b1
//!                              b2 ---- eth0 b2 ...
//! ```
//! Forwarding is off in `slb`: only XDP takes packets between client and backends. The VIPs are addresses of `lo` of
//! `slb`. Senders compute checksums (`tx off`), as on hardware. Each peer of an interface that runs SLB has an XDP
//! program too; without one, veth does not deliver frames that XDP sent.

mod full_nat;
mod multipath;
mod on_link;
mod router;
mod second;
mod stacked;
mod vlans;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Result, bail};
use slb_userspace::cli::decap::status::DecapInterface;

pub use router::Router;
pub use second::{SecondNode, second_address};
pub use stacked::TEAM;

use super::{Namespace, decapsulator::Decapsulator, pass, received::received, run};

/// Number of the client's addresses, per family.
pub const CLIENT_SOURCES: u8 = 8;

/// Internet protocol version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family's VIP.
    pub fn vip(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(198, 51, 100, 10).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0x10).into(),
        }
    }

    /// Address of host number `host` on link `link`: link 0 is the client's, link n that of backend n.
    fn host(self, link: u8, host: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(10, 90, link, host).into(),
            Self::V6 => Ipv6Addr::new(0xfd90, link.into(), 0, 0, 0, 0, 0, host.into()).into(),
        }
    }

    /// Prefix length of a link's subnet.
    fn prefix(self) -> u8 {
        match self {
            Self::V4 => 24,
            Self::V6 => 64,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Host number of `slb` on each link.
const SLB: u8 = 1;
/// Host number of a backend on its link.
const BACKEND: u8 = 10;
/// Host number of the client's first address.
const FIRST_SOURCE: u8 = 11;

/// Namespaces and links.
#[derive(Debug)]
pub struct Topology {
    /// The client.
    pub client: Arc<Namespace>,
    /// The load balancer.
    pub slb: Arc<Namespace>,
    /// The backends.
    pub backends: Vec<Backend>,
    /// Keeps the XDP program on the client's interface attached.
    _program: OwnedFd,
}

/// A backend: its namespace and link.
#[derive(Debug, Clone)]
pub struct Backend {
    /// `b1`, `b2`, ...; the interface of `slb` that leads to it has the same name.
    pub name: String,
    /// Its namespace.
    pub namespace: Arc<Namespace>,
    link: u8,
    program: Arc<Mutex<BackendProgram>>,
}

/// The XDP program of a backend's interface.
#[derive(Debug)]
enum BackendProgram {
    /// Passes every frame while the link is open.
    Pass { _link: OwnedFd },
    /// Drops every frame while the link is open.
    Drop { _link: OwnedFd },
    /// `slb-decap`.
    Decapsulator(Decapsulator),
    /// No program.
    None,
}

impl Topology {
    /// Builds the network. The names of its namespaces begin with `prefix`.
    ///
    /// # Errors
    /// A command fails; everything made so far is removed.
    pub fn build(prefix: &str, backends: u8) -> Result<Self> {
        let namespace = |role: &str| Namespace::create(&format!("{prefix}-{role}")).map(Arc::new);
        let slb = namespace("slb")?;
        quiet(&slb)?;
        slb.ip(&format!(
            "link set lo up\naddr add {}/32 dev lo\naddr add {}/128 dev lo",
            Family::V4.vip(),
            Family::V6.vip()
        ))?;

        let client = namespace("client")?;
        quiet(&client)?;
        // All ports are ephemeral, so that many connections find a free one. Group 0 may use ping sockets.
        client.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
        client.sysctl("net/ipv4/ping_group_range", "0 0")?;
        let sources: Vec<u8> = (FIRST_SOURCE..FIRST_SOURCE + CLIENT_SOURCES).collect();
        let program = connect(&slb, "client0", &client, 0, &sources)?;

        let backends = (1..=backends)
            .map(|link| {
                let name = format!("b{link}");
                let namespace = namespace(&name)?;
                quiet(&namespace)?;
                let pass =
                    BackendProgram::Pass { _link: connect(&slb, &name, &namespace, link, &[BACKEND])? };
                Ok(Backend { name, namespace, link, program: Arc::new(Mutex::new(pass)) })
            })
            .collect::<Result<_>>()?;
        Ok(Self { client, slb, backends, _program: program })
    }

    /// Names of the interfaces of `slb`, the client's first.
    pub fn interfaces(&self) -> Vec<String> {
        let backends = self.backends.iter().map(|backend| backend.name.clone());
        ["client0".to_owned()].into_iter().chain(backends).collect()
    }

    /// Deletes the link of backend `index` with both interfaces.
    ///
    /// # Errors
    /// The command fails.
    pub fn unplug(&self, index: usize) -> Result<()> {
        self.slb.ip(&format!("link del {}", self.backends[index].name))
    }

    /// Creates the link of backend `index` again, under the same names.
    ///
    /// # Errors
    /// A command fails, or the link exists.
    pub fn plug(&self, index: usize) -> Result<()> {
        let Backend { name, namespace, link, program } = &self.backends[index];
        let pass = BackendProgram::Pass { _link: connect(&self.slb, name, namespace, *link, &[BACKEND])? };
        *program.lock().unwrap_or_else(PoisonError::into_inner) = pass;
        Ok(())
    }

    /// As [`Self::plug`], with another XDP program on the interface of `slb` until the returned descriptor is closed.
    ///
    /// # Errors
    /// As [`Self::plug`].
    pub fn plug_occupied(&self, index: usize) -> Result<OwnedFd> {
        let Backend { name, namespace, link, program } = &self.backends[index];
        // Under another name the daemon does not take it for the interface that was removed.
        let other = "spare0";
        let pass = BackendProgram::Pass { _link: connect(&self.slb, other, namespace, *link, &[BACKEND])? };
        *program.lock().unwrap_or_else(PoisonError::into_inner) = pass;
        let occupant = self.slb.on_thread(|| pass::attach(other))?;
        self.slb.ip(&format!("link set {other} down\nlink set {other} name {name}\nlink set {name} up"))?;
        // Setting the interface down removed its IPv6 addresses.
        self.slb.ip(&format!(
            "addr replace {}/{} dev {name}",
            Family::V6.host(*link, SLB),
            Family::V6.prefix()
        ))?;
        Ok(occupant)
    }

    /// Makes the interface that leads to backend `index` a port of a new bridge, which gets the interface's addresses.
    ///
    /// # Errors
    /// A command fails.
    pub fn bridge(&self, index: usize, bridge: &str) -> Result<()> {
        let Backend { name, link, .. } = &self.backends[index];
        self.slb.ip(&format!(
            "link add {bridge} type bridge\naddr flush dev {name}\nlink set {name} master {bridge}\nlink set {bridge} up"
        ))?;
        self.slb.ip(&Family::ALL.map(|family| address_of_slb(family, *link, bridge)).join("\n"))
    }

    /// Adds a second link between the client and `slb`, where it is `client1`, without addresses. It carries packets
    /// until the returned descriptor is closed. `slb` resolves the client's addresses there as on the first link.
    ///
    /// # Errors
    /// A command fails, or the link exists.
    pub fn second_client_link(&self) -> Result<OwnedFd> {
        self.slb.ip(&format!(
            "link add client1 type veth peer name eth1 netns {}\nlink set client1 up",
            self.client.name()
        ))?;
        self.client.ip("link set eth1 up")?;
        for (namespace, device) in [(&self.slb, "client1"), (&self.client, "eth1")] {
            run(namespace.command("ethtool").args(["-K", device, "tx", "off"]), "")?;
        }
        self.client.on_thread(|| pass::attach("eth1"))
    }

    /// The client's addresses.
    pub fn sources(&self, family: Family) -> Vec<IpAddr> {
        (0..CLIENT_SOURCES).map(|n| family.host(0, FIRST_SOURCE + n)).collect()
    }

    /// Address of `slb` itself on the client's link; not a VIP.
    pub fn slb_address(&self, family: Family) -> IpAddr {
        family.host(0, SLB)
    }

    /// Removes the VIPs from `lo` of `slb`, where they are not needed if routers send packets for VIPs to it. Its
    /// kernel then routes them by the client's link, like any other address.
    ///
    /// # Errors
    /// A command fails, or `lo` does not hold them.
    pub fn route_vips(&self) -> Result<()> {
        let (v4, v6) = (Family::V4, Family::V6);
        self.slb.ip(&format!(
            "addr del {}/32 dev lo\naddr del {}/128 dev lo\nroute add {}/32 via {}\nroute add {}/128 via {}",
            v4.vip(),
            v6.vip(),
            v4.vip(),
            v4.host(0, FIRST_SOURCE),
            v6.vip(),
            v6.host(0, FIRST_SOURCE)
        ))
    }

    /// Turns forwarding in the kernel of `slb` on or off.
    ///
    /// # Errors
    /// The kernel refuses a setting.
    pub fn kernel_forwarding(&self, on: bool) -> Result<()> {
        let value = if on { "1" } else { "0" };
        self.slb.sysctl("net/ipv4/ip_forward", value)?;
        self.slb.sysctl("net/ipv6/conf/all/forwarding", value)
    }

    /// Makes the kernel of `slb` forward packets that backends send from the VIPs, although these are its own addresses
    /// too. It is the return path of the modes whose answers bypass SLB.
    ///
    /// # Errors
    /// The kernel refuses a setting.
    pub fn route_answers(&self) -> Result<()> {
        self.slb.sysctl("net/ipv4/conf/all/accept_local", "1")?;
        self.kernel_forwarding(true)
    }
}

impl Backend {
    /// The backend's address of a family.
    pub fn address(&self, family: Family) -> IpAddr {
        family.host(self.link, BACKEND)
    }

    /// Adds the VIPs to the backend's `lo`, and disables ARP for them.
    ///
    /// # Errors
    /// A command fails, or `lo` holds them already.
    pub fn add_vips(&self) -> Result<()> {
        self.namespace.sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
        self.namespace.sysctl("net/ipv4/conf/all/arp_announce", "2")?;
        self.namespace.ip(&format!(
            "addr add {}/32 dev lo\naddr add {}/128 dev lo",
            Family::V4.vip(),
            Family::V6.vip()
        ))
    }

    /// Removes the VIPs from the backend's `lo`.
    ///
    /// # Errors
    /// A command fails, or `lo` does not hold them.
    pub fn remove_vips(&self) -> Result<()> {
        self.namespace.ip(&format!(
            "addr del {}/32 dev lo\naddr del {}/128 dev lo",
            Family::V4.vip(),
            Family::V6.vip()
        ))
    }

    /// Attaches `slb-decap` to `eth0` for tunnel packets from these sources; if it is attached already, replaces its
    /// sources.
    ///
    /// # Errors
    /// `slb-decap` fails.
    pub fn decapsulate(&self, from: &[IpAddr]) -> Result<()> {
        let mut program = self.program();
        if !matches!(*program, BackendProgram::Decapsulator(_)) {
            // Detaches the current program: the interface must be free.
            *program = BackendProgram::Decapsulator(Decapsulator::new(&self.namespace));
        }
        match &*program {
            BackendProgram::Decapsulator(decapsulator) => decapsulator.allow(from),
            _ => Ok(()),
        }
    }

    /// Attaches `slb-decap` to another interface of the backend, where it already runs on `eth0`.
    ///
    /// # Errors
    /// It is not attached to `eth0`, or it fails.
    pub fn decapsulate_at(&self, interface: &str, from: &[IpAddr]) -> Result<()> {
        match &*self.program() {
            BackendProgram::Decapsulator(decapsulator) => decapsulator.allow_at(interface, from),
            _ => bail!("{} runs no slb-decap", self.name),
        }
    }

    /// Status of `slb-decap` on the backend.
    ///
    /// # Errors
    /// The backend does not run it.
    pub fn decapsulator(&self) -> Result<DecapInterface> {
        match &*self.program() {
            BackendProgram::Decapsulator(decapsulator) => decapsulator.status(),
            _ => bail!("{} runs no slb-decap", self.name),
        }
    }

    fn program(&self) -> MutexGuard<'_, BackendProgram> {
        self.program.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the MTU of the backend's link to `slb` at both ends. What the backend sends stays within `sent`.
    ///
    /// # Errors
    /// A command fails.
    pub fn set_mtu(&self, slb: &Namespace, link: u16, sent: u16) -> Result<()> {
        slb.ip(&format!("link set {} mtu {link}", self.name))?;
        self.namespace.ip(&format!("link set eth0 mtu {link}"))?;
        let route =
            |family: Family| format!("route change default via {} mtu {sent}", family.host(self.link, SLB));
        self.namespace.ip(&Family::ALL.map(route).join("\n"))
    }

    /// TCP segments and UDP datagrams that the backend has received, also those for ports without a socket.
    ///
    /// # Errors
    /// The kernel's counters cannot be read.
    pub fn received(&self) -> Result<u64> {
        received(&self.namespace)
    }

    /// Drops every frame that arrives, whatever its destination, as a machine that hangs.
    ///
    /// # Errors
    /// The backend runs `slb-decap`, or the program cannot be replaced.
    pub fn hang(&self) -> Result<()> {
        self.replace(|| Ok(BackendProgram::Drop { _link: pass::attach_blocking("eth0")? }))
    }

    /// Passes every frame again.
    ///
    /// # Errors
    /// As [`Self::hang`].
    pub fn recover(&self) -> Result<()> {
        self.replace(|| Ok(BackendProgram::Pass { _link: pass::attach("eth0")? }))
    }

    /// Detaches the XDP program. Without one, veth does not deliver frames that native XDP sends.
    ///
    /// # Errors
    /// The backend runs `slb-decap`.
    pub fn release(&self) -> Result<()> {
        self.replace(|| Ok(BackendProgram::None))
    }

    fn replace(&self, attach: fn() -> Result<BackendProgram>) -> Result<()> {
        let mut program = self.program();
        if let BackendProgram::Decapsulator(_) = *program {
            bail!("{} runs slb-decap", self.name);
        }
        // An interface runs one program at a time: dropping the old one detaches it.
        *program = BackendProgram::None;
        *program = self.namespace.on_thread(attach)?;
        Ok(())
    }

    /// Removes its addresses. It then answers nothing, not even with a RST, as a machine that hangs.
    ///
    /// # Errors
    /// The command fails.
    pub fn go_silent(&self) -> Result<()> {
        self.namespace.ip("addr flush dev eth0 scope global")
    }

    /// Restores its addresses.
    ///
    /// # Errors
    /// The command fails, or the addresses exist.
    pub fn speak_again(&self) -> Result<()> {
        self.namespace.ip(&addressing(self.link, &[BACKEND], "eth0"))
    }
}

/// Settings of every namespace: no duplicate address detection, no reverse-path filter, no forwarding.
fn quiet(namespace: &Namespace) -> Result<()> {
    for conf in ["all", "default"] {
        namespace.sysctl(&format!("net/ipv6/conf/{conf}/accept_dad"), "0")?;
        namespace.sysctl(&format!("net/ipv6/conf/{conf}/accept_ra"), "0")?;
        namespace.sysctl(&format!("net/ipv6/conf/{conf}/forwarding"), "0")?;
        namespace.sysctl(&format!("net/ipv4/conf/{conf}/rp_filter"), "0")?;
    }
    namespace.sysctl("net/ipv4/ip_forward", "0")?;
    namespace.ip("link set lo up")
}

/// Creates a link between `slb` and `peer`, where it is `eth0` and the default route. Returns the descriptor that keeps
/// the peer's XDP program attached.
fn connect(slb: &Namespace, interface: &str, peer: &Namespace, link: u8, hosts: &[u8]) -> Result<OwnedFd> {
    slb.ip(&format!("link add {interface} type veth peer name eth0 netns {}", peer.name()))?;
    for (namespace, device) in [(slb, interface), (peer, "eth0")] {
        run(namespace.command("ethtool").args(["-K", device, "tx", "off"]), "")?;
    }
    let addresses = Family::ALL.map(|family| address_of_slb(family, link, interface));
    slb.ip(&format!("link set {interface} up\n{}", addresses.join("\n")))?;
    peer.ip("link set eth0 up")?;
    peer.ip(&addressing(link, hosts, "eth0"))?;
    peer.on_thread(|| pass::attach("eth0"))
}

/// The `ip` command that gives an interface of `slb` its address on a link.
fn address_of_slb(family: Family, link: u8, interface: &str) -> String {
    format!("addr add {}/{} dev {interface}", family.host(link, SLB), family.prefix())
}

/// The `ip` commands that give a peer its addresses and routes.
fn addressing(link: u8, hosts: &[u8], device: &str) -> String {
    let mut lines = Vec::new();
    for family in Family::ALL {
        for host in hosts {
            lines.push(format!("addr add {}/{} dev {device}", family.host(link, *host), family.prefix()));
        }
        lines.push(format!("route replace default via {}", family.host(link, SLB)));
    }
    lines.join("\n")
}
