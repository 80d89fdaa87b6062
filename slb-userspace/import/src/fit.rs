//! Fits a model into SLB's rules: VIPs, names, ports, address families, weights and numbers. What does not fit is left
//! out with a note.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::{
    ledger::Ledger,
    model::{Mode, Model, Ports, Protocol, Server, Service, Vip},
    source::Lines,
};

mod names;
mod ports;
mod servers;

use names::Names;
pub(crate) use servers::{FittedGroup, FittedServer};

/// Why a VIP must be filled in.
const ALL_ADDRESSES: &str = "the source listens on all addresses of its host";
/// Most listeners of a load balancer.
const MAX_LISTENERS: usize = 50;
/// Most port ranges of a protocol in a load balancer, besides any port.
const MAX_RANGES: usize = 8;

/// A model that follows SLB's rules.
#[derive(Debug, Default)]
pub(crate) struct Fitted {
    pub(crate) balancers: Vec<Balancer>,
    pub(crate) groups: Vec<FittedGroup>,
    pub(crate) interfaces: Vec<String>,
    /// Whether the source names the interfaces.
    pub(crate) has_interfaces: bool,
    pub(crate) local_addresses: Vec<IpAddr>,
    /// Whether the source names the local addresses.
    pub(crate) has_local_addresses: bool,
    pub(crate) tunnel_addresses: Vec<IpAddr>,
    pub(crate) gue_port: Option<u16>,
    /// Whether a server group lacks addresses, because the source has host names.
    pub(crate) lacks_addresses: bool,
}

#[derive(Debug)]
pub(crate) struct Balancer {
    pub(crate) name: String,
    /// VIPs, and what to replace if it is not from the source.
    pub(crate) vips: Vec<(IpAddr, Option<&'static str>)>,
    pub(crate) listeners: Vec<FittedListener>,
}

#[derive(Debug, Clone)]
pub(crate) struct FittedListener {
    pub(crate) name: String,
    pub(crate) service: Service,
    pub(crate) primary: String,
    pub(crate) backup: Option<(String, usize)>,
}

/// Fits a model.
pub(crate) fn fit(model: Model, ledger: &mut Ledger) -> Fitted {
    let all_sources: Vec<(Lines, Vec<Lines>)> =
        model.services.iter().map(|service| (service.at, service.sources.clone())).collect();
    let known = addresses(&model);
    let placeholders = Placeholders::new(&known);
    let vips = model.services.iter().flat_map(|service| &service.vips).map(|(vip, _)| *vip).collect();
    let mut fitter = Fitter { ledger, placeholders, vips, taken: BTreeMap::new(), groups: Vec::new() };
    let mut group_names = Names::default();
    let mut placed: Vec<(Vec<Vip>, FittedListener)> = Vec::new();
    for service in model.services {
        for service in ports::expand(fitter.ledger, service) {
            placed.extend(fitter.place(service, &mut group_names));
        }
    }
    let used: Vec<Lines> = placed.iter().flat_map(|(_, listener)| listener.service.sources.clone()).collect();
    for (at, sources) in all_sources {
        let is_placed = placed.iter().any(|(_, listener)| listener.service.at == at);
        for lines in sources.into_iter().filter(|lines| !is_placed && !used.contains(lines)) {
            fitter.ledger.left_out(lines, "it belongs to a service that is left out");
        }
    }
    let Fitter { placeholders, groups, .. } = fitter;
    let mut fitted = Fitted { groups, gue_port: model.gue_port, ..Fitted::default() };
    fitted.has_interfaces = !model.interfaces.is_empty();
    fitted.interfaces = model.interfaces;
    if !fitted.has_interfaces {
        fitted.interfaces.push("eth0".to_owned());
    }
    fitted.lacks_addresses =
        fitted.groups.iter().flat_map(|group| &group.servers).any(|server| server.address.is_none());
    source_addresses(&mut fitted, &placed, &placeholders, &model.local_addresses);
    fitted.balancers = balancers(&placed, &placeholders);
    fitted
}

/// All addresses that the model names.
fn addresses(model: &Model) -> HashSet<IpAddr> {
    let mut known: HashSet<IpAddr> = model.local_addresses.iter().copied().collect();
    for service in &model.services {
        known.extend(service.vips.iter().filter_map(|(vip, _)| match vip {
            Vip::Address(address) => Some(*address),
            Vip::AnyV4 | Vip::AnyV6 => None,
        }));
        let servers = service.primary.servers.iter().chain(&service.backup.servers);
        known.extend(servers.filter_map(|server| server.host.parse::<IpAddr>().ok()));
    }
    known
}

/// Documentation addresses that stand for those the user must fill in.
struct Placeholders {
    vips: [IpAddr; 2],
    sources: [IpAddr; 2],
}

impl Placeholders {
    fn new(known: &HashSet<IpAddr>) -> Self {
        let mut four = (1..=u8::MAX).map(|last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)));
        let mut six =
            (1..=u16::MAX).map(|last| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)));
        let mut four = || four.by_ref().find(|address| !known.contains(address));
        let mut six = || six.by_ref().find(|address| !known.contains(address));
        // A source that names all 254 addresses for documentation cannot be told apart.
        let (lowest, highest) =
            (IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2)));
        let any = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1));
        Self {
            vips: [four().unwrap_or(lowest), six().unwrap_or(any)],
            sources: [four().unwrap_or(highest), six().unwrap_or(any)],
        }
    }

    fn vip(&self, vip: Vip) -> (IpAddr, Option<&'static str>) {
        match vip {
            Vip::Address(address) => (address, None),
            Vip::AnyV4 => (self.vips[0], Some(ALL_ADDRESSES)),
            Vip::AnyV6 => (self.vips[1], Some(ALL_ADDRESSES)),
        }
    }
}

