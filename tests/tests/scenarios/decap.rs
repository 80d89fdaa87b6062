//! A decapsulator at a backend: its servers answer the inner packet's source, and strangers get no answer.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use slb_api::types::AttachMode;
use slb_tests::{
    World,
    client::PATIENCE,
    daemon::program,
    leftovers::BPF_FS,
    net::{Backend, Family, Namespace, run},
    scenario,
    server::Service,
    tunnel::{self, RawListener},
    wait::wait_for,
};
use slb_userspace::cli::decap::status::DecapStatus;
use tokio::task::JoinHandle;

/// A port of the VIPs on which no other server listens.
const PORT: u16 = 5300;
/// A port of the client's.
const CLIENT_PORT: u16 = 40_000;
/// Indexes of client addresses: an accepted outer source, and the source of the client's own packets.
const ALLOWED: usize = 0;
const STRANGER: usize = 1;
const CLIENT: usize = 2;

/// All four combinations of outer and inner family.
const TUNNELS: [(Family, Family); 4] =
    [(Family::V4, Family::V4), (Family::V4, Family::V6), (Family::V6, Family::V4), (Family::V6, Family::V6)];

#[test]
fn decap_lets_servers_answer_inner_packets() {
    scenario!(&[1], |world| {
        let backend = prepare(world)?;
        for (outer, inner) in TUNNELS {
            datagrams(world, &backend, outer, inner).with_context(|| format!("UDP/{inner} in {outer}"))?;
            connections(world, &backend, outer, inner).with_context(|| format!("TCP/{inner} in {outer}"))?;
        }
        for reason in ["ipv4_in_ipv4", "ipv6_in_ipv4", "ipv4_in_ipv6", "ipv6_in_ipv6"] {
            ensure!(counted(&backend, reason)? == 2, "{:?}", backend.decapsulator()?);
        }
        Ok(())
    });
}

/// The program and its accepted sources are replaced repeatedly during an exchange of datagrams, without loss.
#[test]
fn decap_replacement_loses_no_packet() {
    const REPLACEMENTS: u8 = 10;
    scenario!(&[1], |world| {
        let backend = prepare(world)?;
        let (family, client) = (Family::V4, &world.net.client);
        let server = echo(&backend.namespace, family)?;
        let from = SocketAddr::new(world.net.sources(family)[CLIENT], CLIENT_PORT);
        let socket = bind(client, from)?;
        let (allowed, target) = (world.net.sources(family)[ALLOWED], backend.address(family));
        let done = AtomicBool::new(false);
        let before = backend.decapsulator()?;
        let exchanged = thread::scope(|scope| {
            let exchanges = scope.spawn(|| {
                let mut exchanged = 0_u64;
                while !done.load(Ordering::Relaxed) {
                    let question = exchanged.to_string();
                    let packet = tunnel::udp(from, (family.vip(), PORT).into(), question.as_bytes())?;
                    tunnel::send(client, &tunnel::wrap(&packet, allowed, target)?, target)?;
                    let answer = receive(&socket, family).with_context(|| format!("after {exchanged}"))?;
                    ensure!(answer == question, "{answer} in place of {question}");
                    exchanged += 1;
                }
                Ok(exchanged)
            });
            let replaced = (0..REPLACEMENTS).try_for_each(|_| backend.decapsulate(&[allowed]));
            done.store(true, Ordering::Relaxed);
            let exchanged = exchanges.join().expect("no panic");
            replaced.and(exchanged)
        })?;
        let after = backend.decapsulator()?;
        ensure!(after.program != before.program, "the program is still {}", after.program);
        ensure!(after.sources == [allowed], "{:?}", after.sources);
        ensure!(exchanged > u64::from(REPLACEMENTS), "only {exchanged} exchanges");
        ensure!(counted(&backend, "ipv4_in_ipv4")? == exchanged, "{after:?}, {exchanged} exchanges");
        drop(server);
        Ok(())
    });
}

