//! Numbers of token buckets. All VIPs of a listener share its limits, so its services share their buckets.

use std::collections::{BTreeMap, HashMap};

use slb_common::abi::{
    ids::ServiceId,
    service::{Service, policy},
};

/// Numbers the token buckets of limited services: by the lowest id of their listener's services. A change of that number
/// begins with other buckets, which lets pass what a bucket holds.
pub(super) fn assign(services: &mut BTreeMap<ServiceId, Service>) {
    let mut numbers = HashMap::new();
    for (id, service) in services {
        let listener = (service.load_balancer, service.listener);
        let number = *numbers.entry(listener).or_insert(id.index());
        let limits = policy::LIMIT_BANDWIDTH | policy::LIMIT_NEW_CONNECTIONS | policy::SYN_COOKIES;
        if service.policies().has(limits) {
            service.token_buckets = number as u16;
        }
    }
}
