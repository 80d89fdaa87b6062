//! Which service of the maps a desired one continues: that of the same VIP, ports and protocol. Pure.
//!
//! A port range may change at its beginning, too. It then continues the range that its listener had, else one that it
//! overlaps and that no other listener continues. So its flows keep their service.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use slb_common::abi::{ids::ServiceId, protocol::IpProtocol, service::Service, unpad_name};

use crate::{
    dataplane::state::{MapState, to_ip},
    model::{Desired, DesiredService, ServiceKey, key_of},
};

/// The services of the maps, by the key of the desired service that continues each.
pub(super) struct KnownServices<'a>(BTreeMap<ServiceKey, (ServiceId, &'a Service)>);

impl<'a> KnownServices<'a> {
    pub(super) fn new(desired: &Desired, actual: &'a MapState) -> Self {
        let known = actual.services.iter();
        let mut known: BTreeMap<_, _> =
            known.filter_map(|(id, service)| Some((key_of(service)?, (*id, service)))).collect();
        let keys: BTreeSet<_> = desired.services.iter().map(DesiredService::key).collect();
        let changed: Vec<_> = desired
            .services
            .iter()
            .filter(|service| service.port.is_range() && !known.contains_key(&service.key()))
            .collect();
        let by_overlap = |desired: &DesiredService, there: &Service| there.ports().overlaps(desired.port);
        for continues in [is_same_listener as fn(&DesiredService, &Service) -> bool, by_overlap] {
            for service in &changed {
                let left = known.iter().find(|(key, (_, there))| {
                    !keys.contains(key)
                        && there.ports().is_range()
                        && end_of(there) == (service.address, Some(service.protocol))
                        && continues(service, there)
                });
                if let Some((key, there)) = left.map(|(key, there)| (*key, *there))
                    && !known.contains_key(&service.key())
                {
                    known.remove(&key);
                    known.insert(service.key(), there);
                }
            }
        }
        Self(known)
    }

    /// The service that a desired one continues.
    pub(super) fn of(&self, desired: &DesiredService) -> Option<(ServiceId, &'a Service)> {
        self.0.get(&desired.key()).copied()
    }
}

fn end_of(service: &Service) -> (IpAddr, Option<IpProtocol>) {
    (to_ip(&service.address), service.protocol())
}

fn is_same_listener(desired: &DesiredService, there: &Service) -> bool {
    let names = [&there.load_balancer, &there.listener].map(unpad_name);
    names == [Some(desired.load_balancer.as_str()), Some(desired.listener.as_str())]
}
