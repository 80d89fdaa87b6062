//! Changes as data: what differs between two configurations, and what happens to overrides.

use serde::{Deserialize, Serialize};

use crate::types::AdminState;

/// Result of a command: the answer to `POST /v1/reload`, `/v1/apply`, `/v1/confirm`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeResult {
    /// What differs from the configuration that was active before.
    pub changes: Vec<ApiChange>,
    /// What happened to overrides.
    pub overrides: Vec<ApiOverrideChange>,
    /// Warnings about the configuration: whole lines, as from `slbd check`.
    pub warnings: String,
    /// What it waited for before it became active, in words.
    pub waited: Option<String>,
    /// Seconds until it is rolled back unless it is confirmed.
    pub confirm_within_seconds: Option<u64>,
}

/// Changes that a configuration would cause: the answer to `POST /v1/diff`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffResult {
    /// What differs from the active configuration.
    pub changes: Vec<ApiChange>,
    /// Overrides that would not apply.
    pub overrides: Vec<ApiOverrideChange>,
    /// Why it would be refused, if so.
    pub refused: Option<String>,
    /// Warnings about the configuration.
    pub warnings: String,
}

/// The change of one object of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiChange {
    /// Kind of the object.
    pub kind: ApiObjectKind,
    /// The object.
    #[serde(flatten)]
    pub object: ApiObject,
    /// The load balancer of a listener or of a server of a default server group; the server group of a server. `None`
    /// for all others.
    pub owner: Option<ApiObject>,
    /// What happens to it.
    pub action: ApiChangeAction,
    /// Fields with another value. All fields with a value if the object is added or removed.
    pub fields: Vec<ApiFieldChange>,
}

/// Kinds of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiObjectKind {
    /// The configuration as a whole.
    Configuration,
    /// Settings of the daemon.
    Daemon,
    /// An interface.
    Interface,
    /// A load balancer.
    LoadBalancer,
    /// A listener.
    Listener,
    /// A server of a default server group.
    DefaultServer,
    /// A server group.
    ServerGroup,
    /// A server of a server group.
    Server,
    /// A primary/secondary server group.
    PrimarySecondaryGroup,
    /// An access list.
    AccessList,
}

/// Which object it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiObject {
    /// Its id, which outlives a rename; the address of a server, the name of an interface.
    pub id: String,
    /// Its name; the new one if it is renamed.
    pub name: String,
    /// Its old name, if it is renamed.
    pub old_name: Option<String>,
}

/// What happens to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiChangeAction {
    /// Only the new configuration has it.
    Added,
    /// Only the old configuration has it.
    Removed,
    /// Both have it, with another name or other values.
    Changed,
    /// Its entries have another order, and nothing else differs.
    Reordered,
}

/// The change of one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiFieldChange {
    /// Path of the key in the object's table of the configuration file: `port`, `health_check.interval`.
    pub path: String,
    /// Value before the change.
    pub old: ApiValue,
    /// Value after the change.
    pub new: ApiValue,
}

/// A field's value, as the configuration file has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ApiValue {
    /// `null`: the file need not have the setting, or must not.
    Absent,
    /// Yes or no.
    Boolean(bool),
    /// A number.
    Number(u64),
    /// A text. A duration is one, as in `300s`.
    Text(String),
    /// Several values.
    List(Vec<Self>),
}

/// What happens to the override of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiOverrideChange {
    /// Name of the server group; `None` for a default server group.
    pub server_group: Option<String>,
    /// Its id, which outlives a rename.
    pub server_group_id: Option<String>,
    /// Name of the load balancer, for a server of its default server group.
    pub load_balancer: Option<String>,
    /// Its id, which outlives a rename.
    pub load_balancer_id: Option<String>,
    /// Address and port; the address alone in a default server group.
    pub server: String,
    /// Weight that replaces the configured one.
    pub weight: Option<u8>,
    /// Admin state: draining or disabled; `None` for enabled.
    pub state: Option<AdminState>,
    /// What happens to it.
    pub effect: ApiOverrideEffect,
    /// What the configuration does not have, if the override ends or does not apply.
    pub missing: Option<ApiMissing>,
}

