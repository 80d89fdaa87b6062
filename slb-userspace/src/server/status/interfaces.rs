//! Interfaces in the status document.

use super::readings::Readings;
use crate::{neigh, server::interfaces::InterfaceView};
use slb_api::types::{ApiInterfaceRole, AttachMode, InterfaceStatus};
use slb_common::abi::interface::{CLIENT, SERVER};
use slb_control::dataplane::state::MapState;

/// The interfaces that the program is attached to, by index.
pub(in crate::server) fn attached(
    state: &MapState,
    readings: &Readings,
    interfaces: &[neigh::Link],
    view: Option<&InterfaceView>,
) -> Vec<InterfaceStatus> {
    let mut attached: Vec<_> = interfaces
        .iter()
        .filter(|interface| state.interfaces.contains(&interface.index))
        .filter(|interface| view.is_none_or(|view| view.attached.contains_key(&interface.index)))
        .filter_map(|interface| {
            Some(InterfaceStatus {
                name: interface.name.clone(),
                index: interface.index,
                mode: if interface.xdp?.native { AttachMode::Native } else { AttachMode::Generic },
                role: role(readings, interface.index),
                notes: view
                    .and_then(|view| Some(view.attached.get(&interface.index)?.notes.clone()))
                    .unwrap_or_default(),
            })
        })
        .collect();
    attached.sort_by_key(|interface| interface.index);
    attached
}

fn role(readings: &Readings, ifindex: u32) -> ApiInterfaceRole {
    match readings.roles.get(&ifindex).map(|flags| (flags & CLIENT, flags & SERVER)) {
        Some((CLIENT, 0)) => ApiInterfaceRole::Client,
        Some((0, SERVER)) => ApiInterfaceRole::Server,
        _ => ApiInterfaceRole::Both,
    }
}
