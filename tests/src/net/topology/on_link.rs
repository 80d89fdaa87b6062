//! VIPs in a subnet of the client's link, which the client reaches without a route.

use anyhow::{Result, ensure};

use super::{super::run, CLIENT_SOURCES, FIRST_SOURCE, Family, SecondNode, Topology, addressing};

/// Host numbers of `slb`, the client and a second node in the VIPs' subnet.
const SLB: u16 = 1;
const CLIENT: u16 = 2;
const SECOND: u16 = 3;

/// The interface of the client that [`Topology::bridge_client`] makes.
const BRIDGE: &str = "br0";

impl Topology {
    /// Gives `slb` and the client addresses in the VIPs' subnet. The VIPs are addresses of no host then, and the client
    /// has no other route.
    ///
    /// # Errors
    /// A command fails.
    pub fn put_vips_on_link(&self) -> Result<()> {
        let (v4, v6) = (Family::V4.vip(), Family::V6.vip());
        self.slb.ip(&format!("addr del {v4}/32 dev lo\naddr del {v6}/128 dev lo"))?;
        self.slb.ip(&subnet(SLB, "client0"))?;
        self.client.ip(&subnet(CLIENT, "eth0"))?;
        self.client.ip("route del default")?;
        run(self.client.command("ip").args(["-6", "route", "del", "default"]), "").map(drop)
    }

    /// Removes the addresses of `slb` in the VIPs' subnet, or adds them again.
    ///
    /// # Errors
    /// A command fails.
    pub fn set_vip_subnet(&self, present: bool) -> Result<()> {
        let verb = if present { "add" } else { "del" };
        self.slb.ip(&subnet(SLB, "client0").replace("addr add", &format!("addr {verb}")))
    }

    /// Makes the client's interface a port of a bridge, which gets its addresses: other nodes can be on the same link.
    ///
    /// # Errors
    /// A command fails.
    pub fn bridge_client(&self) -> Result<()> {
        let mac = self.client.mac("eth0")?.map(|byte| format!("{byte:02x}")).join(":");
        let sources: Vec<u8> = (FIRST_SOURCE..FIRST_SOURCE + CLIENT_SOURCES).collect();
        // Another port keeps the bridge's carrier, and thereby its neighbour entries, while `slb` is down.
        self.client.ip("link add stay0 type veth peer name stay1\nlink set stay0 up\nlink set stay1 up")?;
        self.client.ip(&format!(
            "link add {BRIDGE} address {mac} type bridge\naddr flush dev eth0\nlink set eth0 master {BRIDGE}\nlink set stay0 master {BRIDGE}\nlink set {BRIDGE} up"
        ))?;
        self.client.ip(&addressing(0, &sources, BRIDGE))?;
        self.client.ip(&subnet(CLIENT, BRIDGE))?;
        run(self.client.command("ethtool").args(["-K", BRIDGE, "tx", "off"]), "").map(drop)
    }

    /// Puts a second node on the link of the bridge, with addresses of the VIPs' subnet.
    ///
    /// # Errors
    /// A command fails.
    pub fn bridge_second(&self, node: &SecondNode) -> Result<()> {
        self.client.ip(&format!("link set eth1 master {BRIDGE}"))?;
        node.slb.ip(&subnet(SECOND, "client0"))
    }

    /// The hardware address that the client has for the VIP of a family, if it has one that it uses.
    ///
    /// # Errors
    /// The command fails.
    pub fn vip_neighbour(&self, family: Family) -> Result<Option<String>> {
        let vip = family.vip().to_string();
        let shown = run(self.client.command("ip").args(["neigh", "show", &vip]), "")?;
        Ok(shown.split_whitespace().skip_while(|word| *word != "lladdr").nth(1).map(str::to_owned))
    }

    /// Makes the client forget all neighbours.
    ///
    /// # Errors
    /// The command fails.
    pub fn forget_neighbours(&self) -> Result<()> {
        for family in ["-4", "-6"] {
            run(self.client.command("ip").args([family, "neigh", "flush", "all"]), "")?;
        }
        for family in Family::ALL {
            let entry = self.vip_neighbour(family)?;
            ensure!(entry.is_none(), "{family}: still {entry:?}");
        }
        Ok(())
    }
}

/// The `ip` commands that give an interface host number `host` in the VIPs' subnets.
fn subnet(host: u16, interface: &str) -> String {
    format!("addr add 198.51.100.{host}/24 dev {interface}\naddr add 2001:db8:100::{host}/64 dev {interface}")
}
