//! The network of one contestant. Each contestant has its own, and all exist at the same time.

use std::{
    env,
    net::{IpAddr, Ipv4Addr},
    os::fd::OwnedFd,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use super::{
    load::{self, Path},
    proxy::Proxy,
    server,
};
use crate::{
    bench::slbd::Slbd,
    leftovers::RunId,
    net::{Family, Topology, pass, run},
    wait::wait_for,
};

/// Time limit for the first successful request.
const LIMIT: Duration = Duration::from_secs(10);
/// Time limit for one attempt.
const ATTEMPT: Duration = Duration::from_secs(1);
/// Port to which clients connect.
pub(super) const PORT: u16 = 80;
/// The server's address on a direct link.
const DIRECT_SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 91, 0, 1));
/// MSS that servers behind a tunnel announce: an Ethernet frame without three headers.
const TUNNELLED_MSS: u16 = 1440;

/// A network with a running server.
#[derive(Debug)]
pub(super) struct TcpLane {
    pub(super) name: &'static str,
    pub(super) id: RunId,
    pub(super) path: Path,
    // Dropped before the network.
    pub(super) slbd: Option<Slbd>,
    pub(super) proxy: Option<Proxy>,
    pub(super) net: Topology,
    pub(super) directory: TempDir,
    programs: Vec<OwnedFd>,
}

impl TcpLane {
    /// Builds the network. Clients will connect to the VIP, at which nothing answers yet.
    pub(super) fn build(name: &'static str) -> Result<Self> {
        let id = RunId::next();
        let prefix = id.prefix();
        let directory = tempfile::Builder::new().prefix(&format!("{prefix}.")).tempdir_in(env::temp_dir())?;
        let net = Topology::build(&prefix, 1)?;
        server::start(&net.backends[0].namespace)?;
        let path = Path { sources: net.sources(Family::V4).into(), target: (Family::V4.vip(), PORT).into() };
        Ok(Self { name, id, path, slbd: None, proxy: None, net, directory, programs: Vec::new() })
    }

    /// Address of the server itself.
    pub(super) fn server(&self) -> IpAddr {
        self.net.backends[0].address(Family::V4)
    }

    /// Adds a link between client and server, which carries both directions.
    pub(super) fn connect_directly(&mut self) -> Result<()> {
        let sources = self.lay_direct_link()?;
        self.path = Path { sources: sources.into(), target: (DIRECT_SERVER, server::PORT).into() };
        Ok(())
    }

    /// Adds a link between client and server that carries the answers. They bypass the load balancer, as where servers
    /// have their own route to clients.
    pub(super) fn answer_directly(&mut self) -> Result<()> {
        let gateway = self.lay_direct_link()?[0];
        let routes: Vec<String> = self
            .path
            .sources
            .iter()
            .map(|source| format!("route add {source} via {gateway} dev direct advmss {TUNNELLED_MSS}"))
            .collect();
        self.net.backends[0].namespace.ip(&routes.join("\n"))
    }

    /// Adds a link between client and server with the settings of the other links. Returns the client's addresses on
    /// it.
    fn lay_direct_link(&mut self) -> Result<Vec<IpAddr>> {
        let (client, server) = (&self.net.client, &self.net.backends[0].namespace);
        client.ip(&format!("link add direct type veth peer name direct netns {}", server.name()))?;
        let hosts: Vec<u8> = (11..11 + u8::try_from(self.path.sources.len())?).collect();
        let sources: Vec<IpAddr> = hosts.iter().map(|host| [10, 91, 0, *host].into()).collect();
        for (namespace, addresses) in [(client, &sources[..]), (server, &[DIRECT_SERVER])] {
            run(namespace.command("ethtool").args(["-K", "direct", "tx", "off"]), "")?;
            for address in addresses {
                namespace.ip(&format!("addr add {address}/24 dev direct"))?;
            }
            namespace.ip("link set direct up")?;
            self.programs.push(namespace.on_thread(|| pass::attach("direct"))?);
        }
        Ok(sources)
    }

    /// Waits until requests succeed, and checks the peer that the server sees: the client, or the proxy if there is
    /// one.
    pub(super) fn check(&self) -> Result<()> {
        let ask = || {
            let path = self.path.clone();
            let attempt = async move { tokio::time::timeout(ATTEMPT, load::peer(&path)).await };
            Ok(self.net.client.block_on(attempt).ok().and_then(Result::ok))
        };
        let peer = wait_for("a first answer", LIMIT, ask).with_context(|| self.name)?;
        let is_client = self.path.sources.contains(&peer);
        ensure!(is_client == self.proxy.is_none(), "{}: the server sees {peer}", self.name);
        Ok(())
    }
}
