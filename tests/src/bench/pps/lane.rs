//! The network of one contestant. Each contestant has an identical one, and all exist at the same time.
//!
//! ```text
//! source eth0 ---- in0 sut out0 ---- eth0 sink
//! ```
//! Frames enter `sut` by `in0`; the source injects them at the other end of the pair, without a network stack. They
//! leave by `out0` (two arms) or by `in0` (one arm). Servers are addresses of `sink` and of `source`, where a program
//! counts and drops the frames before the stack.

use std::{env, net::Ipv4Addr, sync::Arc};

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use tempfile::TempDir;

use super::programs::{BenchProgram, BenchPrograms};
use crate::{
    leftovers::RunId,
    net::{Namespace, run},
};

/// MACs of the source and of `in0`.
pub(super) const SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(super) const IN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// Address to which clients send.
pub(super) const VIP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
pub(super) const VIP_PORT: u16 = 80;
/// Port of the servers.
pub(super) const SERVER_PORT: u16 = 8080;

/// Number of servers on each side. Their addresses are consecutive from [`FIRST_SERVER`].
pub(super) const SERVER_COUNT: u8 = 4;
const FIRST_SERVER: u8 = 16;

/// The interface by which frames leave the contestant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arms {
    /// The interface on which they arrived.
    One,
    /// The other interface.
    Two,
}

impl Arms {
    /// Third byte of the addresses on the servers' link.
    fn link(self) -> u8 {
        match self {
            Self::One => 0,
            Self::Two => 1,
        }
    }

    /// Addresses of the servers.
    pub(super) fn servers(self) -> impl Iterator<Item = Ipv4Addr> {
        (0..SERVER_COUNT).map(move |n| Ipv4Addr::new(10, 80, self.link(), FIRST_SERVER + n))
    }

    /// The prefix that contains exactly the servers' addresses.
    pub(super) fn servers_prefix(self) -> (Ipv4Addr, u32) {
        (Ipv4Addr::new(10, 80, self.link(), FIRST_SERVER), 32 - u32::from(SERVER_COUNT).ilog2())
    }

    /// Address of the contestant itself.
    pub(super) fn sut(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 80, self.link(), 1)
    }
}

/// Namespaces, links and programs. Dropping it removes them.
pub(super) struct PpsLane {
    pub(super) id: RunId,
    pub(super) programs: BenchPrograms,
    pub(super) source: Namespace,
    /// Namespace of the contestant.
    pub(super) sut: Arc<Namespace>,
    _sink: Namespace,
    pub(super) directory: TempDir,
    /// Index of the source's interface.
    pub(super) ifindex: u32,
}

impl PpsLane {
    /// Builds the network with its sinks. Nothing in `sut` forwards yet.
    pub(super) fn build() -> Result<Self> {
        let id = RunId::next();
        let prefix = id.prefix();
        let directory = tempfile::Builder::new().prefix(&format!("{prefix}.")).tempdir_in(env::temp_dir())?;
        let namespace = |role: &str| Namespace::create(&format!("{prefix}-{role}"));
        let (source, sut, sink) = (namespace("source")?, Arc::new(namespace("sut")?), namespace("sink")?);
        for namespace in [&source, &sut, &sink] {
            // No host may send anything on its own.
            namespace.sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
            namespace.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        }
        sut.ip(&format!(
            "link add in0 address {} type veth peer name eth0 address {} netns {}\n\
             link add out0 type veth peer name eth0 netns {}",
            mac(IN_MAC),
            mac(SOURCE_MAC),
            source.name(),
            sink.name()
        ))?;
        for (namespace, arms, interface) in [(&source, Arms::One, "in0"), (&sink, Arms::Two, "out0")] {
            namespace.ip("link set eth0 up")?;
            sut.ip(&format!("addr add {}/24 dev {interface}\nlink set {interface} up", arms.sut()))?;
            for server in arms.servers() {
                let mac = mac(server_mac(server));
                namespace.ip(&format!("addr add {server}/24 dev eth0"))?;
                sut.ip(&format!("neigh add {server} lladdr {mac} dev {interface} nud permanent"))?;
            }
        }
        // With one arm, the kernel would send ICMP redirects and apply the reverse-path filter.
        for conf in ["all", "default", "in0", "out0"] {
            sut.sysctl(&format!("net/ipv4/conf/{conf}/send_redirects"), "0")?;
            sut.sysctl(&format!("net/ipv4/conf/{conf}/rp_filter"), "0")?;
        }
        let mut programs = BenchPrograms::load()?;
        let ifindex = source.on_thread(|| {
            programs.attach(BenchProgram::Sink, "eth0")?;
            if_nametoindex("eth0").context("eth0")
        })?;
        sink.on_thread(|| programs.attach(BenchProgram::Sink, "eth0"))?;
        Ok(Self { id, programs, source, sut, _sink: sink, directory, ifindex })
    }

    /// Attaches one of the benchmark's programs to `in0`.
    pub(super) fn attach(&mut self, program: BenchProgram) -> Result<()> {
        let programs = &mut self.programs;
        self.sut.on_thread(|| {
            programs.set_out(if_nametoindex("out0")?)?;
            programs.attach(program, "in0")
        })
    }

    /// Enables forwarding in the kernel. Without a program on `in0`, veth accepts frames that XDP sent only if GRO is
    /// on.
    pub(super) fn forward_by_kernel(&self) -> Result<()> {
        self.sut.sysctl("net/ipv4/ip_forward", "1")?;
        run(self.sut.command("ethtool").args(["-K", "in0", "gro", "on"]), "").map(drop)
    }
}

/// A server's MAC, derived from its address, so that the sink can tell servers apart in any mode. No interface needs
/// it: the sink runs before the stack.
fn server_mac(server: Ipv4Addr) -> [u8; 6] {
    let [.., link, host] = server.octets();
    [2, 0, 0, 1, link, host]
}

fn mac(address: [u8; 6]) -> String {
    address.map(|byte| format!("{byte:02x}")).join(":")
}