/// What happens to an override.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiOverrideEffect {
    /// It was set to these values.
    Set,
    /// It ends: no configuration has the server any more.
    Ends,
    /// It does not apply with this configuration, which does not have the server, and is kept.
    DoesNotApply,
}

/// What a configuration does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiMissing {
    /// The server, in a group that it has.
    Server,
    /// The group or the load balancer. One that was renamed keeps its overrides with its `id`.
    Group,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The document is the contract: other programs read it.
    #[test]
    fn change_has_ids_names_and_values_in_its_document() {
        let object = |id: &str, name: &str, old_name: Option<&str>| ApiObject {
            id: id.to_owned(),
            name: name.to_owned(),
            old_name: old_name.map(str::to_owned),
        };
        let field = |path: &str, old, new| ApiFieldChange { path: path.to_owned(), old, new };
        let change = ApiChange {
            kind: ApiObjectKind::Listener,
            object: object("web", "www", Some("web")),
            owner: Some(object("shop", "shop", None)),
            action: ApiChangeAction::Changed,
            fields: vec![
                field("port", ApiValue::Number(80), ApiValue::Number(81)),
                field("session_persistence", ApiValue::Absent, ApiValue::Text("300s".to_owned())),
                field(
                    "health_check.expect",
                    ApiValue::List(vec![ApiValue::Number(u64::MAX), ApiValue::Text("3xx".to_owned())]),
                    ApiValue::Text("ok".to_owned()),
                ),
                field("health_check.verify", ApiValue::Boolean(false), ApiValue::Boolean(true)),
            ],
        };
        let document = serde_json::json!({
            "kind": "listener", "id": "web", "name": "www", "old_name": "web",
            "owner": { "id": "shop", "name": "shop", "old_name": null }, "action": "changed",
            "fields": [
                { "path": "port", "old": 80, "new": 81 },
                { "path": "session_persistence", "old": null, "new": "300s" },
                { "path": "health_check.expect", "old": [u64::MAX, "3xx"], "new": "ok" },
                { "path": "health_check.verify", "old": false, "new": true },
            ],
        });
        assert_eq!(serde_json::to_value(&change).unwrap(), document);
        assert_eq!(serde_json::from_value::<ApiChange>(document).unwrap(), change);
    }

    /// All documents have the same keys, whatever happens to the override.
    #[test]
    fn override_change_has_the_ids_of_the_status_and_null_for_what_it_lacks() {
        let set = ApiOverrideChange {
            server_group: Some("www".to_owned()),
            server_group_id: Some("web".to_owned()),
            load_balancer: None,
            load_balancer_id: None,
            server: "10.0.0.11:80".to_owned(),
            weight: Some(0),
            state: None,
            effect: ApiOverrideEffect::Set,
            missing: None,
        };
        let mut document = serde_json::json!({
            "server_group": "www", "server_group_id": "web", "load_balancer": null, "load_balancer_id": null,
            "server": "10.0.0.11:80", "weight": 0, "state": null, "effect": "set", "missing": null,
        });
        assert_eq!(serde_json::to_value(&set).unwrap(), document);
        for (effect, missing, [effect_word, missing_word]) in [
            (ApiOverrideEffect::Ends, ApiMissing::Group, ["ends", "group"]),
            (ApiOverrideEffect::DoesNotApply, ApiMissing::Server, ["does_not_apply", "server"]),
        ] {
            document["effect"] = effect_word.into();
            document["missing"] = missing_word.into();
            let change = ApiOverrideChange { effect, missing: Some(missing), ..set.clone() };
            assert_eq!(serde_json::to_value(&change).unwrap(), document);
            assert_eq!(serde_json::from_value::<ApiOverrideChange>(document.clone()).unwrap(), change);
        }
    }
}
