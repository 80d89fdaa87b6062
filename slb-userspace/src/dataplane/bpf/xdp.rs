//! An XDP program: load, test run, attach, and replacement in its links.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, ProgramArray},
    programs::{
        ProgramError, TestRun as _, TestRunOptions, Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        loaded_programs,
        xdp::XdpLink,
    },
};
use nix::errno::Errno;
use slb_common::net::headers::{Ipv6Hdr, VlanTag};

use super::link::Link;
use crate::advice::{Attempt, with_advice};
use crate::devices::Hook;
use slb_config::model;

/// Facts about a loaded program, from the kernel.
#[derive(Debug, Clone, Copy)]
pub struct ProgramStats {
    /// Name of the program.
    pub name: &'static str,
    /// Instructions that the verifier has processed. `None` if the kernel does not say.
    pub verified_instructions: Option<u32>,
    /// Bytes of machine code.
    pub machine_code_bytes: u32,
}

/// How the program was attached to an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// It replaced the program in the pinned link of an earlier run; no packet was missed.
    Replaced,
    /// Attached in the driver.
    Native,
    /// Attached in the generic hook.
    Generic,
}

/// The interface runs another XDP program.
#[derive(Debug, thiserror::Error)]
#[error(
    "another XDP program is on the interface: `ip link show` names it; take it off (`ip link set dev NAME xdp off`, or \
     stop what attached it)"
)]
pub struct HookOccupied;

/// SLB's link holds another XDP program.
#[derive(Debug, thiserror::Error)]
#[error("program {program} {name} has been put into SLB's link {}: `rm` that pin to take it off", pin.display())]
pub struct Replaced {
    program: u32,
    name: String,
    pin: PathBuf,
}

/// A loaded BPF object: its maps, the XDP program for interfaces, and the programs that it tail-calls.
pub struct Program {
    ebpf: Ebpf,
    name: &'static str,
    tail_called: &'static [&'static str],
}

impl Program {
    /// Loads the maps of an object as `loader` says, and its program `name`.
    pub(super) fn load(loader: &mut EbpfLoader<'_>, object: &[u8], name: &'static str) -> Result<Self> {
        let loaded = loader.load(object).map_err(|error| with_advice(error.into(), Attempt::MakeMap));
        let ebpf = loaded.context("cannot load the BPF object")?;
        let mut program = Self { ebpf, name, tail_called: &[] };
        program.verify(name)?;
        Ok(program)
    }

