//! Changes of overrides as the API's documents, and these in words.

use crate::server::override_keys::{admin_state, admin_state_of};
use slb_api::changes::{ApiMissing, ApiOverrideChange, ApiOverrideEffect};
use slb_control::{
    model::OverrideKey,
    overrides::{NamedServer, ServerOverride},
};

/// The document of what happens to an override. `named` is the server as users name it; `missing` is what the
/// configuration does not have, if it is not set.
pub fn override_change(
    key: &OverrideKey,
    named: &NamedServer,
    setting: ServerOverride,
    effect: ApiOverrideEffect,
    missing: Option<ApiMissing>,
) -> ApiOverrideChange {
    let (server_group, load_balancer) = match named {
        OverrideKey::Group { group, .. } => (Some(group.clone()), None),
        OverrideKey::Default { load_balancer, .. } => (None, Some(load_balancer.clone())),
    };
    let (server_group_id, load_balancer_id) = match key {
        OverrideKey::Group { group, .. } => (Some(group.to_string()), None),
        OverrideKey::Default { load_balancer, .. } => (None, Some(load_balancer.to_string())),
    };
    let ServerOverride { weight, state } = setting;
    ApiOverrideChange {
        server_group,
        server_group_id,
        load_balancer,
        load_balancer_id,
        server: key.server(),
        weight,
        state: state.map(admin_state),
        effect,
        missing,
    }
}

/// Describes what happens to an override.
pub fn in_words(change: &ApiOverrideChange) -> String {
    let ApiOverrideChange {
        server_group,
        server_group_id,
        load_balancer,
        load_balancer_id,
        server,
        weight,
        state,
        effect,
        missing,
    } = change;
    let (group, kind, id) = match (server_group, load_balancer) {
        (Some(group), _) => (format!("server group {group}"), "server group", server_group_id),
        (None, balancer) => {
            let balancer = balancer.as_deref().unwrap_or("?");
            (format!("default group of {balancer}"), "load balancer", load_balancer_id)
        }
    };
    let setting = ServerOverride { weight: *weight, state: state.map(admin_state_of) };
    let why = match (missing, id) {
        (Some(ApiMissing::Group), Some(id)) => {
            format!(
                ": it is not configured any more; a {kind} that was renamed keeps it with `id = \"{id}\"`"
            )
        }
        (Some(_), _) => ": it is not configured any more".to_owned(),
        (None, _) => String::new(),
    };
    let what = match effect {
        ApiOverrideEffect::Set => setting.to_string(),
        ApiOverrideEffect::Ends => format!("what was set for it ends ({setting}){why}"),
        ApiOverrideEffect::DoesNotApply => format!("what was set for it does not apply ({setting}){why}"),
    };
    format!("{group}: server {server}: {what}")
}
