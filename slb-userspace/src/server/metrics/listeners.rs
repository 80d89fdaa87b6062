//! Metrics of listeners, by VIP.

use slb_common::abi::{
    family::Family as AddressFamily,
    ids::ServiceId,
    protocol::IpProtocol,
    service::{Service, policy},
    stats::LimitDrops,
};

use super::{
    collected::Collected,
    families::{
        LISTENER, LISTENER_BYTES, LISTENER_COOKIES, LISTENER_FLOODED, LISTENER_LIMIT_BANDWIDTH,
        LISTENER_LIMIT_DROPS, LISTENER_LIMIT_NEW, LISTENER_NEW, LISTENER_OPEN, LISTENER_OUTAGE,
        LISTENER_PACKETS, LISTENER_RUNNING, LISTENER_SECONDARY,
    },
    shared_labels::{FROM_CLIENTS, TO_CLIENTS, padded, table_labels},
    writer::{ReaderGone, Value, Writer, labels},
};
use crate::server::status::servers::is_tracked;
use slb_common::abi::stats::Counters;
use slb_config::model::{Bandwidth, Listener, LoadBalancer, Mode};
use slb_control::{
    dataplane::state::to_ip,
    failover::Failover,
    model::{ListenerId, Side},
};

/// Picks the values of a family: from clients, and to clients.
type BothDirections = fn(Counters) -> [u64; 2];
/// Picks the value of a family; `None` for listeners without such a limit.
type Limit = fn(&Service, &Collected) -> Option<Value>;

/// A listener at a VIP.
struct Row<'a> {
    labels: String,
    id: ServiceId,
    service: &'a Service,
}

/// Writes the metrics of listeners.
pub(super) fn write(writer: &mut Writer<'_>, collected: &Collected) -> Result<(), ReaderGone> {
    write_configured(writer, collected)?;
    let rows: Vec<_> =
        collected.services().map(|(id, service)| Row { labels: labels_of(service), id, service }).collect();
    write_info(writer, &rows)?;
    write_traffic(writer, collected, &rows)?;
    write_limits(writer, collected, &rows)
}

fn protocol(service: &Service) -> &'static str {
    if service.protocol() == Some(IpProtocol::Tcp) { "tcp" } else { "udp" }
}

fn labels_of(service: &Service) -> String {
    let vip = to_ip(&service.address);
    let family = match AddressFamily::of(vip) {
        AddressFamily::V4 => "ipv4",
        AddressFamily::V6 => "ipv6",
    };
    labels(&[
        ("load_balancer", padded(&service.load_balancer)),
        ("listener", padded(&service.listener)),
        ("vip", &vip.to_string()),
        ("protocol", protocol(service)),
        ("family", family),
    ])
}

/// What the configuration says of all listeners, and the maps of those that run.
fn write_configured(writer: &mut Writer<'_>, collected: &Collected) -> Result<(), ReaderGone> {
    let config = &collected.snapshot.running.config;
    let listeners: Vec<(&LoadBalancer, &Listener, String)> = config
        .load_balancers
        .iter()
        .flat_map(|balancer| balancer.listeners.iter().map(move |listener| (balancer, listener)))
        .map(|(balancer, listener)| {
            let names = [("load_balancer", balancer.name.as_str()), ("listener", listener.name.as_str())];
            (balancer, listener, labels(&names))
        })
        .collect();
    let mut samples = writer.family(LISTENER_RUNNING);
    for (balancer, listener, labels) in &listeners {
        samples.sample(labels, "", balancer.runs(listener))?;
    }
    let mut samples = writer.family(LISTENER_OUTAGE);
    for (balancer, listener, labels) in &listeners {
        let id = ListenerId { load_balancer: balancer.id.clone(), listener: listener.id.clone() };
        let outages = collected.snapshot.outages.get(&id);
        let vips: usize = outages.into_iter().flatten().map(|outage| outage.addresses.len()).sum();
        samples.sample(labels, "", vips)?;
    }
    let mut samples = writer.family(LISTENER_SECONDARY);
    if listeners.iter().any(|(_, listener, _)| listener.target.has_sides()) {
        let failover = Failover::found(config, &collected.snapshot.state);
        let both = listeners.iter().filter(|(_, listener, _)| listener.target.has_sides());
        for (balancer, listener, own) in both {
            for vip in &balancer.addresses {
                let is_on_secondary = failover.side(listener, *vip) == Side::Secondary;
                samples.sample(own, &labels(&[("vip", &vip.to_string())]), is_on_secondary)?;
            }
        }
    }
    Ok(())
}

