//! The decapsulator in the kernel: one program, policy and tally for each interface.
//!
//! Pins: `ROOT/<ifindex>/link`, which keeps the program attached without this process, and
//! `ROOT/<ifindex>/tally-v<version>`, the counters that the next program continues. Program and policy are made
//! together and become active by one replacement in the link, which misses no packet. The active policy is read from
//! the program's own maps.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    EbpfLoader,
    maps::{Array, MapData, MapType, PerCpuArray},
    programs::links::{FdLink, PinnedLink},
};
use nix::fcntl::Flock;
use slb_common::abi::decap::{DECAP_ABI_VERSION, DecapCounters, DecapPolicy, DecapReason};

use super::{
    bpffs::{self, PinRoot},
    link::{Link, LinkBinding},
    map_shapes::{MapShape, shape},
    program_maps::{self, maps_of},
    xdp::Program,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/slb-decap.o"));
const PROGRAM: &str = "slb_decap";
const POLICY: &str = "DECAP_POLICY";
const TALLY: MapShape = shape("DECAP_TALLY", MapType::PerCpuArray, 4, size_of::<DecapCounters>(), 1);
const LINK: &str = "link";
/// The option that chooses the directory, for messages.
const SETTING: &str = "--pin-dir";

/// The directory of the pins of one network namespace.
#[derive(Debug, Clone)]
pub struct DecapPins {
    root: PinRoot,
}

impl DecapPins {
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
        self.root.lock_for("slb-decap")
    }

    /// Sorted indexes of the interfaces that have pins; none if there is no directory.
    pub fn interfaces(&self) -> Result<Vec<u32>> {
        let entries = bpffs::entries(self.root())?;
        let index = |entry: &PathBuf| entry.file_name()?.to_str()?.parse::<u32>().ok();
        let mut indexes: Vec<_> = entries.iter().filter_map(index).collect();
        indexes.sort_unstable();
        Ok(indexes)
    }

    /// Detaches the program from an interface and removes its pins. Returns `false` if there were none.
    ///
    /// # Errors
    /// The directory is not on a BPF file system, or a pin cannot be removed.
    pub fn remove(&self, ifindex: u32) -> Result<bool> {
        let directory = self.of(ifindex);
        if !directory.exists() {
            return Ok(false);
        }
        if !bpffs::is_bpf_fs(&directory)? {
            bail!("{} is not on a BPF file system: these are not pins", directory.display());
        }
        fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))?;
        // Fails while other interfaces have pins.
        let _ = fs::remove_dir(self.root());
        Ok(true)
    }

    /// Path of the link to an interface.
    pub fn link(&self, ifindex: u32) -> PathBuf {
        self.of(ifindex).join(LINK)
    }

    /// Interface and program of an interface's pinned link; `None` if there is no link.
    pub fn bound(&self, ifindex: u32) -> Result<Option<LinkBinding>> {
        Link::open(&self.link(ifindex))?.map(|link| link.bound()).transpose()
    }

    /// Id of the program in the pinned link of an interface; `None` if there is no link.
    pub fn program(&self, ifindex: u32) -> Result<Option<u32>> {
        let path = self.link(ifindex);
        if !path.try_exists().with_context(|| format!("cannot look at {}", path.display()))? {
            return Ok(None);
        }
        let link = PinnedLink::from_pin(&path).map(FdLink::from).map_err(anyhow::Error::from);
        let info = link.and_then(|link| Ok(link.info()?));
        Ok(Some(info.with_context(|| format!("cannot read the link {}", path.display()))?.program_id()))
    }

    fn of(&self, ifindex: u32) -> PathBuf {
        self.root().join(ifindex.to_string())
    }

    fn tally(&self, ifindex: u32) -> PathBuf {
        self.of(ifindex).join(format!("tally-v{DECAP_ABI_VERSION}"))
    }
}

/// Loads the program with a policy. It continues the interface's pinned counters.
pub fn load(pins: &DecapPins, ifindex: u32, policy: &DecapPolicy) -> Result<Program> {
    bpffs::make(&pins.of(ifindex))?;
    let path = pins.tally(ifindex);
    if path.exists() {
        TALLY.verify(&path)?;
    }
    let mut loader = EbpfLoader::new();
    loader.map_pin_path(TALLY.name, path);
    let mut program = Program::load(&mut loader, OBJECT, PROGRAM)?;
    // The program is not attached yet, so no packet sees it without a policy.
    let mut map = Array::<_, DecapPolicy>::try_from(program.map(POLICY)?)?;
    map.set(0, policy, 0).context("cannot write the policy")?;
    Ok(program)
}

/// Frames by reason, as a loaded program counts them, without zeros.
pub fn tally(program: &mut Program) -> Result<Vec<(DecapReason, u64)>> {
    sum(&PerCpuArray::try_from(program.map(TALLY.name)?)?)
}

/// Policy and counters of an interface's active program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecapState {
    /// Which packets are decapsulated: outer sources and inner destinations.
    pub policy: DecapPolicy,
    /// Frames by reason since the first program was attached, without zeros.
    pub tally: Vec<(DecapReason, u64)>,
}

/// Reads policy and counters from the maps of a program.
///
/// # Errors
/// The program is gone, or of another version.
pub fn read(program: u32) -> Result<DecapState> {
    let maps = maps_of(program)?;
    let policy = program_maps::open(&maps, POLICY, size_of::<DecapPolicy>())?;
    let tally = program_maps::open(&maps, TALLY.name, size_of::<DecapCounters>())?;
    match (policy, tally) {
        (Some(policy), Some(tally)) => Ok(DecapState {
            policy: Array::<_, DecapPolicy>::try_from(policy)?.get(&0, 0)?,
            tally: sum(&PerCpuArray::try_from(tally)?)?,
        }),
        _ => bail!(
            "program {program} is of another version: `slb-decap attach` replaces it without missing a packet"
        ),
    }
}

fn sum<T: std::borrow::Borrow<MapData>>(
    map: &PerCpuArray<T, DecapCounters>,
) -> Result<Vec<(DecapReason, u64)>> {
    let tallies = map.get(&0, 0)?;
    let frames = |reason: DecapReason| tallies.iter().map(|tally| tally.frames[reason as usize]).sum::<u64>();
    Ok(DecapReason::ALL.iter().map(|&reason| (reason, frames(reason))).filter(|(_, n)| *n != 0).collect())
}
