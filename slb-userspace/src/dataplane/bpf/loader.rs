//! Loads the XDP program over the pinned maps and puts it on interfaces, replacing an earlier one in one step.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result};
use aya::{Ebpf, EbpfLoader, programs::Xdp};

use super::{
    maps::SHAPES,
    pins::Pins,
    xdp::{self, Attachment, Facts},
};
use crate::config::model;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/slb.o"));
const PROGRAM: &str = "slb";

/// Sizes of the maps that configuration decides, where they are made.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Connections; rounded up to a power of two.
    pub flows: u32,
    /// Servers.
    pub backends: u32,
}

impl Sizes {
    /// Entries of a map, where configuration decides.
    fn of(self, map: &str) -> Option<u32> {
        match map {
            "FLOWS" => Some(self.flows.next_power_of_two()),
            "BACKENDS" | "BACKEND_COUNTERS" => Some(self.backends),
            // One for each server before and after all of them change, and 0, which stands for none.
            "NEXT_HOPS" => Some(2 * self.backends + 1),
            _ => None,
        }
    }
}

/// The loaded program.
pub struct Program {
    ebpf: Ebpf,
}

impl Program {
    /// Loads the program. Maps that are pinned are used as they are, others are made and pinned.
    pub fn load(pins: &Pins, sizes: Sizes) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        for shape in &SHAPES {
            let path = pins.map(shape.name);
            let wanted = sizes.of(shape.name);
            let mut entries = wanted;
            if path.exists() {
                let info = shape.verify(&path)?;
                if let Some(wanted) = wanted
                    && info.max_entries() != wanted
                {
                    tracing::warn!(
                        map = shape.name,
                        in_force = info.max_entries(),
                        configured = wanted,
                        "a map keeps its size: a new one takes effect after `slbd detach`"
                    );
                    entries = Some(info.max_entries());
                }
            }
            if let Some(entries) = entries {
                loader.map_max_entries(shape.name, entries);
            }
            loader.map_pin_path(shape.name, path);
        }
        let mut ebpf = loader.load(OBJECT).context("cannot load the BPF object")?;
        xdp::program(&mut ebpf, PROGRAM)?.load().context("the kernel refuses the XDP program")?;
        Ok(Self { ebpf })
    }

    /// What the kernel says of the program.
    pub fn facts(&mut self) -> Result<Facts> {
        xdp::facts(self.xdp()?)
    }

    /// Prints what the program logs, until the runtime ends.
    #[cfg(feature = "debug-log")]
    pub fn follow_log(&mut self) -> Result<()> {
        use tokio::io::{Interest, unix::AsyncFd};
        let logger = aya_log::EbpfLogger::init(&mut self.ebpf).context("the program has no log")?;
        // SAFETY: the logger owns one descriptor, of its ring buffer, for as long as it lives.
        let mut logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }?;
        tokio::spawn(async move {
            while let Ok(mut ready) = logger.readable_mut().await {
                ready.get_inner_mut().flush();
                ready.clear_ready();
            }
        });
        Ok(())
    }

    /// Puts the program on an interface and pins the link.
    ///
    /// # Errors
    /// Another program is on the interface, the mode is not to be had, or the link cannot be pinned.
    pub fn attach(&mut self, pins: &Pins, ifindex: u32, mode: model::XdpMode) -> Result<Attachment> {
        xdp::attach(self.xdp()?, &pins.link(ifindex), ifindex, mode)
    }

    /// Pins the program itself, for others to run or to measure; attaching it needs no such pin.
    pub fn pin(&mut self, path: &Path) -> Result<()> {
        self.xdp()?.pin(path).with_context(|| format!("cannot pin the program at {}", path.display()))
    }

    /// Runs the program once over `frame`, as if it had come in through the loopback interface.
    ///
    /// Returns the XDP action and the frame as the program left it.
    pub fn test_run(&mut self, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
        xdp::test_run(self.xdp()?, frame)
    }

    /// Takes the program off every interface but these.
    pub fn detach_others(pins: &Pins, keep: &BTreeSet<u32>) -> Result<()> {
        for entry in fs::read_dir(pins.links())? {
            let entry = entry?;
            let index = entry.file_name().to_string_lossy().parse::<u32>().ok();
            if index.is_none_or(|index| !keep.contains(&index)) {
                fs::remove_file(entry.path())?;
                tracing::info!(link = %entry.path().display(), "detached");
            }
        }
        Ok(())
    }

    fn xdp(&mut self) -> Result<&mut Xdp> {
        xdp::program(&mut self.ebpf, PROGRAM)
    }
}
