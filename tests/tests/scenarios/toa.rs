//! Client addresses at servers behind mode `full-nat`: `toa`, and `slb-toa` on the server.

use std::{
    fs,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result, bail, ensure};
use slb_tests::{
    World,
    client::PATIENCE,
    config::{Listener, Mode, Target},
    daemon::program,
    leftovers::BPF_FS,
    net::{Family, run},
    scenario,
    wait::wait_for,
};
use slb_userspace::cli::toa::status::ToaStatus;

use super::full_nat;

/// Port of the servers, which no other server uses.
const PORT: u16 = 7100;
const VIP_PORT: u16 = 7200;
/// Number of the local addresses, which no other scenario uses.
const LOCAL: u8 = 77;

/// All of these tests attach programs to the cgroup of this process, with the same local addresses.
static ALONE: Mutex<()> = Mutex::new(());

/// `slb-toa`. Dropping it detaches it.
struct ClientAddresses {
    _alone: MutexGuard<'static, ()>,
    /// Named after the namespace, so that the next run finds and removes what a crashed run left.
    pins: PathBuf,
}

impl ClientAddresses {
    fn new(world: &World) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        Self { _alone: alone, pins: Path::new(BPF_FS).join(world.net.backends[0].namespace.name()) }
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(program("slb-toa", "SLB_TOA")?);
        run(command.args(arguments).arg("--pin-dir").arg(&self.pins), "")
    }

    fn attach(&self, from: &[IpAddr]) -> Result<()> {
        let from: Vec<_> = from.iter().map(ToString::to_string).collect();
        self.run(&["attach", "--from", &from.join(",")]).map(drop)
    }

    fn status(&self) -> Result<ToaStatus> {
        Ok(serde_json::from_str(&self.run(&["status", "--output", "json"])?)?)
    }

    fn connections(&self, outcome: &str) -> Result<u64> {
        let status = self.status()?;
        let found = status.connections.iter().find(|it| it.outcome == outcome);
        Ok(found.with_context(|| format!("no {outcome} in {status:?}"))?.connections)
    }
}

impl Drop for ClientAddresses {
    fn drop(&mut self) {
        if self.pins.exists()
            && let Err(error) = fs::remove_dir_all(&self.pins)
        {
            eprintln!("cannot remove {}: {error}", self.pins.display());
        }
    }
}

/// A world of one server without routes to clients, with a listener that sends client addresses.
fn prepare(world: &mut World) -> Result<()> {
    full_nat::prepare(world)?;
    // Scenarios beside this one, in namespaces of their own, have other local addresses: the programs see all sockets.
    full_nat::use_locals(world, &[LOCAL])?;
    let group = world.plan.group("toa", PORT);
    world.plan.put_group(group);
    let target = Target::Group("toa".to_owned());
    let listener = Listener::new("toa", "tcp", VIP_PORT, target);
    let listener = Listener { mode: Mode::FullNat, toa: true, check: None, ..listener };
    world.plan.additional_listeners.push(listener);
    world.start()?;
    Ok(())
}

/// A socket of the server that listens, blocking.
fn listen(world: &World, address: IpAddr) -> Result<TcpListener> {
    // A scenario beside this one may start a program: until that runs, it holds all sockets, also a closed listener.
    wait_for("a free port", PATIENCE, || {
        world.net.backends[0].namespace.on_thread(|| match TcpListener::bind((address, PORT)) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => Ok(None),
            bound => Ok(Some(bound?)),
        })
    })
}

/// A connection of the client to the VIP: its own end, the server's end, and the peer that `accept` names.
struct Connection {
    client: TcpStream,
    server: TcpStream,
    peer: SocketAddr,
}

fn connect(world: &World, listener: &TcpListener, family: Family) -> Result<Connection> {
    let vip = SocketAddr::new(family.vip(), VIP_PORT);
    let connect = || Ok(TcpStream::connect_timeout(&vip, PATIENCE)?);
    let client = world.net.client.on_thread(connect).with_context(|| format!("connect to {vip}"))?;
    let (server, peer) = listener.accept()?;
    Ok(Connection { client, server, peer: canonical(peer) })
}

