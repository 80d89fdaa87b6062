//! Random limits of listeners. Most have none.

use crate::{choices::Choices, world::Listener};

/// A listener with limits that single frames reach, or that none does. Each unit of a rate takes whole nanoseconds.
pub(super) fn with_limits(choices: &mut impl Choices, listener: Listener) -> Listener {
    let bandwidth = choices.rarely(5).then(|| choices.pick(&[1, 8, 40, 100, 1000, 1_000_000]));
    let new_connections = choices.rarely(5).then(|| choices.pick(&[1, 5, 10, 50, 1_000_000]));
    // The flows of such a listener are tracked.
    let track = listener.track || new_connections.is_some();
    Listener { bandwidth, new_connections, track, ..listener }
}
