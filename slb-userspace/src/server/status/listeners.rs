//! Listeners in the status document.

use std::net::IpAddr;

use slb_common::abi::{
    policy_set::PolicySet,
    ports::Ports,
    protocol::IpProtocol,
    quic::CidFormat,
    service::{Service, policy},
};

use super::{limits, padded_name};
use crate::server::configured_ids::ConfiguredIds;
use slb_api::types::{self as api, ApiAccessList, ApiAccessListKind, ApiCounters, ApiListener, ApiQuic};
use slb_config::model::{AccessListKind, Config, ListenerAccess, ListenerTarget, Mode, Protocol};

/// A running listener without servers and traffic.
pub(super) fn empty_listener(service: &Service, ids: &ConfiguredIds<'_>) -> ApiListener {
    let listener = ids.listener(&padded_name(&service.load_balancer), &padded_name(&service.listener));
    let access_list = access_list_kind(service.policies()).map(|kind| {
        let name = ids.access_list(&padded_name(&service.load_balancer), &padded_name(&service.listener));
        ApiAccessList { name: name.map(ToString::to_string), kind }
    });
    let group = Some(padded_name(&service.group)).filter(|group| !group.is_empty());
    ApiListener {
        id: listener.map(|listener| listener.listener.to_string()),
        name: padded_name(&service.listener),
        state: api::ApiRunState::Running,
        protocol: if service.protocol() == Some(IpProtocol::Tcp) { "tcp" } else { "udp" }.to_owned(),
        port: service.ports().first(),
        port_range: port_range(service.ports()),
        mode: service.mode().map_or("unknown", Mode::name).to_owned(),
        toa: service.policies().has(policy::TOA),
        addresses: Vec::new(),
        server_group_id: group.as_deref().and_then(|group| ids.group(group)).map(ToString::to_string),
        server_group: group,
        access_list,
        quic: service.policies().has(policy::QUIC).then(|| quic(CidFormat::from_number(service.quic))),
        limits: limits::of_service(service),
        counters: ApiCounters::default(),
        current_flows: None,
        digest: None,
        outages: Vec::new(),
        servers: Vec::new(),
    }
}

/// The text of a range; `None` for a single port.
fn port_range(ports: Ports) -> Option<String> {
    ports.is_range().then(|| ports.to_string())
}

/// What the access list of a service means; `None` if it has none.
const fn access_list_kind(policies: PolicySet) -> Option<ApiAccessListKind> {
    if policies.has(policy::ALLOW_LISTED) {
        Some(ApiAccessListKind::White)
    } else if policies.has(policy::DENY_LISTED) {
        Some(ApiAccessListKind::Black)
    } else {
        None
    }
}

const fn quic(format: CidFormat) -> ApiQuic {
    ApiQuic { server_id_length: format.server_id_len() as u8, config_rotation: format.config_rotation() }
}

fn configured_access_list(access: &ListenerAccess) -> ApiAccessList {
    let kind = match access.kind {
        AccessListKind::White => ApiAccessListKind::White,
        AccessListKind::Black => ApiAccessListKind::Black,
    };
    ApiAccessList { name: Some(access.list.to_string()), kind }
}

/// Records a VIP with an empty table, which is all that the maps show of an outage.
pub(super) fn note_outage(listener: &mut ApiListener, vip: IpAddr) {
    match listener.outages.first_mut() {
        Some(outage) => outage.addresses.push(vip),
        None => listener.outages.push(api::ApiOutage { addresses: vec![vip], why: None, seconds: None }),
    }
}

