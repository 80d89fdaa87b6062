//! A world: a network, servers in it, and the daemon.

mod log;
mod node;
mod servers;

use std::{
    collections::BTreeMap,
    env,
    fs::{self, Permissions},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use slb_userspace::api::{
    self,
    types::{Health, Server, Status},
};
use tempfile::TempDir;
use tokio::runtime;

use crate::{
    client::Client,
    config::Plan,
    daemon::{Daemon, Programs, servers},
    leftovers::RunId,
    net::{Backend, Family, Topology, run},
    server::{Servers, Service},
    turn::Turn,
    wait::{unless_late, wait_for},
};

pub use node::Node;

/// How long a client waits for an answer that comes at once, or not at all.
const IMPATIENCE: Duration = Duration::from_millis(100);

/// A mounted BPF file system.
#[derive(Debug)]
pub struct BpfMount(PathBuf);

impl BpfMount {
    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Mounts one there once more.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn again(&self) -> Result<()> {
        run(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&self.0), "").map(drop)
    }
}

impl Drop for BpfMount {
    fn drop(&mut self) {
        let unmounted = run(Command::new("umount").arg("-l").arg(&self.0), "");
        if let Err(error) = unmounted {
            eprintln!("{error:#}");
        }
    }
}

/// How long a change of a server's health may take to show, also there.
const HEALTH_LIMIT: Duration = Duration::from_secs(120);

/// What the daemon logs on its way up, and how often before it is killed.
const MILESTONES: [(&str, usize); 4] =
    [("XDP program loaded", 1), (" attached ", 1), (" attached ", 3), (" running ", 1)];

/// A network with servers, and the daemon once it is started. Dropping it removes all of it.
#[derive(Debug)]
pub struct World {
    /// The name of this world.
    pub id: RunId,
    /// Namespaces and links.
    pub net: Topology,
    /// What the daemon is to do the next time it is started.
    pub plan: Plan,
    programs: Programs,
    daemon: Option<Daemon>,
    servers: Vec<Option<Servers>>,
    directory: TempDir,
    // Held until everything is gone.
    _turn: Turn,
}

impl World {
    /// Builds a network with one backend per weight and starts the servers; the daemon is not started.
    ///
    /// # Errors
    /// A program is missing, or a name is taken.
    pub fn new(weights: &[u8], turn: Turn) -> Result<Self> {
        let id = RunId::next();
        let directory =
            tempfile::Builder::new().prefix(&format!("{}.", id.prefix())).tempdir_in(env::temp_dir())?;
        let net = Topology::build(&id.prefix(), weights.len().try_into()?)?;
        let programs = Programs::new(&net.slb, directory.path().join("slbd.log"))?;
        let start = |backend: &Backend| Servers::start(&backend.namespace, &backend.name).map(Some);
        let servers = net.backends.iter().map(start).collect::<Result<_>>()?;
        let plan = Plan::new(&net, weights, id.pin_dir(), directory.path().join("slb.sock"));
        Ok(Self { id, net, plan, programs, daemon: None, servers, directory, _turn: turn })
    }

    /// The client.
    pub fn client(&self) -> Client {
        Client::new(&self.net)
    }

    /// Where a service is reached on the VIP of a family.
    pub fn vip(&self, family: Family, service: Service) -> SocketAddr {
        (family.vip(), self.plan.vip_port(service)).into()
    }

    /// Opens so many connections, through the VIPs of both families in turn. Nothing is expected of them.
    ///
    /// # Errors
    /// The client's namespace cannot be entered.
    pub fn try_connections(&self, service: Service, count: usize) -> Result<()> {
        let vips = Family::ALL.map(|family| self.vip(family, service));
        self.net.client.on_thread(|| {
            for vip in vips.iter().cycle().take(count) {
                let _ = TcpStream::connect_timeout(vip, IMPATIENCE);
            }
            Ok(())
        })
    }

    /// Has the daemon find this directory empty, from its next start on.
    pub fn hide(&mut self, directory: &'static str) {
        self.programs.hidden = Some(directory);
    }

    /// Has the daemon log to another file, from its next start on.
    pub fn log_to(&mut self, path: impl Into<PathBuf>) {
        self.programs.log_to = Some(path.into());
    }

    /// Starts the daemon with the plan, and waits until it is ready.
    ///
    /// # Errors
    /// It runs already, or does not become ready.
    pub fn start(&mut self) -> Result<Status> {
        self.start_without_waiting()?;
        let daemon = self.daemon.as_mut().context("no daemon runs")?;
        daemon.ready(&self.programs, &self.plan.socket)
    }

    /// Starts the daemon with the plan.
    ///
    /// # Errors
    /// It runs already, or cannot be started.
    pub fn start_without_waiting(&mut self) -> Result<()> {
        ensure!(self.daemon.is_none(), "the daemon runs already");
        let config = self.write_config("slb.toml", &self.plan.toml())?;
        self.daemon = Some(self.programs.run(&config)?);
        Ok(())
    }

