//! A service manager: it receives the daemon's messages, as in sd_notify(3).

use std::{
    fs::{self, Permissions},
    os::unix::{fs::PermissionsExt as _, net::UnixDatagram},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::World;

/// How long a message may take; an emulated processor needs most of it.
const LIMIT: Duration = Duration::from_secs(120);

/// The socket to which the daemon sends its messages.
#[derive(Debug)]
pub struct ServiceManager(UnixDatagram);

impl World {
    /// Gives the daemon a service manager, whose watchdog has this interval, from its next start on.
    ///
    /// # Errors
    /// The socket cannot be bound.
    pub fn service_manager(&mut self, watchdog: Duration) -> Result<ServiceManager> {
        let path = self.directory.path().join("notify.sock");
        let socket = UnixDatagram::bind(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o666))?;
        self.programs.environment =
            vec![("NOTIFY_SOCKET", path.into()), ("WATCHDOG_USEC", watchdog.as_micros().to_string().into())];
        Ok(ServiceManager(socket))
    }
}

impl ServiceManager {
    /// Waits for a message that has a line with this beginning. Returns the message; other ones are passed over.
    ///
    /// # Errors
    /// None arrives within 120 s.
    pub fn wait_for(&self, beginning: &str) -> Result<String> {
        let (deadline, mut passed) = (Instant::now() + LIMIT, Vec::new());
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "no {beginning}: {passed:?}");
            let message = self.next(left).with_context(|| format!("no {beginning}: {passed:?}"))?;
            if message.lines().any(|line| line.starts_with(beginning)) {
                return Ok(message);
            }
            passed.push(message);
        }
    }

    /// The next message.
    ///
    /// # Errors
    /// None arrives within this time.
    pub fn next(&self, within: Duration) -> Result<String> {
        let mut buffer = [0; 4096];
        self.0.set_read_timeout(Some(within))?;
        let length = self.0.recv(&mut buffer)?;
        Ok(String::from_utf8(buffer[..length].to_vec())?)
    }

    /// Takes all messages that have arrived.
    ///
    /// # Errors
    /// The socket cannot be read.
    pub fn drain(&self) -> Result<Vec<String>> {
        let mut all = Vec::new();
        while let Ok(message) = self.next(Duration::from_millis(1)) {
            all.push(message);
        }
        Ok(all)
    }
}
