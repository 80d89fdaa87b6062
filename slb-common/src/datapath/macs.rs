//! The hardware addresses of a frame.

use crate::{
    abi::MacPair,
    net::{frame::Frame, headers::MacPairBytes},
};

/// Writes the hardware addresses of a frame; `None` if it is truncated.
#[inline(always)]
pub(super) fn readdress(frame: &mut Frame<'_>, macs: &MacPair) -> Option<()> {
    let bytes = frame.header_mut::<MacPairBytes>(0)?;
    bytes.head = macs.head.to_ne_bytes();
    bytes.tail = macs.tail.to_ne_bytes();
    Some(())
}

/// Reads the hardware addresses of a frame; `None` if it is truncated.
#[inline(always)]
pub(super) fn macs(frame: &Frame<'_>) -> Option<MacPair> {
    frame.header::<MacPairBytes>(0).map(|bytes| MacPair::from(*bytes))
}