    /// Process id of the daemon this world started, if one runs.
    pub fn daemon_pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::pid)
    }

    /// Ends the daemon with SIGTERM.
    ///
    /// # Errors
    /// It does not run, or does not end well.
    pub fn terminate(&mut self) -> Result<()> {
        self.daemon.take().context("no daemon runs")?.terminate()
    }

    /// Ends the daemon with SIGKILL.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.take().context("no daemon runs")?.kill()
    }

    /// Starts the daemon and ends it with SIGKILL on its way up, once at each of several points.
    ///
    /// # Errors
    /// It runs already, or does not get as far.
    pub fn kill_on_its_way_up(&mut self) -> Result<()> {
        for (milestone, times) in MILESTONES {
            let before = self.log().matches(milestone).count();
            self.start_without_waiting()?;
            self.wait_for_log(milestone, before + times - 1)?;
            self.kill()?;
        }
        Ok(())
    }

    /// Ends the daemon with SIGTERM and starts it with the plan as it is now.
    ///
    /// # Errors
    /// As [`Self::terminate`] and [`Self::start`].
    pub fn restart(&mut self) -> Result<Status> {
        self.terminate()?;
        self.start()
    }

    /// What the daemon says, as soon as it answers.
    ///
    /// # Errors
    /// No daemon listens.
    pub fn status(&self) -> Result<Status> {
        wait_for("an answer of the daemon", HEALTH_LIMIT, || {
            unless_late(self.programs.status(&self.plan.socket))
        })
    }

    /// What the pins say.
    ///
    /// # Errors
    /// Nothing is pinned.
    pub fn status_from_pins(&self) -> Result<Status> {
        self.programs.status_from_pins(&self.plan.pin_dir)
    }

    /// Runs `slbd SUBCOMMAND` to its end, with another configuration than the plan's.
    ///
    /// # Errors
    /// It does not end.
    pub fn slbd(&self, subcommand: &str, config: &str) -> Result<Output> {
        self.programs.slbd(subcommand, &self.write_config("other.toml", config)?)
    }

    /// Runs a subcommand of `slb` to its end; returns what it says.
    ///
    /// # Errors
    /// It fails, and says why.
    pub fn slb(&self, arguments: &[&str]) -> Result<String> {
        let output = self.programs.slb(&self.plan.socket, arguments)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "slb {arguments:?} ended with {}: {error}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a subcommand of `slb` to its end; returns what it warns of.
    ///
    /// # Errors
    /// It fails, and says why.
    pub fn slb_warns(&self, arguments: &[&str]) -> Result<String> {
        let output = self.programs.slb(&self.plan.socket, arguments)?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "slb {arguments:?} ended with {}: {error}", output.status);
        Ok(error)
    }

    /// Runs a subcommand of `slb` that must fail; returns what it says of that.
    ///
    /// # Errors
    /// It succeeds.
    pub fn slb_refused(&self, arguments: &[&str]) -> Result<String> {
        let output = self.programs.slb(&self.plan.socket, arguments)?;
        let said = String::from_utf8_lossy(&output.stdout);
        // 4: no daemon answers.
        ensure!(
            matches!(output.status.code(), Some(1 | 4)),
            "slb {arguments:?} ended with {}: {said}",
            output.status
        );
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Runs a subcommand of `slb` to its end, whatever it comes to.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn slb_output(&self, arguments: &[&str]) -> Result<Output> {
        self.programs.slb(&self.plan.socket, arguments)
    }

    /// The same at another socket than the daemon's.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn slb_at(&self, socket: &str, arguments: &[&str]) -> Result<Output> {
        self.programs.slb(Path::new(socket), arguments)
    }

    /// Runs `slbd` or `slb` to its end as a user who is nobody here, but may look into this world's directory; it must fail.
    /// Returns what it says of that.
    ///
    /// # Errors
    /// It succeeds, or cannot be started.
    pub fn refused_as_nobody(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let directory = self.directory.path();
        fs::set_permissions(directory, Permissions::from_mode(0o755))?;
        let output = self.programs.as_nobody(program, arguments, directory)?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(
            matches!(output.status.code(), Some(1 | 4)),
            "{arguments:?} ended with {}: {said}",
            output.status
        );
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Writes the plan, or another text, to the daemon's file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, text: &str) -> Result<()> {
        self.write_config("slb.toml", text).map(drop)
    }

    /// Writes a configuration beside the daemon's file; returns its path.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_other(&self, text: &str) -> Result<String> {
        Ok(self.write_config("other.toml", text)?.display().to_string())
    }

    /// Has the daemon read the plan as it is now; returns what `slb reload` says.
    ///
    /// # Errors
    /// The daemon refuses it.
    pub fn reload(&self) -> Result<String> {
        self.write(&self.plan.toml())?;
        self.slb(&["reload"])
    }

    /// Sends the daemon SIGHUP.
    ///
    /// # Errors
    /// No daemon runs.
    pub fn hang_up(&self) -> Result<()> {
        self.daemon.as_ref().context("no daemon runs")?.hang_up()
    }

    /// Packets that met a verdict, for any reason or for one.
    ///
    /// # Errors
    /// There are no pins to read.
    pub fn packets(&self, verdict: &str, reason: Option<&str>) -> Result<u64> {
        let counted = self.status_from_pins()?.reasons.into_iter().filter(|counted| {
            counted.verdict == verdict && reason.is_none_or(|reason| counted.reason == reason)
        });
        Ok(counted.map(|counted| counted.packets).sum())
    }

    /// Ids of the XDP programs in the drivers of the load balancer's interfaces.
    ///
    /// # Errors
    /// `ip` fails, or a program is in the generic hook.
    pub fn programs(&self) -> Result<BTreeMap<String, u64>> {
        let output = run(Command::new("ip").args(["-n", self.net.slb.name(), "-json", "link", "show"]), "")?;
        let links: Vec<serde_json::Value> = serde_json::from_str(&output)?;
        let mut programs = BTreeMap::new();
        for link in &links {
            // `ip` calls driver mode 1, generic mode 2; 0 is none.
            let mode = link.pointer("/xdp/mode").and_then(serde_json::Value::as_u64).unwrap_or(0);
            ensure!(mode <= 1, "not in the driver: {output}");
            if mode == 1 {
                let name = link["ifname"].as_str().context("a link without a name")?;
                let id = link.pointer("/xdp/prog/id").and_then(serde_json::Value::as_u64);
                programs.insert(name.to_owned(), id.context("a program without an id")?);
            }
        }
        Ok(programs)
    }

    /// Runs `slbd detach`.
    ///
    /// # Errors
    /// It fails.
    pub fn detach(&self) -> Result<()> {
        let output = self.slbd("detach", &self.plan.toml())?;
        if !output.status.success() {
            bail!("slbd detach ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// The directory of this version's pins.
    pub fn pins(&self) -> PathBuf {
        self.plan.pin_dir.join(format!("v{}", slb_common::abi::ABI_VERSION))
    }

    /// Mounts a BPF file system of this world's own, which goes with what is returned.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn mount_bpf(&self) -> Result<BpfMount> {
        let mount = BpfMount(self.directory.path().join("bpf"));
        fs::create_dir(&mount.0)?;
        mount.again()?;
        Ok(mount)
    }

    /// Waits until the daemon reports `health` for every entry of backend `index` behind one service; returns the entries.
    ///
    /// # Errors
    /// It takes too long, or the daemon does not answer.
    pub fn wait_for_health_of(&self, service: Service, index: usize, health: Health) -> Result<Vec<Server>> {
        let planned = &self.plan.servers[index];
        let what = format!("{} of {} reported {health:?}", service.name(), planned.name);
        wait_for(&what, HEALTH_LIMIT, || {
            let status = self.status()?;
            let mut listeners = status.load_balancers.into_iter().flat_map(|balancer| balancer.listeners);
            let listener =
                listeners.find(|listener| listener.name == service.name()).context("no listener")?;
            let mut servers = listener.servers;
            servers.retain(|server| planned.addresses.contains(&server.address.ip()));
            ensure!(!servers.is_empty(), "no server of {}", planned.name);
            Ok(servers.iter().all(|server| server.health == health).then_some(servers))
        })
    }

    /// Waits until the daemon reports `health` for every entry of backend `index`; returns how long that took, to a
    /// few hundredths of a second.
    ///
    /// # Errors
    /// It takes too long, or the daemon does not answer.
    pub fn wait_for_health(&self, index: usize, health: Health) -> Result<Duration> {
        let start = Instant::now();
        let addresses = &self.plan.servers[index].addresses;
        // Asked without a program for each question, which would take longer than the answer may be off.
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let what = format!("{} reported {health:?}", self.plan.servers[index].name);
        wait_for(&what, HEALTH_LIMIT, || {
            let answer = unless_late(runtime.block_on(api::client::status(&self.plan.socket)))?;
            let Some(status) = answer else { return Ok(None) };
            let status = status.context("no daemon listens")?;
            let mut entries =
                servers(&status).filter(|server| addresses.contains(&server.address.ip())).peekable();
            ensure!(entries.peek().is_some(), "no listener has backend {}", index + 1);
            Ok(entries.all(|server| server.health == health).then(|| start.elapsed()))
        })
    }

    fn write_config(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.directory.path().join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// Where the world keeps its configuration, socket and log.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.daemon.take());
        // The links go with their pins, the network with its namespaces.
        if self.plan.pin_dir.exists()
            && let Err(error) = fs::remove_dir_all(&self.plan.pin_dir)
        {
            eprintln!("cannot remove {}: {error}", self.plan.pin_dir.display());
        }
    }
}
