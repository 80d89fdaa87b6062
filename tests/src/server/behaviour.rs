//! How servers answer while they run: well, or in a way that a health check is to find.

use std::{
    sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    time::Duration,
};

/// How the servers of a backend answer.
#[derive(Debug)]
pub struct Behaviour {
    status: AtomicU16,
    garbles: AtomicBool,
    delay: AtomicU64,
    repeats: AtomicBool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self { status: 200.into(), garbles: false.into(), delay: 0.into(), repeats: false.into() }
    }
}

impl Behaviour {
    /// Status of answers to requests for `/healthz`.
    pub fn status(&self) -> u16 {
        self.status.load(Ordering::Relaxed)
    }

    /// Sets the status of answers to requests for `/healthz`.
    pub fn set_status(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// Time until requests for `/healthz` are answered.
    pub fn delay(&self) -> Duration {
        Duration::from_millis(self.delay.load(Ordering::Relaxed))
    }

    /// Sets the time until requests for `/healthz` are answered.
    pub fn set_delay(&self, delay: Duration) {
        self.delay.store(delay.as_millis() as u64, Ordering::Relaxed);
    }

    /// Whether datagrams are answered with something else than what they hold.
    pub fn garbles(&self) -> bool {
        self.garbles.load(Ordering::Relaxed)
    }

    /// Has datagrams answered with something else than what they hold, or well again.
    pub fn set_garbles(&self, garbles: bool) {
        self.garbles.store(garbles, Ordering::Relaxed);
    }

    /// Whether datagrams are answered again and again.
    pub fn repeats(&self) -> bool {
        self.repeats.load(Ordering::Relaxed)
    }

    /// Has each datagram answered again and again while this holds, as a server that streams to a silent client does.
    pub fn set_repeats(&self, repeats: bool) {
        self.repeats.store(repeats, Ordering::Relaxed);
    }
}