/// A refused attach leaves nothing behind, and neither does a detach.
#[test]
fn refused_decap_attach_names_reason_and_leaves_nothing() {
    scenario!(&[1], |world| {
        let backend = &world.net.backends[0];
        let pins = Path::new(BPF_FS).join(backend.namespace.name());
        let command = |arguments: &str| -> Result<Command> {
            let mut command = backend.namespace.command(program("slb-decap", "SLB_DECAP")?);
            command.args(arguments.split(' ')).arg("--pin-dir").arg(&pins);
            Ok(command)
        };
        let refused = |arguments: &str, parts: &[&str]| -> Result<()> {
            let output = command(arguments)?.output()?;
            let error = String::from_utf8_lossy(&output.stderr);
            ensure!(!output.status.success(), "{arguments} succeeded");
            let missing = parts.iter().find(|part| !error.contains(**part));
            ensure!(missing.is_none(), "{arguments}: no {missing:?} in {error}");
            ensure!(!pins.exists(), "{arguments} left {}", pins.display());
            Ok(())
        };
        refused("attach --interface eth0", &["no source given", "--from 192.0.2.1"])?;
        refused("attach --interface eth0 --from 192.0.2.1", &["no VIP given", "--any-vip"])?;
        refused("attach --interface eth9 --from 192.0.2.1 --any-vip", &["no interface eth9", "eth0, lo"])?;
        refused("attach --interface eth0 --from 224.0.0.1 --any-vip", &["--from 224.0.0.1"])?;
        // The harness's program on the interface has no name.
        refused(
            "attach --interface eth0 --from 192.0.2.1 --any-vip",
            &["eth0 (it runs program ", "another XDP program"],
        )?;
        refused(
            "attach --interface lo --from 192.0.2.1 --any-vip --xdp-mode native",
            &["cannot attach to lo"],
        )?;

        run(&mut command("attach --interface lo --from 192.0.2.1 --vip 198.51.100.10 2001:db8::1")?, "")?;
        let status: DecapStatus = serde_json::from_str(&run(&mut command("status --output json")?, "")?)?;
        let [lo] = &status.interfaces[..] else { bail!("{status:?}") };
        ensure!(lo.name.as_deref() == Some("lo") && lo.mode == Some(AttachMode::Generic), "{lo:?}");
        ensure!(lo.sources.len() == 1 && lo.vips.len() == 2, "{lo:?}");
        let table = run(&mut command("status")?, "")?;
        ensure!(table.contains("interface lo: XDP generic") && table.contains("from 192.0.2.1"), "{table}");
        run(&mut command("detach --interface lo")?, "")?;
        ensure!(!pins.exists(), "{} is still there", pins.display());
        // The kernel detaches the program asynchronously.
        wait_for("an interface without a program", PATIENCE, || {
            let show = ["-n", backend.namespace.name(), "link", "show", "lo"];
            Ok((!run(Command::new("ip").args(show), "")?.contains("xdp")).then_some(()))
        })?;
        // A second detach succeeds.
        run(&mut command("detach --interface lo")?, "").map(drop)
    });
}

/// A backend with the VIPs and a decapsulator, whose answers reach the client.
fn prepare(world: &World) -> Result<Backend> {
    let backend = world.net.backends[0].clone();
    world.net.route_answers()?;
    backend.add_vips()?;
    backend.decapsulate(&Family::ALL.map(|family| world.net.sources(family)[ALLOWED]))?;
    Ok(backend)
}

fn datagrams(world: &World, backend: &Backend, outer: Family, inner: Family) -> Result<()> {
    let server = echo(&backend.namespace, inner)?;
    let from = SocketAddr::new(world.net.sources(inner)[CLIENT], CLIENT_PORT);
    let socket = bind(&world.net.client, from)?;
    let packet = |payload: &str| tunnel::udp(from, (inner.vip(), PORT).into(), payload.as_bytes());
    send_both(world, backend, outer, [&packet("a stranger's")?, &packet("the balancer's")?])?;
    // The first packet with an answer.
    let answer = receive(&socket, inner)?;
    ensure!(answer == "the balancer's", "answered: {answer}");
    drop(server);
    Ok(())
}

