//! Messages to the service manager: sd_notify(3). Without `NOTIFY_SOCKET` nothing is sent.
//!
//! The event loop alone makes them, the watchdog's too: a loop that is stuck makes none, and systemd restarts the
//! daemon. Forwarding goes on meanwhile.

use std::{env, io, sync::mpsc, thread, time::Duration};

use sd_notify::NotifyState;
use tokio::time::Instant;

/// Messages in each interval of the watchdog, so that one late message does not end the daemon.
const MESSAGES_PER_INTERVAL: u32 = 4;
/// Messages that wait for the service manager. More are dropped.
const QUEUE: usize = 64;
/// Longest wait for the last messages at the end.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// What the service manager knows.
#[derive(Debug)]
pub(super) struct ServiceManager {
    /// The longest time between two messages of the watchdog, and when the last one was sent. `None` without watchdog.
    watchdog: Option<(Duration, Instant)>,
    status: String,
    is_reloading: bool,
    sender: Option<Sender>,
}

impl ServiceManager {
    /// Sends nothing yet. The environment says whether there is a service manager, and a watchdog.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub(super) fn new(now: Instant) -> io::Result<Self> {
        let watchdog = sd_notify::watchdog_enabled().map(|interval| (interval / MESSAGES_PER_INTERVAL, now));
        Ok(Self { watchdog, status: String::new(), is_reloading: false, sender: Sender::start()? })
    }

    /// The start or a reload is complete.
    pub(super) fn on_ready(&mut self) {
        self.is_reloading = false;
        self.send(&[NotifyState::Ready]);
    }

    /// A reload begins. [`Self::on_ready`] follows, also if it is refused.
    pub(super) fn on_reload(&mut self) {
        if self.is_reloading {
            return;
        }
        self.is_reloading = true;
        // systemd accepts the message from version 253 on only with the time.
        match NotifyState::monotonic_usec_now() {
            Ok(time) => self.send(&[NotifyState::Reloading, time]),
            Err(error) => tracing::warn!(%error, "cannot read the clock for the service manager"),
        }
    }

    /// Whether a reload has begun and not ended.
    pub(super) const fn is_reloading(&self) -> bool {
        self.is_reloading
    }

    /// The daemon stops.
    pub(super) fn on_stop(&mut self) {
        self.send(&[NotifyState::Stopping]);
    }

    /// What `systemctl status` shows.
    pub(super) fn set_status(&mut self, status: String) {
        if status != self.status {
            self.send(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    /// The event loop runs.
    pub(super) fn on_alive(&mut self, now: Instant) {
        let Some((interval, last)) = &mut self.watchdog else { return };
        if now.duration_since(*last) >= *interval {
            *last = now;
            self.send(&[NotifyState::Watchdog]);
        }
    }

    fn send(&mut self, state: &[NotifyState<'_>]) {
        let Some(sender) = &self.sender else { return };
        let message = state.iter().map(|state| format!("{state}\n")).collect();
        if sender.messages.try_send(message).is_err() {
            tracing::debug!("a message to the service manager is dropped: it does not read");
        }
    }
}

/// The thread that sends: a service manager that does not read must not block the event loop.
#[derive(Debug)]
struct Sender {
    messages: mpsc::SyncSender<String>,
    /// Ends with the thread.
    end: mpsc::Receiver<()>,
}

impl Sender {
    /// Starts the thread, if there is a service manager.
    fn start() -> io::Result<Option<Self>> {
        if env::var_os("NOTIFY_SOCKET").is_none() {
            return Ok(None);
        }
        let (messages, queue) = mpsc::sync_channel::<String>(QUEUE);
        let (ends, end) = mpsc::channel::<()>();
        thread::Builder::new().name("slb-notify".to_owned()).spawn(move || {
            let _ends = ends;
            let mut has_failed = false;
            for message in queue {
                let sent = sd_notify::notify(&[NotifyState::Custom(message.trim_end())]);
                if let Err(error) = &sent
                    && !has_failed
                {
                    tracing::warn!(%error, "the service manager cannot be notified");
                }
                has_failed = sent.is_err();
            }
        })?;
        Ok(Some(Self { messages, end }))
    }
}

impl Drop for ServiceManager {
    /// Waits until the last messages are sent.
    fn drop(&mut self) {
        if let Some(Sender { messages, end }) = self.sender.take() {
            drop(messages);
            // Nothing is ever received: this returns when the thread ends, or after the time.
            let _ = end.recv_timeout(END_TIMEOUT);
        }
    }
}