const fn is_v6(vip: Vip) -> bool {
    match vip {
        Vip::Address(address) => address.is_ipv6(),
        Vip::AnyV4 => false,
        Vip::AnyV6 => true,
    }
}

/// Hosts and ports of servers.
fn endpoints(servers: &[Server]) -> BTreeSet<(&str, Option<u16>)> {
    servers.iter().map(|server| (server.host.as_str(), server.port)).collect()
}

/// Why a VIP of a family cannot have servers of the other one.
fn not_translated(is_v6: bool) -> String {
    let family = if is_v6 { "IPv6" } else { "IPv4" };
    format!("the group has no {family} servers, and SLB does not translate between families")
}

struct Fitter<'l> {
    ledger: &'l mut Ledger,
    placeholders: Placeholders,
    vips: HashSet<Vip>,
    /// Ports taken at each VIP, and where.
    taken: BTreeMap<Vip, Vec<(Protocol, Ports)>>,
    groups: Vec<FittedGroup>,
}

impl Fitter<'_> {
    /// Places a service at its VIPs. `None` if it is left out.
    fn place(&mut self, mut service: Service, names: &mut Names) -> Option<(Vec<Vip>, FittedListener)> {
        let mut candidates = self.usable_vips(&service);
        if service.mode == Mode::FullNat {
            let families = self.families(&service.primary.servers);
            candidates.retain(|(vip, at)| {
                let is_served = families == [false; 2] || families[usize::from(is_v6(*vip))];
                if !is_served {
                    self.ledger.left_out(*at, not_translated(is_v6(*vip)));
                }
                is_served
            });
        }
        let vips: Vec<Vip> = candidates
            .into_iter()
            .filter(|(vip, at)| self.take(*vip, *at, &service))
            .map(|(vip, _)| vip)
            .collect();
        if vips.is_empty() {
            self.ledger.left_out(service.at, "no address of it is left that SLB could serve");
            return None;
        }
        self.check_families(&mut service, &vips);
        ports::fit(self.ledger, &mut service);
        let primary = self.group(&service, &service.primary.servers, &service.primary.name, names);
        let has_primary = self.has_servers(&primary);
        let backup = if service.backup.servers.is_empty() {
            None
        } else if has_primary {
            if endpoints(&service.backup.servers) == endpoints(&service.primary.servers) {
                for server in &service.backup.servers {
                    self.ledger.left_out(server.at, "the backup servers are the same as the primary ones");
                }
                None
            } else {
                let group = self.group(&service, &service.backup.servers, &service.backup.name, names);
                Some((group, self.threshold(&service, &primary)))
            }
        } else {
            for server in &service.backup.servers {
                let reason = "a backup server, while no primary server has an address: write both, then `primary` and `secondary`";
                self.ledger.left_out(server.at, reason);
            }
            None
        };
        let listener = FittedListener { name: service.name.clone(), service, primary, backup };
        Some((vips, listener))
    }

    /// The VIPs that packets can be forwarded from, each once.
    fn usable_vips(&mut self, service: &Service) -> Vec<(Vip, Lines)> {
        let mut found: Vec<(Vip, Lines)> = Vec::new();
        for &(vip, at) in &service.vips {
            if let Vip::Address(address) = vip
                && let Some((kind, why)) = slb_config::unusable_address(address)
            {
                self.ledger.left_out(at, format!("{address} is {kind}: {why}"));
            } else if !found.iter().any(|(other, _)| *other == vip) {
                found.push((vip, at));
            }
        }
        found
    }

    /// Takes the ports of a service at a VIP, if they are free there.
    fn take(&mut self, vip: Vip, at: Lines, service: &Service) -> bool {
        let taken = self.taken.entry(vip).or_default();
        let (protocol, ports) = (service.protocol, service.ports);
        let is_range = |ports: Ports| ports.single().is_none() && ports != Ports::ANY;
        let same = || taken.iter().filter(|(other, _)| *other == protocol).map(|(_, ports)| *ports);
        let overlaps =
            |other: Ports| is_range(other) && other.first <= ports.last && ports.first <= other.last;
        let refused = if same().any(|other| other == ports) {
            Some("another service before it has this address, protocol and port")
        } else if is_range(ports) && same().any(overlaps) {
            Some("its port range overlaps that of a service before it")
        } else if is_range(ports) && same().filter(|other| is_range(*other)).count() == MAX_RANGES {
            Some("a load balancer has at most 8 port ranges of a protocol")
        } else if taken.len() == MAX_LISTENERS {
            Some("a load balancer has at most 50 listeners")
        } else {
            None
        };
        if let Some(reason) = refused {
            self.ledger.left_out(at, reason);
            return false;
        }
        taken.push((protocol, ports));
        true
    }

    /// Leaves out backup servers that not all VIPs could use, and notes those that none can.
    fn check_families(&mut self, service: &mut Service, vips: &[Vip]) {
        if !service.mode.rewrites_port() {
            return;
        }
        let backup = self.families(&service.backup.servers);
        if service.mode == Mode::FullNat
            && backup != [false; 2]
            && let Some(vip) = vips.iter().find(|vip| !backup[usize::from(is_v6(**vip))])
        {
            for server in service.backup.servers.drain(..) {
                self.ledger.left_out(server.at, not_translated(is_v6(*vip)));
            }
        }
        for server in service.primary.servers.iter().chain(&service.backup.servers) {
            if let Ok(address) = servers::address(server, &self.vips)
                && !vips.iter().any(|vip| is_v6(*vip) == address.is_ipv6())
            {
                self.ledger.changed(server.at, "no VIP has its address family: it receives no connections");
            }
        }
    }

    /// Which families the servers with usable addresses have: IPv4, IPv6.
    fn families(&self, servers: &[Server]) -> [bool; 2] {
        let usable: Vec<IpAddr> =
            servers.iter().filter_map(|server| servers::address(server, &self.vips).ok()).collect();
        [usable.iter().any(IpAddr::is_ipv4), usable.iter().any(IpAddr::is_ipv6)]
    }

    /// Finds or makes the group of these servers. Returns its name.
    fn group(&mut self, service: &Service, servers: &[Server], name: &str, names: &mut Names) -> String {
        let fitted = servers::fit(self.ledger, service, servers, &self.vips);
        let slow_start = service.slow_start;
        let same = |group: &&FittedGroup| {
            group.servers == fitted && group.slow_start == slow_start && group.proposed == name
        };
        if let Some(group) = self.groups.iter().find(same) {
            return group.name.clone();
        }
        let unique = names.unique(name);
        self.groups.push(FittedGroup {
            name: unique.clone(),
            proposed: name.to_owned(),
            servers: fitted,
            slow_start,
        });
        unique
    }

    fn has_servers(&self, name: &str) -> bool {
        self.serving(name, |server| server.address.is_some()) > 0
    }

    fn serving(&self, name: &str, counts: impl Fn(&FittedServer) -> bool) -> usize {
        let group = self.groups.iter().find(|group| group.name == name);
        group.map_or(0, |group| group.servers.iter().filter(|server| counts(server)).count())
    }

    /// Unhealthy servers at which the backup takes over.
    fn threshold(&self, service: &Service, primary: &str) -> usize {
        let all = self.serving(primary, |server| server.address.is_some() && server.weight > 0).max(1);
        service.failover_threshold.unwrap_or(all).clamp(1, all)
    }
}

