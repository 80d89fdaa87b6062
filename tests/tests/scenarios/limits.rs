//! Limits of listeners under more traffic than they let pass, measured by SLB's own counters.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use slb_api::types::{ApiLimits, ApiListener, Status};
use slb_tests::{
    World,
    client::{FloodKind, PATIENCE},
    net::Family,
    scenario,
    server::Service,
    wait::wait_for,
};

/// Time of a measurement.
const WINDOW: Duration = Duration::from_secs(10);
/// By how much a rate may be off.
const TOLERANCE: f64 = 0.05;
/// A flood may pause on a busy machine, and then less passes. More never passes.
const WINDOWS: usize = 3;
const BANDWIDTH: f64 = 20e6;

/// A listener at a time.
struct Reading {
    at: Instant,
    listener: ApiListener,
}

impl Reading {
    fn of(status: Result<Status>, service: Service) -> Result<Self> {
        let listeners = status?.load_balancers.into_iter().flat_map(|balancer| balancer.listeners);
        let listener = listeners.into_iter().find(|listener| listener.name == service.name());
        Ok(Self { at: Instant::now(), listener: listener.context("no such listener")? })
    }

    fn now(world: &World, service: Service) -> Result<Self> {
        Self::of(world.status(), service)
    }

    /// As `slb` reads it without a daemon.
    fn from_pins(world: &World, service: Service) -> Result<Self> {
        Self::of(world.status_from_pins(), service)
    }

    fn limits(&self) -> Result<ApiLimits> {
        self.listener.limits.context("no limits")
    }
}

/// What a counter gains in a second.
type Rate = fn(&ApiListener) -> u64;

const BITS_IN: Rate = |listener| 8 * listener.counters.bytes_from_clients;
const BITS_OUT: Rate = |listener| 8 * listener.counters.bytes_to_clients;
const NEW: Rate = |listener| listener.counters.total_flows;

/// Measures rates in a window.
fn measured(read: impl Fn() -> Result<Reading>, rates: &[Rate]) -> Result<Vec<f64>> {
    let before = read()?;
    wait_for("the end of the window", 2 * WINDOW, || Ok((before.at.elapsed() >= WINDOW).then_some(())))?;
    let after = read()?;
    let seconds = (after.at - before.at).as_secs_f64();
    Ok(rates.iter().map(|rate| (rate(&after.listener) - rate(&before.listener)) as f64 / seconds).collect())
}

/// Expects each rate to be within the tolerance of `limit` in one window, and above it in none.
fn expect(limit: f64, read: impl Fn() -> Result<Reading>, rates: &[Rate]) -> Result<()> {
    let mut all = Vec::new();
    for _ in 0..WINDOWS {
        let window = measured(&read, rates)?;
        println!("limit {limit}: {window:?}");
        ensure!(
            window.iter().all(|rate| *rate <= limit * (1.0 + TOLERANCE)),
            "{window:?} per second, over {limit}"
        );
        let is_reached = window.iter().all(|rate| *rate >= limit * (1.0 - TOLERANCE));
        all.push(window);
        if is_reached {
            return Ok(());
        }
    }
    anyhow::bail!("{all:?} per second in {WINDOWS} windows, and the limit is {limit}")
}

/// Waits until something is over a limit.
fn wait_for_drops(world: &World, service: Service, dropped: fn(&ApiLimits) -> u64) -> Result<()> {
    let before = dropped(&Reading::now(world, service)?.limits()?);
    wait_for("a packet over the limit", PATIENCE, || {
        Ok((dropped(&Reading::now(world, service)?.limits()?) > before).then_some(()))
    })
}

#[test]
fn bandwidth_is_right_within_5_percent_over_10_seconds() {
    scenario!(&[50, 50], |world| {
        for service in [Service::Bulk, Service::Echo] {
            world.plan.listeners.entry(service).or_default().bandwidth = Some("20Mbit");
        }
        world.start()?;
        let both = |service| Family::ALL.map(|family| world.vip(family, service));
        let from: fn(&ApiLimits) -> u64 = |limits| limits.dropped_from_clients;
        let to: fn(&ApiLimits) -> u64 = |limits| limits.dropped_to_clients;
        // Answers to datagrams are larger than they by the server's name, so both directions have a limit.
        for (service, kind, dropped, rates) in [
            (Service::Bulk, FloodKind::Downloads, to, &[BITS_OUT][..]),
            (Service::Bulk, FloodKind::Uploads, from, &[BITS_IN]),
            (Service::Echo, FloodKind::Datagrams, to, &[BITS_IN, BITS_OUT]),
        ] {
            let flood = world.client().flood(kind, &both(service));
            wait_for_drops(world, service, dropped)?;
            expect(BANDWIDTH, || Reading::now(world, service), rates).with_context(|| format!("{kind:?}"))?;
            drop(flood);
        }
        ensure!(world.packets("drop", Some("bandwidth_limit"))? > 0);
        let text = world.slb(&["status"])?;
        ensure!(text.contains("limits: bandwidth 20Mbit per second (dropped "), "{text}");
        // The listener without a limit has lost nothing.
        let free = Reading::now(world, Service::Lines)?;
        ensure!(free.listener.limits.is_none(), "{:?}", free.listener.limits);
        Ok(())
    });
}

#[test]
fn new_connections_are_limited_and_established_ones_go_on() {
    scenario!(&[50, 50], |world| {
        let limit = |world: &mut World, number| {
            world.plan.listeners.entry(Service::Lines).or_default().new_connections = number;
        };
        world.start()?;
        let vips = Family::ALL.map(|family| world.vip(family, Service::Lines));
        let open = |vip: &_| world.client().long_lived(*vip, 4);
        let established = vips.iter().map(open).collect::<Result<Vec<_>>>()?;
        let go_on = || {
            established.iter().try_for_each(|connections| {
                connections.progress(20)?;
                connections.expect_unbroken(None)
            })
        };
        limit(world, Some(20));
        let said = world.reload()?;
        ensure!(said.contains("new connections none -> 20"), "{said}");
        let flood = world.client().flood(FloodKind::Connections, &vips);
        wait_for_drops(world, Service::Lines, |limits| limits.dropped_new_connections)?;
        expect(20.0, || Reading::now(world, Service::Lines), &[NEW])?;
        go_on()?;
        ensure!(world.packets("drop", Some("new_connection_limit"))? > 0);

        // The limit needs no daemon, and the next one keeps the counters.
        world.kill()?;
        expect(20.0, || Reading::from_pins(world, Service::Lines), &[NEW])?;
        go_on()?;
        let before = Reading::from_pins(world, Service::Lines)?;
        world.start()?;
        let after = Reading::now(world, Service::Lines)?;
        let dropped = |reading: &Reading| Ok::<_, anyhow::Error>(reading.limits()?.dropped_new_connections);
        ensure!(dropped(&after)? >= dropped(&before)? && NEW(&after.listener) >= NEW(&before.listener));

        // A larger limit holds at once, and loses neither counters nor connections.
        limit(world, Some(60));
        world.reload()?;
        let larger = Reading::now(world, Service::Lines)?;
        ensure!(dropped(&larger)? >= dropped(&after)?, "the reload has reset the drops");
        expect(60.0, || Reading::now(world, Service::Lines), &[NEW])?;
        limit(world, None);
        world.reload()?;
        drop(flood);
        let before = world.packets("drop", Some("new_connection_limit"))?;
        world.try_connections(Service::Lines, 100)?;
        ensure!(world.packets("drop", Some("new_connection_limit"))? == before, "no limit is left");
        go_on()
    });
}
