//! Single flows of single clients.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket},
    sync::Mutex,
};

use anyhow::{Context as _, Result, ensure};
use slb_tests::{World, client::PATIENCE, net::Family, server::Service};
use socket2::{Domain, Socket, Type};

/// The services under test: one of the default group, one with its own group.
pub(super) const SERVICES: [Service; 2] = [Service::Lines, Service::Echo];

/// New flows of a client that must all go to the same server.
const FLOWS: usize = 3;

/// An open flow, and its server.
#[derive(Debug)]
pub(super) struct ScheduledFlow {
    line: FlowSocket,
    client: IpAddr,
    pub(super) server: String,
}

#[derive(Debug)]
enum FlowSocket {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl ScheduledFlow {
    /// Begins a flow.
    pub(super) fn begin(world: &World, service: Service, client: IpAddr) -> Result<Self> {
        let family = if client.is_ipv4() { Family::V4 } else { Family::V6 };
        let target = world.vip(family, service);
        let line = world.net.client.on_thread(|| FlowSocket::open(service, client, target));
        let mut line = line.with_context(|| format!("{service:?} from {client}"))?;
        let server = line.ask()?;
        Ok(Self { line, client, server })
    }

    /// Sends on the flow, and checks that the same server answers.
    pub(super) fn exchange(&mut self) -> Result<()> {
        let server = self.line.ask().with_context(|| format!("{} with {}", self.client, self.server))?;
        ensure!(server == self.server, "{server} has answered in place of {}", self.server);
        Ok(())
    }

    /// Closes a connection, and waits until the server has closed it.
    pub(super) fn close(self) -> Result<()> {
        if let FlowSocket::Tcp(mut stream) = self.line {
            stream.shutdown(Shutdown::Write)?;
            ensure!(stream.read(&mut [0])? == 0, "something came unasked");
        }
        Ok(())
    }
}

impl FlowSocket {
    fn open(service: Service, client: IpAddr, target: SocketAddr) -> Result<Self> {
        if service == Service::Echo {
            let socket = UdpSocket::bind((client, next_port(client)))?;
            socket.connect(target)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            return Ok(Self::Udp(socket));
        }
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(client, 0).into())?;
        socket.connect_timeout(&target.into(), PATIENCE)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self::Tcp(socket.into()))
    }

    /// Asks for the name of the server.
    fn ask(&mut self) -> Result<String> {
        let mut buffer = [0; 64];
        let length = match self {
            Self::Tcp(stream) => {
                stream.write_all(b"?\n")?;
                stream.read(&mut buffer)
            }
            Self::Udp(socket) => {
                socket.send(b"?")?;
                socket.recv(&mut buffer)
            }
        };
        let answer = String::from_utf8_lossy(&buffer[..length.context("no answer")?]).into_owned();
        Ok(answer.trim_end().strip_suffix(" ?").with_context(|| format!("{answer:?}"))?.to_owned())
    }
}

/// A client port without an earlier datagram in this world, which would continue the earlier flow. Short exchanges use
/// ports from 1024 on.
fn next_port(client: IpAddr) -> u16 {
    static LAST: Mutex<BTreeMap<IpAddr, u16>> = Mutex::new(BTreeMap::new());
    let mut last = LAST.lock().expect("no holder of the lock panics");
    let port = last.entry(client).or_default();
    *port = *port % 1023 + 1;
    *port
}

/// The client addresses of both families.
pub(super) fn clients(world: &World) -> Vec<IpAddr> {
    Family::ALL.into_iter().flat_map(|family| world.net.sources(family)).collect()
}

/// By service, the one server to which all new flows of each client go.
pub(super) fn servers(world: &World, clients: &[IpAddr]) -> Result<BTreeMap<(IpAddr, Service), String>> {
    let mut servers = BTreeMap::new();
    for service in SERVICES {
        for client in clients {
            let flow = |_| Ok(ScheduledFlow::begin(world, service, *client)?.server);
            let all = (0..FLOWS).map(flow).collect::<Result<BTreeSet<_>>>()?;
            let one = all.first().filter(|_| all.len() == 1);
            let one = one.with_context(|| format!("{service:?} of {client} is with {all:?}"))?;
            servers.insert((*client, service), one.clone());
        }
    }
    Ok(servers)
}
