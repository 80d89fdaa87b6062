//! `slb-toa` in the kernel: three programs at a cgroup, which share a policy, counters and the client endpoints of
//! connections.
//!
//! Pins: `ROOT/<program>`, links that keep the programs attached without this process, and `ROOT/clients-v<version>` and
//! `ROOT/counters-v<version>`, which the next programs continue. Programs and policy are made together. Each program is
//! replaced by a new link before the old one goes, so no connection is missed.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, PerCpuArray},
    programs::{CgroupAttachMode, CgroupSockAddr, SockOps, links::FdLink},
};
use nix::fcntl::Flock;
use slb_common::abi::toa::{TOA_ABI_VERSION, ToaCounters, ToaOutcome, ToaPolicy};

use super::{
    bpffs::{self, PinRoot},
    link::Link,
    program_maps::{self, maps_of},
};
use crate::advice::{Attempt, with_advice};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/slb-toa.o"));
/// Reads SYNs. Attached last: the other programs need what it finds.
const OPS: &str = "slb_toa_ops";
const PEERS: [&str; 2] = ["slb_toa_peer4", "slb_toa_peer6"];
const POLICY: &str = "TOA_POLICY";
const CLIENTS: &str = "TOA_CLIENTS";
const COUNTERS: &str = "TOA_COUNTERS";
/// The pinned maps and their files.
const MAPS: [(&str, &str); 2] = [(CLIENTS, "clients"), (COUNTERS, "counters")];
/// The option that chooses the directory, for messages.
const SETTING: &str = "--pin-dir";

/// The directory of the pins.
#[derive(Debug, Clone)]
pub struct ToaPins {
    root: PinRoot,
}

impl ToaPins {
    /// `root` must be on a BPF file system. It need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: PinRoot::new(root.into(), SETTING) }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Makes the directory. Mounts a BPF file system at its usual place if there is none.
    pub fn create(&self) -> Result<()> {
        self.root.ensure_bpf_fs()?;
        self.root.make()
    }

    /// Locks the pins for this process.
    ///
    /// # Errors
    /// Another process has the lock.
    pub fn lock(&self) -> Result<Flock<File>> {
        self.root.lock_for("slb-toa")
    }

    /// Detaches the programs and removes the pins. Returns `false` if there were none.
    ///
    /// # Errors
    /// The directory is not on a BPF file system, or a pin cannot be removed.
    pub fn remove(&self) -> Result<bool> {
        let root = self.root();
        if !root.exists() {
            return Ok(false);
        }
        if !bpffs::is_bpf_fs(root)? {
            bail!("{} is not on a BPF file system: these are not pins", root.display());
        }
        let mut removed = false;
        for name in [OPS].into_iter().chain(PEERS) {
            for path in [self.link(name), self.new_link(name)] {
                if let Some(link) = Link::open(&path)? {
                    link.detach()?;
                    removed |= remove_pin(&path)?;
                }
            }
        }
        for (_, file) in MAPS {
            removed |= remove_pin(&self.map(file))?;
        }
        // Fails if it holds what is not of this program.
        let _ = fs::remove_dir(root);
        Ok(removed)
    }

    /// Whether programs are attached.
    pub fn are_attached(&self) -> bool {
        self.link(OPS).exists()
    }

    /// Attaches the programs to a cgroup, or replaces those that are attached: each new one is attached before the old
    /// one is detached, so for a moment both count.
    ///
    /// # Errors
    /// If the kernel refuses a program, what was attached before is still attached. If a pin cannot be replaced, old and
    /// new programs may be attached; another attach mends that.
    pub fn attach(&self, cgroup: &File, policy: &ToaPolicy) -> Result<()> {
        let mut loader = EbpfLoader::new();
        for (map, file) in MAPS {
            loader.map_pin_path(map, self.map(file));
        }
        let loaded = loader.load(OBJECT).map_err(|error| with_advice(error.into(), Attempt::MakeMap));
        let mut ebpf = loaded.context("cannot load the BPF object")?;
        // The programs are not attached yet, so none runs without a policy.
        let map = ebpf.map_mut(POLICY).with_context(|| format!("the BPF object has no map {POLICY}"))?;
        Array::<_, ToaPolicy>::try_from(map)?.set(0, policy, 0).context("cannot write the policy")?;
        let mut links = Vec::new();
        for name in PEERS {
            links.push((name, attach_peer(&mut ebpf, name, cgroup)?));
        }
        links.push((OPS, attach_ops(&mut ebpf, cgroup)?));
        for (name, link) in links {
            self.replace(name, link)?;
        }
        Ok(())
    }

