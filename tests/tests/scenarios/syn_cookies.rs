//! SYN cookies under a flood from random sources: real clients connect, whichever end speaks first, and their
//! connections go on.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use slb_api::types::{ApiListener, ApiSynCookies};
use slb_common::hash::mix;
use slb_tests::{
    World,
    client::{Direction, PATIENCE},
    config::{Listener, Mode, Target},
    forge::{FloodStats, Forger, MacPair},
    net::Family,
    packets::frames::flag,
    scenario,
    server::Service,
    wait::wait_for,
};

use super::full_nat;

/// The limit of each listener: more than the clients reach without a flood.
const ABOVE: u32 = 300;
/// SYNs per second of the flood, over all listeners.
const RATE: u32 = 4_000;
/// Most SYNs of the flood: three minutes.
const MOST: usize = 180 * RATE as usize;
/// Port of the servers that speak first, which no other server uses.
const PORT: u16 = 7101;
const VIP_PORT: u16 = 7201;
const BANNER: &str = "banner";
const MEBIBYTE: usize = 1 << 20;
/// Listeners in the flood.
const FLOODED: [&str; 4] = ["http", "lines", "bulk", BANNER];

/// SYNs from random sources to all listeners. It ends when this is dropped.
struct Flood {
    is_to_end: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<FloodStats>>>,
}

impl Flood {
    fn start(world: &World) -> Result<Self> {
        let forger = Forger::at(&world.net.client, "eth0")?;
        let macs = MacPair { sender: forger.mac, receiver: world.net.slb.mac("client0")? };
        let is_to_end = Arc::new(AtomicBool::new(false));
        let services = [Service::Http, Service::Lines, Service::Bulk];
        let mut targets: Vec<SocketAddr> =
            Family::ALL.iter().map(|family| (family.vip(), VIP_PORT).into()).collect();
        for family in Family::ALL {
            targets.extend(services.map(|service| world.vip(family, service)));
        }
        let ends = is_to_end.clone();
        let syns = targets.into_iter().cycle().take(MOST).zip(1_u64..).map(move |(target, n)| {
            let random = mix(n);
            let (random, port) = (random as u32, (random >> 32) as u16 | 1024);
            let source: IpAddr = match target {
                // Test networks of RFC 2544 and RFC 3849, which no host of the scenario has.
                SocketAddr::V4(_) => Ipv4Addr::from_bits(0xc612_0000 | random & 0x1_ffff).into(),
                SocketAddr::V6(_) => Ipv6Addr::from_bits(0x2001_0db8_ffff << 80 | u128::from(random)).into(),
            };
            macs.segment(SocketAddr::new(source, port), target, flag::SYN, [random, 0])
        });
        let syns = syns.take_while(move |_| !ends.load(Ordering::Relaxed));
        let thread = thread::spawn(move || forger.flood(RATE, syns));
        Ok(Self { is_to_end, thread: Some(thread) })
    }

    fn end(mut self) -> Result<FloodStats> {
        self.is_to_end.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the flood has ended")?;
        thread.join().map_err(|_| anyhow::anyhow!("the flood has panicked"))?
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.is_to_end.store(true, Ordering::Relaxed);
    }
}

/// The listeners in the flood.
fn listeners(world: &World) -> Result<Vec<ApiListener>> {
    let listeners = world.status()?.load_balancers.into_iter().flat_map(|balancer| balancer.listeners);
    let flooded: Vec<_> = listeners.filter(|listener| FLOODED.contains(&listener.name.as_str())).collect();
    ensure!(flooded.len() == FLOODED.len(), "{} listeners", flooded.len());
    Ok(flooded)
}

fn cookies(listener: &ApiListener) -> Result<ApiSynCookies> {
    let limits = listener.limits.with_context(|| format!("{} has no limits", listener.name))?;
    limits.syn_cookies.with_context(|| format!("{} has no cookies", listener.name))
}

fn wait_until_flooded(world: &World, is_flooded: bool) -> Result<()> {
    wait_for("the beginning or the end of the flood", Duration::from_secs(40), || {
        let listeners = listeners(world)?;
        let mut all = true;
        for listener in &listeners {
            all &= cookies(listener)?.is_flooded == is_flooded;
        }
        Ok(all.then_some(()))
    })
}

/// Flows that have begun, and cookies that clients have sent back.
fn counted(world: &World) -> Result<(u64, u64)> {
    let listeners = listeners(world)?;
    let flows = listeners.iter().map(|listener| listener.counters.total_flows).sum();
    let mut accepted = 0;
    for listener in &listeners {
        accepted += cookies(listener)?.accepted;
    }
    Ok((flows, accepted))
}

/// Bytes that differ from place to place.
fn content(seed: u8) -> Vec<u8> {
    (0..MEBIBYTE).map(|n| (n as u8).wrapping_mul(31) ^ (n >> 8) as u8 ^ seed).collect()
}

/// Servers that speak first: they send a mebibyte, then expect another one, and confirm it.
fn serve(world: &World) -> Result<()> {
    for backend in &world.net.backends {
        let listen = || Ok(TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT))?);
        let listener = backend.namespace.on_thread(listen)?;
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                thread::spawn(move || -> Result<()> {
                    stream.set_read_timeout(Some(PATIENCE))?;
                    stream.write_all(&content(1))?;
                    let mut received = vec![0; MEBIBYTE];
                    stream.read_exact(&mut received)?;
                    stream.write_all(&[u8::from(received == content(2))])?;
                    Ok(())
                });
            }
        });
    }
    Ok(())
}

