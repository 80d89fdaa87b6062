//! A world: a network of namespaces, servers in it, and the daemon.

mod api;
mod log;
mod node;
mod servers;
mod service_manager;
mod unprivileged;

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
use slb_api::types::{ApiHealth, ApiServer, Status};
use tempfile::TempDir;
use tokio::runtime;

use crate::{
    client::Client,
    config::Plan,
    daemon::{Daemon, Programs, Release, servers},
    leftovers::RunId,
    net::{Backend, Family, Topology, run},
    server::{Servers, Service},
    test_lock::TestLock,
    wait::{unless_late, wait_for},
};

pub use api::ApiAnswer;
pub use node::Node;
pub use service_manager::ServiceManager;
pub(crate) use unprivileged::Unprivileged;

/// How long a client waits for an answer that arrives at once or never.
const STARTUP_PROGRESS: Duration = Duration::from_millis(100);

/// A mounted BPF file system.
#[derive(Debug)]
pub struct BpfMount(PathBuf);

impl BpfMount {
    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Mounts another BPF file system on top of it.
    ///
    /// # Errors
    /// The mount fails.
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

/// How long the daemon may take to report a change of health.
const HEALTH_LIMIT: Duration = Duration::from_secs(120);

/// Log messages of the daemon's start, and how many of each the world waits for before it kills the daemon.
const MILESTONES: [(&str, usize); 4] =
    [("XDP program loaded", 1), (" attached ", 1), (" attached ", 3), (" running ", 1)];

/// A network with servers, and the daemon once it has been started. Dropping it removes everything.
#[derive(Debug)]
pub struct World {
    /// Name of this world.
    pub id: RunId,
    /// Namespaces and links.
    pub net: Topology,
    /// Configuration and paths for the next start of the daemon.
    pub plan: Plan,
    programs: Programs,
    daemon: Option<Daemon>,
    servers: Vec<Option<Servers>>,
    directory: TempDir,
    // Released last, after everything else is removed.
    _test_lock: TestLock,
}

impl World {
    /// Builds a network with one backend per weight and starts the servers. It does not start the daemon.
    ///
    /// # Errors
    /// A program is missing, or a name is in use.
    pub fn new(weights: &[u8], test_lock: TestLock) -> Result<Self> {
        let id = RunId::next();
        let directory =
            tempfile::Builder::new().prefix(&format!("{}.", id.prefix())).tempdir_in(env::temp_dir())?;
        let net = Topology::build(&id.prefix(), weights.len().try_into()?)?;
        let programs = Programs::new(&net.slb, directory.path().join("slbd.log"))?;
        let start = |backend: &Backend| Servers::start(&backend.namespace, &backend.name).map(Some);
        let servers = net.backends.iter().map(start).collect::<Result<_>>()?;
        let plan = Plan::new(&net, weights, id.pin_dir(), directory.path().join("slb.sock"));
        Ok(Self { id, net, plan, programs, daemon: None, servers, directory, _test_lock: test_lock })
    }

    /// The client.
    pub fn client(&self) -> Client {
        Client::new(&self.net)
    }

    /// Address and port of a service at the VIP of a family.
    pub fn vip(&self, family: Family, service: Service) -> SocketAddr {
        (family.vip(), self.plan.vip_port(service)).into()
    }

    /// Opens `count` connections, alternating between the VIPs of both families. They may fail.
    ///
    /// # Errors
    /// The client's namespace cannot be entered.
    pub fn try_connections(&self, service: Service, count: usize) -> Result<()> {
        let vips = Family::ALL.map(|family| self.vip(family, service));
        self.net.client.on_thread(|| {
            for vip in vips.iter().cycle().take(count) {
                let _ = TcpStream::connect_timeout(vip, STARTUP_PROGRESS);
            }
            Ok(())
        })
    }

    /// Sets which release of `slbd` this world runs, from its next start on.
    ///
    /// # Errors
    /// It has not been built.
    pub fn set_release(&mut self, release: Release) -> Result<()> {
        self.programs.set_release(release)
    }

    /// Mounts an empty directory over this one for the daemon, from its next start on.
    pub fn hide(&mut self, directory: &'static str) {
        self.programs.hidden = Some(directory);
    }

    /// Sets another log file for the daemon, from its next start on.
    pub fn log_to(&mut self, path: impl Into<PathBuf>) {
        self.programs.log_to = Some(path.into());
    }

    /// Sets `SLB_LOG` of the daemon for its next start.
    pub fn log_level(&mut self, level: &'static str) {
        self.programs.log_level = Some(level);
    }

