//! The configuration as written in the file: all fields are optional, all values have positions.
//!
//! Only unknown fields and values of the wrong shape are refused here. `parse` checks everything else, so that it can
//! report all problems at once.

use serde::{Deserialize, de::IgnoredAny};
use toml::Spanned;

pub(super) use value::{Fields, List, Scalar, ScalarOr};

mod value;

/// A value with its position.
pub(super) type Value = Spanned<Scalar>;

/// A table with its position: that of its header, or of the braces.
pub(super) type RawTable<T> = Spanned<Fields<T>>;

/// A whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDocument {
    pub(super) daemon: Option<RawTable<RawDaemon>>,
    #[serde(default)]
    pub(super) load_balancer: List<RawTable<RawLoadBalancer>>,
    #[serde(default)]
    pub(super) server_group: List<RawTable<RawServerGroup>>,
    #[serde(default)]
    pub(super) primary_secondary_group: List<RawTable<RawPrimarySecondaryGroup>>,
    #[serde(default)]
    pub(super) access_list: List<RawTable<RawAccessList>>,
}

/// The document of the API.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawApiDocument {
    /// Read by the daemon alone.
    #[serde(rename = "document")]
    _document: Option<IgnoredAny>,
    #[serde(default)]
    load_balancer: List<RawTable<RawLoadBalancer>>,
    #[serde(default)]
    server_group: List<RawTable<RawServerGroup>>,
    #[serde(default)]
    primary_secondary_group: List<RawTable<RawPrimarySecondaryGroup>>,
    #[serde(default)]
    access_list: List<RawTable<RawAccessList>>,
}

impl RawDocument {
    /// Adds the objects of the API after those of the file.
    pub(super) fn extend(&mut self, api: RawApiDocument) {
        let RawApiDocument { _document, load_balancer, server_group, primary_secondary_group, access_list } =
            api;
        self.load_balancer.0.extend(load_balancer.0);
        self.server_group.0.extend(server_group.0);
        self.primary_secondary_group.0.extend(primary_secondary_group.0);
        self.access_list.0.extend(access_list.0);
    }
}

/// `[[access_list]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAccessList {
    pub(super) name: Option<Value>,
    pub(super) entries: Option<Spanned<List<Value>>>,
}

/// `[daemon]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDaemon {
    pub(super) interfaces: Option<Spanned<List<Spanned<ScalarOr<RawInterface>>>>>,
    pub(super) xdp_mode: Option<Value>,
    pub(super) pin_dir: Option<Value>,
    pub(super) socket: Option<Value>,
    pub(super) read_only_socket: Option<Value>,
    pub(super) metrics_address: Option<Value>,
    pub(super) state_dir: Option<Value>,
    pub(super) flow_table_entries: Option<Value>,
    pub(super) max_servers: Option<Value>,
    pub(super) tunnel_addresses: Option<Spanned<List<Value>>>,
    pub(super) tunnel_sources: Option<Spanned<List<Value>>>,
    pub(super) gue_port: Option<Value>,
    pub(super) local_addresses: Option<Spanned<List<Value>>>,
    pub(super) hash_seed: Option<Value>,
    pub(super) probe_source: Option<Spanned<List<Value>>>,
    pub(super) probe_mark: Option<Value>,
}

/// A table in `interfaces` of `[daemon]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawInterface {
    pub(super) name: Option<Value>,
    pub(super) role: Option<Value>,
}

/// `[[load_balancer]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLoadBalancer {
    pub(super) id: Option<Value>,
    pub(super) name: Option<Value>,
    pub(super) addresses: Option<Spanned<List<Value>>>,
    pub(super) state: Option<Value>,
    pub(super) unmatched: Option<Value>,
    pub(super) announce: Option<Value>,
    pub(super) table_size: Option<Value>,
    pub(super) slow_start: Option<Value>,
    #[serde(default)]
    pub(super) server: List<RawTable<RawDefaultServer>>,
    #[serde(default)]
    pub(super) listener: List<RawTable<RawListener>>,
}

/// `[[load_balancer.server]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDefaultServer {
    pub(super) address: Option<Value>,
    pub(super) weight: Option<Value>,
    pub(super) quic_server_id: Option<Value>,
}

/// `[[load_balancer.listener]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawListener {
    pub(super) id: Option<Value>,
    pub(super) name: Option<Value>,
    pub(super) protocol: Option<Value>,
    pub(super) port: Option<Value>,
    pub(super) state: Option<Value>,
    pub(super) server_group: Option<Value>,
    pub(super) primary_secondary_group: Option<Value>,
    pub(super) primary: Option<Value>,
    pub(super) secondary: Option<Value>,
    pub(super) failover_threshold: Option<Value>,
    pub(super) failback_after: Option<Value>,
    pub(super) default_group_port: Option<Value>,
    pub(super) on_no_healthy: Option<Value>,
    pub(super) scheduler: Option<Value>,
    pub(super) session_persistence: Option<Value>,
    pub(super) mode: Option<Value>,
    pub(super) toa: Option<Value>,
    pub(super) tracking: Option<Value>,
    pub(super) unknown_datagrams: Option<Value>,
    pub(super) drain_timeout: Option<Value>,
    pub(super) established_timeout: Option<Value>,
    pub(super) access_list: Option<Value>,
    pub(super) access_list_type: Option<Value>,
    pub(super) bandwidth: Option<Value>,
    pub(super) new_connections: Option<Value>,
    pub(super) quic: Option<RawTable<RawQuic>>,
    pub(super) syn_cookies: Option<Value>,
    pub(super) health_check: Option<RawTable<RawHealthCheck>>,
}

/// `quic` of a listener.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawQuic {
    pub(super) server_id_length: Option<Value>,
    pub(super) config_rotation: Option<Value>,
}

/// `health_check` of a listener.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHealthCheck {
    pub(super) kind: Option<Value>,
    pub(super) port: Option<Value>,
    pub(super) interval: Option<Value>,
    pub(super) timeout: Option<Value>,
    pub(super) healthy_threshold: Option<Value>,
    pub(super) unhealthy_threshold: Option<Value>,
    pub(super) method: Option<Value>,
    pub(super) path: Option<Value>,
    pub(super) host: Option<Value>,
    pub(super) verify: Option<Value>,
    pub(super) request: Option<Value>,
    pub(super) expect: Option<Value>,
    pub(super) passive: Option<RawTable<RawPassiveCheck>>,
}

/// `passive` of a `health_check`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPassiveCheck {
    pub(super) failures: Option<Value>,
    pub(super) within: Option<Value>,
}

/// `[[server_group]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawServerGroup {
    pub(super) id: Option<Value>,
    pub(super) name: Option<Value>,
    pub(super) table_size: Option<Value>,
    pub(super) slow_start: Option<Value>,
    #[serde(default)]
    pub(super) servers: List<RawTable<RawServer>>,
}

/// A server of a `[[server_group]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawServer {
    pub(super) address: Option<Value>,
    pub(super) port: Option<Value>,
    pub(super) weight: Option<Value>,
    pub(super) quic_server_id: Option<Value>,
}

/// `[[primary_secondary_group]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPrimarySecondaryGroup {
    pub(super) id: Option<Value>,
    pub(super) name: Option<Value>,
    pub(super) primary: Option<RawTable<RawEndpoint>>,
    pub(super) secondary: Option<RawTable<RawEndpoint>>,
    pub(super) failback_after: Option<Value>,
}

/// `primary` or `secondary` of a `[[primary_secondary_group]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEndpoint {
    pub(super) address: Option<Value>,
    pub(super) port: Option<Value>,
}
