//! VLAN devices on top of the links.

use anyhow::Result;

use super::{
    super::run, BACKEND, Backend, CLIENT_SOURCES, FIRST_SOURCE, Family, Namespace, Topology, address_of_slb,
    addressing,
};

/// VLAN of the first backend. Each further one of a trunk has the next one.
const VLAN: usize = 100;
/// VLAN of the client on a trunk, with a service tag.
const CLIENT_VLAN: u16 = 200;

impl Topology {
    /// Moves the link of backend `index` into a VLAN at both ends. Returns the VLAN device of `slb`.
    ///
    /// # Errors
    /// A command fails.
    pub fn vlan(&self, index: usize) -> Result<String> {
        let Backend { name, namespace, link, .. } = &self.backends[index];
        let [ours, theirs] = [name.as_str(), "eth0"].map(|lower| format!("{lower}.{VLAN}"));
        for (namespace, lower, upper) in [(&self.slb, name.as_str(), &ours), (namespace, "eth0", &theirs)] {
            send_tags(namespace, lower)?;
            namespace.ip(&format!(
                "addr flush dev {lower} scope global\nlink add link {lower} name {upper} type vlan id {VLAN}\nlink set {upper} up"
            ))?;
        }
        self.slb.ip(&Family::ALL.map(|family| address_of_slb(family, *link, &ours)).join("\n"))?;
        namespace.ip(&addressing(*link, &[BACKEND], &theirs))?;
        Ok(ours)
    }

    /// Makes the client's link a trunk: the client is in a VLAN with a service tag, each backend in a VLAN of its own.
    /// Deletes the other links.
    ///
    /// # Errors
    /// A command fails.
    pub fn trunk(&self) -> Result<()> {
        let (slb, client) = (&self.slb, &self.client);
        for (namespace, lower) in [(slb, "client0"), (client, "eth0")] {
            send_tags(namespace, lower)?;
            namespace.ip(&format!(
                "addr flush dev {lower} scope global\nlink add link {lower} name {lower}.{CLIENT_VLAN} type vlan proto 802.1ad id {CLIENT_VLAN}\n\
                 link set {lower}.{CLIENT_VLAN} up"
            ))?;
        }
        let ours = format!("client0.{CLIENT_VLAN}");
        slb.ip(&Family::ALL.map(|family| address_of_slb(family, 0, &ours)).join("\n"))?;
        let sources: Vec<u8> = (FIRST_SOURCE..FIRST_SOURCE + CLIENT_SOURCES).collect();
        client.ip(&addressing(0, &sources, &format!("eth0.{CLIENT_VLAN}")))?;
        for (index, Backend { name, namespace, link, .. }) in self.backends.iter().enumerate() {
            let vlan = VLAN + index;
            let ours = format!("client0.{vlan}");
            slb.ip(&format!(
                "link del {name}\nlink add link client0 name {ours} type vlan id {vlan}\nlink set {ours} up"
            ))?;
            slb.ip(&Family::ALL.map(|family| address_of_slb(family, *link, &ours)).join("\n"))?;
            // An address of its own: in mode `dsr` a frame does not go back to its sender.
            client.ip(&format!(
                "link add link eth0 name trunk0 address 02:00:5e:20:00:{link:02x} type vlan id {vlan}\n\
                 link set trunk0 netns {} name eth0",
                namespace.name()
            ))?;
            namespace.ip("link set eth0 up")?;
            namespace.ip(&addressing(*link, &[BACKEND], "eth0"))?;
        }
        Ok(())
    }
}

/// Has frames of VLAN devices carry their tag in front of their payload, as on a wire: veth hands it over beside the
/// frame otherwise, where XDP does not see it.
fn send_tags(namespace: &Namespace, device: &str) -> Result<()> {
    let features = ["-K", device, "tx-vlan-hw-insert", "off", "tx-vlan-stag-hw-insert", "off"];
    run(namespace.command("ethtool").args(features), "").map(drop)
}
