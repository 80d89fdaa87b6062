//! Capabilities of interfaces: the XDP hook that forwards between them, and the offloads to switch off below them.

mod addresses;
mod features;
mod hook;
mod merging;
mod netlink;
mod record;
mod stacked;

pub use addresses::Stack;
pub use features::{Native, native};
pub use hook::{Hook, Role, conflict};
pub use merging::{below, merging};
pub use record::{Outcome, Record, Switched, Undone, restoring};
pub use stacked::{advice, crowded, members, refusal, shadowed, unfit};

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
            kind: kind.map(str::to_owned),
            xdp: None,
            mtu: 1500,
            master: None,
            below: None,
        }
    }
}
