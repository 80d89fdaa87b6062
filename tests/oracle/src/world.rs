//! A configuration, as plain values.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// UDP destination port of mode `gue`.
pub const GUE_PORT: u16 = 6080;

/// A hardware address.
pub type Mac = [u8; 6];

/// The interface on which most frames arrive. In the kernel all of them do: it is the loopback interface.
pub const NEAR: u32 = 1;
/// A second interface.
pub const FAR: u32 = 11;
/// An interface that does not run the program.
pub const FOREIGN: u32 = 12;

/// A configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct World {
    /// Jiffies per second.
    pub hz: u32,
    /// The interfaces that run the program.
    pub interfaces: Vec<Interface>,
    /// VLAN devices upon these.
    pub vlan_devices: Vec<VlanDevice>,
    /// The VIPs.
    pub vips: Vec<Vip>,
    /// The servers. A server's number is its position.
    pub servers: Vec<Server>,
    /// The server tables. A table's number is its position.
    pub tables: Vec<Table>,
    /// The listeners. A listener's number is its position.
    pub listeners: Vec<Listener>,
    /// Local addresses: sources of mode `full-nat`.
    pub locals: Vec<IpAddr>,
    /// First and last port of their sources.
    pub local_ports: (u16, u16),
    /// The access lists. A list's number is its position.
    pub access_lists: Vec<Vec<Network>>,
    /// Outer source addresses of the modes `ipip` and `gue`.
    pub tunnel: (Ipv4Addr, Ipv6Addr),
    /// The low bits of these that SLB chooses for each flow; they are 0 in `tunnel`.
    pub tunnel_by_flow: (u32, u32),
}

/// An interface that runs the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its hardware addresses. The first one is the source of frames to clients.
    pub macs: Vec<Mac>,
    /// Whether packets for VIPs may arrive.
    pub client: bool,
    /// Whether replies of servers may arrive.
    pub server: bool,
    /// Largest IP packet that may leave, in bytes.
    pub mtu: u16,
}

/// A VLAN tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// EtherType: 0x8100 (802.1Q) or 0x88a8 (802.1ad).
    pub kind: u16,
    /// VLAN id, not 0.
    pub id: u16,
}

/// A VLAN device upon an interface that runs the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VlanDevice {
    /// Its index.
    pub index: u32,
    /// Index of the interface below.
    pub below: u32,
    /// The tag of its frames.
    pub tag: Tag,
    /// Its hardware address.
    pub mac: Mac,
    /// Largest IP packet that may leave, in bytes.
    pub mtu: u16,
}

/// What happens to packets for a VIP that no listener takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmatched {
    /// The kernel receives them.
    Pass,
    /// They are dropped.
    Drop,
    /// They are answered as a host answers for a closed port.
    Reject,
}

/// A VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vip {
    /// Its address.
    pub ip: IpAddr,
    /// Whether echo requests are answered.
    pub echo: bool,
    /// What happens to unmatched packets.
    pub unmatched: Unmatched,
}

/// How packets reach a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The destination is translated; replies return through SLB.
    Nat,
    /// Source and destination are translated.
    FullNat,
    /// Only hardware addresses change.
    Dsr,
    /// The packet goes into an IP packet.
    Ipip,
    /// The packet goes into a UDP datagram.
    Gue,
}

impl Mode {
    /// Whether replies return through SLB.
    pub(crate) fn sees_replies(self) -> bool {
        matches!(self, Self::Nat | Self::FullNat)
    }

    /// Whether packets are encapsulated, so that servers of the other family may receive them.
    pub(crate) fn is_tunnel(self) -> bool {
        matches!(self, Self::Ipip | Self::Gue)
    }

    /// Bytes of the outer headers of packets to a server.
    pub(crate) fn overhead(self, server: SocketAddr) -> usize {
        match (self, server.is_ipv4()) {
            (Self::Ipip, true) => 20,
            (Self::Ipip, false) => 40,
            (Self::Gue, true) => 20 + 8,
            (Self::Gue, false) => 40 + 8,
            _ => 0,
        }
    }
}

/// Transport protocol of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// VIP and port; of a range the first port.
    pub at: SocketAddr,
    /// The last port of a range; `None` for a single port.
    pub last: Option<u16>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its mode.
    pub mode: Mode,
    /// Its server table, a position in [`World::tables`]; `None` if that does not exist yet.
    pub table: Option<usize>,
    /// Idle timeout in seconds, a multiple of four.
    pub idle: u32,
    /// Whether all flows are tracked. Mode `nat` implies it.
    pub track: bool,
    /// Whether untracked UDP flows go to the current backend of a migrating slot.
    pub follow: bool,
    /// Whether the hash leaves out the client's port.
    pub by_client: bool,
    /// Whether segments that open a connection carry the client endpoint (mode `full-nat`, TCP).
    pub toa: bool,
    /// Which clients may reach it; `None` for all.
    pub access: Option<Access>,
    /// Kilobits of frames per second in each direction; `None` for no limit.
    pub bandwidth: Option<u32>,
    /// New connections per second; `None` for no limit.
    pub new_connections: Option<u32>,
    /// Connection IDs that name servers (UDP); `None` without QUIC.
    pub quic: Option<Quic>,
}

/// Format of the connection IDs of a listener's servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quic {
    /// Octets of a server ID, 1 to 4.
    pub length: u8,
    /// Config rotation, 0 to 6.
    pub rotation: u8,
}

