//! The file of the overrides: its versions, and what they mean. The API's documents are not stored.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::OverrideRecord;
use slb_api::types::Requester;
use slb_config::model::{Id, Weight};
use slb_control::{
    model::{AdminState, OverrideKey},
    overrides::ServerOverride,
};

/// Version that is written. Version 1 had names in place of ids.
const VERSION: u32 = 2;

/// The content of the file. `O` is the format of an override.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OverridesDocument<O> {
    version: u32,
    overrides: Vec<O>,
}

/// An override in the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredOverride {
    /// Id of the server group; `None` for a default server group.
    server_group_id: Option<String>,
    /// Id of the load balancer, for a server of its default server group.
    load_balancer_id: Option<String>,
    /// Address and port; the address alone in a default server group.
    server: String,
    weight: Option<u8>,
    state: Option<StoredAdminState>,
    by: StoredRequester,
    /// Time of the last change, as in RFC 3339.
    at: String,
}

/// An override in a file of version 1.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredOverrideV1 {
    /// Name of the server group.
    server_group: Option<String>,
    /// Name of the load balancer.
    load_balancer: Option<String>,
    server: String,
    weight: Option<u8>,
    state: Option<StoredAdminState>,
    by: StoredRequester,
    at: String,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StoredAdminState {
    Draining,
    Disabled,
}

/// The process that has set an override.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredRequester {
    uid: Option<u32>,
    user: Option<String>,
    pid: Option<i32>,
}

impl From<StoredOverrideV1> for StoredOverride {
    /// Version 1 knew no ids: a name is the default id.
    fn from(stored: StoredOverrideV1) -> Self {
        let StoredOverrideV1 { server_group, load_balancer, server, weight, state, by, at } = stored;
        Self { server_group_id: server_group, load_balancer_id: load_balancer, server, weight, state, by, at }
    }
}

impl StoredOverride {
    fn new(key: &OverrideKey, record: &OverrideRecord) -> Self {
        let (server_group_id, load_balancer_id) = match key {
            OverrideKey::Group { group, .. } => (Some(group.to_string()), None),
            OverrideKey::Default { load_balancer, .. } => (None, Some(load_balancer.to_string())),
        };
        let OverrideRecord { setting: ServerOverride { weight, state }, by, at } = record;
        let state = state.map(|state| match state {
            AdminState::Draining => StoredAdminState::Draining,
            AdminState::Disabled => StoredAdminState::Disabled,
        });
        let Requester { uid, user, pid } = by;
        let by = StoredRequester { uid: *uid, user: user.clone(), pid: *pid };
        let (server, at) = (key.server(), at.clone());
        Self { server_group_id, load_balancer_id, server, weight: *weight, state, by, at }
    }

    fn read(self) -> Result<(OverrideKey, OverrideRecord)> {
        let Self { server_group_id, load_balancer_id, server, weight, state, by, at } = self;
        let id = |text: String| text.parse::<Id>().with_context(|| format!("server {server}"));
        let key = match (server_group_id, load_balancer_id) {
            (Some(group), None) => {
                let address = server.parse::<SocketAddr>();
                let address = address.with_context(|| format!("server {server}: no address with a port"))?;
                OverrideKey::Group { group: id(group)?, server: address }
            }
            (None, Some(balancer)) => {
                let address = server.parse();
                let address =
                    address.with_context(|| format!("server {server}: no address without a port"))?;
                OverrideKey::Default { load_balancer: id(balancer)?, server: address }
            }
            _ => bail!("server {server}: either a server group or a load balancer is expected"),
        };
        let state = state.map(|state| match state {
            StoredAdminState::Draining => AdminState::Draining,
            StoredAdminState::Disabled => AdminState::Disabled,
        });
        let setting = ServerOverride { weight, state };
        ensure!(!setting.is_empty(), "{key}: nothing is set");
        ensure!(weight.is_none_or(|weight| weight <= Weight::MAX), "{key}: a weight beyond {}", Weight::MAX);
        let StoredRequester { uid, user, pid } = by;
        Ok((key, OverrideRecord { setting, by: Requester { uid, user, pid }, at }))
    }
}