fn connections(world: &World, backend: &Backend, outer: Family, inner: Family) -> Result<()> {
    const SEQUENCES: [u32; 2] = [1000, 2000];
    // No socket waits for the answer: the client's kernel resets the connection, so the port must not be in use.
    let port = CLIENT_PORT + 1 + u16::from(outer == Family::V6);
    let from = SocketAddr::new(world.net.sources(inner)[CLIENT], port);
    let server = Service::Http.backend_port();
    let mut listener = RawListener::new(&world.net.client, from.ip(), PATIENCE)?;
    let packet = |sequence| tunnel::syn(from, (inner.vip(), server).into(), sequence);
    send_both(world, backend, outer, [&packet(SEQUENCES[0])?, &packet(SEQUENCES[1])?])?;
    let acknowledged = listener.acknowledged(server, port)?;
    ensure!(acknowledged == SEQUENCES[1] + 1, "{acknowledged} acknowledged");
    Ok(())
}

/// Sends the first packet in a tunnel packet of a stranger, waits for its arrival, and sends the second as the load
/// balancer does.
fn send_both(world: &World, backend: &Backend, outer: Family, packets: [&[u8]; 2]) -> Result<()> {
    let target = backend.address(outer);
    let send = |source: usize, packet: &[u8]| -> Result<()> {
        let from = world.net.sources(outer)[source];
        tunnel::send(&world.net.client, &tunnel::wrap(packet, from, target)?, target)
    };
    let before = counted(backend, "source_not_allowed")?;
    send(STRANGER, packets[0])?;
    wait_for("the stranger's packet", PATIENCE, || {
        Ok((counted(backend, "source_not_allowed")? > before).then_some(()))
    })?;
    send(ALLOWED, packets[1])
}

fn counted(backend: &Backend, reason: &str) -> Result<u64> {
    let reasons = backend.decapsulator()?.reasons;
    Ok(reasons.iter().filter(|counted| counted.reason == reason).map(|counted| counted.packets).sum())
}

/// A server on the VIP that echoes datagrams until it is dropped.
fn echo(namespace: &Arc<Namespace>, family: Family) -> Result<EchoServer> {
    let socket = bind(namespace, (family.vip(), PORT).into())?;
    socket.set_nonblocking(true)?;
    let task = namespace.block_on(async move {
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        anyhow::Ok(tokio::spawn(async move {
            let mut buffer = [0; 2048];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                // A client that has ended needs no answer.
                let _ = socket.send_to(&buffer[..length], client).await;
            }
        }))
    })?;
    Ok(EchoServer { namespace: namespace.clone(), task: Some(task) })
}

struct EchoServer {
    namespace: Arc<Namespace>,
    task: Option<JoinHandle<()>>,
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        let Some(task) = self.task.take() else { return };
        task.abort();
        // Waits until the socket is closed, since the port is reused.
        drop(self.namespace.block_on(task));
    }
}

fn bind(namespace: &Namespace, address: SocketAddr) -> Result<UdpSocket> {
    namespace.on_thread(|| UdpSocket::bind(address).with_context(|| address.to_string()))
}

/// The next datagram from the VIP.
fn receive(socket: &UdpSocket, family: Family) -> Result<String> {
    let mut buffer = [0; 2048];
    socket.set_read_timeout(Some(PATIENCE))?;
    let (length, from) = socket.recv_from(&mut buffer).context("no answer")?;
    let vip: IpAddr = family.vip();
    ensure!(from == SocketAddr::new(vip, PORT), "{from} answered");
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}
