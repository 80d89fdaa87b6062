//! One XDP program and one interface: attached, replaced in one step, tried out.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf,
    programs::{
        ProgramError, TestRun as _, TestRunOptions, Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        loaded_programs,
        xdp::XdpLink,
    },
};
use nix::errno::Errno;
use slb_common::net::headers::Ipv6Hdr;

use crate::config::model;

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

/// The interface runs another XDP program.
#[derive(Debug, thiserror::Error)]
#[error(
    "another XDP program is on the interface: `ip link show` names it; take it off (`ip link set dev NAME xdp off`, or \
     stop what attached it)"
)]
pub struct Occupied;

/// Finds an XDP program in an object.
pub(super) fn program<'ebpf>(ebpf: &'ebpf mut Ebpf, name: &str) -> Result<&'ebpf mut Xdp> {
    let program =
        ebpf.program_mut(name).with_context(|| format!("the BPF object has no program `{name}`"))?;
    Ok(program.try_into()?)
}

/// What the kernel says of a loaded program.
pub(super) fn facts(program: &Xdp) -> Result<Facts> {
    let info = program.info()?;
    Ok(Facts {
        verified_instructions: info.verified_instruction_count(),
        machine_code_bytes: info.size_jitted(),
    })
}

/// The name of a loaded program, if it still is and has one.
pub fn name_of(id: u32) -> Option<String> {
    let found = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id)?;
    found.name_as_str().filter(|name| !name.is_empty()).map(str::to_owned)
}

/// Runs a program once over `frame`, as if it had come in through the loopback interface.
///
/// Returns the XDP action and the frame as the program left it.
pub(super) fn test_run(program: &mut Xdp, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
    // The program may put headers before it: of IPv6, and of an ICMP message.
    let mut out = vec![0; frame.len() + size_of::<Ipv6Hdr>() + 8];
    let result = program.test_run(TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ..TestRunOptions::new()
    })?;
    out.truncate(result.data_size_out as usize);
    Ok((result.return_value, out))
}

/// Puts a program on an interface and pins the link, or into the link that is pinned there.
///
/// # Errors
/// Another program is on the interface ([`Occupied`]), the mode is not to be had, or the link cannot be pinned.
pub(super) fn attach(
    program: &mut Xdp,
    pin: &Path,
    ifindex: u32,
    mode: model::XdpMode,
) -> Result<Attachment> {
    if replace(program, pin)? {
        return Ok(Attachment::Replaced);
    }
    let (link, attachment) = match mode {
        model::XdpMode::Native => (attach_in(program, ifindex, XdpMode::Driver)?, Attachment::Native),
        model::XdpMode::Generic => (attach_in(program, ifindex, XdpMode::Skb)?, Attachment::Generic),
        model::XdpMode::Auto => match attach_in(program, ifindex, XdpMode::Driver) {
            Ok(link) => (link, Attachment::Native),
            Err(error) if error.is::<Occupied>() => return Err(error),
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

/// Puts a program into a pinned link; `false` if there is none that still holds.
fn replace(program: &mut Xdp, pin: &Path) -> Result<bool> {
    if !pin.exists() {
        return Ok(false);
    }
    let pinned =
        PinnedLink::from_pin(pin).with_context(|| format!("cannot open the link {}", pin.display()))?;
    let link = XdpLink::try_from(FdLink::from(pinned))
        .with_context(|| format!("{} is not the link of an XDP program", pin.display()))?;
    match program.attach_to_link(link) {
        Ok(id) => {
            // The pin keeps the link; this handle is not needed.
            drop(program.take_link(id)?);
            Ok(true)
        }
        // The interface the link was for is gone.
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
            bail!(Occupied);
        }
        Err(error) => return Err(error.into()),
    };
    // A link that the kernel did not make as a file descriptor ends with this process: dropping it detaches.
    FdLink::try_from(program.take_link(id)?)
        .context("the kernel made no link that can be pinned (it needs Linux 5.9 or later)")
}

fn errno(error: &std::io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw)
}
