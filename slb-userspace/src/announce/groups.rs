//! Solicited-node groups of announced IPv6 VIPs. Proxy entries name no owner: those of a daemon are the ones that the map
//! of its filter names.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::{
    dataplane::bpf::{
        answers::{FilterId, PRIORITY, VipAt, answered_by, answered_by_pinned},
        pins::Pins,
    },
    neigh::host_interfaces::{self, IngressFilter},
};

/// VIPs that this SLB's filter answers for at an interface, also if an earlier run has attached it.
///
/// # Errors
/// The kernel does not answer, or the process may not read the map.
pub(super) async fn recorded(filter: FilterId, pins: &Pins, interface: u32) -> Result<BTreeSet<VipAt>> {
    let filters = filters(interface, |handle| handle == filter.handle()).await?;
    match answered_by_pinned(pins)? {
        Some(vips) if !filters.is_empty() => Ok(at(interface, vips)),
        Some(_) => Ok(BTreeSet::new()),
        None => answered(interface, &filters),
    }
}

/// Makes interfaces receive solicitations for the VIPs in `wanted`, and no more for others in `recorded`, which this SLB
/// has added, unless another SLB answers for them. It lasts beyond this process.
///
/// # Errors
/// The kernel refuses it.
pub(super) async fn set(
    filter: FilterId,
    recorded: &BTreeSet<VipAt>,
    wanted: &BTreeSet<VipAt>,
) -> Result<()> {
    let mut gone: BTreeSet<VipAt> =
        recorded.difference(wanted).filter(|(_, vip)| vip.is_ipv6()).copied().collect();
    let interfaces: BTreeSet<u32> = gone.iter().map(|(interface, _)| *interface).collect();
    for interface in interfaces {
        let others = filters(interface, |handle| handle != filter.handle()).await?;
        match answered(interface, &others) {
            Ok(others) => gone.retain(|at| !others.contains(at)),
            // Without CAP_SYS_ADMIN. Another SLB may answer for the same VIPs.
            Err(error) => {
                gone.retain(|(index, _)| *index != interface);
                tracing::warn!(
                    interface,
                    error = format!("{error:#}"),
                    "another SLB answers for VIPs here: solicited-node groups of VIPs that are not announced any more stay joined"
                );
            }
        }
    }
    host_interfaces::set_solicited_groups(&gone, wanted).await
}

/// Filters of SLB with such handles at an interface.
async fn filters(interface: u32, is_meant: impl Fn(u32) -> bool) -> Result<Vec<IngressFilter>> {
    let mut filters = host_interfaces::ingress_filters(interface).await?;
    filters.retain(|filter| filter.priority == PRIORITY && is_meant(filter.handle));
    Ok(filters)
}

/// VIPs that filters answer for at an interface.
fn answered(interface: u32, filters: &[IngressFilter]) -> Result<BTreeSet<VipAt>> {
    let mut vips = BTreeSet::new();
    for IngressFilter { program, .. } in filters {
        vips.append(&mut at(interface, answered_by(*program)?));
    }
    Ok(vips)
}

fn at(interface: u32, mut vips: BTreeSet<VipAt>) -> BTreeSet<VipAt> {
    vips.retain(|(index, _)| *index == interface);
    vips
}
