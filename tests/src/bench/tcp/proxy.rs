//! Proxies: they terminate TCP and open connections of their own. One thread each, like client and server.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Stdio},
};

use anyhow::{Context as _, Result};
use nix::sys::{prctl::set_pdeathsig, signal::Signal};

use super::{
    lane::{PORT, TcpLane},
    server,
};
use crate::net::Family;

/// Debian's path of nginx' stream module; in other builds it may be part of the program.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// A running proxy. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Proxy(Child);

impl Proxy {
    /// Starts HAProxy in TCP mode.
    pub(super) fn haproxy(program: &Path, lane: &TcpLane) -> Result<Self> {
        let (vip, server, port) = (Family::V4.vip(), lane.server(), server::PORT);
        let config = format!(
            "global\n  nbthread 1\n  maxconn 4096\n\
             defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
             frontend bench\n  bind {vip}:{PORT}\n  default_backend bench\n\
             backend bench\n  server one {server}:{port}\n"
        );
        Self::start(program, lane, &["-db", "-q", "-f"], "haproxy.cfg", &config)
    }

    /// Starts nginx with its stream module.
    pub(super) fn nginx(program: &Path, lane: &TcpLane) -> Result<Self> {
        let (vip, server, port) = (Family::V4.vip(), lane.server(), server::PORT);
        let directory = lane.directory.path().display();
        let module = Path::new(STREAM_MODULE).is_file().then(|| format!("load_module {STREAM_MODULE};\n"));
        // Without a master process, killing this process ends nginx completely.
        let config = format!(
            "{}daemon off;\nmaster_process off;\npid {directory}/nginx.pid;\nerror_log {directory}/nginx.log;\n\
             events {{ worker_connections 4096; }}\n\
             stream {{ server {{ listen {vip}:{PORT} backlog=4096; proxy_pass {server}:{port}; }} }}\n",
            module.unwrap_or_default()
        );
        let log = format!("{directory}/nginx.log");
        Self::start(program, lane, &["-e", &log, "-c"], "nginx.conf", &config)
    }

    fn start(program: &Path, lane: &TcpLane, arguments: &[&str], name: &str, config: &str) -> Result<Self> {
        // The proxy's own connections need many ports.
        lane.net.slb.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
        lane.net.slb.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
        let path = lane.directory.path().join(name);
        fs::write(&path, config)?;
        let mut command = lane.net.slb.command(program);
        command.args(arguments).arg(path).stdin(Stdio::null()).stdout(Stdio::null());
        let die_with_us = || Ok(set_pdeathsig(Signal::SIGKILL)?);
        // SAFETY: between fork and exec the closure makes one system call and touches no memory.
        unsafe { command.pre_exec(die_with_us) };
        Ok(Self(command.spawn().with_context(|| format!("cannot run {}", program.display()))?))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // An error means that the proxy has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