/// Stopped listeners, each with its load balancer's name.
pub(super) fn stopped<'a>(
    config: &'a Config,
    ids: &'a ConfiguredIds<'_>,
) -> impl Iterator<Item = (String, ApiListener)> + 'a {
    let listeners = config.load_balancers.iter();
    let listeners = listeners.flat_map(|balancer| balancer.listeners.iter().map(move |l| (balancer, l)));
    listeners.filter(|(balancer, listener)| !balancer.runs(listener)).map(|(balancer, listener)| {
        let group = match &listener.target {
            ListenerTarget::DefaultGroup { .. } => None,
            ListenerTarget::ServerGroup(name)
            | ListenerTarget::PrimarySecondaryGroup(name)
            | ListenerTarget::PrimarySecondary { primary: name, .. } => Some(name.as_str()),
        };
        let stopped = ApiListener {
            id: Some(listener.id.to_string()),
            name: listener.name.to_string(),
            state: api::ApiRunState::Stopped,
            protocol: match listener.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
            }
            .to_owned(),
            port: listener.port.first(),
            port_range: port_range(listener.port),
            mode: listener.mode.name().to_owned(),
            toa: listener.toa,
            addresses: balancer.addresses.clone(),
            server_group: group.map(str::to_owned),
            server_group_id: group.and_then(|group| ids.group(group)).map(ToString::to_string),
            access_list: listener.access.as_ref().map(configured_access_list),
            quic: listener.quic.map(|routing| quic(routing.format())),
            limits: limits::of_configured(listener),
            counters: ApiCounters::default(),
            current_flows: None,
            digest: None,
            outages: Vec::new(),
            servers: Vec::new(),
        };
        (balancer.name.to_string(), stopped)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use slb_common::abi::pad_name;
    use slb_config::samples::shop;

    #[test]
    fn stopped_listeners_are_shown_with_their_configuration() {
        let all = |config: &Config| -> Vec<_> {
            let shown = |(balancer, listener): (String, ApiListener)| {
                assert!(listener.state == api::ApiRunState::Stopped && listener.servers.is_empty());
                (balancer, listener.name, listener.protocol, listener.port, listener.server_group)
            };
            stopped(config, &ConfiguredIds::of(config)).map(shown).collect()
        };
        let shop_is = |name: &str, protocol: &str, port, group: Option<&str>| {
            ("shop".to_owned(), name.to_owned(), protocol.to_owned(), port, group.map(str::to_owned))
        };
        let (dns, web) = (shop_is("dns", "udp", 53, None), shop_is("web", "tcp", 80, Some("web")));
        assert_eq!(all(&shop(&[])), []);
        assert_eq!(
            all(&shop(&[("port = 80\n", "port = 80\nstate = \"stopped\"\n")])),
            std::slice::from_ref(&web)
        );
        assert_eq!(all(&shop(&[("\"shop\"\n", "\"shop\"\nstate = \"stopped\"\n")])), [dns, web]);
    }

    #[test]
    fn listener_shows_its_access_list_whether_it_runs_or_is_stopped() {
        let settings = "access_list = \"office\"\naccess_list_type = \"black\"";
        let list = "[[access_list]]\nname = \"office\"\nentries = [\"192.0.2.0/24\"]\n[[server_group]]";
        let with = |state: &str| {
            shop(&[("port = 80\n", &format!("port = 80\n{state}{settings}\n")), ("[[server_group]]", list)])
        };
        let expected =
            Some(ApiAccessList { name: Some("office".to_owned()), kind: ApiAccessListKind::Black });
        let config = with("state = \"stopped\"\n");
        let ids = ConfiguredIds::of(&config);
        let shown: Vec<_> = stopped(&config, &ids).map(|(_, listener)| listener.access_list).collect();
        assert_eq!(shown, std::slice::from_ref(&expected));

        let config = with("");
        let (load_balancer, listener) = (pad_name("shop"), pad_name("web"));
        let service = Service { policy: policy::DENY_LISTED, load_balancer, listener, ..Service::default() };
        assert_eq!(empty_listener(&service, &ConfiguredIds::of(&config)).access_list, expected);
        let unnamed = Some(ApiAccessList { name: None, kind: ApiAccessListKind::Black });
        assert_eq!(empty_listener(&service, &ConfiguredIds::default()).access_list, unnamed);
        let open = Service { policy: 0, ..service };
        assert_eq!(empty_listener(&open, &ConfiguredIds::of(&config)).access_list, None);
    }
}
