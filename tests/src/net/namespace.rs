//! A network namespace and the thread that runs in it.
//!
//! A socket stays in the namespace in which it was created. Clients and servers therefore run as tasks on a thread in
//! the namespace. Programs enter the namespace between fork and exec. `ip netns exec` would also mount another `/sys`,
//! and hide the BPF file system.

use std::{
    fs::{self, File},
    future::Future,
    os::unix::process::CommandExt,
    path::Path,
    process::Command,
    sync::mpsc,
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    ifaddrs::getifaddrs,
    sched::{CloneFlags, setns},
    sys::signal::SigSet,
};
use tokio::{runtime, sync::oneshot};

use super::run;

/// Directory in which `ip netns` keeps its names.
const NAMES: &str = "/run/netns";

/// A namespace. Dropping it ends its thread with all tasks, and removes its name.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: File,
    handle: runtime::Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    /// Creates the namespace, and a thread with a Tokio runtime in it.
    ///
    /// # Errors
    /// `ip` is missing, the name is in use, or the caller is not root.
    pub fn create(name: &str) -> Result<Self> {
        run(Command::new("ip").args(["netns", "add", name]), "")?;
        Self::enter(name.to_owned()).inspect_err(|_| {
            let _ = run(Command::new("ip").args(["netns", "del", name]), "");
        })
    }

    fn enter(name: String) -> Result<Self> {
        let file = File::open(Path::new(NAMES).join(&name)).with_context(|| format!("namespace {name}"))?;
        let inside = file.try_clone()?;
        let (stop, stopped) = oneshot::channel();
        let (ready, started) = mpsc::channel();
        let thread = thread::Builder::new().name(name.clone()).spawn(move || {
            let made = setns(&inside, CloneFlags::CLONE_NEWNET)
                .map_err(anyhow::Error::from)
                .and_then(|()| Ok(runtime::Builder::new_current_thread().enable_all().build()?));
            match made {
                Ok(runtime) => {
                    let _ = ready.send(Ok(runtime.handle().clone()));
                    // Using or dropping the sender ends this; both mean stop.
                    let _ = runtime.block_on(stopped);
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        })?;
        let handle = started.recv().context("the namespace's thread ended")??;
        Ok(Self { name, file, handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Names of all namespaces of this machine.
    ///
    /// # Errors
    /// The directory of names exists and cannot be read.
    pub fn names() -> Result<Vec<String>> {
        if !Path::new(NAMES).exists() {
            return Ok(Vec::new());
        }
        let entries = fs::read_dir(NAMES).context(NAMES)?;
        Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
    }

    /// Starts a task on the namespace's thread.
    pub fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.handle.spawn(task)
    }

    /// Runs a task on the namespace's thread and waits for it.
    ///
    /// # Panics
    /// The task panics.
    pub fn block_on<F>(&self, task: F) -> F::Output
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.handle.block_on(self.handle.spawn(task)).expect("the task ran to its end")
    }

    /// A counter of the namespace from `/proc/net/snmp`, such as `Tcp:` and `RetransSegs`. One line holds the names,
    /// the next line the values.
    ///
    /// # Errors
    /// No counter has this name.
    pub fn counter(&self, protocol: &str, name: &str) -> Result<u64> {
        self.on_thread(|| {
            let all = fs::read_to_string("/proc/thread-self/net/snmp")?;
            let lines: Vec<_> = all.lines().filter(|line| line.starts_with(protocol)).collect();
            let [names, values] = lines.as_slice() else { bail!("{all}") };
            let found = names.split(' ').zip(values.split(' ')).find(|(candidate, _)| *candidate == name);
            Ok(found.with_context(|| format!("no {name}"))?.1.parse()?)
        })
    }

    /// A counter of the namespace from `/proc/net/snmp6`, such as `Ip6FragFails`.
    ///
    /// # Errors
    /// No counter has this name.
    pub fn counter6(&self, name: &str) -> Result<u64> {
        self.on_thread(|| {
            let all = fs::read_to_string("/proc/thread-self/net/snmp6")?;
            let mut pairs = all.lines().filter_map(|line| line.split_once(char::is_whitespace));
            let found = pairs.find(|(candidate, _)| *candidate == name);
            Ok(found.with_context(|| format!("no {name}"))?.1.trim().parse()?)
        })
    }

    /// Runs a closure on a new thread in the namespace, and waits for it. Use it for blocking calls.
    ///
    /// # Errors
    /// The error of the closure, or the namespace cannot be entered.
    pub fn on_thread<T: Send>(&self, call: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET)?;
                call()
            });
            thread.join().map_err(|_| anyhow!("a thread in {} panicked", self.name))?
        })
    }

    /// A command that runs in the namespace with no signal blocked.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let file = self.file.try_clone().expect("a descriptor is left");
        let enter = move || {
            setns(&file, CloneFlags::CLONE_NEWNET)?;
            SigSet::empty().thread_set_mask()?;
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes two system calls and touches no memory but its own.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs `ip` commands, one a line, in the namespace.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn ip(&self, lines: &str) -> Result<()> {
        run(Command::new("ip").args(["-n", &self.name, "-batch", "-"]), lines).map(drop)
    }

    /// Hardware address of an interface of the namespace.
    ///
    /// # Errors
    /// The interface does not exist, or has no hardware address.
    pub fn mac(&self, interface: &str) -> Result<[u8; 6]> {
        self.on_thread(|| {
            let mut addresses = getifaddrs()?.filter(|found| found.interface_name == interface);
            let mac = addresses.find_map(|found| found.address?.as_link_addr()?.addr());
            mac.with_context(|| format!("{interface} has no hardware address"))
        })
    }

    /// Writes a sysctl of the namespace, such as `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// The kernel does not know it, or refuses the value.
    pub fn sysctl(&self, setting: &str, value: &str) -> Result<()> {
        self.on_thread(|| {
            fs::write(Path::new("/proc/sys").join(setting), value)
                .with_context(|| format!("{setting} = {value}"))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        if matches!(ended, Some(Err(_))) {
            eprintln!("the thread of namespace {} panicked", self.name);
        }
        if let Err(error) = run(Command::new("ip").args(["netns", "del", &self.name]), "") {
            eprintln!("{error:#}");
        }
    }
}