fn write_info(writer: &mut Writer<'_>, rows: &[Row<'_>]) -> Result<(), ReaderGone> {
    let mut samples = writer.family(LISTENER);
    for Row { labels: own, service, .. } in rows {
        // The listener's own load balancer is in its labels already.
        let [_, (_, group), (_, table)] = table_labels(service);
        let more = [
            ("port", &*service.ports().to_string()),
            ("mode", service.mode().map_or("unknown", Mode::name)),
            ("server_group", &*group),
            ("table", &*table),
        ];
        samples.sample(own, &labels(&more), true)?;
    }
    Ok(())
}

fn write_traffic(writer: &mut Writer<'_>, collected: &Collected, rows: &[Row<'_>]) -> Result<(), ReaderGone> {
    let counters = &collected.readings.counters;
    let both: [(_, BothDirections); 2] = [
        (LISTENER_PACKETS, |counters| [counters.packets_in, counters.packets_out]),
        (LISTENER_BYTES, |counters| [counters.bytes_in, counters.bytes_out]),
    ];
    for (family, values) in both {
        let mut samples = writer.family(family);
        for Row { labels, id, .. } in rows {
            let [from_clients, to_clients] = values(counters.service(*id));
            samples.sample(labels, FROM_CLIENTS, from_clients)?;
            samples.sample(labels, TO_CLIENTS, to_clients)?;
        }
    }
    let mut samples = writer.family(LISTENER_NEW);
    for Row { labels, id, .. } in rows {
        samples.sample(labels, "", counters.service(*id).new_flows)?;
    }
    let mut samples = writer.family(LISTENER_OPEN);
    let index = &collected.snapshot.state.index.entries;
    for Row { labels, id, .. } in rows.iter().filter(|row| is_tracked(row.service)) {
        let by_service = &collected.readings.current_flows.by_service;
        let flows = index.get(id).and_then(|entry| by_service.get(&entry.tag()));
        samples.sample(labels, "", flows.copied().unwrap_or(0))?;
    }
    Ok(())
}

fn write_limits(writer: &mut Writer<'_>, collected: &Collected, rows: &[Row<'_>]) -> Result<(), ReaderGone> {
    let gauges: [(_, Limit); 3] = [
        (LISTENER_LIMIT_BANDWIDTH, |service, _| {
            let bits = Bandwidth::of_kilobits(service.bandwidth).bits();
            (service.bandwidth != 0).then(|| (bits / 8).into())
        }),
        (LISTENER_LIMIT_NEW, |service, _| {
            (service.new_connections != 0).then(|| service.new_connections.into())
        }),
        (LISTENER_FLOODED, |service, collected| {
            let is_flooded = collected.readings.flooded.contains(&u32::from(service.token_buckets));
            has_cookies(service).then(|| is_flooded.into())
        }),
    ];
    for (family, value) in gauges {
        let mut samples = writer.family(family);
        for Row { labels, service, .. } in rows {
            if let Some(value) = value(service, collected) {
                samples.sample(labels, "", value)?;
            }
        }
    }
    let drops_of = |row: &Row<'_>| collected.readings.counters.limit_drops(row.id);
    let mut samples = writer.family(LISTENER_LIMIT_DROPS);
    for row in rows {
        let LimitDrops { bandwidth_in, bandwidth_out, new_connections, .. } = drops_of(row);
        if row.service.bandwidth != 0 {
            let limit = "limit=\"bandwidth\"";
            samples.sample(&row.labels, &format!("{limit},{FROM_CLIENTS}"), bandwidth_in)?;
            samples.sample(&row.labels, &format!("{limit},{TO_CLIENTS}"), bandwidth_out)?;
        }
        if row.service.new_connections != 0 {
            let limit = "limit=\"new_connections\"";
            samples.sample(&row.labels, &format!("{limit},{FROM_CLIENTS}"), new_connections)?;
        }
    }
    let mut samples = writer.family(LISTENER_COOKIES);
    for row in rows.iter().filter(|row| has_cookies(row.service)) {
        let LimitDrops { cookies_sent, cookies_accepted, cookies_refused, .. } = drops_of(row);
        for (result, number) in
            [("sent", cookies_sent), ("accepted", cookies_accepted), ("refused", cookies_refused)]
        {
            samples.sample(&row.labels, &labels(&[("result", result)]), number)?;
        }
    }
    Ok(())
}

fn has_cookies(service: &Service) -> bool {
    service.policies().has(policy::SYN_COOKIES)
}