/// A network: its first address, and the length of its prefix.
pub type Network = (IpAddr, u8);

/// Which clients may reach a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// The list, a position in [`World::access_lists`].
    pub list: usize,
    /// Whether only clients on the list reach the listener. Otherwise they alone do not.
    pub admits: bool,
}

/// A server table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its servers, with equal weights.
    pub members: Vec<usize>,
    /// The previous backend of every slot, if all slots migrate. A table without members has none.
    pub previous: Option<usize>,
}

/// What a server may receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerState {
    /// Everything.
    Up,
    /// No new flows.
    Drains,
    /// Segments of its connections only.
    Down,
    /// Nothing: its connections are reset.
    Terminating,
    /// Nothing: its id is not in use.
    Gone,
}

impl ServerState {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Up, Self::Drains, Self::Down, Self::Terminating, Self::Gone];

    pub(crate) fn is_alive(self) -> bool {
        matches!(self, Self::Up | Self::Drains)
    }
}

/// A server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Server {
    /// Its address and port; port 0 behind a range, for that of the packet.
    pub at: SocketAddr,
    /// Its next hop; `None` while that is not resolved.
    pub hop: Option<Hop>,
    /// Its state.
    pub state: ServerState,
}

/// A next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// Interface by which frames leave.
    pub interface: u32,
    /// Largest packet that may leave, in bytes.
    pub mtu: u32,
    /// Hardware address of the neighbour.
    pub peer: Mac,
    /// SLB's own address there.
    pub own: Mac,
    /// The VLAN in which frames leave.
    pub tag: Option<Tag>,
}

/// More than there are listeners.
const POSITIONS: usize = 1 << 16;

/// The position of the listener of a number.
pub const fn position(number: usize) -> usize {
    number % POSITIONS
}

/// The port of a number of a range; 0 for that of a single port.
pub const fn port_of(number: usize) -> u16 {
    (number / POSITIONS) as u16
}

/// Kilobits per second that no sequence reaches.
const UNREACHED_BANDWIDTH: u32 = 1_000_000_000;
/// New connections per second that no sequence reaches.
const UNREACHED_CONNECTIONS: u32 = 10_000_000;

impl World {
    /// Whether an address is an outer source address.
    pub(crate) fn is_tunnel_source(&self, address: IpAddr) -> bool {
        let ((v4, v6), (by_flow_v4, by_flow_v6)) = (self.tunnel, self.tunnel_by_flow);
        match address {
            IpAddr::V4(address) => address.to_bits() & !by_flow_v4 == v4.to_bits(),
            IpAddr::V6(address) => address.to_bits() & !u128::from(by_flow_v6) == v6.to_bits(),
        }
    }

    /// The same, with limits that no sequence reaches, whatever time it takes.
    #[must_use]
    pub fn with_unreached_limits(mut self) -> Self {
        for listener in &mut self.listeners {
            listener.bandwidth = listener.bandwidth.map(|_| UNREACHED_BANDWIDTH);
            listener.new_connections = listener.new_connections.map(|_| UNREACHED_CONNECTIONS);
        }
        self
    }

    /// The QUIC server IDs of a table, each with its server: all servers of its family have one that are, as its members,
    /// behind a port range or behind a single port.
    pub fn quic_servers(&self, table: usize) -> impl Iterator<Item = (u32, usize)> {
        let has_port = |server: &usize| self.servers[*server].at.port() != 0;
        let is_single = self.tables[table].members.first().is_none_or(has_port);
        let is_named = move |server: &usize| server % 2 == table % 2 && has_port(server) == is_single;
        (0..self.servers.len()).filter(is_named).map(|server| (server as u32 + 1, server))
    }

    pub(crate) fn vip(&self, ip: IpAddr) -> Option<&Vip> {
        self.vips.iter().find(|vip| vip.ip == ip)
    }

    pub(crate) fn interface(&self, index: u32) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.index == index)
    }

    /// The listener of a port, else the narrowest range that has it, with the port as by [`at_port`].
    pub(crate) fn listener(&self, at: SocketAddr, protocol: Protocol) -> Option<usize> {
        let same = |listener: &Listener| listener.at.ip() == at.ip() && listener.protocol == protocol;
        let width = |listener: &Listener| match listener.last {
            None => (listener.at.port() == at.port()).then_some(0),
            Some(last) => {
                (listener.at.port()..=last).contains(&at.port()).then(|| u32::from(last - listener.at.port()))
            }
        };
        let all = self.listeners.iter().enumerate().filter(|(_, listener)| same(listener));
        let (_, number) = all.filter_map(|(number, listener)| Some((width(listener)?, number))).min()?;
        Some(self.at_port(number, at.port()))
    }

    /// The number of a listener for a port: its position, and behind it the port if it has a range.
    pub(crate) fn at_port(&self, position: usize, port: u16) -> usize {
        let is_range = self.listeners[position].last.is_some();
        position + if is_range { usize::from(port) * POSITIONS } else { 0 }
    }

    /// The listener of a number, with the port.
    pub(crate) fn listening(&self, number: usize) -> Listener {
        let mut listener = self.listeners[position(number)];
        if listener.last.is_some() {
            listener.at.set_port(port_of(number));
        }
        listener
    }

    /// The endpoint of a server for flows of a listener.
    pub(crate) fn endpoint(&self, server: usize, listener: usize) -> SocketAddr {
        let mut at = self.servers[server].at;
        if at.port() == 0 {
            at.set_port(self.listening(listener).at.port());
        }
        at
    }
}