/// Fills in local and tunnel addresses of the families that need them.
fn source_addresses(
    fitted: &mut Fitted,
    placed: &[(Vec<Vip>, FittedListener)],
    placeholders: &Placeholders,
    local_addresses: &[IpAddr],
) {
    let has = |mode: fn(Mode) -> bool, is_six: bool| {
        placed.iter().filter(|(_, listener)| mode(listener.service.mode)).any(|(vips, listener)| {
            let servers = listener.service.primary.servers.iter().chain(&listener.service.backup.servers);
            let mut families = servers.filter_map(|server| server.host.parse::<IpAddr>().ok());
            vips.iter().any(|vip| is_v6(*vip) == is_six)
                || families.any(|address| address.is_ipv6() == is_six)
        })
    };
    let taken: HashSet<IpAddr> = placed
        .iter()
        .flat_map(|(vips, listener)| {
            let servers = listener.service.primary.servers.iter().chain(&listener.service.backup.servers);
            let servers = servers.filter_map(|server| server.host.parse().ok());
            vips.iter().map(|vip| placeholders.vip(*vip).0).chain(servers).collect::<Vec<_>>()
        })
        .collect();
    let usable =
        |address: &&IpAddr| !taken.contains(*address) && slb_config::unusable_address(**address).is_none();
    let usable: BTreeSet<IpAddr> = local_addresses.iter().filter(usable).copied().collect();
    fitted.has_local_addresses = !usable.is_empty();
    for (family, is_six) in [(0, false), (1, true)] {
        if has(|mode| mode == Mode::FullNat, is_six) {
            let named: Vec<IpAddr> =
                usable.iter().filter(|address| address.is_ipv6() == is_six).copied().collect();
            fitted.has_local_addresses &= !named.is_empty();
            let filled = if named.is_empty() { vec![placeholders.sources[family]] } else { named };
            fitted.local_addresses.extend(filled.into_iter().take(32));
        }
        if has(|mode| matches!(mode, Mode::Ipip | Mode::Gue), is_six) {
            fitted.tunnel_addresses.push(placeholders.sources[family]);
        }
    }
}