    /// Loads programs of the object and writes each to the program array `programs`, at its position in `names`.
    pub(super) fn load_tail_called(&mut self, programs: &str, names: &'static [&'static str]) -> Result<()> {
        for (slot, name) in (0..).zip(names) {
            self.verify(name)?;
            let program = self.xdp_of(name)?.fd()?.try_clone()?;
            let mut slots = ProgramArray::try_from(self.map(programs)?)?;
            slots.set(slot, &program, 0).with_context(|| format!("cannot put `{name}` into {programs}"))?;
        }
        self.tail_called = names;
        Ok(())
    }

    /// Loads a program, which runs the verifier.
    fn verify(&mut self, name: &str) -> Result<()> {
        let verified = self.xdp_of(name)?.load();
        verified
            .map_err(|error| with_advice(error.into(), Attempt::LoadProgram))
            .with_context(|| format!("the kernel refuses the XDP program `{name}`"))
    }

    /// Facts about each program, from the kernel.
    pub fn stats(&mut self) -> Result<Vec<ProgramStats>> {
        let names = [self.name].into_iter().chain(self.tail_called.iter().copied());
        let stats = |name| {
            let info = self.xdp_of(name)?.info()?;
            Ok(ProgramStats {
                name,
                verified_instructions: info.verified_instruction_count(),
                machine_code_bytes: info.size_jitted(),
            })
        };
        names.map(stats).collect()
    }

    /// The program's id in the kernel.
    pub fn id(&mut self) -> Result<u32> {
        Ok(self.xdp()?.info()?.id())
    }

    /// Attaches the program to an interface in this hook and pins the link. If `pin` holds a link already, it replaces
    /// the program there, in the link's own hook.
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub fn attach_in(&mut self, pin: &Path, ifindex: u32, hook: Hook) -> Result<Attachment> {
        self.attach(
            pin,
            ifindex,
            match hook {
                Hook::Native => model::XdpMode::Native,
                Hook::Generic => model::XdpMode::Generic,
            },
        )
    }

    /// Attaches the program to an interface and pins the link, or replaces the program in the link at `pin`.
    ///
    /// # Errors
    /// Another program is on the interface ([`HookOccupied`]) or in the link ([`Replaced`]). Or the interface does not
    /// support the mode, or the link cannot be pinned.
    pub fn attach(&mut self, pin: &Path, ifindex: u32, mode: model::XdpMode) -> Result<Attachment> {
        let name = self.name;
        let program = self.xdp()?;
        if replace(program, name, pin)? {
            return Ok(Attachment::Replaced);
        }
        let (link, attachment) = match mode {
            model::XdpMode::Native => (attach_in(program, ifindex, XdpMode::Driver)?, Attachment::Native),
            model::XdpMode::Generic => (attach_in(program, ifindex, XdpMode::Skb)?, Attachment::Generic),
            model::XdpMode::Auto => match attach_in(program, ifindex, XdpMode::Driver) {
                Ok(link) => (link, Attachment::Native),
                Err(error) if error.is::<HookOccupied>() => return Err(error),
                Err(error) => {
                    tracing::warn!(
                        ifindex,
                        error = format!("{error:#}"),
                        "no native XDP; taking the generic hook"
                    );
                    (attach_in(program, ifindex, XdpMode::Skb)?, Attachment::Generic)
                }
            },
        };
        link.pin(pin).context("cannot pin the link, and an unpinned one would not outlive this process")?;
        Ok(attachment)
    }

    /// Replaces the program in pinned links. A link that cannot be opened, or holds another program, is left for
    /// [`Self::attach`] to report. Returns whether no link keeps an earlier load of this program.
    pub(super) fn replace_in(&mut self, pins: &[PathBuf]) -> bool {
        let name = self.name;
        let mut all = true;
        for pin in pins {
            if let Err(error) = self.xdp().and_then(|program| replace(program, name, pin)) {
                all &= error.is::<Replaced>();
                tracing::warn!(error = format!("{error:#}"), "a link keeps its program");
            }
        }
        all
    }

    /// Pins the program, so that other processes can run or measure it. Attaching needs no such pin.
    pub fn pin(&mut self, path: &Path) -> Result<()> {
        self.xdp()?.pin(path).with_context(|| format!("cannot pin the program at {}", path.display()))
    }

    /// Runs the program once over `frame`, as if it had arrived at the loopback interface. Returns the XDP action and
    /// the frame as the program left it.
    pub fn test_run(&mut self, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
        // Room for headers that the program may insert: IPv6, ICMP or UDP, and a VLAN tag.
        let mut out = vec![0; frame.len() + size_of::<Ipv6Hdr>() + 8 + size_of::<VlanTag>()];
        let result = self.xdp()?.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        })?;
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value, out))
    }

    /// Prints the program's log until the runtime ends.
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

    /// Pins a map whose pin is gone.
    pub(super) fn pin_map(&self, name: &str, path: &Path) -> Result<()> {
        let map = self.ebpf.map(name).with_context(|| format!("the BPF object has no map {name}"))?;
        map.pin(path).with_context(|| format!("cannot pin {}", path.display()))
    }

    /// A map of the object.
    pub(super) fn map(&mut self, name: &str) -> Result<&mut Map> {
        self.ebpf.map_mut(name).with_context(|| format!("the BPF object has no map {name}"))
    }

    /// Id in the kernel of a map of the object that each load has anew: a program array or an LRU map.
    ///
    /// # Errors
    /// The object has no such map.
    pub fn map_id(&mut self, name: &str) -> Result<u32> {
        match self.map(name)? {
            Map::ProgramArray(map) | Map::LruHashMap(map) => Ok(map.info()?.id()),
            _ => bail!("{name} is neither a program array nor an LRU map"),
        }
    }

    fn xdp(&mut self) -> Result<&mut Xdp> {
        self.xdp_of(self.name)
    }

    fn xdp_of(&mut self, name: &str) -> Result<&mut Xdp> {
        let program = self.ebpf.program_mut(name);
        Ok(program.with_context(|| format!("the BPF object has no program `{name}`"))?.try_into()?)
    }
}

