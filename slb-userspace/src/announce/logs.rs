//! Log lines about announcements.

use std::{collections::BTreeMap, net::IpAddr};

use super::{VipAnnouncement, plan::Plan};
use crate::neigh::Mac;

/// Most VIPs that a log line names.
const MAX_NAMED: usize = 5;

/// Logs VIPs that no interface announces, once.
pub(super) fn log_unannounced(
    before: &BTreeMap<IpAddr, VipAnnouncement>,
    now: &BTreeMap<IpAddr, VipAnnouncement>,
    why: &str,
) {
    let is_missing = |announcement: &VipAnnouncement| announcement.interfaces.is_empty();
    let new = now.iter().filter(|(vip, announcement)| {
        is_missing(announcement) && before.get(vip).is_none_or(|before| !is_missing(before))
    });
    let vips: Vec<_> = new.map(|(vip, _)| *vip).collect();
    if !vips.is_empty() {
        tracing::warn!(vips = named(&vips), why, "VIPs are not announced");
    }
}

/// Logs what is announced now and was not, and the reverse, by interface.
pub(super) fn log_changes(before: &Plan, now: &Plan) {
    let by_interface = |plan: &Plan, without: &Plan| {
        let mut new: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for ((index, vip), place) in plan {
            if !without.contains_key(&(*index, *vip)) {
                new.entry(place.interface.clone()).or_default().push(*vip);
            }
        }
        new
    };
    for (interface, vips) in by_interface(now, before) {
        tracing::info!(interface, vips = named(&vips), "VIPs announced");
    }
    for (interface, vips) in by_interface(before, now) {
        tracing::info!(interface, vips = named(&vips), "VIPs no longer announced");
    }
}

fn named(vips: &[IpAddr]) -> String {
    let mut words: Vec<_> = vips.iter().take(MAX_NAMED).map(IpAddr::to_string).collect();
    if let Some(more) = vips.len().checked_sub(MAX_NAMED).filter(|more| *more > 0) {
        words.push(format!("{more} more"));
    }
    words.join(", ")
}

/// A hardware address as hosts write it.
pub(super) fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