/// Makes a load balancer of all VIPs that have the same listeners.
fn balancers(placed: &[(Vec<Vip>, FittedListener)], placeholders: &Placeholders) -> Vec<Balancer> {
    let mut by_vip: BTreeMap<Vip, Vec<usize>> = BTreeMap::new();
    let mut order = Vec::new();
    for (number, (vips, _)) in placed.iter().enumerate() {
        for vip in vips {
            by_vip.entry(*vip).or_default().push(number);
            if !order.contains(vip) {
                order.push(*vip);
            }
        }
    }
    let mut sets: Vec<(Vec<usize>, Vec<Vip>)> = Vec::new();
    for vip in order {
        let listeners = by_vip.remove(&vip).unwrap_or_default();
        match sets.iter_mut().find(|(same, _)| *same == listeners) {
            Some((_, vips)) => vips.push(vip),
            None => sets.push((listeners, vec![vip])),
        }
    }
    let mut names = Names::default();
    let balancer = |(listeners, vips): (Vec<usize>, Vec<Vip>)| {
        let mut listener_names = Names::default();
        let listeners: Vec<FittedListener> = listeners
            .into_iter()
            .filter_map(|number| placed.get(number))
            .map(|(_, listener)| FittedListener {
                name: listener_names.unique(&listener.name),
                ..listener.clone()
            })
            .collect();
        let first = listeners.first().map_or("", |listener| listener.name.as_str());
        let name = match (vips.as_slice(), listeners.len()) {
            (_, 1) => first.to_owned(),
            ([Vip::Address(address), ..], _) => format!("vip-{address}"),
            ([Vip::AnyV6, ..], _) => "all-ipv6".to_owned(),
            _ => "all-ipv4".to_owned(),
        };
        let vips = vips.into_iter().map(|vip| placeholders.vip(vip)).collect();
        Balancer { name: names.unique(&name), vips, listeners }
    };
    sets.into_iter().map(balancer).collect()
}
