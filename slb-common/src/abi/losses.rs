//! What the kernel loses after the XDP program has decided, counted by a program at its tracepoints. Not pinned: it is
//! counted while the daemon runs.

pub use super::MAX_INTERFACES;

/// Frames lost at an interface.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Losses {
    /// Redirects to this interface that failed (tracepoint `xdp_redirect_err`): it does not take redirected frames.
    pub redirect: u64,
    /// Redirected frames that the driver of this interface dropped (tracepoint `xdp_devmap_xmit`): its queue was full, or the other
    /// end does not receive.
    pub transmit: u64,
    /// Frames received here whose XDP verdict failed (tracepoint `xdp_exception`).
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
