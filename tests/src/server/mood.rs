//! How servers answer while they run: well, or in a way that a health check is to find.

use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

/// How the servers of a backend answer.
#[derive(Debug)]
pub struct Mood {
    status: AtomicU16,
    garbles: AtomicBool,
}

impl Default for Mood {
    fn default() -> Self {
        Self { status: 200.into(), garbles: false.into() }
    }
}

impl Mood {
    /// Status of answers to requests for `/healthz`.
    pub fn status(&self) -> u16 {
        self.status.load(Ordering::Relaxed)
    }

    /// Sets the status of answers to requests for `/healthz`.
    pub fn set_status(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// Whether datagrams are answered with something else than what they hold.
    pub fn garbles(&self) -> bool {
        self.garbles.load(Ordering::Relaxed)
    }

    /// Has datagrams answered with something else than what they hold, or well again.
    pub fn set_garbles(&self, garbles: bool) {
        self.garbles.store(garbles, Ordering::Relaxed);
    }
}
