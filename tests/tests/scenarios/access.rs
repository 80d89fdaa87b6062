//! Access lists: which clients reach listeners, across reloads and restarts, under traffic.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use slb_api::types::ApiAccessListKind;
use slb_tests::{
    World,
    client::{Batch, Client, Load, LongLived, PATIENCE},
    config::AccessList,
    net::Family,
    scenario,
    server::Service,
    traffic::KINDS,
};

/// Exchanges of each kind that must succeed.
const EXCHANGES: u64 = 20;
/// Reloads with another list each.
const RELOADS: usize = 20;
const CONCURRENCY: usize = 2;
const DENIED: &str = "access_denied";

/// A client with one address of each family, which lists name, and one with all others.
struct Clients {
    listed: Client,
    other: Client,
}

impl Clients {
    fn of(world: &World) -> Self {
        let last = Family::ALL.map(|family| world.net.sources(family).pop());
        let is_listed = |address: &IpAddr| last.contains(&Some(*address));
        let listed = world.client().with_addresses(is_listed);
        Self { listed, other: world.client().with_addresses(|address| !is_listed(address)) }
    }

    /// A list of the addresses of a client, and of these networks.
    fn list(client: &Client, kind: &'static str, networks: &[String]) -> AccessList {
        let addresses = client.addresses().map(|address| address.to_string());
        AccessList { name: "office", kind, entries: addresses.chain(networks.iter().cloned()).collect() }
    }
}

/// Exchanges of every kind at the same time.
fn loads(world: &World, client: &Client, count: u64) -> Vec<Load> {
    let load = |(service, family)| client.load(service, world.vip(family, service), count, CONCURRENCY);
    KINDS.into_iter().map(load).collect()
}

fn reaches_services(world: &World, client: &Client) -> Result<()> {
    loads(world, client, EXCHANGES).into_iter().try_for_each(|load| load.finish().expect_no_failure())
}

/// Every exchange fails, for want of any answer.
fn is_denied(world: &World, client: &Client) -> Result<()> {
    let before = world.packets("drop", Some(DENIED))?;
    for batch in loads(world, client, CONCURRENCY as u64).into_iter().map(Load::finish) {
        expect_denied(&batch)?;
    }
    let denied = world.packets("drop", Some(DENIED))? - before;
    ensure!(denied >= (KINDS.len() * CONCURRENCY) as u64, "{denied} packets were denied");
    Ok(())
}

fn expect_denied(batch: &Batch) -> Result<()> {
    ensure!(batch.tally.is_empty(), "a denied client was answered: {:?}", batch.tally);
    // A RST or an ICMP error would be an answer.
    let is_answered = |text: &str| text.contains("refused") || text.contains("unreachable");
    let answered = batch.failures.iter().map(ToString::to_string).find(|failure| is_answered(failure));
    ensure!(answered.is_none(), "a denied client was refused: {answered:?}");
    Ok(())
}

/// What the status says of the first listener's list.
fn shown(world: &World) -> Result<Option<(Option<String>, ApiAccessListKind)>> {
    let status = world.status()?;
    let mut listeners = status.load_balancers.into_iter().flat_map(|balancer| balancer.listeners);
    Ok(listeners.next().and_then(|listener| listener.access_list).map(|list| (list.name, list.kind)))
}

#[test]
fn lists_let_in_or_deny_single_clients_of_both_families() {
    scenario!(&[50, 50], |world| {
        let Clients { listed, other } = Clients::of(world);
        world.plan.access = Some(Clients::list(&listed, "white", &[]));
        world.start()?;
        reaches_services(world, &listed)?;
        is_denied(world, &other)?;
        for family in Family::ALL {
            ensure!(other.ping(family.vip(), PATIENCE)?.is_some(), "echo requests are not checked: {family}");
        }
        ensure!(shown(world)? == Some((Some("office".to_owned()), ApiAccessListKind::White)));
        let text = world.slb(&["status"])?;
        ensure!(text.contains("(nat; white list office)") && text.contains(DENIED), "{text}");

        world.plan.access = Some(Clients::list(&listed, "black", &[]));
        let said = world.reload()?;
        ensure!(said.contains("access list type white -> black"), "{said}");
        is_denied(world, &listed)?;
        reaches_services(world, &other)?;
        ensure!(shown(world)? == Some((Some("office".to_owned()), ApiAccessListKind::Black)));

        world.plan.access = None;
        let said = world.reload()?;
        ensure!(said.contains("access list office: removed"), "{said}");
        ensure!(shown(world)?.is_none());
        reaches_services(world, &listed)?;
        reaches_services(world, &other)
    });
}

