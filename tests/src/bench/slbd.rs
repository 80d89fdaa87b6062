//! The daemon as a contestant, with a configuration of the benchmark. Dropping it removes all its pins.

use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Result;

use crate::{
    daemon::{Daemon, Programs},
    leftovers::RunId,
    net::Namespace,
};

/// Entries of the flow table.
const FLOW_TABLE_ENTRIES: u32 = 1 << 20;

/// A mode of SLB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BenchMode {
    Nat,
    Dsr,
    Ipip,
}

impl BenchMode {
    pub(super) const ALL: [Self; 3] = [Self::Nat, Self::Dsr, Self::Ipip];

    /// Value of the setting `mode`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Dsr => "dsr",
            Self::Ipip => "ipip",
        }
    }
}

/// Configuration of one TCP listener.
#[derive(Debug)]
pub(super) struct BenchListener<'a> {
    pub(super) interfaces: &'a [&'a str],
    pub(super) vip: Ipv4Addr,
    pub(super) port: u16,
    pub(super) mode: BenchMode,
    /// Address of SLB, which is the outer source of tunnel packets.
    pub(super) slb: Ipv4Addr,
    pub(super) servers: &'a [Ipv4Addr],
    pub(super) server_port: u16,
}

/// A running daemon. Dropping it kills it and ends forwarding.
#[derive(Debug)]
pub(super) struct Slbd {
    daemon: Option<Daemon>,
    pins: PathBuf,
}

impl Slbd {
    /// Starts the daemon and waits until it is ready.
    pub(super) fn start(
        namespace: &Arc<Namespace>,
        id: RunId,
        directory: &Path,
        listener: &BenchListener<'_>,
    ) -> Result<Self> {
        let (pins, socket) = (id.pin_dir(), directory.join("slb.sock"));
        let config = directory.join("slb.toml");
        fs::write(&config, listener.toml(&pins, &socket))?;
        let programs = Programs::new(namespace, directory.join("slbd.log"))?;
        // Created before the daemon is ready, so that its pins are removed even if it never becomes ready.
        let mut slbd = Self { daemon: Some(programs.run(&config)?), pins };
        if let Some(daemon) = &mut slbd.daemon {
            daemon.ready(&programs, &socket)?;
        }
        Ok(slbd)
    }
}

impl Drop for Slbd {
    fn drop(&mut self) {
        drop(self.daemon.take());
        // Removing the pins unloads the program and its maps.
        if self.pins.exists()
            && let Err(error) = fs::remove_dir_all(&self.pins)
        {
            eprintln!("cannot remove {}: {error}", self.pins.display());
        }
    }
}

impl BenchListener<'_> {
    fn toml(&self, pins: &Path, socket: &Path) -> String {
        let Self { interfaces, vip, port, mode, slb, servers, server_port } = self;
        let tunnels = match mode {
            BenchMode::Ipip => format!("tunnel_addresses = [\"{slb}\"]\n"),
            BenchMode::Nat | BenchMode::Dsr => String::new(),
        };
        let mut text = format!(
            "[daemon]\ninterfaces = {interfaces:?}\nxdp_mode = \"native\"\npin_dir = {pins:?}\nsocket = {socket:?}\n\
             state_dir = {:?}\nflow_table_entries = {FLOW_TABLE_ENTRIES}\n{tunnels}\n\
             [[load_balancer]]\nname = \"bench\"\naddresses = [\"{vip}\"]\n\n\
             [[load_balancer.listener]]\nname = \"bench\"\nprotocol = \"tcp\"\nport = {port}\n\
             mode = \"{}\"\ndefault_group_port = {server_port}\nhealth_check = {{ kind = \"none\" }}\n",
            socket.with_extension("state"),
            mode.name()
        );
        for server in *servers {
            let _ = write!(text, "\n[[load_balancer.server]]\naddress = \"{server}\"\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{BenchListener, BenchMode};

    #[test]
    fn bench_configuration_is_valid_without_warnings() {
        for mode in BenchMode::ALL {
            let listener = BenchListener {
                interfaces: &["in0", "out0"],
                vip: [198, 51, 100, 10].into(),
                port: 80,
                mode,
                slb: [10, 80, 1, 1].into(),
                servers: &[[10, 80, 1, 16].into(), [10, 80, 1, 17].into()],
                server_port: if mode == BenchMode::Nat { 8080 } else { 80 },
            };
            let text = listener.toml(Path::new("/sys/fs/bpf/slbt-1-1"), Path::new("/run/slb.sock"));
            let parsed = slb_config::parse("slb.toml", &text);
            let loaded = parsed.unwrap_or_else(|rejected| panic!("{rejected}"));
            assert_eq!(loaded.warnings.to_string(), "");
        }
    }
}