/// Reads the text of a file.
///
/// # Errors
/// It is of an unknown version, or no such file.
pub(super) fn parse(text: &str) -> Result<BTreeMap<OverrideKey, OverrideRecord>> {
    #[derive(Deserialize)]
    struct OverridesVersion {
        version: u32,
    }
    // Other versions may have another format.
    let OverridesVersion { version } = serde_json::from_str(text)?;
    let stored: Vec<StoredOverride> = match version {
        1 => {
            let document: OverridesDocument<StoredOverrideV1> = serde_json::from_str(text)?;
            document.overrides.into_iter().map(StoredOverride::from).collect()
        }
        VERSION => serde_json::from_str::<OverridesDocument<StoredOverride>>(text)?.overrides,
        _ => bail!("it is of version {version}, and this slbd knows versions 1 to {VERSION}"),
    };
    let mut records = BTreeMap::new();
    for stored in stored {
        let (key, record) = stored.read()?;
        let server = key.server();
        ensure!(records.insert(key, record).is_none(), "server {server} appears twice");
    }
    Ok(records)
}

/// The text of the file.
///
/// # Errors
/// Serializing failed.
pub(super) fn render(records: &BTreeMap<OverrideKey, OverrideRecord>) -> Result<String> {
    let overrides = records.iter().map(|(key, record)| StoredOverride::new(key, record)).collect();
    Ok(serde_json::to_string_pretty(&OverridesDocument { version: VERSION, overrides })? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As slbd wrote it before there were ids.
    const VERSION_1: &str = r#"{
  "version": 1,
  "overrides": [
    {
      "server_group": "web",
      "load_balancer": null,
      "server": "10.0.0.11:8080",
      "weight": 5,
      "state": "draining",
      "by": { "uid": 0, "user": "root", "pid": 7 },
      "at": "2026-11-21T09:00:00Z"
    },
    {
      "server_group": null,
      "load_balancer": "shop",
      "server": "fd00::21",
      "weight": null,
      "state": "disabled",
      "by": { "uid": null, "user": null, "pid": null },
      "at": "2026-11-21T09:00:01Z"
    }
  ]
}
"#;

    #[test]
    fn file_of_version_1_is_read_with_names_as_ids_and_written_as_version_2() {
        let records = parse(VERSION_1).unwrap();
        let web =
            OverrideKey::Group { group: "web".parse().unwrap(), server: "10.0.0.11:8080".parse().unwrap() };
        let shop = OverrideKey::Default {
            load_balancer: "shop".parse().unwrap(),
            server: "fd00::21".parse().unwrap(),
        };
        let both = ServerOverride { weight: Some(5), state: Some(AdminState::Draining) };
        let disabled = ServerOverride { weight: None, state: Some(AdminState::Disabled) };
        let settings: Vec<_> = records.iter().map(|(key, record)| (key.clone(), record.setting)).collect();
        assert_eq!(settings, [(web.clone(), both), (shop, disabled)]);
        let by = Requester { uid: Some(0), user: Some("root".to_owned()), pid: Some(7) };
        assert_eq!((&records[&web].by, records[&web].at.as_str()), (&by, "2026-11-21T09:00:00Z"));
        let written = render(&records).unwrap();
        assert!(
            written.contains("\"version\": 2") && written.contains("\"server_group_id\": \"web\""),
            "{written}"
        );
        assert_eq!(parse(&written).unwrap(), records);
    }

    #[test]
    fn fields_of_the_other_version_and_invalid_ids_are_refused() {
        let written = render(&parse(VERSION_1).unwrap()).unwrap();
        for (text, word) in [
            (VERSION_1.replace("\"version\": 1", "\"version\": 2"), "unknown field `server_group`"),
            (written.replace("\"version\": 2", "\"version\": 1"), "unknown field `server_group_id`"),
            (
                written.replace("\"version\": 2", "\"version\": 3"),
                "version 3, and this slbd knows versions 1 to 2",
            ),
            (written.replace("\"web\"", "\"a b\""), "\"a b\" is no id"),
            (
                written.replace("\"load_balancer_id\": null", "\"load_balancer_id\": \"shop\""),
                "either a server group",
            ),
            (written.replace("fd00::21", "[fd00::21]:80"), "no address without a port"),
        ] {
            let error = format!("{:#}", parse(&text).unwrap_err());
            assert!(error.contains(word), "{word}: {error}");
        }
    }
}
