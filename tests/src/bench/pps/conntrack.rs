//! Flushes the conntrack table of a namespace.

use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_DELETE`; without attributes it deletes all entries.
const DELETE: u16 = 1 << 8 | 2;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const FLAGS: u16 = 1 | 4;
/// Length of a netlink message header.
const HEADER: usize = 16;

/// Deletes all conntrack entries of the calling thread's namespace.
pub(super) fn flush() -> Result<()> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    // Header: length, type, flags, sequence number, port. Then a zeroed `struct nfgenmsg`: any family.
    let mut message = [0; HEADER + 4];
    message[..4].copy_from_slice(&(HEADER as u32 + 4).to_ne_bytes());
    message[4..6].copy_from_slice(&DELETE.to_ne_bytes());
    message[6..8].copy_from_slice(&FLAGS.to_ne_bytes());
    sendto(socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0; 256];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    // `struct nlmsgerr`: a negative error number, or 0.
    let error = answer[..length].get(HEADER..HEADER + 4).context("the kernel's answer is too short")?;
    ensure!(error == [0; 4], "the kernel does not empty its connection table: {error:?}");
    Ok(())
}