    /// Pins a link in place of the one with this name, which is detached then.
    fn replace(&self, name: &str, link: FdLink) -> Result<()> {
        let (path, new) = (self.link(name), self.new_link(name));
        // Left by a killed attach.
        remove_pin(&new)?;
        link.pin(&new).with_context(|| format!("cannot pin {}", new.display()))?;
        let old = Link::open(&path)?;
        fs::rename(&new, &path).with_context(|| format!("cannot pin {}", path.display()))?;
        old.map_or(Ok(()), |old| old.detach())
    }

    fn link(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// Where a link is pinned before it takes the place of [`Self::link`].
    fn new_link(&self, name: &str) -> PathBuf {
        self.root().join(format!("{name}-new"))
    }

    fn map(&self, file: &str) -> PathBuf {
        self.root().join(format!("{file}-v{TOA_ABI_VERSION}"))
    }

    /// Policy and counters of the attached programs; `None` if there are none, or their cgroup is gone.
    ///
    /// # Errors
    /// The programs are of another version.
    pub fn read(&self) -> Result<Option<ToaState>> {
        let Some(link) = Link::open(&self.link(OPS))? else { return Ok(None) };
        link.program_at_cgroup()?.map(read).transpose()
    }
}

/// Removes a pin; `false` if there is none.
fn remove_pin(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", path.display())),
    }
}

// A link at a cgroup stands beside others there, and takes no flags: that is `Single` here.

fn attach_ops(ebpf: &mut Ebpf, cgroup: impl AsFd) -> Result<FdLink> {
    let program: &mut SockOps =
        ebpf.program_mut(OPS).context("the BPF object has no program slb_toa_ops")?.try_into()?;
    program.load().map_err(|error| refused(error, OPS))?;
    let id = program.attach(cgroup, CgroupAttachMode::Single).map_err(|error| not_attached(error, OPS))?;
    Ok(program.take_link(id)?.try_into()?)
}

fn attach_peer(ebpf: &mut Ebpf, name: &str, cgroup: impl AsFd) -> Result<FdLink> {
    let program = ebpf.program_mut(name).with_context(|| format!("the BPF object has no program {name}"))?;
    let program: &mut CgroupSockAddr = program.try_into()?;
    program.load().map_err(|error| refused(error, name))?;
    let id = program.attach(cgroup, CgroupAttachMode::Single).map_err(|error| not_attached(error, name))?;
    Ok(program.take_link(id)?.try_into()?)
}

fn refused(error: impl Into<anyhow::Error>, name: &str) -> anyhow::Error {
    with_advice(error.into(), Attempt::LoadProgram)
        .context(format!("the kernel refuses the program `{name}`"))
}

fn not_attached(error: impl Into<anyhow::Error>, name: &str) -> anyhow::Error {
    error.into().context(format!(
        "cannot attach `{name}` to the cgroup: does `bpftool cgroup tree` show a program there, or above, that allows no \
         others? If so, name another --cgroup"
    ))
}

/// Policy and counters of the attached programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToaState {
    /// Sources whose option is trusted.
    pub policy: ToaPolicy,
    /// Connections of these sources by outcome since the first attach.
    pub connections: Vec<(ToaOutcome, u64)>,
}

/// Reads the maps of a program.
fn read(program: u32) -> Result<ToaState> {
    let maps = maps_of(program)?;
    let policy = program_maps::open(&maps, POLICY, size_of::<ToaPolicy>())?;
    let connections = program_maps::open(&maps, COUNTERS, size_of::<ToaCounters>())?;
    match (policy, connections) {
        (Some(policy), Some(connections)) => Ok(ToaState {
            policy: Array::<_, ToaPolicy>::try_from(policy)?.get(&0, 0)?,
            connections: sum(&PerCpuArray::try_from(connections)?)?,
        }),
        _ => bail!("program {program} is of another version: `slb-toa attach` replaces it"),
    }
}

fn sum(map: &PerCpuArray<MapData, ToaCounters>) -> Result<Vec<(ToaOutcome, u64)>> {
    let counters = map.get(&0, 0)?;
    let of = |outcome: ToaOutcome| counters.iter().map(|it| it.connections[outcome as usize]).sum::<u64>();
    Ok(ToaOutcome::ALL.iter().map(|&outcome| (outcome, of(outcome))).collect())
}
