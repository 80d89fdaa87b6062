//! Interrupts a thread before one of its accesses to words. For tests of writers that stall, or are killed, at any
//! point.

use std::{
    boxed::Box,
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

type Interrupt = (usize, Box<dyn FnOnce()>);

std::thread_local! {
    /// Accesses until the interrupt, and the function that it runs.
    static NEXT: RefCell<Option<Interrupt>> = const { RefCell::new(None) };
}

/// Runs before each access.
pub(super) fn before_access() {
    let due = NEXT.with_borrow_mut(|next| match next {
        Some((0, _)) => next.take(),
        Some((left, _)) => {
            *left -= 1;
            None
        }
        None => None,
    });
    if let Some((_, meanwhile)) = due {
        meanwhile();
    }
}

/// Runs `writer`, and `meanwhile` before access number `at` of it, counted from 0. Returns whether `writer` has that
/// access.
pub(crate) fn stalled(at: usize, meanwhile: impl FnOnce() + 'static, writer: impl FnOnce()) -> bool {
    NEXT.set(Some((at, Box::new(meanwhile))));
    writer();
    NEXT.take().is_none()
}

/// Runs `writer` up to access number `at`, counted from 0. Returns whether `writer` has that access.
pub(crate) fn killed(at: usize, writer: impl FnOnce()) -> bool {
    struct Killed;
    NEXT.set(Some((at, Box::new(|| resume_unwind(Box::new(Killed))))));
    let ended = catch_unwind(AssertUnwindSafe(writer));
    NEXT.take();
    match ended {
        Ok(()) => false,
        Err(cause) if cause.is::<Killed>() => true,
        Err(cause) => resume_unwind(cause),
    }
}
