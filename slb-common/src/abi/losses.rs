//! Counters of frames that the kernel drops after the XDP verdict. A program at tracepoints counts them. They are not
//! pinned, so they count only while the daemon runs.

pub use super::MAX_INTERFACES;

/// Frames lost at an interface.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Losses {
    /// Redirects to this interface that failed (tracepoint `xdp_redirect_err`): it does not accept redirected frames.
    pub redirect: u64,
    /// Redirected frames that the driver of this interface dropped (tracepoint `xdp_devmap_xmit`): its queue was full,
    /// or the other end does not receive.
    pub transmit: u64,
    /// Frames received on this interface whose XDP verdict failed (tracepoint `xdp_exception`).
    pub exception: u64,
}

/// Byte offsets of fields in the running kernel's structures, and the network namespace to watch.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KernelLayout {
    /// `net_device.ifindex`.
    pub ifindex: u64,
    /// `net_device.nd_net`.
    pub namespace: u64,
    /// `net.net_cookie`.
    pub cookie: u64,
    /// Cookie of the network namespace whose interfaces are watched.
    pub watched: u64,
}