/// Ids of the maps that a loaded program uses; none if it is gone.
///
/// # Errors
/// This process may not open programs by their ids: it lacks `CAP_SYS_ADMIN`.
pub(super) fn maps_of(program: u32) -> Result<Vec<u32>> {
    for loaded in loaded_programs() {
        let loaded = loaded.context("cannot list BPF programs")?;
        if loaded.id() == program {
            return Ok(loaded.map_ids().context("cannot read a program's maps")?.unwrap_or_default());
        }
    }
    Ok(Vec::new())
}

/// Name of a loaded program; `None` if it is gone, has none, or this process lacks `CAP_SYS_ADMIN`.
pub fn name_of(id: u32) -> Option<String> {
    let found = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id)?;
    found.name_as_str().filter(|name| !name.is_empty()).map(str::to_owned)
}

/// Replaces the program in a pinned link. Returns `false` if there is no link, or its interface is gone.
///
/// # Errors
/// The link holds a program of another name, which stays ([`Replaced`]).
fn replace(program: &mut Xdp, name: &str, pin: &Path) -> Result<bool> {
    let Some(link) = Link::open(pin)? else { return Ok(false) };
    let bound = link.bound()?;
    if bound.interface.is_some()
        && let Some(other) = name_of(bound.program).filter(|other| other != name)
    {
        bail!(Replaced { program: bound.program, name: other, pin: pin.to_owned() });
    }
    let pinned =
        PinnedLink::from_pin(pin).with_context(|| format!("cannot open the link {}", pin.display()))?;
    let link = XdpLink::try_from(FdLink::from(pinned))
        .with_context(|| format!("{} is not the link of an XDP program", pin.display()))?;
    match program.attach_to_link(link) {
        Ok(id) => {
            // The pin keeps the link, so this handle is not needed.
            drop(program.take_link(id)?);
            Ok(true)
        }
        // The link's interface is gone.
        Err(ProgramError::SyscallError(error)) if errno(&error.io_error) == Some(Errno::ENOLINK) => {
            fs::remove_file(pin)?;
            Ok(false)
        }
        Err(error) => Err(error).with_context(|| format!("cannot replace the program of {}", pin.display())),
    }
}

fn attach_in(program: &mut Xdp, ifindex: u32, mode: XdpMode) -> Result<FdLink> {
    let id = match program.attach_to_if_index(ifindex, mode) {
        Ok(id) => id,
        Err(ProgramError::SyscallError(error))
            if matches!(errno(&error.io_error), Some(Errno::EBUSY | Errno::EEXIST)) =>
        {
            bail!(HookOccupied);
        }
        Err(error) => {
            let tried = match mode {
                XdpMode::Skb => Attempt::AttachGenerically,
                _ => Attempt::AttachNatively,
            };
            return Err(with_advice(error.into(), tried));
        }
    };
    // A link that is not a file descriptor detaches when this process ends, or drops it.
    FdLink::try_from(program.take_link(id)?)
        .context("the kernel made no link that can be pinned (it needs Linux 5.9 or later)")
}

fn errno(error: &std::io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw)
}
