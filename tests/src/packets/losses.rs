//! Frames that the kernel loses after an XDP program has decided on them.

use std::{collections::BTreeSet, net::UdpSocket, os::fd::OwnedFd, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;
use slb_common::abi::losses::Losses;
use slb_userspace::dataplane::bpf::losses::LossCounters;

use super::world::LO;
use crate::{
    net::{pass, run},
    wait::wait_for,
};

const LIMIT: Duration = Duration::from_secs(10);

/// Loses frames in the calling thread's namespace, one of [`super::kernel::in_namespace`]. First by a verdict that the
/// kernel does not carry out, then by a redirect to an interface that accepts none. Returns the losses counted for
/// each.
///
/// # Errors
/// The kernel refuses the counting programs, or no loss is counted in time.
pub fn lose() -> Result<(Losses, Losses)> {
    let counted = LossCounters::start()?;
    let farther = if_nametoindex("farther")?;
    counted.watch(&BTreeSet::from([LO, farther]))?;
    let lines = "link set lo up\nlink set far up\nlink set farther up\naddr add 192.0.2.1/24 dev far\n\
                 neigh replace 192.0.2.2 lladdr 02:00:00:00:00:02 dev far\n";
    run(Command::new("ip").args(["-batch", "-"]), lines)?;
    let aborted = lost(pass::attach_aborting("farther")?, || {
        let losses = counted.at(farther);
        (losses.exception > 0).then_some(losses)
    })?;
    let redirected = lost(pass::attach_redirecting("farther", LO.try_into()?)?, || {
        let losses = counted.at(LO);
        (losses.redirect > 0).then_some(losses)
    })?;
    Ok((aborted, redirected))
}

/// Sends datagrams until a loss is counted.
fn lost(_program: OwnedFd, count: impl Fn() -> Option<Losses>) -> Result<Losses> {
    let socket = UdpSocket::bind("192.0.2.1:0")?;
    wait_for("a lost frame", LIMIT, || {
        socket.send_to(b"lost", "192.0.2.2:9").context("cannot send")?;
        Ok(count())
    })
}
