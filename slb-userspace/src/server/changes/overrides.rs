//! Changes of overrides as the API's documents, and these in words.

use crate::server::override_keys::{admin_state, admin_state_of};
use slb_api::changes::{ApiMissing, ApiOverrideChange, ApiOverrideEffect};
use slb_control::{
    model::OverrideKey,
    overrides::{NamedServer, ServerOverride},
};

/// The document of what happens to an override. `named` is the server as users name it.
pub fn override_change(
    key: &OverrideKey,
    named: &NamedServer,
    setting: ServerOverride,
    effect: ApiOverrideEffect,
) -> ApiOverrideChange {
    let (server_group, load_balancer) = match named {
        OverrideKey::Group { group, .. } => (Some(group.clone()), None),
        OverrideKey::Default { load_balancer, .. } => (None, Some(load_balancer.clone())),
    };
    let (OverrideKey::Group { group: id, .. } | OverrideKey::Default { load_balancer: id, .. }) = key;
    let ServerOverride { weight, state } = setting;
    ApiOverrideChange {
        server_group,
        load_balancer,
        id: id.to_string(),
        server: key.server(),
        weight,
        state: state.map(admin_state),
        effect,
    }
}

/// Describes what happens to an override.
pub fn in_words(change: &ApiOverrideChange) -> String {
    let ApiOverrideChange { server_group, load_balancer, id, server, weight, state, effect } = change;
    let group = match (server_group, load_balancer) {
        (Some(group), _) => format!("server group {group}"),
        (None, balancer) => format!("default group of {}", balancer.as_deref().unwrap_or("?")),
    };
    let setting = ServerOverride { weight: *weight, state: state.map(admin_state_of) };
    let why = |missing: &ApiMissing| {
        let why = "it is not configured any more";
        let kind = if server_group.is_some() { "server group" } else { "load balancer" };
        match missing {
            ApiMissing::Server => why.to_owned(),
            ApiMissing::Group => format!("{why}; a {kind} that was renamed keeps it with `id = \"{id}\"`"),
        }
    };
    let what = match effect {
        ApiOverrideEffect::Set => setting.to_string(),
        ApiOverrideEffect::Ends(missing) => {
            format!("what was set for it ends ({setting}): {}", why(missing))
        }
        ApiOverrideEffect::DoesNotApply(missing) => {
            format!("what was set for it does not apply ({setting}): {}", why(missing))
        }
    };
    format!("{group}: server {server}: {what}")
}
