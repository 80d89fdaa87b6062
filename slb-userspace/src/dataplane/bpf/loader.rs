//! Loads the XDP program over the pinned maps and puts it on interfaces, replacing an earlier one in one step.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    programs::{
        ProgramError, TestRun as _, TestRunOptions, Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        xdp::XdpLink,
    },
};
use nix::errno::Errno;

use super::{maps::SHAPES, pins::Pins};
use crate::config::model;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/slb.o"));
const PROGRAM: &str = "slb";
const FLOWS: &str = "FLOWS";

/// The loaded program.
pub struct Program {
    ebpf: Ebpf,
}

/// What the kernel says of the loaded program.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// Instructions the verifier processed.
    pub verified_instructions: Option<u32>,
    /// Bytes of machine code.
    pub machine_code_bytes: u32,
}

/// How an interface came to run the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// The link of an earlier run carries the new program now; no packet was missed.
    Replaced,
    /// The program was attached in the driver.
    Native,
    /// The program was attached in the generic hook.
    Generic,
}

impl Program {
    /// Loads the program. Maps that are pinned are used as they are, others are made and pinned.
    ///
    /// `flow_table_entries` decides the size of a flow table that is made.
    pub fn load(pins: &Pins, flow_table_entries: u32) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        let mut entries = flow_table_entries;
        for shape in &SHAPES {
            let path = pins.map(shape.name);
            if path.exists() {
                let info = shape.verify(&path)?;
                if shape.name == FLOWS && info.max_entries() != entries {
                    tracing::warn!(
                        in_force = info.max_entries(),
                        configured = entries,
                        "the flow table keeps its size: a new one takes effect after `slbd detach`"
                    );
                    entries = info.max_entries();
                }
            }
            loader.map_pin_path(shape.name, path);
        }
        let mut ebpf =
            loader.map_max_entries(FLOWS, entries).load(OBJECT).context("cannot load the BPF object")?;
        xdp(&mut ebpf)?.load().context("the kernel refuses the XDP program")?;
        Ok(Self { ebpf })
    }

    /// What the kernel says of the program.
    pub fn facts(&mut self) -> Result<Facts> {
        let info = xdp(&mut self.ebpf)?.info()?;
        Ok(Facts {
            verified_instructions: info.verified_instruction_count(),
            machine_code_bytes: info.size_jitted(),
        })
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
        if self.replace(pins, ifindex)? {
            return Ok(Attachment::Replaced);
        }
        let (link, attachment) = match mode {
            model::XdpMode::Native => (self.attach_in(ifindex, XdpMode::Driver)?, Attachment::Native),
            model::XdpMode::Generic => (self.attach_in(ifindex, XdpMode::Skb)?, Attachment::Generic),
            model::XdpMode::Auto => match self.attach_in(ifindex, XdpMode::Driver) {
                Ok(link) => (link, Attachment::Native),
                Err(error) if error.is::<Occupied>() => return Err(error),
                Err(error) => {
                    tracing::warn!(
                        ifindex,
                        error = format!("{error:#}"),
                        "no native XDP; taking the generic hook"
                    );
                    (self.attach_in(ifindex, XdpMode::Skb)?, Attachment::Generic)
                }
            },
        };
        link.pin(pins.link(ifindex))
            .context("cannot pin the link, and an unpinned one would not outlive the daemon")?;
        Ok(attachment)
    }

    /// Pins the program itself, for others to run or to measure; attaching it needs no such pin.
    pub fn pin(&mut self, path: &Path) -> Result<()> {
        xdp(&mut self.ebpf)?
            .pin(path)
            .with_context(|| format!("cannot pin the program at {}", path.display()))
    }

    /// Runs the program once over `frame`, as if it had come in through the loopback interface.
    ///
    /// Returns the XDP action and the frame as the program left it.
    pub fn test_run(&mut self, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
        let mut out = vec![0; frame.len()];
        let result = xdp(&mut self.ebpf)?.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        })?;
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value, out))
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

    /// Puts the program into the pinned link of an interface; `false` if there is none that still holds.
    fn replace(&mut self, pins: &Pins, ifindex: u32) -> Result<bool> {
        let path = pins.link(ifindex);
        if !path.exists() {
            return Ok(false);
        }
        let pinned = PinnedLink::from_pin(&path)
            .with_context(|| format!("cannot open the link {}", path.display()))?;
        let link = XdpLink::try_from(FdLink::from(pinned))
            .with_context(|| format!("{} is not the link of an XDP program", path.display()))?;
        match xdp(&mut self.ebpf)?.attach_to_link(link) {
            Ok(id) => {
                // The pin keeps the link; this handle is not needed.
                drop(xdp(&mut self.ebpf)?.take_link(id)?);
                Ok(true)
            }
            // The interface the link was for is gone.
            Err(ProgramError::SyscallError(error)) if errno(&error.io_error) == Some(Errno::ENOLINK) => {
                fs::remove_file(&path)?;
                Ok(false)
            }
            Err(error) => {
                Err(error).with_context(|| format!("cannot replace the program of {}", path.display()))
            }
        }
    }

    fn attach_in(&mut self, ifindex: u32, mode: XdpMode) -> Result<FdLink> {
        let program = xdp(&mut self.ebpf)?;
        let id = match program.attach_to_if_index(ifindex, mode) {
            Ok(id) => id,
            Err(ProgramError::SyscallError(error))
                if matches!(errno(&error.io_error), Some(Errno::EBUSY | Errno::EEXIST)) =>
            {
                bail!(Occupied);
            }
            Err(error) => return Err(error.into()),
        };
        // A link that the kernel did not make as a file descriptor ends with this process: dropping it detaches.
        FdLink::try_from(program.take_link(id)?)
            .context("the kernel made no link that can be pinned (it needs Linux 5.9 or later)")
    }
}

/// The interface runs another XDP program.
#[derive(Debug, thiserror::Error)]
#[error(
    "another XDP program is on the interface: `ip link show` names it; take it off (`ip link set dev NAME xdp off`, or \
     stop what attached it) or leave the interface out of [daemon] interfaces"
)]
struct Occupied;

fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    Ok(ebpf.program_mut(PROGRAM).context("the BPF object has no program `slb`")?.try_into()?)
}

fn errno(error: &std::io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw)
}
