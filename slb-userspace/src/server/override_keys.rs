//! Servers of the configuration as the API's documents name them.

use anyhow::{Context as _, Result, bail};
use slb_api::types::{self, ApiOverride};
use slb_control::overrides::{AdminState, OverrideKey};

/// The configured server that an override applies to.
///
/// # Errors
/// Its address is invalid, or it names no group.
pub fn override_key_of(record: &ApiOverride) -> Result<OverrideKey> {
    override_key(record.server_group.as_deref(), record.load_balancer.as_deref(), &record.server)
}

/// The same override for another server.
#[must_use]
pub fn at_override_key(record: ApiOverride, override_key: &OverrideKey) -> ApiOverride {
    let (server_group, load_balancer) = match override_key {
        OverrideKey::Group { group, .. } => (Some(group.clone()), None),
        OverrideKey::Default { load_balancer, .. } => (None, Some(load_balancer.clone())),
    };
    ApiOverride { server_group, load_balancer, server: override_key.server(), ..record }
}

/// Identifies a configured server by its group and address.
pub fn override_key(
    server_group: Option<&str>,
    load_balancer: Option<&str>,
    server: &str,
) -> Result<OverrideKey> {
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
