//! Runs the packet cases and random frames, on the host and in the kernel.

use std::{
    cell::Cell,
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use slb_common::{
    abi::{
        service::{Service, mode, policy},
        toa::ToaOutcome,
    },
    datapath::{
        Verdict,
        flow_gc::{Clock, GcAction, GcPass},
    },
};
use slb_control::{dataplane::state::MapState, diff::diff};
use slb_tests::packets::{
    answers,
    cookies::{self, OnHost, Plane as _},
    frames::{self, flag},
    host::{self, Host},
    kernel::{self, Kernel},
    losses,
    scenario::{same, same_counters, xdp_action},
    table, toa,
    world::{self, HZ, LO, PacketServer, PacketWorld},
};
use slb_userspace::dataplane::bpf::flows;

/// Upper bound of processed instructions of each program. A higher count shows that a compiler flag or a joined path has been lost.
const VERIFIED: u32 = 200_000;

#[test]
fn cases_on_the_host() {
    let failures: Vec<_> = table::all().iter().filter_map(|case| case.run(None).err()).collect();
    report(&failures);
}

#[test]
fn vips_are_answered_for_in_the_kernel() {
    if kernel::is_available("vips_are_answered_for_in_the_kernel") {
        kernel::in_namespace(answers::ask).expect("answers");
    }
}

/// The tracepoint programs load, and read the kernel's structures at the right offsets.
#[test]
fn losses_are_counted_in_the_kernel() {
    if !kernel::is_available("losses_are_counted_in_the_kernel") {
        return;
    }
    let (aborted, redirected) = kernel::in_namespace(losses::lose).expect("lost frames");
    assert_eq!((aborted.redirect, aborted.transmit), (0, 0), "{aborted:?}");
    assert_eq!((redirected.transmit, redirected.exception), (0, 0), "{redirected:?}");
}

/// The programs of `slb-toa` load and attach, also again, and leave nothing. Scenarios use them.
#[test]
fn client_address_programs_attach_in_the_kernel() {
    if !kernel::is_available("client_address_programs_attach_in_the_kernel") {
        return;
    }
    let (first, second) = kernel::in_namespace(toa::attach_twice).expect("attached programs");
    assert_eq!(first.policy.sources.as_slice(), second.policy.sources.as_slice());
    assert!(first.connections.iter().all(|(_, connections)| *connections == 0), "{first:?}");
    assert_eq!(first.connections.len(), ToaOutcome::ALL.len());
}

/// The program that reads the packet path's clock loads and runs.
#[test]
fn jiffies_are_read_in_the_kernel() {
    if !kernel::is_available("jiffies_are_read_in_the_kernel") {
        return;
    }
    let now = || flows::clock(1).expect("jiffies").now;
    let (first, begun) = (now(), std::time::Instant::now());
    while now() == first {
        assert!(begun.elapsed().as_secs() < 5, "jiffies stand still at {first}");
    }
}

#[test]
fn cases_in_the_kernel() {
    if !kernel::is_available("cases_in_the_kernel") {
        return;
    }
    let failures: Vec<_> = kernel::in_namespace(|| {
        let cases = table::all();
        // Maps are unfilled only before the first case, so the cases that begin with empty maps run first.
        let (empty, filled): (Vec<_>, Vec<_>) = cases
            .iter()
            .filter(|case| !case.host_only)
            .partition(|case| case.world.state == MapState::default());
        let mut kernel = Kernel::load().expect("the program");
        for program in kernel.stats().expect("facts about each program") {
            println!("{program:?}");
            assert!(program.verified_instructions.expect("a number") < VERIFIED, "{program:?}");
        }
        empty.into_iter().chain(filled).filter_map(|case| case.run(Some(&mut kernel)).err()).collect()
    });
    report(&failures);
}

#[test]
fn connections_begin_with_syn_cookies_on_the_host() {
    cookies::run(&mut OnHost::default(), |plane, world| {
        *plane = OnHost::default();
        plane.become_world(world)
    })
    .unwrap();
}

#[test]
fn connections_begin_with_syn_cookies_in_the_kernel() {
    if !kernel::is_available("connections_begin_with_syn_cookies_in_the_kernel") {
        return;
    }
    kernel::in_namespace(|| {
        let mut kernel = Kernel::load().expect("the program");
        cookies::run(&mut kernel, |kernel, world| kernel.begin(&world.state))
    })
    .unwrap();
}

/// Host and kernel choose the same one of several servers for each flow.
#[test]
fn flows_reach_equal_servers_on_the_host_and_in_the_kernel() {
    const SERVERS: [PacketServer; 4] = [world::WEB4, world::OTHER4, world::FOURTH, world::DISTANT4];
    if !kernel::is_available("flows_reach_equal_servers_on_the_host_and_in_the_kernel") {
        return;
    }
    kernel::in_namespace(|| {
        let world = PacketWorld::standard().table(1, &SERVERS);
        let mut host = host_in(&world);
        let mut kernel = Kernel::load().expect("the program");
        kernel.begin(&world.state).expect("the state");
        for client in 0..1000_u16 {
            let from = SocketAddr::new(Ipv4Addr::new(203, 0, 113, client as u8).into(), 30_000 + client);
            let frame = frames::tcp(from, world::HTTP4.at, flag::SYN).build().bytes;
            let mut out = frame.clone();
            let verdict = host.process(&mut out, LO);
            let (action, in_kernel) = kernel.process(&frame).expect("a run");
            assert_eq!(action, xdp_action(verdict), "{from}");
            same("kernel", &in_kernel, &out).unwrap();
        }
        same_counters(&host, &kernel).unwrap();
        for server in SERVERS {
            // The mean is 250, the standard deviation 14.
            let flows = host.backend_counters(server.id).new_flows;
            assert!((150..=350).contains(&flows), "{flows} flows for {}", server.at);
        }
    });
}

/// GC spares live entries, and erases expired ones while the program writes others.
#[test]
fn gc_erases_only_expired_flows_under_packets_in_the_kernel() {
    const ROUNDS: u16 = 400;
    if !kernel::is_available("gc_erases_only_expired_flows_under_packets_in_the_kernel") {
        return;
    }
    let tick = nix::time::clock_getres(nix::time::ClockId::CLOCK_MONOTONIC_COARSE).expect("a tick");
    let hz = 1_000_000_000 / tick.tv_nsec() as u32;
    // A clock by which all entries have expired.
    let later = || flows::clock(hz).map(|Clock { now, hz }| Clock { now: now.wrapping_add(3600 * hz), hz });
    kernel::in_namespace(|| {
        let mut kernel = Kernel::load_sized(256).expect("the program");
        kernel.begin(&PacketWorld::standard().state).expect("the state");
        let mut table = kernel.flow_table().expect("the flow table");
        let mut open = |client: u16| {
            let from = SocketAddr::new(Ipv4Addr::new(203, 0, 113, client as u8).into(), client);
            let frame = frames::tcp(from, world::HTTP4.at, flag::SYN).build().bytes;
            kernel.process(&frame).expect("a run");
        };
        (0..64).for_each(&mut open);
        let mut shown = 0;
        let gc_pass = table
            .gc_pass(flows::clock(hz).unwrap(), &mut |_| {
                shown += 1;
                GcAction::Keep
            })
            .unwrap();
        assert_eq!((gc_pass, shown), (GcPass { live: 64, ..GcPass::default() }, 64));
        let done = AtomicBool::new(false);
        let erased = thread::scope(|scope| {
            let eraser = scope.spawn(|| {
                let mut erased = 0;
                while !done.load(Ordering::Relaxed) {
                    erased += table.gc_pass(later().unwrap(), &mut |_| GcAction::Keep).unwrap().erased;
                }
                erased
            });
            (0..ROUNDS).flat_map(|_| 0..256).for_each(&mut open);
            done.store(true, Ordering::Relaxed);
            eraser.join().unwrap()
        });
        assert!(table.table().unwrap().is_sound(), "homes do not name their entries");
        println!("{erased} flows erased under {} packets", u32::from(ROUNDS) * 256);
        table.gc_pass(later().unwrap(), &mut |_| GcAction::Keep).unwrap();
        assert!(table.table().unwrap().is_sound());
        let gc_pass = table.gc_pass(flows::clock(hz).unwrap(), &mut |_| GcAction::Keep).unwrap();
        assert_eq!(gc_pass, GcPass::default(), "something is left");
    });
}

/// Result of a SYN at a full flow table of 32 assured entries: the verdict, and the evicted entries (not assured,
/// assured).
fn full_of(flow: impl Fn(u16) -> (SocketAddr, bool)) -> (Verdict, [u64; 2]) {
    let mut host = host::with_flows(32);
    diff(&MapState::default(), &PacketWorld::standard().state)
        .iter()
        .for_each(|operation| host.apply(operation));
    let send = |host: &mut Host, frame: frames::Builder| host.process(&mut frame.build().bytes, LO);
    for client in 0..32 {
        let (from, is_tcp) = flow(client);
        for (time, flags) in [(0, flag::SYN), (3 * HZ, flag::ACK)] {
            host.now.set(time);
            if is_tcp {
                send(&mut host, frames::tcp(from, world::HTTP4.at, flags));
                send(&mut host, frames::tcp(world::WEB4.at, from, flags | flag::ACK));
            } else {
                send(&mut host, frames::udp(from, world::DNS4.at, b"?"));
                send(&mut host, frames::udp(world::NAME4.at, from, b"!"));
            }
        }
    }
    host.now.set(4 * HZ);
    let other = SocketAddr::from(([192, 0, 2, 9], 9));
    (send(&mut host, frames::tcp(other, world::HTTP4.at, flag::SYN)), host.evicted.each_ref().map(Cell::get))
}

#[test]
fn full_table_evicts_flows_of_clients_above_their_share() {
    let many = |n: u16| SocketAddr::from(([203, 0, 113, n as u8], n));
    assert_eq!(full_of(|n| (many(n), true)), (Verdict::Drop, [0, 0]), "one connection each");
    let one = |n: u16| SocketAddr::from(([203, 0, 113, 1], n));
    assert_eq!(full_of(|n| (one(n), true)), (Verdict::Transmit, [0, 1]), "all of one client");
    assert_eq!(full_of(|n| (many(n), n != 7)), (Verdict::Transmit, [0, 1]), "datagrams, however few");
}

/// A slot keeps its previous backend for as long as such a flow may return.
#[test]
fn evicted_mid_stream_pickup_is_counted_for_slot_migration() {
    let dsr = |service: &mut Service| (service.mode, service.policy) = (mode::DSR, policy::TRACK);
    let mut host = host::with_flows(32);
    let state = PacketWorld::standard().with(world::HTTP4, dsr).state;
    diff(&MapState::default(), &state).iter().for_each(|operation| host.apply(operation));
    for client in 0..33 {
        assert_eq!(host.evicted_migrating(), 0, "{client} flows");
        let from = SocketAddr::from(([203, 0, 113, client], 9));
        host.process(&mut frames::tcp(from, world::HTTP4.at, flag::ACK).build().bytes, LO);
    }
    assert_eq!((host.evicted_migrating(), host.evicted[0].get()), (1, 1));
}

/// With the scheduler `maglev-client`, all flows of a client go to one server; other clients reach others.
#[test]
fn maglev_client_sends_all_flows_of_one_client_to_one_server() {
    const SERVERS: [PacketServer; 4] = [world::WEB4, world::OTHER4, world::FOURTH, world::DISTANT4];
    let by_client = |service: &mut Service| service.policy |= policy::BY_CLIENT;
    let mut host = host_in(&PacketWorld::standard().table(1, &SERVERS).with(world::HTTP4, by_client));
    let mut reached = BTreeSet::new();
    for client in 0..100_u8 {
        let mut of_client = BTreeSet::new();
        for port in [1, 80, 1024, 40_000, 65_535] {
            let from = SocketAddr::new(Ipv4Addr::new(203, 0, 113, client).into(), port);
            let mut frame = frames::tcp(from, world::HTTP4.at, flag::SYN).build().bytes;
            host.process(&mut frame, LO);
            // Destination address of the packet.
            of_client.insert(frame[30..34].to_vec());
        }
        assert_eq!(of_client.len(), 1, "client {client}");
        reached.extend(of_client);
    }
    assert_eq!(reached.len(), SERVERS.len());
}

fn host_in(world: &PacketWorld) -> Host {
    let mut host = host::host();
    diff(&MapState::default(), &world.state).iter().for_each(|operation| host.apply(operation));
    host
}

fn report(failures: &[anyhow::Error]) {
    for failure in failures {
        println!("{failure:#}");
    }
    assert!(failures.is_empty(), "{} cases failed", failures.len());
}