/// Short exchanges of every kind, and connections that stay open.
struct ListedTraffic {
    loads: Vec<Load>,
    connections: Vec<LongLived>,
}

impl ListedTraffic {
    fn start(world: &World, client: &Client) -> Result<Self> {
        let open = |family| client.long_lived(world.vip(family, Service::Lines), 4);
        let connections = Family::ALL.into_iter().map(open).collect::<Result<_>>()?;
        Ok(Self { loads: loads(world, client, u64::MAX), connections })
    }

    fn progress(&self) -> Result<()> {
        self.connections.iter().try_for_each(|family| {
            family.progress(3)?;
            family.expect_unbroken(None)
        })
    }

    fn end(self) -> Result<()> {
        self.progress()?;
        self.loads.iter().for_each(Load::stop_new);
        self.loads.into_iter().try_for_each(|load| load.finish().expect_no_failure())
    }
}

/// A list is replaced again and again. Every version has the listed client, and none has the other one.
#[test]
fn replaced_list_is_never_missing_or_mixed_under_traffic() {
    scenario!(&[50, 50], |world| {
        let Clients { listed, other } = Clients::of(world);
        let version = |number: usize| {
            let networks: Vec<_> = (0..number % 7 * 40)
                .map(|n| if n % 2 == 0 { format!("192.0.{n}.0/24") } else { format!("2001:db8:{n}::/48") })
                .collect();
            Some(Clients::list(&listed, "white", &networks))
        };
        world.plan.access = version(0);
        world.start()?;
        let traffic = ListedTraffic::start(world, &listed)?;
        for number in 1..=RELOADS {
            world.plan.access = version(number);
            let said = world.reload()?;
            ensure!(said.contains("access list office: entry"), "{said}");
            traffic.progress()?;
        }
        let denied = world.packets("drop", Some(DENIED))?;
        ensure!(denied == 0, "{denied} packets of the listed client were dropped");

        let denied = loads(world, &other, u64::MAX);
        for number in 1..=RELOADS {
            world.plan.access = version(number);
            world.reload()?;
            traffic.progress()?;
        }
        slb_tests::wait::wait_for("packets of the other client to be denied", PATIENCE, || {
            Ok((world.packets("drop", Some(DENIED))? > 0).then_some(()))
        })?;
        denied.iter().for_each(Load::stop_new);
        denied.into_iter().map(Load::finish).try_for_each(|batch| expect_denied(&batch))?;
        traffic.end()
    });
}

/// A list holds while no daemon runs, and while one starts. A changed list ends established connections at once.
#[test]
fn list_is_enforced_across_restarts() {
    scenario!(&[50, 50], |world| {
        let Clients { listed, other } = Clients::of(world);
        world.plan.access = Some(Clients::list(&listed, "white", &[]));
        world.start()?;
        let (traffic, denied) = (ListedTraffic::start(world, &listed)?, loads(world, &other, u64::MAX));
        world.terminate()?;
        traffic.progress()?;
        world.start()?;
        world.kill()?;
        traffic.progress()?;
        world.kill_on_its_way_up()?;
        world.start()?;
        denied.iter().for_each(Load::stop_new);
        denied.into_iter().map(Load::finish).try_for_each(|batch| expect_denied(&batch))?;
        traffic.end()?;

        let open = other.addresses().next().map(|address| address.to_string());
        world.plan.access = Some(Clients::list(&listed, "white", open.as_slice()));
        world.reload()?;
        let connection = other.long_lived(world.vip(Family::V4, Service::Lines), 1)?;
        let before = world.packets("drop", Some(DENIED))?;
        world.plan.access = Some(Clients::list(&listed, "white", &[]));
        world.reload()?;
        slb_tests::wait::wait_for("a denied packet of an established connection", PATIENCE, || {
            Ok((world.packets("drop", Some(DENIED))? > before).then_some(()))
        })?;
        drop(connection);
        Ok(())
    });
}
