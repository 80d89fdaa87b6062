//! The network of one contestant; all contestants have one of their own, at the same time, and all are alike.
//!
//! ```text
//! source eth0 ---- in0 sut out0 ---- eth0 sink
//! ```
//! Frames enter `sut` through `in0`, with one end of the pair made by the source without passing a stack. They leave
//! through `out0` (two arms) or through `in0` again (one arm). Servers are addresses of `sink` and of `source`; in front
//! of their stacks a program counts and drops what arrives.

use std::{env, net::Ipv4Addr, sync::Arc};

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use tempfile::TempDir;

use super::programs::{Program, Programs};
use crate::{
    leftovers::RunId,
    net::{Namespace, run},
};

/// Hardware addresses of the source and of `in0`.
pub(super) const SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(super) const IN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// Where clients believe the service to be.
pub(super) const VIP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
pub(super) const VIP_PORT: u16 = 80;
/// Port of the servers.
pub(super) const SERVER_PORT: u16 = 8080;

/// Number of servers, on each side. Their addresses differ in the low bits, beginning at [`FIRST_SERVER`].
pub(super) const SERVER_COUNT: u8 = 4;
const FIRST_SERVER: u8 = 16;

/// Where frames leave the system under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arms {
    /// Through the interface they came in by.
    One,
    /// Through the other one.
    Two,
}

impl Arms {
    /// The third byte of addresses on the link that leads to the servers.
    fn link(self) -> u8 {
        match self {
            Self::One => 0,
            Self::Two => 1,
        }
    }

    /// The servers' addresses.
    pub(super) fn servers(self) -> impl Iterator<Item = Ipv4Addr> {
        (0..SERVER_COUNT).map(move |n| Ipv4Addr::new(10, 80, self.link(), FIRST_SERVER + n))
    }

    /// What the addresses of all servers, and no others, begin with.
    pub(super) fn servers_prefix(self) -> (Ipv4Addr, u32) {
        (Ipv4Addr::new(10, 80, self.link(), FIRST_SERVER), 32 - u32::from(SERVER_COUNT).ilog2())
    }

    /// The address of the system under test itself.
    pub(super) fn sut(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 80, self.link(), 1)
    }
}

/// Namespaces, links and programs. Dropping it removes all of it.
pub(super) struct Lane {
    pub(super) id: RunId,
    pub(super) programs: Programs,
    pub(super) source: Namespace,
    /// Where the system under test is.
    pub(super) sut: Arc<Namespace>,
    _sink: Namespace,
    pub(super) directory: TempDir,
    /// Interface of the source.
    pub(super) ifindex: u32,
}

impl Lane {
    /// Builds the network, with sinks in place and nothing in `sut` that forwards.
    pub(super) fn build() -> Result<Self> {
        let id = RunId::next();
        let prefix = id.prefix();
        let directory = tempfile::Builder::new().prefix(&format!("{prefix}.")).tempdir_in(env::temp_dir())?;
        let namespace = |role: &str| Namespace::create(&format!("{prefix}-{role}"));
        let (source, sut, sink) = (namespace("source")?, Arc::new(namespace("sut")?), namespace("sink")?);
        for namespace in [&source, &sut, &sink] {
            // Nobody is to send anything unasked.
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
        // The kernel would answer one arm with ICMP redirects, and judge sources by routes back.
        for conf in ["all", "default", "in0", "out0"] {
            sut.sysctl(&format!("net/ipv4/conf/{conf}/send_redirects"), "0")?;
            sut.sysctl(&format!("net/ipv4/conf/{conf}/rp_filter"), "0")?;
        }
        let mut programs = Programs::load()?;
        let ifindex = source.on_thread(|| {
            programs.attach(Program::Sink, "eth0")?;
            if_nametoindex("eth0").context("eth0")
        })?;
        sink.on_thread(|| programs.attach(Program::Sink, "eth0"))?;
        Ok(Self { id, programs, source, sut, _sink: sink, directory, ifindex })
    }

    /// Puts one of the benchmark's programs on `in0`.
    pub(super) fn attach(&mut self, program: Program) -> Result<()> {
        let programs = &mut self.programs;
        self.sut.on_thread(|| {
            programs.set_out(if_nametoindex("out0")?)?;
            programs.attach(program, "in0")
        })
    }

    /// Lets the kernel forward. Without a program on `in0`, veth takes frames that XDP sent only when GRO is on.
    pub(super) fn forward_by_kernel(&self) -> Result<()> {
        self.sut.sysctl("net/ipv4/ip_forward", "1")?;
        run(self.sut.command("ethtool").args(["-K", "in0", "gro", "on"]), "").map(drop)
    }
}

/// Hardware addresses of servers differ as their addresses do, so that the sink can tell servers apart in any mode. No
/// interface has them, nor need it: the sink comes first.
fn server_mac(server: Ipv4Addr) -> [u8; 6] {
    let [.., link, host] = server.octets();
    [2, 0, 0, 1, link, host]
}

fn mac(address: [u8; 6]) -> String {
    address.map(|byte| format!("{byte:02x}")).join(":")
}
