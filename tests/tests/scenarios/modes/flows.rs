//! Connections and UDP flows that must stay with their servers.

use std::net::{SocketAddr, UdpSocket};

use anyhow::{Context as _, Result, bail, ensure};
use slb_tests::{
    World,
    client::{LongLived, PATIENCE},
    net::Family,
    server::Service,
};

use super::beside::tunnel_vip;

/// Long-lived connections per listener, and as many UDP flows.
const FLOWS: usize = 16;
/// First client port of UDP flows; below the ports of exchanges.
const FIRST_PORT: u16 = 512;

/// Connections and UDP flows through listeners of modes `dsr` and `ipip`, and UDP flows in mode `nat`, in both families.
#[derive(Default)]
pub(crate) struct Flows {
    connections: Vec<LongLived>,
    sockets: Vec<(UdpSocket, SocketAddr)>,
    servers: Vec<String>,
}

impl Flows {
    /// Opens connections and begins UDP flows.
    pub(crate) fn open(&mut self, world: &World) -> Result<()> {
        let [lines, echo] = [Service::Lines, Service::Echo].map(Service::backend_port);
        for family in Family::ALL {
            for vip in [family.vip(), tunnel_vip(family)] {
                self.connections.push(world.client().long_lived((vip, lines).into(), FLOWS)?);
                self.open_udp(world, family, (vip, echo).into())?;
            }
        }
        self.note_servers()
    }

    /// Begins UDP flows in mode `nat`. They end after a minute of silence.
    pub(crate) fn open_nat(&mut self, world: &World) -> Result<()> {
        for family in Family::ALL {
            self.open_udp(world, family, world.vip(family, Service::Echo))?;
        }
        self.note_servers()
    }

    fn open_udp(&mut self, world: &World, family: Family, target: SocketAddr) -> Result<()> {
        let source = world.net.sources(family)[0];
        for _ in 0..FLOWS {
            let own = (source, FIRST_PORT + self.sockets.len() as u16);
            let socket = world.net.client.on_thread(|| Ok(UdpSocket::bind(own)?))?;
            self.sockets.push((socket, target));
        }
        Ok(())
    }

    /// Records the server of each UDP flow.
    pub(crate) fn note_servers(&mut self) -> Result<()> {
        self.servers = self.answering()?;
        Ok(())
    }

    /// The servers that answer the UDP flows now.
    fn answering(&self) -> Result<Vec<String>> {
        let ask = |(socket, target): &(UdpSocket, SocketAddr)| {
            let mut buffer = [0; 64];
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.send_to(b"?", target)?;
            let length = socket.recv(&mut buffer).with_context(|| format!("no answer of {target}"))?;
            let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
            Ok(answer.strip_suffix(" ?").context(answer.clone())?.to_owned())
        };
        self.sockets.iter().map(ask).collect()
    }

    /// Fails if a connection has broken or stalled, or if a UDP flow has another server.
    pub(crate) fn expect_undisturbed(&self) -> Result<()> {
        for connections in &self.connections {
            connections.progress(3)?;
            connections.expect_unbroken(None)?;
        }
        let now = self.answering()?;
        ensure!(now.iter().any(|server| server == "b2"), "the table alone knows no flow: {now:?}");
        let moved = now.iter().zip(&self.servers).filter(|(now, before)| now != before).count();
        if moved > 0 {
            bail!("{moved} of {} flows of UDP moved: {:?}, then {now:?}", now.len(), self.servers);
        }
        Ok(())
    }
}
