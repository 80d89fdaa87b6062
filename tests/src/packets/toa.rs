//! Segments with the client endpoint as a TCP option, or with another kind in place of that option's, and the programs
//! that read the option at servers.

use std::{fs::File, path::Path};

use anyhow::{Context as _, Result, ensure};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use slb_common::abi::{Address, address_list::AddressList, toa::ToaPolicy};
use slb_userspace::dataplane::bpf::toa::{ToaPins, ToaState};

use super::frames::Frame;
use crate::leftovers::RunId;

/// Length of a TCP header without options.
const TCP: usize = 20;
/// Kind of the option (RFC 4727).
pub const KIND: u8 = 254;
/// The other kind for experiments.
const OTHER_KIND: u8 = 253;

/// What becomes of a segment's TCP options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Toa {
    /// The option is inserted as the first one.
    Inserted,
    /// The option at this offset behind the TCP header gets another kind.
    Renamed(usize),
}

impl Toa {
    /// The segment with the change.
    pub fn of(self, frame: &Frame) -> Frame {
        match self {
            Self::Inserted => inserted(frame),
            Self::Renamed(at) => frame.clone().transport(TCP + at, &[OTHER_KIND]).sound(),
        }
    }
}

/// The option with the source of a segment.
pub fn option(frame: &Frame) -> Vec<u8> {
    let address = match frame.bytes[frame.network] >> 4 {
        4 => &frame.bytes[frame.network + 12..][..4],
        _ => &frame.bytes[frame.network + 8..][..16],
    };
    let port = &frame.bytes[frame.transport..][..2];
    [&[KIND, address.len() as u8 + 4], port, address].concat()
}

fn inserted(frame: &Frame) -> Frame {
    let option = option(frame);
    let mut bytes = frame.bytes.clone();
    bytes.splice(frame.transport + TCP..frame.transport + TCP, option.iter().copied());
    bytes[frame.transport + 12] += (option.len() * 4) as u8;
    // Total length of IPv4, payload length of IPv6.
    let at = frame.network + if bytes[frame.network] >> 4 == 4 { 2 } else { 4 };
    let len = u16::from_be_bytes([bytes[at], bytes[at + 1]]) + option.len() as u16;
    bytes[at..at + 2].copy_from_slice(&len.to_be_bytes());
    Frame { bytes, end: frame.end + option.len(), ..frame.clone() }.sound()
}

/// Attaches the programs of `slb-toa` to the cgroup of all processes, replaces them, and detaches them. Returns what
/// they say of themselves after each attach. They trust an address that no connection has.
///
/// # Errors
/// The kernel refuses a program, or something is left.
pub fn attach_twice() -> Result<(ToaState, ToaState)> {
    let is_cgroup = |path: &&str| statfs(*path).is_ok_and(|it| it.filesystem_type() == CGROUP2_SUPER_MAGIC);
    let path = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].into_iter().find(is_cgroup);
    let cgroup = File::open(path.context("no cgroup version 2 is mounted")?)?;
    let pins = ToaPins::new(RunId::next().pin_dir());
    let sources = AddressList::new(&[Address::v4([192, 0, 2, 99])]).context("one address")?;
    pins.create()?;
    let attach = || {
        pins.attach(&cgroup, &ToaPolicy { sources })?;
        pins.read()?.context("nothing is attached")
    };
    let states = attach().and_then(|first| Ok((first, attach()?)));
    pins.remove()?;
    ensure!(!Path::new(pins.root()).exists(), "{} is left", pins.root().display());
    states
}
