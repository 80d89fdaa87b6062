//! Limits of listeners in the status document.

use slb_api::types::{ApiLimits, ApiSynCookies};
use slb_common::abi::{service::Service, stats::LimitDrops};
use slb_config::model::{Bandwidth, Listener};

/// The limits of a running listener; `None` without any.
pub(super) fn of_service(service: &Service) -> Option<ApiLimits> {
    let bandwidth = (service.bandwidth != 0).then(|| Bandwidth::of_kilobits(service.bandwidth));
    let syn_cookies = u32::from(service.syn_cookies) * Service::SYN_COOKIES_UNIT;
    limits(bandwidth, of_rate(service.new_connections), of_rate(syn_cookies))
}

/// The limits of a stopped listener; `None` without any.
pub(super) fn of_configured(listener: &Listener) -> Option<ApiLimits> {
    limits(listener.bandwidth, listener.new_connections, listener.syn_cookies)
}

fn of_rate(rate: u32) -> Option<u32> {
    (rate != 0).then_some(rate)
}

fn limits(
    bandwidth: Option<Bandwidth>,
    new_connections: Option<u32>,
    syn_cookies: Option<u32>,
) -> Option<ApiLimits> {
    let bandwidth = bandwidth.map(Bandwidth::bits);
    let syn_cookies = syn_cookies.map(|above| ApiSynCookies { above, ..ApiSynCookies::default() });
    let limits = ApiLimits { bandwidth, new_connections, syn_cookies, ..ApiLimits::default() };
    (limits != ApiLimits::default()).then_some(limits)
}

/// Adds the drops of a service of the listener. `is_flooded`: SYNs are answered by cookies.
pub(super) const fn add_drops(limits: &mut ApiLimits, drops: LimitDrops, is_flooded: bool) {
    limits.dropped_from_clients += drops.bandwidth_in;
    limits.dropped_to_clients += drops.bandwidth_out;
    limits.dropped_new_connections += drops.new_connections;
    if let Some(cookies) = &mut limits.syn_cookies {
        cookies.is_flooded |= is_flooded;
        cookies.sent += drops.cookies_sent;
        cookies.accepted += drops.cookies_accepted;
        cookies.refused += drops.cookies_refused;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slb_config::samples::shop;

    #[test]
    fn running_and_stopped_listeners_show_their_limits_and_others_none() {
        let syn_cookies = Some(ApiSynCookies { above: 800, ..ApiSynCookies::default() });
        let (bandwidth, new_connections) = (Some(100_000_000), Some(7));
        let expected = ApiLimits { bandwidth, new_connections, syn_cookies, ..ApiLimits::default() };
        let settings = "port = 80\nbandwidth = \"100Mbit\"\nnew_connections = 7\nsyn_cookies = 800\n";
        let config = shop(&[("port = 80\n", settings)]);
        let shown: Vec<_> = config.load_balancers[0].listeners.iter().map(of_configured).collect();
        assert_eq!(shown, [None, Some(expected)]);
        let service =
            Service { bandwidth: 100_000, new_connections: 7, syn_cookies: 8, ..Service::default() };
        assert_eq!(of_service(&service), Some(expected));
        assert_eq!(of_service(&Service::default()), None);
        let one = Service { new_connections: 7, ..Service::default() };
        let expected = ApiLimits { bandwidth: None, syn_cookies: None, ..expected };
        assert_eq!(of_service(&one), Some(expected));
    }

    #[test]
    fn drops_of_all_vips_are_added() {
        let syn_cookies = Some(ApiSynCookies { above: 100, ..ApiSynCookies::default() });
        let mut limits = ApiLimits { syn_cookies, ..ApiLimits::default() };
        for n in [1, 10] {
            let drops = LimitDrops {
                bandwidth_in: n,
                bandwidth_out: 2 * n,
                new_connections: 3 * n,
                cookies_sent: 4 * n,
                cookies_accepted: 5 * n,
                cookies_refused: 6 * n,
            };
            add_drops(&mut limits, drops, n == 1);
        }
        let dropped =
            (limits.dropped_from_clients, limits.dropped_to_clients, limits.dropped_new_connections);
        assert_eq!(dropped, (11, 22, 33));
        let expected = ApiSynCookies { above: 100, is_flooded: true, sent: 44, accepted: 55, refused: 66 };
        assert_eq!(limits.syn_cookies, Some(expected));
    }
}
