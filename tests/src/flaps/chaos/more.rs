//! Additional listeners: one with two sides, one with session persistence, and one with a drain timeout.

use std::time::Duration;

use crate::{
    client::ListenerTerms,
    config::{Group, Listener, Plan, Target},
    flaps::model::Sides,
    server::Service,
};

/// Server groups of the two sides. With fewer than the threshold of primaries out of service, at least one of them
/// serves.
pub(super) const SIDES: [&str; 2] = ["first", "second"];
const PRIMARIES: [&str; 3] = ["b1", "b2", "b3"];
const THRESHOLD: u8 = 2;

/// The pool of both sides.
pub(super) const BOTH: &str = "sides";

const SIDED: u16 = 1001;
const STICKY: u16 = 1002;
const DRAINED: u16 = 1003;
const DRAIN: Duration = Duration::from_secs(10);
/// The same, as in the file.
const DRAIN_TIMEOUT: &str = "10s";
/// Slots of each side's table; another number than the default.
const TABLE_SIZE: u32 = 1021;

/// Service, port and settings of each listener.
pub(super) const LISTENERS: [(Service, u16, ListenerTerms); 3] = [
    (Service::Lines, SIDED, ListenerTerms { pool: BOTH, drain: None, persists: false }),
    (Service::Http, STICKY, ListenerTerms { pool: "http", drain: None, persists: true }),
    (Service::Lines, DRAINED, ListenerTerms { pool: "lines", drain: Some(DRAIN), persists: false }),
];

/// The side of a server.
pub(super) fn side(server: &str) -> &'static str {
    SIDES[usize::from(!PRIMARIES.contains(&server))]
}

/// The sides, for the model.
pub(super) fn sides() -> Sides {
    Sides { pool: BOTH, primaries: PRIMARIES.map(str::to_owned).into(), threshold: THRESHOLD.into() }
}

/// Adds the listeners to a plan, with its current servers.
pub(super) fn add(plan: &mut Plan) {
    let port = Service::Lines.backend_port();
    let [primary, secondary] = SIDES.map(str::to_owned);
    let sides = Target::Groups { primary, secondary, threshold: THRESHOLD, failback_after: None };
    plan.additional_listeners = vec![
        Listener::new("sided", "tcp", SIDED, sides),
        Listener {
            session_persistence: Some("1h"),
            ..Listener::new("sticky", "tcp", STICKY, Target::Group("http".to_owned()))
        },
        Listener {
            drain_timeout: Some(DRAIN_TIMEOUT),
            ..Listener::new("drained", "tcp", DRAINED, Target::DefaultGroup(port))
        },
    ];
    for name in SIDES {
        let servers = plan.servers.iter().filter(|server| side(&server.name) == name);
        let servers = servers.flat_map(|server| server.entries(port)).collect();
        let name = name.to_owned();
        plan.put_group(Group { name, table_size: Some(TABLE_SIZE), servers, ..Group::default() });
    }
}
