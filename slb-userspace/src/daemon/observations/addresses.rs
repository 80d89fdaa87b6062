//! State of VIPs and local addresses on this host.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use slb_control::{inputs::VipState, local_addresses::shares_ports};

use super::Observations;
use crate::neigh::vips::VipStates;

impl Observations {
    /// The state of VIPs and local addresses on this host.
    pub(in crate::daemon) fn vips(&self) -> VipStates {
        self.vips.clone()
    }

    /// Sets the VIPs that SLB is to announce: the host itself need not answer for them.
    pub(in crate::daemon) fn set_announced(&mut self, announced: BTreeSet<IpAddr>) {
        if announced != self.announced {
            self.announced = announced;
            self.set_vips(self.read_vips.clone());
        }
    }

    /// Sets which addresses are local addresses of mode `full-nat`, not VIPs.
    pub(in crate::daemon) fn set_locals(&mut self, locals: BTreeSet<IpAddr>) {
        self.locals = locals;
    }

    /// Sets the state of VIPs and local addresses on this host, and logs changes.
    pub(in crate::daemon) fn set_vips(&mut self, read: VipStates) {
        let mut vips = read.clone();
        self.read_vips = read;
        if !self.announced.is_empty() {
            let announced = &self.announced;
            let states = Arc::make_mut(&mut vips).iter_mut();
            states.filter(|(vip, _)| announced.contains(vip)).for_each(|(_, state)| state.unanswered = None);
        }
        for (address, state) in vips.iter() {
            let before = self.vips.get(address);
            if self.locals.contains(address) {
                log_local_address(*address, before, state);
            } else {
                log_vip(*address, before, state);
            }
        }
        self.vips = vips;
    }
}

fn log_vip(vip: IpAddr, before: Option<&VipState>, state: &VipState) {
    if before.is_some_and(|before| before.is_local != state.is_local) {
        let to = if state.is_local { "added to" } else { "removed from" };
        tracing::info!(%vip, "VIP {to} this host's addresses");
    }
    let unanswered = before.and_then(|before| before.unanswered.as_ref());
    match &state.unanswered {
        Some(why) if unanswered != Some(why) => {
            tracing::warn!(%vip, why, "VIP not reachable from a link, unless another host answers there");
        }
        None if unanswered.is_some() => tracing::info!(%vip, "VIP answered for on each link"),
        _ => {}
    }
}

fn log_local_address(local: IpAddr, before: Option<&VipState>, state: &VipState) {
    if before.is_some_and(|before| before.is_local != state.is_local) {
        let to = if state.is_local { "added to" } else { "removed from" };
        tracing::info!(%local, "local address {to} this host's addresses");
    }
    let was_unanswered = before.is_some_and(|before| before.unanswered.is_some());
    match (was_unanswered, state.unanswered.is_some()) {
        (false, true) => tracing::warn!(
            %local,
            "this host does not answer for the local address on a link of its subnet, so servers there cannot answer: add \
             it to the interface (`ip address add {local}/{} dev NAME`)",
            if local.is_ipv4() { 32 } else { 128 }
        ),
        (true, false) => tracing::info!(%local, "local address answered for on each link"),
        _ => {}
    }
    if shares_ports(state) && !before.is_some_and(shares_ports) {
        tracing::warn!(
            %local,
            "net.ipv4.ip_local_port_range leaves the local address few ports, so its flows may take those of this host's \
             own connections: raise the range's begin, or use an address with a full-length prefix"
        );
    }
}
