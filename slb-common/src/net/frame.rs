//! One frame. The only place that turns offsets into references.

use core::marker::PhantomData;

use crate::opaque::pin;

/// A type that may lie at any offset of a packet.
///
/// # Safety
///
/// Alignment 1, no padding, every bit pattern valid.
pub unsafe trait Header {}

// SAFETY: bytes.
unsafe impl<const N: usize> Header for [u8; N] {}

/// The bytes of a frame.
pub struct Frame<'a> {
    start: usize,
    end: usize,
    bytes: PhantomData<&'a mut [u8]>,
}

impl<'a> Frame<'a> {
    /// Largest offset of a header. Keeps offsets within what the verifier tracks; SLB reads no header beyond it.
    pub const MAX_OFFSET: usize = 511;

    /// The frame between two addresses.
    ///
    /// # Safety
    ///
    /// `start..end` is readable and writable for `'a`, and nothing else refers to it.
    #[inline(always)]
    pub const unsafe fn from_raw(start: usize, end: usize) -> Self {
        Self { start, end, bytes: PhantomData }
    }

    /// The frame in `bytes`.
    #[inline(always)]
    pub fn from_slice(bytes: &'a mut [u8]) -> Self {
        let start = bytes.as_mut_ptr() as usize;
        Self { start, end: start + bytes.len(), bytes: PhantomData }
    }

    /// Length in bytes.
    #[inline(always)]
    pub const fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether the frame has no bytes.
    #[inline(always)]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The frame from `offset` on, which must be within it.
    #[inline(always)]
    pub const fn behind(&self, offset: usize) -> Frame<'_> {
        Frame { start: self.start + offset, end: self.end, bytes: PhantomData }
    }

    /// The header at `offset`; `None` if the frame ends before the header does.
    #[inline(always)]
    pub fn header<T: Header>(&self, offset: usize) -> Option<&T> {
        // SAFETY: `locate` has shown that the bytes are in the frame; `T: Header` may lie anywhere; the frame is
        // borrowed for as long as the reference lives.
        self.locate::<T>(offset).map(|at| unsafe { &*at })
    }

    /// The header at `offset`, mutable; `None` if the frame ends before the header does.
    #[inline(always)]
    pub fn header_mut<T: Header>(&mut self, offset: usize) -> Option<&mut T> {
        // SAFETY: as in `header`; the frame is borrowed mutably, so this is the only reference.
        self.locate::<T>(offset).map(|at| unsafe { &mut *at })
    }

    /// Address of the header at `offset`. The comparison has the shape `start + offset + SIZE > end` on purpose: the
    /// verifier learns a bound from it, and none from comparisons of lengths.
    #[inline(always)]
    fn locate<T: Header>(&self, offset: usize) -> Option<*mut T> {
        const { assert!(align_of::<T>() == 1) };
        let offset = pin(offset, offset);
        if offset > Self::MAX_OFFSET {
            return None;
        }
        let at = pin(self.start + offset, offset);
        if at + size_of::<T>() > self.end {
            return None;
        }
        Some(at as *mut T)
    }
}

/// A frame that can grow and shrink at both ends.
pub trait FrameBuffer {
    /// The frame as it is now.
    fn frame(&mut self) -> Frame<'_>;
    /// Adds `bytes` bytes of unknown content before the frame. `false` if there is no room; nothing has changed then.
    fn grow(&mut self, bytes: usize) -> bool;
    /// Removes the first `bytes` bytes of a longer frame. `false` if that fails; nothing has changed then.
    fn shrink(&mut self, bytes: usize) -> bool;
    /// Keeps the first `bytes` bytes of a longer frame, and removes the rest. `false` if that fails; nothing has
    /// changed then.
    fn truncate(&mut self, bytes: usize) -> bool;
    /// Gives the frame this length, by bytes at its end. `false` if that fails; nothing has changed then.
    fn resize(&mut self, bytes: usize) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_beyond_the_end_of_the_frame_is_none() {
        let mut bytes = [1, 2, 3, 4, 5, 6];
        let mut frame = Frame::from_slice(&mut bytes);
        assert_eq!(frame.header::<[u8; 4]>(2), Some(&[3, 4, 5, 6]));
        assert_eq!(frame.header::<[u8; 4]>(3), None);
        assert_eq!(frame.header::<[u8; 1]>(usize::MAX), None);
        frame.header_mut::<[u8; 2]>(0).unwrap()[1] = 9;
        assert_eq!(bytes[1], 9);
    }
}
