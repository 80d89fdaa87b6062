//! Listeners in the status document.

use std::net::IpAddr;

use slb_common::abi::{protocol::IpProtocol, service::Service};

use super::padded_name;
use crate::server::configured_ids::ConfiguredIds;
use slb_api::types::{self as api, ApiCounters, ApiListener};
use slb_config::model::{Config, ListenerTarget, Mode, Protocol};

/// A running listener without servers and traffic.
pub(super) fn empty_listener(service: &Service, ids: &ConfiguredIds<'_>) -> ApiListener {
    let listener = ids.listener(&padded_name(&service.load_balancer), &padded_name(&service.listener));
    let group = Some(padded_name(&service.group)).filter(|group| !group.is_empty());
    ApiListener {
        id: listener.map(|listener| listener.listener.to_string()),
        name: padded_name(&service.listener),
        state: api::ApiRunState::Running,
        protocol: if service.protocol() == Some(IpProtocol::Tcp) { "tcp" } else { "udp" }.to_owned(),
        port: u16::from_be(service.port),
        mode: service.mode().map_or("unknown", Mode::name).to_owned(),
        addresses: Vec::new(),
        server_group_id: group.as_deref().and_then(|group| ids.group(group)).map(ToString::to_string),
        server_group: group,
        counters: ApiCounters::default(),
        current_flows: None,
        digest: None,
        outages: Vec::new(),
        servers: Vec::new(),
    }
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
            port: listener.port,
            mode: listener.mode.name().to_owned(),
            addresses: balancer.addresses.clone(),
            server_group: group.map(str::to_owned),
            server_group_id: group.and_then(|group| ids.group(group)).map(ToString::to_string),
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
}