/// An IPv4 address where an IPv6 socket names the mapped one.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl Connection {
    fn client_address(&self) -> Result<SocketAddr> {
        Ok(self.client.local_addr()?)
    }

    fn peer_now(&self) -> Result<SocketAddr> {
        Ok(canonical(self.server.peer_addr()?))
    }

    /// Checks that both calls of the server name the client.
    fn names_the_client(&self) -> Result<()> {
        let (client, now) = (self.client_address()?, self.peer_now()?);
        ensure!(self.peer == client, "accept names {} in place of {client}", self.peer);
        ensure!(now == client, "getpeername names {now} in place of {client}");
        Ok(())
    }

    fn names_a_local_address(&self, world: &World) -> Result<()> {
        for peer in [self.peer, self.peer_now()?] {
            ensure!(world.plan.local_addresses.contains(&peer.ip()), "{peer} is no local address");
        }
        Ok(())
    }
}

/// The listening sockets of servers, by family of the socket, and the families of the connections that they accept.
const SOCKETS: [(IpAddr, &[Family]); 2] = [
    (IpAddr::V4(Ipv4Addr::UNSPECIFIED), &[Family::V4]),
    (IpAddr::V6(Ipv6Addr::UNSPECIFIED), &[Family::V4, Family::V6]),
];

/// Sockets that listened before `slb-toa` was attached, and ones that begin to listen afterwards.
#[test]
fn servers_learn_the_clients_address() {
    scenario!(&[1], |world| {
        prepare(world)?;
        let locals = world.plan.local_addresses.clone();
        for (address, families) in SOCKETS {
            let mut expected = 0;
            let toa = ClientAddresses::new(world);
            let mut listener = listen(world, address)?;
            for family in families {
                connect(world, &listener, *family)?.names_a_local_address(world)?;
            }
            let before = connect(world, &listener, families[0])?;
            toa.attach(&locals)?;
            for listens_anew in [false, true] {
                if listens_anew {
                    drop(listener);
                    listener = listen(world, address)?;
                }
                for family in families {
                    let connection = connect(world, &listener, *family)?;
                    connection.names_the_client().with_context(|| {
                        format!("{address}, {family}, listens anew: {listens_anew}; {:?}", toa.status())
                    })?;
                    expected += 1;
                }
            }
            before.names_a_local_address(world)?;
            // A repeated attach keeps open connections and counters.
            let open = connect(world, &listener, families[0])?;
            toa.attach(&locals)?;
            open.names_the_client()?;
            connect(world, &listener, families[0])?.names_the_client()?;
            expected += 2;
            ensure!(toa.connections("client")? == expected, "{expected}: {:?}", toa.status()?);
            toa.run(&["detach"])?;
            ensure!(world.plan.local_addresses.contains(&open.peer_now()?.ip()), "{:?}", open.peer_now()?);
            ensure!(!toa.status()?.attached, "still attached");
        }
        Ok(())
    });
}

/// Only listed sources are trusted, and a listener without `toa` sends no option.
#[test]
fn only_the_load_balancers_client_addresses_are_trusted() {
    scenario!(&[1], |world| {
        prepare(world)?;
        let toa = ClientAddresses::new(world);
        let listener = listen(world, IpAddr::V6(Ipv6Addr::UNSPECIFIED))?;
        toa.attach(&["192.0.2.99".parse()?])?;
        connect(world, &listener, Family::V4)?.names_a_local_address(world)?;
        ensure!(toa.connections("client")? == 0, "{:?}", toa.status()?);
        let locals = world.plan.local_addresses.clone();
        toa.attach(&locals)?;
        ensure!(toa.status()?.sources == locals, "{:?}", toa.status()?);
        connect(world, &listener, Family::V6)?.names_the_client()?;
        world.plan.additional_listeners[0].toa = false;
        world.reload()?;
        connect(world, &listener, Family::V6)?.names_a_local_address(world)?;
        ensure!(toa.connections("no_option")? == 1, "{:?}", toa.status()?);
        Ok(())
    });
}

/// A cgroup that this process is in, until it is dropped: sockets are those of the cgroup that they are made in.
struct InCgroup {
    own: PathBuf,
    group: PathBuf,
}

impl InCgroup {
    /// `root` is the cgroup of all processes.
    fn enter(root: &Path, group: &Path) -> Result<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup")?;
        let own = groups.lines().find_map(|line| line.strip_prefix("0::/")).context("no cgroup version 2")?;
        let own = root.join(own);
        fs::write(group.join("cgroup.procs"), process::id().to_string())?;
        Ok(Self { own, group: group.to_owned() })
    }
}

