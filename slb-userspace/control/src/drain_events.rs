//! Drain events for the log: when a server's drain begins and how it ends. Pure.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use slb_common::abi::{Handle, backend::Backend, unpad_name};

use crate::dataplane::state::{MapState, backend_address};

/// A drain has begun or ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainEvent {
    /// The server.
    pub server: SocketAddr,
    /// The listeners of the server's table, as (load balancer, listener).
    pub listeners: Vec<(String, String)>,
    /// Name of the listeners' server group; `None` for the default server group.
    pub server_group: Option<String>,
    /// Whether the configuration no longer names the server.
    pub is_removed: bool,
    /// What has changed.
    pub change: DrainChange,
}

/// A change of a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainChange {
    /// The drain began, with this time until the deadline.
    Began(Duration),
    /// The deadline passed after this time, and the remaining connections are reset. The time is `None` if the drain
    /// began in an earlier run of the daemon.
    DeadlinePassed(Option<Duration>),
    /// The server takes new flows again before the deadline, after this time, if known.
    Ended(Option<Duration>),
}

/// The present drains, by server; `None` before the first call of [`Self::follow`].
#[derive(Debug, Default)]
pub struct DrainTracker(Option<BTreeMap<Handle, ActiveDrain>>);

#[derive(Debug, Clone, Copy)]
struct ActiveDrain {
    /// Start as time since boot; `None` if an earlier run of the daemon began the drain.
    since: Option<Duration>,
    is_terminating: bool,
}

impl DrainTracker {
    /// Updates the drains to those in `actual` at `now`, the time since boot, and returns the events. The first call
    /// returns none.
    pub fn follow(&mut self, actual: &MapState, now: Duration) -> Vec<DrainEvent> {
        let is_first = self.0.is_none();
        let mut before = self.0.take().unwrap_or_default();
        let mut events = Vec::new();
        let mut after = BTreeMap::new();
        for backend in actual.backends.values() {
            let known = before.remove(&backend.handle);
            let is_terminating = backend.flags & Backend::TERMINATING != 0;
            let deadline = backend.drain_deadline();
            let change = match known {
                None if deadline.is_none() => continue,
                Some(known) if deadline.is_none() => (!known.is_terminating)
                    .then(|| DrainChange::Ended(known.since.map(|since| now.saturating_sub(since)))),
                // Without `drain_timeout` the removal terminates the server at once, and has a log line of its own.
                None if is_first || is_terminating => None,
                // Rounds `now` down too, because deadlines are whole seconds.
                None => deadline.map(|deadline| {
                    let now = Duration::from_secs(now.as_secs());
                    DrainChange::Began(deadline.since_boot().saturating_sub(now))
                }),
                Some(known) => (is_terminating && !known.is_terminating)
                    .then(|| DrainChange::DeadlinePassed(known.since.map(|since| now.saturating_sub(since)))),
            };
            if deadline.is_some() {
                let since = known.map_or((!is_first).then_some(now), |known| known.since);
                after.insert(backend.handle, ActiveDrain { since, is_terminating });
            }
            events.extend(change.map(|change| event(actual, backend, change)));
        }
        self.0 = Some(after);
        events
    }
}

fn event(actual: &MapState, backend: &Backend, change: DrainChange) -> DrainEvent {
    let name = |padded| unpad_name(padded).unwrap_or("?").to_owned();
    let services = || actual.services.values().filter(|service| service.table() == backend.table());
    let mut listeners: Vec<_> =
        services().map(|service| (name(&service.load_balancer), name(&service.listener))).collect();
    listeners.sort();
    listeners.dedup();
    DrainEvent {
        server: backend_address(backend),
        listeners,
        server_group: services().map(|service| name(&service.group)).find(|group| !group.is_empty()),
        is_removed: backend.flags & Backend::REMOVED != 0,
        change,
    }
}

#[cfg(test)]
mod tests {
    use slb_common::abi::{
        ids::{BackendId, ServiceId},
        pad_name,
        service::Service,
    };

    use super::*;
    use crate::dataplane::state::to_address;

    fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    fn actual(backends: &[Backend]) -> MapState {
        let mut state = MapState::default();
        let (load_balancer, group) = (pad_name("shop"), pad_name("web"));
        let service = Service {
            lookup_table: 4,
            load_balancer,
            listener: pad_name("www"),
            group,
            ..Service::default()
        };
        state.services.insert(ServiceId::new(1), service);
        for (id, backend) in (1..).zip(backends) {
            let address = to_address([10, 0, 0, 1].into());
            let handle = Handle::new(id, 1);
            state
                .backends
                .insert(BackendId::new(id), Backend { address, lookup_table: 4, handle, ..*backend });
        }
        state
    }

    fn backend(flags: u8, deadline: u32) -> Backend {
        Backend { flags, deadline, ..Backend::default() }
    }

    const SERVES: u8 = Backend::ALIVE | Backend::ACCEPTS_NEW;

    /// The changes that these entries of one server cause, one second apart.
    fn played(entries: &[Backend]) -> Vec<DrainChange> {
        let mut drains = DrainTracker::default();
        let changes = (1000..).zip(entries).flat_map(|(second, entry)| {
            let events = drains.follow(&actual(&[*entry]), at(second));
            events.into_iter().map(|event| event.change)
        });
        changes.collect()
    }

    #[test]
    fn drain_events_report_the_start_once_and_the_deadline() {
        let (serves, drains) = (backend(SERVES, 0), backend(Backend::ALIVE, 1003));
        let over = backend(Backend::TERMINATING, 1003);
        let expected = [DrainChange::Began(at(2)), DrainChange::DeadlinePassed(Some(at(2)))];
        assert_eq!(played(&[serves, drains, drains, over, over]), expected);
    }

    #[test]
    fn server_that_returns_ends_its_drain() {
        let (serves, drains) = (backend(SERVES, 0), backend(Backend::ALIVE, 1060));
        let expected = [DrainChange::Began(at(59)), DrainChange::Ended(Some(at(1)))];
        assert_eq!(played(&[serves, drains, serves, serves]), expected);
        let over = backend(Backend::TERMINATING, 1002);
        assert_eq!(
            played(&[drains, over, serves]),
            [DrainChange::DeadlinePassed(None)],
            "it has ended before"
        );
    }

    #[test]
    fn drain_of_an_earlier_run_has_no_known_start() {
        let (drains, over) = (backend(Backend::ALIVE, 1001), backend(Backend::TERMINATING, 1001));
        assert_eq!(played(&[drains, over]), [DrainChange::DeadlinePassed(None)]);
    }

    #[test]
    fn server_removed_without_drain_causes_no_drain_event() {
        let removed = backend(Backend::TERMINATING | Backend::REMOVED, 1001);
        assert_eq!(played(&[backend(SERVES, 0), removed, removed]), []);
    }

    #[test]
    fn drain_event_names_the_users_of_the_server() {
        let mut drains = DrainTracker::default();
        drains.follow(&actual(&[backend(SERVES, 0)]), at(1000));
        let removed = backend(Backend::ALIVE | Backend::REMOVED, 1060);
        let events = drains.follow(&actual(&[removed]), at(1000));
        let [event] = &events[..] else { panic!("{events:?}") };
        assert_eq!(event.listeners, [("shop".to_owned(), "www".to_owned())]);
        assert_eq!((event.server_group.as_deref(), event.is_removed), (Some("web"), true));
        assert_eq!(event.server, "10.0.0.1:0".parse().unwrap());
    }
}