    /// Starts the daemon with the plan, and waits until it is ready.
    ///
    /// # Errors
    /// It is running already, or does not become ready.
    pub fn start(&mut self) -> Result<Status> {
        self.start_without_waiting()?;
        let daemon = self.daemon.as_mut().context("no daemon runs")?;
        daemon.ready(&self.programs, &self.plan.socket)
    }

    /// Starts the daemon with the plan, without waiting until it is ready.
    ///
    /// # Errors
    /// It is running already, or cannot be started.
    pub fn start_without_waiting(&mut self) -> Result<()> {
        ensure!(self.daemon.is_none(), "the daemon runs already");
        let config = self.write_config("slb.toml", &self.plan.toml())?;
        self.daemon = Some(self.programs.run(&config)?);
        Ok(())
    }

    /// Process id of the daemon that this world started; `None` if it is not running.
    pub fn daemon_pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::pid)
    }

    /// Ends the daemon with SIGTERM.
    ///
    /// # Errors
    /// It is not running, or exits with an error.
    pub fn terminate(&mut self) -> Result<()> {
        self.daemon.take().context("no daemon runs")?.terminate()
    }

    /// Ends the daemon with SIGKILL.
    ///
    /// # Errors
    /// It is not running.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.take().context("no daemon runs")?.kill()
    }

    /// Starts the daemon several times and sends SIGKILL during each start, each time at a later milestone.
    ///
    /// # Errors
    /// It is running already, or does not reach a milestone.
    pub fn kill_on_its_way_up(&mut self) -> Result<()> {
        for (milestone, times) in MILESTONES {
            let before = self.log().matches(milestone).count();
            self.start_without_waiting()?;
            self.wait_for_log(milestone, before + times - 1)?;
            self.kill()?;
        }
        Ok(())
    }

    /// Ends the daemon with SIGTERM and starts it with the current plan.
    ///
    /// # Errors
    /// As [`Self::terminate`] and [`Self::start`].
    pub fn restart(&mut self) -> Result<Status> {
        self.terminate()?;
        self.start()
    }

    /// The daemon's status, over its socket.
    ///
    /// # Errors
    /// No daemon answers.
    pub fn status(&self) -> Result<Status> {
        wait_for("an answer of the daemon", HEALTH_LIMIT, || {
            unless_late(self.programs.status(&self.plan.socket))
        })
    }

    /// The status as `slb` reads it from the pins.
    ///
    /// # Errors
    /// No maps are pinned.
    pub fn status_from_pins(&self) -> Result<Status> {
        self.programs.status_from_pins(&self.plan.pin_dir)
    }

    /// Runs `slbd SUBCOMMAND` with this configuration in place of the plan's, and waits for its exit.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn slbd(&self, subcommand: &str, config: &str) -> Result<Output> {
        self.programs.slbd(subcommand, &self.write_config("other.toml", config)?)
    }

    /// Runs a subcommand of `slb`; returns its standard output.
    ///
    /// # Errors
    /// It fails; the error holds its message.
    pub fn slb(&self, arguments: &[&str]) -> Result<String> {
        let output = self.programs.slb(&self.plan.socket, arguments)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "slb {arguments:?} ended with {}: {error}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a subcommand of `slb`; returns its warnings.
    ///
    /// # Errors
    /// It fails; the error holds its message.
    pub fn slb_warns(&self, arguments: &[&str]) -> Result<String> {
        let output = self.programs.slb(&self.plan.socket, arguments)?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "slb {arguments:?} ended with {}: {error}", output.status);
        Ok(error)
    }

    /// Runs a subcommand of `slb` that must fail; returns its message.
    ///
    /// # Errors
    /// It succeeds.
    pub fn slb_refused(&self, arguments: &[&str]) -> Result<String> {
        let output = self.programs.slb(&self.plan.socket, arguments)?;
        let said = String::from_utf8_lossy(&output.stdout);
        // Exit status 4: no daemon answers.
        ensure!(
            matches!(output.status.code(), Some(1 | 4)),
            "slb {arguments:?} ended with {}: {said}",
            output.status
        );
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Runs a subcommand of `slb`, whether it succeeds or fails.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn slb_output(&self, arguments: &[&str]) -> Result<Output> {
        self.programs.slb(&self.plan.socket, arguments)
    }

    /// Runs a subcommand of `slb` with another socket than the daemon's.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn slb_at(&self, socket: &str, arguments: &[&str]) -> Result<Output> {
        self.programs.slb(Path::new(socket), arguments)
    }

    /// Runs `slbd` or `slb` as an unprivileged user who may read this world's directory. It must fail; returns its
    /// message.
    ///
    /// # Errors
    /// It succeeds, or cannot be started.
    pub fn refused_as_unprivileged(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let directory = self.directory.path();
        fs::set_permissions(directory, Permissions::from_mode(0o755))?;
        let output = self.programs.as_unprivileged(program, arguments, directory)?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(
            matches!(output.status.code(), Some(1 | 4)),
            "{arguments:?} ended with {}: {said}",
            output.status
        );
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Writes this text to the daemon's configuration file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, text: &str) -> Result<()> {
        self.write_config("slb.toml", text).map(drop)
    }

    /// Writes a configuration to another file in the same directory; returns its path.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_other(&self, text: &str) -> Result<String> {
        Ok(self.write_config("other.toml", text)?.display().to_string())
    }

    /// Writes the current plan and has the daemon reload it; returns the output of `slb reload`.
    ///
    /// # Errors
    /// The daemon refuses it.
    pub fn reload(&self) -> Result<String> {
        self.write(&self.plan.toml())?;
        self.slb(&["reload"])
    }

    /// Sends SIGHUP to the daemon.
    ///
    /// # Errors
    /// It is not running.
    pub fn hang_up(&self) -> Result<()> {
        self.daemon.as_ref().context("no daemon runs")?.hang_up()
    }

    /// Count of packets with an action, for one reason or for all.
    ///
    /// # Errors
    /// The maps are not pinned.
    pub fn packets(&self, verdict: &str, reason: Option<&str>) -> Result<u64> {
        let counted = self.status_from_pins()?.reasons.into_iter().filter(|counted| {
            counted.verdict == verdict && reason.is_none_or(|reason| counted.reason == reason)
        });
        Ok(counted.map(|counted| counted.packets).sum())
    }

    /// Ids of the native XDP programs on the load balancer's interfaces, by interface.
    ///
    /// # Errors
    /// `ip` fails, or an interface has a program in generic mode.
    pub fn programs(&self) -> Result<BTreeMap<String, u64>> {
        let output = run(Command::new("ip").args(["-n", self.net.slb.name(), "-json", "link", "show"]), "")?;
        let links: Vec<serde_json::Value> = serde_json::from_str(&output)?;
        let mut programs = BTreeMap::new();
        for link in &links {
            // `ip` reports native mode as 1, generic mode as 2, no program as 0.
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

    /// Directory of this version's pins.
    pub fn pins(&self) -> PathBuf {
        self.plan.pin_dir.join(format!("v{}", slb_common::abi::ABI_VERSION))
    }

    /// Mounts a BPF file system of this world's own; it is unmounted when the value is dropped.
    ///
    /// # Errors
    /// The mount fails.
    pub fn mount_bpf(&self) -> Result<BpfMount> {
        let mount = BpfMount(self.directory.path().join("bpf"));
        fs::create_dir(&mount.0)?;
        mount.again()?;
        Ok(mount)
    }

    /// Waits until the daemon reports `health` for every server entry of backend `index` behind one service; returns
    /// them.
    ///
    /// # Errors
    /// It does not report it in time, or does not answer.
    pub fn wait_for_health_of(
        &self,
        service: Service,
        index: usize,
        health: ApiHealth,
    ) -> Result<Vec<ApiServer>> {
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

    /// Waits until the daemon reports `health` for every server entry of backend `index`. Returns the time that this
    /// took, to a few hundredths of a second.
    ///
    /// # Errors
    /// It does not report it in time, or does not answer.
    pub fn wait_for_health(&self, index: usize, health: ApiHealth) -> Result<Duration> {
        let start = Instant::now();
        let addresses = &self.plan.servers[index].addresses;
        // It asks over the socket itself: starting `slb` for each question takes longer than the precision allows.
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let what = format!("{} reported {health:?}", self.plan.servers[index].name);
        wait_for(&what, HEALTH_LIMIT, || {
            let answer = unless_late(runtime.block_on(slb_api::client::status(&self.plan.socket)))?;
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

    /// Directory of the world's configuration, socket and log.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.daemon.take());
        // Removing the pins detaches the links; removing the namespaces removes the network.
        if self.plan.pin_dir.exists()
            && let Err(error) = fs::remove_dir_all(&self.plan.pin_dir)
        {
            eprintln!("cannot remove {}: {error}", self.plan.pin_dir.display());
        }
    }
}
