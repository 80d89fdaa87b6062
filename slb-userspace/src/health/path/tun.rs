//! A TUN device. Reads return the packets that the kernel routes to it; the kernel receives what is written.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
};

use nix::libc;
use tokio::io::{Interest, unix::AsyncFd};

/// Device file of the TUN driver.
const DEVICE: &str = "/dev/net/tun";

/// A device, which is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Tun(AsyncFd<File>);

/// Creates a device in the network namespace of the calling thread.
pub(super) fn create(name: &str) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DEVICE)?;
    // SAFETY: all fields are integers, or arrays of them, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The name ends with a zero byte.
    let namespace = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..namespace].iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the descriptor is open, and the kernel reads and writes one `ifreq`.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

impl Tun {
    /// Wraps a created device.
    pub(super) fn new(device: File) -> io::Result<Self> {
        // SAFETY: a `File` owns its descriptor and returns the same one for as long as it lives.
        Ok(Self(unsafe { AsyncFd::register(device) }?))
    }

    /// Reads the next packet.
    pub(super) async fn read(&self, packet: &mut [u8]) -> io::Result<usize> {
        self.0.async_io(Interest::READABLE, |mut device| device.read(packet)).await
    }

    /// Reads a packet, if there is one.
    pub(super) fn try_read(&self, packet: &mut [u8]) -> Option<usize> {
        self.0.get_ref().read(packet).ok()
    }

    /// Makes the kernel receive a packet.
    pub(super) fn write(&self, packet: &[u8]) -> io::Result<()> {
        self.0.get_ref().write_all(packet)
    }
}
