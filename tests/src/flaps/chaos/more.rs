//! Additional listeners: one with two sides, one with session persistence, and one with a drain timeout.

use std::{fmt::Write as _, time::Duration};

use crate::{
    client::ListenerTerms,
    config::{Plan, health_check},
    flaps::model::Sides,
    server::Service,
};

/// Server groups of the two sides. With fewer than the threshold of primaries out of service, at least one of them
/// serves.
pub(super) const SIDES: [&str; 2] = ["first", "second"];
const PRIMARIES: [&str; 3] = ["b1", "b2", "b3"];
const THRESHOLD: usize = 2;

/// The pool of both sides.
pub(super) const BOTH: &str = "sides";

const SIDED: u16 = 1001;
const STICKY: u16 = 1002;
const DRAINED: u16 = 1003;
const DRAIN: Duration = Duration::from_secs(10);

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
    Sides { pool: BOTH, primaries: PRIMARIES.map(str::to_owned).into(), threshold: THRESHOLD }
}

/// Adds the listeners to a plan, with its current servers.
pub(super) fn add(plan: &mut Plan) {
    let mut text = String::new();
    let port = Service::Lines.backend_port();
    let check = health_check("kind = \"tcp\"");
    let [first, second] = SIDES;
    for (name, at, more) in [
        (
            "sided",
            SIDED,
            format!("primary = \"{first}\"\nsecondary = \"{second}\"\nfailover_threshold = {THRESHOLD}"),
        ),
        ("sticky", STICKY, "server_group = \"http\"\nsession_persistence = \"1h\"".to_owned()),
        (
            "drained",
            DRAINED,
            format!("default_group_port = {port}\ndrain_timeout = \"{}s\"", DRAIN.as_secs()),
        ),
    ] {
        let _ = write!(
            text,
            "\n[[load_balancer.listener]]\nname = \"{name}\"\nprotocol = \"tcp\"\nport = {at}\nmode = \"nat\"\n{more}\n{check}"
        );
    }
    for group in SIDES {
        let _ = write!(text, "\n[[server_group]]\nname = \"{group}\"\ntable_size = 1021\nservers = [\n");
        for server in plan.servers.iter().filter(|server| side(&server.name) == group) {
            for address in &server.addresses {
                let weight = server.weight;
                let _ = writeln!(text, "  {{ address = \"{address}\", port = {port}, weight = {weight} }},");
            }
        }
        text.push_str("]\n");
    }
    plan.changes.clear();
    plan.append(&text);
}
