//! Limits of listeners in the status document.

use slb_api::types::ApiLimits;
use slb_common::abi::{service::Service, stats::LimitDrops};
use slb_config::model::{Bandwidth, Listener};

/// The limits of a running listener; `None` without any.
pub(super) fn of_service(service: &Service) -> Option<ApiLimits> {
    let bandwidth = (service.bandwidth != 0).then(|| Bandwidth::of_kilobits(service.bandwidth));
    limits(bandwidth, (service.new_connections != 0).then_some(service.new_connections))
}

/// The limits of a stopped listener; `None` without any.
pub(super) fn of_configured(listener: &Listener) -> Option<ApiLimits> {
    limits(listener.bandwidth, listener.new_connections)
}

fn limits(bandwidth: Option<Bandwidth>, new_connections: Option<u32>) -> Option<ApiLimits> {
    let bandwidth = bandwidth.map(Bandwidth::bits);
    let limits = ApiLimits { bandwidth, new_connections, ..ApiLimits::default() };
    (limits != ApiLimits::default()).then_some(limits)
}

/// Adds the drops of a service of the listener.
pub(super) const fn add_drops(limits: &mut ApiLimits, drops: LimitDrops) {
    limits.dropped_from_clients += drops.bandwidth_in;
    limits.dropped_to_clients += drops.bandwidth_out;
    limits.dropped_new_connections += drops.new_connections;
}

#[cfg(test)]
mod tests {
    use super::*;
    use slb_config::samples::shop;

    #[test]
    fn running_and_stopped_listeners_show_their_limits_and_others_none() {
        let expected =
            ApiLimits { bandwidth: Some(100_000_000), new_connections: Some(7), ..ApiLimits::default() };
        let config = shop(&[("port = 80\n", "port = 80\nbandwidth = \"100Mbit\"\nnew_connections = 7\n")]);
        let shown: Vec<_> = config.load_balancers[0].listeners.iter().map(of_configured).collect();
        assert_eq!(shown, [None, Some(expected)]);
        let service = Service { bandwidth: 100_000, new_connections: 7, ..Service::default() };
        assert_eq!(of_service(&service), Some(expected));
        assert_eq!(of_service(&Service::default()), None);
        let one = Service { new_connections: 7, ..Service::default() };
        assert_eq!(of_service(&one), Some(ApiLimits { bandwidth: None, ..expected }));
    }

    #[test]
    fn drops_of_all_vips_are_added() {
        let mut limits = ApiLimits::default();
        for n in [1, 10] {
            add_drops(
                &mut limits,
                LimitDrops { bandwidth_in: n, bandwidth_out: 2 * n, new_connections: 3 * n },
            );
        }
        let dropped =
            (limits.dropped_from_clients, limits.dropped_to_clients, limits.dropped_new_connections);
        assert_eq!(dropped, (11, 22, 33));
    }
}
