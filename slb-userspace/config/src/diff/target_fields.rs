//! Settings that name a listener's servers, as values.

use super::value::{Fields, Value, duration, number, text};
use crate::model::ListenerTarget;

/// One of the four ways to name servers; the settings of the others are absent.
pub(super) fn target(target: &ListenerTarget) -> Fields {
    let Target {
        server_group,
        primary_secondary_group,
        primary,
        secondary,
        failover_threshold,
        failback_after,
        default_group_port,
    } = settings(target);
    vec![
        ("server_group", server_group),
        ("primary_secondary_group", primary_secondary_group),
        ("primary", primary),
        ("secondary", secondary),
        ("failover_threshold", failover_threshold),
        ("failback_after", failback_after),
        ("default_group_port", default_group_port),
    ]
}

#[derive(Default)]
struct Target {
    server_group: Value,
    primary_secondary_group: Value,
    primary: Value,
    secondary: Value,
    failover_threshold: Value,
    failback_after: Value,
    default_group_port: Value,
}

fn settings(target: &ListenerTarget) -> Target {
    match target {
        ListenerTarget::DefaultGroup { default_group_port } => {
            Target { default_group_port: number(*default_group_port), ..Target::default() }
        }
        ListenerTarget::ServerGroup(name) => Target { server_group: text(name), ..Target::default() },
        ListenerTarget::PrimarySecondaryGroup(name) => {
            Target { primary_secondary_group: text(name), ..Target::default() }
        }
        ListenerTarget::PrimarySecondary { primary, secondary, failover_threshold, failback_after } => {
            Target {
                primary: text(primary),
                secondary: text(secondary),
                failover_threshold: number(*failover_threshold),
                failback_after: duration(failback_after),
                ..Target::default()
            }
        }
    }
}
