//! Capabilities of interfaces: the XDP hook that forwards between them, and the offloads to switch off below them.

mod addresses;
mod features;
mod hook;
mod merging;
mod netlink;
mod record;
mod stacked;
mod vlans;

pub use addresses::InterfaceStack;
pub use features::{Native, native};
pub use hook::{Hook, HookScope, conflict};
pub use merging::{below, merging};
pub use record::{InterfaceRecord, RestoreOutcome, RestoreResult, SwitchResult, restore_command};
pub use stacked::{advice, crowding_reason, members, refusal, shadow_reason, unfit_reason};
pub use vlans::{VlanExit, vlan_devices};

#[cfg(test)]
pub(crate) mod tests {
    use crate::neigh::Link;

    /// An interface that is up.
    pub(crate) fn link(index: u32, name: &str, kind: Option<&str>) -> Link {
        Link {
            index,
            name: name.to_owned(),
            altnames: Vec::new(),
            mac: Some([2; 6]),
            up: true,
            is_enabled: true,
            kind: kind.map(str::to_owned),
            xdp: None,
            mtu: 1500,
            master: None,
            vlan: None,
            below: None,
        }
    }
}