/// Takes the mebibyte of the server, sends another one, and expects that it arrives as it is.
fn exchange_banner(world: &World, family: Family) -> Result<()> {
    let vip = SocketAddr::new(family.vip(), VIP_PORT);
    let mut stream = world.net.client.on_thread(|| Ok(TcpStream::connect_timeout(&vip, PATIENCE)?))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut received = vec![0; MEBIBYTE];
    stream.read_exact(&mut received).context("no banner")?;
    ensure!(received == content(1), "the banner differs");
    stream.write_all(&content(2))?;
    let mut confirmed = [0];
    stream.read_exact(&mut confirmed).context("no confirmation")?;
    ensure!(confirmed == [1], "the server has received something else");
    Ok(())
}

/// Exchanges of all kinds.
fn exchange(world: &World) -> Result<()> {
    for family in Family::ALL {
        let vip = |service| world.vip(family, service);
        world.client().exchanges(Service::Http, vip(Service::Http), 20, 4).expect_no_failure()?;
        for direction in [Direction::Upload, Direction::Download] {
            let transferred = world.client().bulk(vip(Service::Bulk), direction, MEBIBYTE as u64, 2);
            transferred.with_context(|| format!("{direction:?}, {family:?}"))?;
        }
        exchange_banner(world, family).with_context(|| format!("banner, {family:?}"))?;
    }
    Ok(())
}

fn prepare(world: &mut World, mode: Mode) -> Result<()> {
    for service in [Service::Http, Service::Lines, Service::Bulk] {
        world.plan.listeners.entry(service).or_default().syn_cookies = Some(ABOVE);
    }
    let group = world.plan.group(BANNER, PORT);
    world.plan.put_group(group);
    let listener = Listener::new(BANNER, "tcp", VIP_PORT, Target::Group(BANNER.to_owned()));
    let listener = Listener { mode, check: None, syn_cookies: Some(ABOVE), ..listener };
    world.plan.additional_listeners.push(listener);
    serve(world)?;
    world.start()?;
    Ok(())
}

fn survives_a_flood(world: &mut World) -> Result<()> {
    exchange(world).context("before the flood")?;
    let (_, accepted) = counted(world)?;
    ensure!(accepted == 0, "{accepted} cookies before the flood");

    let flood = Flood::start(world)?;
    wait_until_flooded(world, true)?;
    let (flows, accepted) = counted(world)?;
    let vips = Family::ALL.map(|family| world.vip(family, Service::Lines));
    let open = |vip: &_| world.client().long_lived(*vip, 4);
    let established = vips.iter().map(open).collect::<Result<Vec<_>>>()?;
    exchange(world).context("in the flood")?;
    let (flows_after, accepted_after) = counted(world)?;
    let (begun, opened) = (flows_after - flows, accepted_after - accepted);
    ensure!(begun == opened && opened >= 58, "{begun} flows have begun, of {opened} cookies");
    for listener in listeners(world)? {
        let ApiSynCookies { above, sent, .. } = cookies(&listener)?;
        ensure!(above == ABOVE && sent > 100, "{}: {sent} cookies", listener.name);
    }
    ensure!(world.packets("answer", Some("syn_cookie"))? > 1_000);
    let text = world.slb(&["status"])?;
    ensure!(text.contains("SYN cookies above 300 new connections per second (flood, sent "), "{text}");

    // Neither cookies nor translation need the daemon.
    let go_on = || {
        established.iter().try_for_each(|connections| {
            connections.progress(20)?;
            connections.expect_unbroken(None)
        })
    };
    world.kill()?;
    go_on()?;
    exchange_banner(world, Family::V4).context("without the daemon")?;
    world.start()?;
    go_on()?;

    let sent = flood.end()?;
    println!("{} SYNs, {} a second", sent.frames, sent.rate());
    wait_until_flooded(world, false)?;
    let (flows, accepted) = counted(world)?;
    exchange(world).context("after the flood")?;
    let (flows_after, accepted_after) = counted(world)?;
    ensure!(flows_after > flows && accepted_after == accepted, "{accepted_after} cookies after {accepted}");
    // Their connections outlive the setting as well.
    for service in [Service::Http, Service::Lines, Service::Bulk] {
        world.plan.listeners.entry(service).or_default().syn_cookies = None;
    }
    let said = world.reload()?;
    ensure!(said.contains("syn cookies 300 -> none"), "{said}");
    go_on()?;
    ensure!(world.packets("answer", Some("lost_offset"))? == 0, "a sequence offset was lost");
    Ok(())
}

#[test]
fn real_clients_connect_in_a_flood_of_syns_in_mode_nat() {
    scenario!(&[50, 50], |world| {
        prepare(world, Mode::Nat)?;
        survives_a_flood(world)
    });
}

#[test]
fn real_clients_connect_in_a_flood_of_syns_in_mode_full_nat() {
    scenario!(&[50, 50], |world| {
        full_nat::prepare(world)?;
        prepare(world, Mode::FullNat)?;
        survives_a_flood(world)
    });
}
