//! How servers answer at run time: correctly, or with a fault that a health check must detect.

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
    /// Status of responses for `/healthz`.
    pub fn status(&self) -> u16 {
        self.status.load(Ordering::Relaxed)
    }

    /// Sets the status of responses for `/healthz`.
    pub fn set_status(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// Delay of responses for `/healthz`.
    pub fn delay(&self) -> Duration {
        Duration::from_millis(self.delay.load(Ordering::Relaxed))
    }

    /// Sets the delay of responses for `/healthz`.
    pub fn set_delay(&self, delay: Duration) {
        self.delay.store(delay.as_millis() as u64, Ordering::Relaxed);
    }

    /// Whether datagrams are answered with wrong content.
    pub fn garbles(&self) -> bool {
        self.garbles.load(Ordering::Relaxed)
    }

    /// Sets whether datagrams are answered with wrong content.
    pub fn set_garbles(&self, garbles: bool) {
        self.garbles.store(garbles, Ordering::Relaxed);
    }

    /// Whether answers to datagrams repeat.
    pub fn repeats(&self) -> bool {
        self.repeats.load(Ordering::Relaxed)
    }

    /// Sets whether answers to datagrams repeat, as of a server that streams to a silent client.
    pub fn set_repeats(&self, repeats: bool) {
        self.repeats.store(repeats, Ordering::Relaxed);
    }
}