impl Drop for InCgroup {
    fn drop(&mut self) {
        // Also what this process has started meanwhile, in other threads: it keeps the cgroup from being removed.
        let processes = fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default();
        for process in processes.lines() {
            if let Err(error) = fs::write(self.own.join("cgroup.procs"), process)
                && error.raw_os_error() != Some(nix::libc::ESRCH)
            {
                eprintln!("process {process} stays in {}: {error}", self.group.display());
            }
        }
    }
}

/// Sockets that were made in the cgroup give client addresses, others local addresses.
#[test]
fn only_sockets_of_the_cgroup_give_client_addresses() {
    scenario!(&[1], |world| {
        prepare(world)?;
        let toa = ClientAddresses::new(world);
        let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let locals: Vec<_> = world.plan.local_addresses.iter().map(ToString::to_string).collect();
        let attach = |more: &[&str]| toa.run(&[&["attach", "--from", &locals.join(",")], more].concat());
        let attached = attach(&[])?;
        let root = PathBuf::from(attached.split(": ").next().context("no cgroup is named")?);
        toa.run(&["detach"])?;
        let group = root.join(world.net.backends[0].namespace.name());
        fs::create_dir(&group)?;
        let in_group = || -> Result<()> {
            let inside = InCgroup::enter(&root, &group)?;
            let listener = listen(world, any)?;
            attach(&["--cgroup", &group.display().to_string()])?;
            connect(world, &listener, Family::V4)?.names_the_client().context("old listener")?;
            drop(listener);
            let listener = listen(world, any)?;
            drop(inside);
            connect(world, &listener, Family::V4)?.names_the_client().context("new listener")?;
            drop(listener);
            connect(world, &listen(world, any)?, Family::V4)?.names_a_local_address(world)
        };
        let done = in_group();
        // A process that ends stays in its cgroup for a moment.
        wait_for("an empty cgroup", PATIENCE, || match fs::remove_dir(&group) {
            Ok(()) => Ok(Some(())),
            Err(error) if error.kind() == ErrorKind::ResourceBusy => Ok(None),
            Err(error) => Err(error.into()),
        })?;
        done?;
        toa.run(&["detach"])?;
        attach(&[])?;
        connect(world, &listen(world, any)?, Family::V4)?.names_the_client()
    });
}

/// Connections stay when `toa` is switched, and across a restart of the daemon.
#[test]
fn connections_outlive_changes_of_toa() {
    scenario!(&[1], |world| {
        prepare(world)?;
        let toa = ClientAddresses::new(world);
        let listener = listen(world, IpAddr::V6(Ipv6Addr::UNSPECIFIED))?;
        toa.attach(&world.plan.local_addresses.clone())?;
        let mut open = Vec::new();
        for toa in [true, false, true] {
            world.plan.additional_listeners[0].toa = toa;
            world.reload()?;
            open.push(connect(world, &listener, Family::V4)?);
            open.push(connect(world, &listener, Family::V6)?);
        }
        world.kill()?;
        open.push(connect(world, &listener, Family::V6)?);
        world.start()?;
        for connection in &open {
            talk(connection)?;
        }
        open[6].names_the_client()
    });
}

/// A message each way.
fn talk(Connection { client, server, .. }: &Connection) -> Result<()> {
    use std::io::{Read as _, Write as _};
    for (mut from, mut to) in [(client, server), (server, client)] {
        let mut read = [0; 4];
        to.set_read_timeout(Some(PATIENCE))?;
        from.write_all(b"ping")?;
        to.read_exact(&mut read)?;
        ensure!(read == *b"ping", "{read:?}");
    }
    Ok(())
}

#[test]
fn refused_toa_attach_names_reason_and_leaves_nothing() {
    scenario!(&[1], |world| {
        let toa = ClientAddresses::new(world);
        for (arguments, words) in [
            (&["attach"][..], "no source given"),
            (&["attach", "--from", "127.0.0.1"], "is not the address of one machine"),
            (&["attach", "--from", "10.0.0.5", "--cgroup", "/proc"], "is no cgroup of version 2"),
            (&["attach", "--from", "10.0.0.5", "--cgroup", "/nowhere"], "cannot examine --cgroup /nowhere"),
        ] {
            let Err(error) = toa.run(arguments) else { bail!("{arguments:?} succeeded") };
            ensure!(format!("{error:#}").contains(words), "{arguments:?}: {error:#}");
            ensure!(!toa.pins.exists(), "{arguments:?} left {}", toa.pins.display());
        }
        ensure!(toa.run(&["detach"])?.contains("nothing to detach"), "detached something");
        Ok(())
    });
}
