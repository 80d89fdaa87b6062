//! Servers of the configuration as the API's documents name them.

use anyhow::{Context as _, Result, bail};
use slb_api::types::{self, ApiOverride, Requester};
use slb_control::{
    model::{AdminState, OverrideKey},
    overrides::{NamedServer, ServerOverride},
};

/// The server that an override applies to.
///
/// # Errors
/// Its address is invalid, or it names no group.
pub fn named_server_of(record: &ApiOverride) -> Result<NamedServer> {
    named_server(record.server_group.as_deref(), record.load_balancer.as_deref(), &record.server)
}

/// The API's document of an override.
pub fn api_override(server: &NamedServer, setting: ServerOverride, by: Requester, at: String) -> ApiOverride {
    let (server_group, load_balancer) = match server {
        OverrideKey::Group { group, .. } => (Some(group.clone()), None),
        OverrideKey::Default { load_balancer, .. } => (None, Some(load_balancer.clone())),
    };
    let ServerOverride { weight, state } = setting;
    let (server, state) = (server.server(), state.map(admin_state));
    ApiOverride { server_group, load_balancer, server, weight, state, by, at }
}

/// A server by its address and the name of its group.
pub fn named_server(
    server_group: Option<&str>,
    load_balancer: Option<&str>,
    server: &str,
) -> Result<NamedServer> {
    match (server_group, load_balancer) {
        (Some(group), None) => {
            let parsed = server.parse();
            let server = parsed.with_context(|| {
                format!(
                    "server {server}: address and port are expected, as in 10.0.0.11:8080 or [fd00::11]:8080"
                )
            })?;
            Ok(OverrideKey::Group { group: group.to_owned(), server })
        }
        (None, Some(balancer)) => {
            let parsed = server.parse();
            let server = parsed.with_context(|| {
                format!("server {server}: an address without a port is expected: those of a default server group have none")
            })?;
            Ok(OverrideKey::Default { load_balancer: balancer.to_owned(), server })
        }
        _ => bail!("server {server}: either a server group or a load balancer must be named"),
    }
}

/// The API's word for an admin state.
pub fn admin_state(state: AdminState) -> types::AdminState {
    match state {
        AdminState::Draining => types::AdminState::Draining,
        AdminState::Disabled => types::AdminState::Disabled,
    }
}

/// The admin state that the API's word stands for.
pub fn admin_state_of(state: types::AdminState) -> AdminState {
    match state {
        types::AdminState::Draining => AdminState::Draining,
        types::AdminState::Disabled => AdminState::Disabled,
    }
}
