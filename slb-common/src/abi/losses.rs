//! What the kernel loses after the XDP program has decided, counted by a program at its tracepoints. Not pinned: it is
//! counted while the daemon runs.

pub use super::MAX_INTERFACES;

/// Frames lost at an interface.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Losses {
    /// Were to leave here, and the interface does not take redirected frames.
    pub redirect: u64,
    /// Were to leave here, and the driver did not take them: its queue was full, or the other end does not receive.
    pub transmit: u64,
    /// Came in here, and what the program decided was not carried out.
    pub exception: u64,
}

/// Where the kernel that runs keeps what is to be read of an interface: offsets in bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KernelLayout {
    /// `net_device.ifindex`.
    pub ifindex: u64,
    /// `net_device.nd_net`.
    pub namespace: u64,
    /// `net.net_cookie`.
    pub cookie: u64,
    /// The cookie of the network namespace whose interfaces are watched.
    pub watched: u64,
}
