//! Devices on top of the links: bonds, VLAN devices, VRFs, tunnel devices. Many kernels lack them; Debian's have
//! modules.

use std::{os::fd::OwnedFd, process::Command};

use anyhow::Result;

use super::{
    super::{pass, run},
    BACKEND, Backend, CLIENT_SOURCES, FIRST_SOURCE, Family, Namespace, Topology, address_of_slb, addressing,
};

/// Hardware addresses of the guest's network cards, as set in xtask/src/vm/qemu.rs.
const CARDS: [&str; 2] = ["52:54:00:51:4c:01", "52:54:00:51:4c:02"];
/// Given as a bond's mode: creates a team device in round-robin mode instead.
pub const TEAM: &str = "team";

impl Topology {
    /// The first of these device types that this kernel does not support.
    ///
    /// # Errors
    /// The command fails for another reason.
    pub fn lacks(&self, kinds: &[&'static str]) -> Result<Option<&'static str>> {
        for kind in kinds {
            if *kind == "fou" {
                // `fou` is no device: a receiver over each family shows that both modules are there.
                for family in ["", "-6"] {
                    match self.slb.ip(&format!("fou add port 9 gue {family}")) {
                        Ok(()) => self.slb.ip(&format!("fou del port 9 {family}"))?,
                        Err(_) => return Ok(Some(kind)),
                    }
                }
                continue;
            }
            let (lower, options) = match *kind {
                "vlan" => ("link client0", "id 5"),
                "macvlan" => ("link client0", ""),
                "vrf" => ("", "table 5"),
                "ipip" | "sit" => ("", "local 192.0.2.1"),
                "ip6tnl" => ("", "local 2001:db8::1"),
                _ => ("", ""),
            };
            match self.slb.ip(&format!("link add {lower} name kind0 type {kind} {options}")) {
                Ok(()) => self.slb.ip("link del kind0")?,
                Err(error) if is_unknown(&error) => return Ok(Some(kind)),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Replaces the client's link by one between the two network cards of the `cargo xtask vm` guest. Returns `false`
    /// on a machine without these cards.
    ///
    /// # Errors
    /// A command fails.
    pub fn cable_client(&self) -> Result<bool> {
        let shown = run(Command::new("ip").args(["-json", "link", "show"]), "")?;
        let links: Vec<serde_json::Value> = serde_json::from_str(&shown)?;
        let named = |mac: &str| links.iter().find(|link| link["address"] == mac)?["ifname"].as_str();
        let [Some(ours), Some(theirs)] = CARDS.map(named) else { return Ok(false) };
        self.slb.ip("link del client0")?;
        for (card, namespace, name) in [(ours, &self.slb, "client0"), (theirs, &self.client, "eth0")] {
            run(Command::new("ip").args(["link", "set", card, "netns", namespace.name(), "name", name]), "")?;
            namespace.ip(&format!("link set {name} up"))?;
        }
        self.slb.ip(&Family::ALL.map(|family| address_of_slb(family, 0, "client0")).join("\n"))?;
        let sources: Vec<u8> = (FIRST_SOURCE..FIRST_SOURCE + CLIENT_SOURCES).collect();
        self.client.ip(&addressing(0, &sources, "eth0"))?;
        Ok(true)
    }

    /// Adds a second link to the client and bonds both at both ends; the device of `slb` is named `bond`. The returned
    /// descriptor keeps the XDP program on the second link's end attached.
    ///
    /// # Errors
    /// A command fails.
    pub fn bond_client(&self, bond: &str, mode: &str) -> Result<OwnedFd> {
        let sources: Vec<u8> = (FIRST_SOURCE..FIRST_SOURCE + CLIENT_SOURCES).collect();
        self.bond("client0", bond, mode, &self.client, (0, &sources))
    }

    /// Replaces the first link of the client's bond by a new one, and deletes the second. Frames arrive only by the new
    /// link.
    ///
    /// # Errors
    /// A command fails.
    pub fn renew_bond_of_client(&self, bond: &str) -> Result<OwnedFd> {
        let (slb, peer) = (&self.slb, &self.client);
        slb.ip("link del client0")?;
        slb.ip(&format!("link add client0 type veth peer name eth0 netns {}", peer.name()))?;
        let program = peer.on_thread(|| pass::attach("eth0"))?;
        for (namespace, bond, member) in [(slb, bond, "client0"), (peer, "bond0", "eth0")] {
            run(namespace.command("ethtool").args(["-K", member, "tx", "off"]), "")?;
            namespace.ip(&format!("link set {member} master {bond}\nlink set {member} up"))?;
        }
        slb.ip("link del client0x")?;
        Ok(program)
    }

    /// As [`Self::bond_client`], with the link of backend `index`.
    ///
    /// # Errors
    /// A command fails.
    pub fn bond_backend(&self, index: usize, bond: &str, mode: &str) -> Result<OwnedFd> {
        let Backend { name, namespace, link, .. } = &self.backends[index];
        self.bond(name, bond, mode, namespace, (*link, &[BACKEND]))
    }

    fn bond(
        &self,
        first: &str,
        bond: &str,
        mode: &str,
        peer: &Namespace,
        (link, hosts): (u8, &[u8]),
    ) -> Result<OwnedFd> {
        let (slb, second) = (&self.slb, format!("{first}x"));
        slb.ip(&format!("link add {second} type veth peer name eth1 netns {}", peer.name()))?;
        let program = peer.on_thread(|| pass::attach("eth1"))?;
        for (namespace, bond, members) in
            [(&**slb, bond, [first, second.as_str()]), (peer, "bond0", ["eth0", "eth1"])]
        {
            run(namespace.command("ethtool").args(["-K", members[1], "tx", "off"]), "")?;
            let lacp = if mode == "802.3ad" { "lacp_rate fast" } else { "" };
            let mut lines = String::new();
            if mode == TEAM {
                namespace.ip(&format!("link add {bond} type team"))?;
                run(namespace.command("teamnl").args([bond, "setoption", "mode", "roundrobin"]), "")?;
            } else {
                lines = format!("link add {bond} type bond mode {mode} miimon 50 {lacp}\n");
            }
            for member in members {
                lines += &format!(
                    "link set {member} down\naddr flush dev {member}\nlink set {member} master {bond}\n"
                );
            }
            namespace.ip(&(lines + &format!("link set {bond} up")))?;
        }
        slb.ip(&Family::ALL.map(|family| address_of_slb(family, link, bond)).join("\n"))?;
        peer.ip(&addressing(link, hosts, "bond0"))?;
        Ok(program)
    }
}

fn is_unknown(error: &anyhow::Error) -> bool {
    let said = format!("{error:#}");
    ["Unknown device type", "Operation not supported"].iter().any(|words| said.contains(words))
}

impl Backend {
    /// Has the kernel take packets out of GUE (`fou`) at this UDP port. Its tunnel devices, [`Self::end_tunnels`], receive
    /// the inner packets.
    ///
    /// # Errors
    /// The kernel has no `fou`.
    pub fn receive_gue(&self, outer: Family, port: u16) -> Result<()> {
        let family = if outer == Family::V4 { "" } else { "-6" };
        self.namespace.ip(&format!("fou add port {port} gue {family}"))
    }

    /// Creates the kernel's own tunnel devices, which decapsulate packets with outer headers of this family.
    ///
    /// # Errors
    /// The kernel lacks a device type.
    pub fn end_tunnels(&self, outer: Family) -> Result<()> {
        let local = self.address(outer);
        self.namespace.ip(&match outer {
            Family::V4 => format!(
                "link add t4 type ipip local {local}\nlink set t4 up\nlink add t6 type sit local {local}\nlink set t6 up"
            ),
            Family::V6 => format!("link add t0 type ip6tnl mode any local {local}\nlink set t0 up"),
        })
    }
}
