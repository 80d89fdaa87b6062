//! Solicited-node groups of announced IPv6 VIPs. Proxy entries name no owner: those of a daemon are the ones that the map
//! of its filter names.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::{
    dataplane::bpf::answers::{FilterId, PRIORITY, VipAt, answered_by},
    neigh::host_interfaces::{self, IngressFilter},
};

/// VIPs that this SLB's filter answers for at an interface, also if an earlier run has attached it.
///
/// # Errors
/// The kernel does not answer, or the process may not read the map.
pub(super) async fn recorded(filter: FilterId, interface: u32) -> Result<BTreeSet<VipAt>> {
    answered(interface, |handle| handle == filter.handle()).await
}

/// Makes interfaces receive solicitations for the VIPs in `wanted`, and no more for others in `recorded`, which this SLB
/// has added, unless another SLB answers for them. It lasts beyond this process.
///
/// # Errors
/// The kernel refuses it, or the map of another SLB's filter cannot be read.
pub(super) async fn set(
    filter: FilterId,
    recorded: &BTreeSet<VipAt>,
    wanted: &BTreeSet<VipAt>,
) -> Result<()> {
    let mut gone: BTreeSet<VipAt> =
        recorded.difference(wanted).filter(|(_, vip)| vip.is_ipv6()).copied().collect();
    let interfaces: BTreeSet<u32> = gone.iter().map(|(interface, _)| *interface).collect();
    for interface in interfaces {
        let others = answered(interface, |handle| handle != filter.handle()).await?;
        gone.retain(|at| !others.contains(at));
    }
    host_interfaces::set_solicited_groups(&gone, wanted).await
}

/// VIPs that filters with such handles answer for at an interface.
async fn answered(interface: u32, is_meant: impl Fn(u32) -> bool) -> Result<BTreeSet<VipAt>> {
    let filters = host_interfaces::ingress_filters(interface).await?;
    let mut vips = BTreeSet::new();
    for IngressFilter { program, .. } in
        filters.iter().filter(|filter| filter.priority == PRIORITY && is_meant(filter.handle))
    {
        vips.extend(answered_by(*program)?.into_iter().filter(|(index, _)| *index == interface));
    }
    Ok(vips)
}
