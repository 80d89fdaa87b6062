//! Addresses of packet sockets: packet(7).

use std::mem::size_of;

use nix::libc;
use socket2::{SockAddr, SockAddrStorage};

/// Converts an address of a packet socket.
pub(crate) fn packet_address(address: libc::sockaddr_ll) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is an address that fits into the storage.
    *unsafe { storage.view_as::<libc::sockaddr_ll>() } = address;
    // SAFETY: the storage holds an address of this family and length.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}
