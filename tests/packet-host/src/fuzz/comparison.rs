//! Runs sequences of one configuration through the packet path and the oracle.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use slb_common::{
    abi::{
        flow::Client,
        ids::BackendId,
        interface::InterfaceProperties,
        stats::{self, Counters},
    },
    datapath,
    net::headers,
};
use slb_control::dataplane::state::{MapState, Operation, PutBackend, to_address};
use slb_oracle::{
    Action, Arrival, Expected, Reason, Reference, Step, Verdict, World,
    reference::{self, Counted, Traffic},
    soundness::is_sound,
    world::{Protocol, ServerState},
};

use super::{
    disagreement::{Disagreement, differing, shown},
    slots::TableSlots,
    state::{self, server_id},
    tally::Tally,
};
use crate::host::{Host, Totals};

/// A second packet path, which must do as the one on the host: the program in the kernel.
pub trait Second {
    /// Forgets all flows, rate limits and counters.
    fn begin(&mut self);

    /// Applies one operation.
    fn apply(&mut self, operation: &Operation);

    /// Runs the program over a frame. Returns its XDP action and the frame.
    fn process(&mut self, frame: &[u8]) -> (u32, Vec<u8>);

    /// Packets by action and reason since [`Self::begin`].
    fn totals(&self) -> Totals;

    /// Traffic of the services, then of the servers, of [`Comparison::ids`] since [`Self::begin`].
    fn traffic(&self) -> Vec<Counters>;
}

/// One configuration, in the packet path on the host and in the oracle.
pub struct Comparison<'w> {
    world: &'w World,
    slots: TableSlots,
    host: Host,
    /// Servers whose state the sequence has changed.
    changed: Vec<usize>,
    numbers: Numbers,
}

/// What the packet path did with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    verdict: Verdict,
    action: &'static str,
    reason: &'static str,
}

impl<'w> Comparison<'w> {
    /// Builds the tables of a configuration.
    pub fn new(world: &'w World) -> Self {
        let mut host = Host::default();
        let slots = state::fill(&mut host, world, &state::state(world));
        Self { world, slots, host, changed: Vec::new(), numbers: Numbers::new() }
    }

    /// The state of the data plane, for a second packet path.
    pub fn state(&self) -> MapState {
        state::state(self.world)
    }

    /// The entries of the interface table and all MACs of each interface, for a second packet path.
    pub fn interfaces(&self) -> Vec<(InterfaceProperties, BTreeSet<[u8; 6]>)> {
        let entries = state::interfaces(self.world).0.into_iter().map(|(_, properties)| properties);
        let macs = self.world.interfaces.iter().map(|interface| interface.macs.iter().copied().collect());
        entries.zip(macs).collect()
    }

    /// The entries of VLAN devices, for a second packet path.
    pub fn vlan_devices(&self) -> impl Iterator<Item = InterfaceProperties> {
        state::vlan_devices(self.world)
    }

    /// Ids of the services (listeners, then VIPs), and of the servers.
    pub fn ids(&self) -> [Range<u32>; 2] {
        let services = self.world.listeners.len() + self.world.vips.len();
        [0..services as u32, server_id(0)..server_id(self.world.servers.len())]
    }

    /// Runs a sequence, and counts its packets.
    ///
    /// # Errors
    /// The first disagreement.
    pub fn run(
        &mut self,
        steps: &[Step],
        second: &mut Option<&mut dyn Second>,
        tally: &mut Tally,
    ) -> Result<(), Disagreement> {
        self.host.forget();
        if let Some(second) = second {
            second.begin();
        }
        let slots = std::mem::take(&mut self.slots);
        let oracle = Reference::new(self.world, &slots);
        let mut run = SequenceRun { comparison: self, oracle, second, totals: Totals::new() };
        let result = run.all(steps, tally);
        self.slots = slots;
        for number in std::mem::take(&mut self.changed) {
            self.set_server(number, self.world.servers[number].state, second);
        }
        tally.sequences += 1;
        result
    }

    fn set_server(&mut self, number: usize, state: ServerState, second: &mut Option<&mut dyn Second>) {
        let id = BackendId::new(server_id(number));
        let operation = match state::backend(self.world, number, state) {
            Some(backend) => Operation::PutBackends(vec![PutBackend { id, backend, is_new: false }]),
            None => Operation::ClearBackend(id),
        };
        self.host.apply(&operation);
        if let Some(second) = second {
            second.apply(&operation);
        }
    }

    /// A sequence for a reader, with the listeners and servers that it concerns.
    pub fn shown(&self, steps: &[Step]) -> String {
        let world = self.world;
        let mut text = format!(
            "interfaces {:?}\nVLAN devices {:?}\nVIPs {:?}\n",
            world.interfaces, world.vlan_devices, world.vips
        );
        let steps: Vec<_> = steps.iter().map(shown).collect();
        let has = |word: String| steps.iter().any(|step| step.contains(&word));
        let mut servers: BTreeSet<usize> = BTreeSet::new();
        for (number, listener) in world.listeners.iter().enumerate() {
            if (listener.last.is_some() || has(format!(" {} ", listener.at.port())))
                && has(format!(" {}, ", listener.at.ip()))
            {
                let table = listener.table.map(|table| &world.tables[table]);
                text += &format!("listener {number}: {listener:?}\n    {table:?}\n");
                servers.extend(table.iter().flat_map(|table| table.members.iter().chain(&table.previous)));
            }
        }
        for number in servers {
            text += &format!("server {number}: {:?}\n", world.servers[number]);
        }
        for (number, step) in steps.iter().enumerate() {
            text += &format!("step {number}: {step}\n");
        }
        text
    }
}

struct SequenceRun<'c, 'w, 's, 'k> {
    comparison: &'c mut Comparison<'w>,
    oracle: Reference<'s, TableSlots>,
    second: &'c mut Option<&'k mut dyn Second>,
    /// Expected totals.
    totals: Totals,
}

impl SequenceRun<'_, '_, '_, '_> {
    fn all(&mut self, steps: &[Step], tally: &mut Tally) -> Result<(), Disagreement> {
        let mut now = 0;
        for (number, step) in steps.iter().enumerate() {
            let wrong = |what| Disagreement { step: number, what };
            match step {
                Step::Frame(arrival) => self.frame(arrival, tally).map_err(wrong)?,
                Step::Flood(arrival, times) => {
                    for _ in 0..*times {
                        self.frame(arrival, tally).map_err(wrong)?;
                    }
                }
                Step::Wait(jiffies) => {
                    now += jiffies;
                    self.comparison.host.set_time(now, self.comparison.world.hz);
                    self.oracle.set_time(now);
                }
                Step::Server(number, state) => {
                    self.comparison.set_server(*number, *state, self.second);
                    self.comparison.changed.push(*number);
                    self.oracle.set_server(*number, *state);
                }
            }
        }
        self.counters().map_err(|what| Disagreement { step: steps.len(), what })
    }

    fn frame(&mut self, arrival: &Arrival, tally: &mut Tally) -> Result<(), String> {
        let Comparison { host, numbers, .. } = &mut *self.comparison;
        let mut out = arrival.bytes.clone();
        let verdict = verdict(host.process(&mut out, arrival.interface));
        let (action, reason) = host.last_counted();
        let seen = Seen { verdict, action: numbers.action(action), reason: numbers.reason(reason) };
        let source = |client, protocol, listener| source(host, client, protocol, listener);
        let sent = reference::Seen { frame: &out, source: &source };
        let expected = self.oracle.judge(&arrival.bytes, arrival.interface, &sent);
        let Expected { verdict, action, reason, frame, group } = &expected;
        let should = Seen { verdict: *verdict, action: action.name(), reason: reason.name() };
        let is_right = seen == should && frame.as_ref().is_none_or(|frame| *frame == out);
        if !is_right {
            return Err(differing(&seen, &out, &expected));
        }
        let is_sent = matches!(verdict, Verdict::Transmit | Verdict::Redirect(_));
        if is_sent && is_sound(&arrival.bytes) && !is_sound(&out) {
            return Err(format!("wrong checksum: {}", differing(&seen, &out, &expected)));
        }
        tally.count(*action, *reason, *group);
        *self.totals.entry(numbers.of(*action, *reason)).or_default() += 1;
        if let Some(second) = &mut *self.second {
            let (number, frame) = second.process(&arrival.bytes);
            if number != xdp_action(*verdict) || (*verdict != Verdict::Drop && frame != out) {
                return Err(format!("kernel: {}", differing(&number, &frame, &expected)));
            }
        }
        Ok(())
    }

    fn counters(&self) -> Result<(), String> {
        let host = &self.comparison.host;
        let same = |who: &str, is: &Totals| {
            if *is == self.totals {
                Ok(())
            } else {
                Err(format!("{who} counted {is:?} in place of {:?}", self.totals))
            }
        };
        same("host", &host.totals())?;
        if let Some(second) = &*self.second {
            same("kernel", &second.totals())?;
        }
        let [services, servers] = self.comparison.ids();
        let on_host = services.map(|id| host.service_counters(id));
        let on_host: Vec<_> = on_host.chain(servers.map(|id| host.backend_counters(id))).collect();
        self.traffic("host", &on_host)?;
        self.second.as_ref().map_or(Ok(()), |second| self.traffic("kernel", &second.traffic()))
    }

    fn traffic(&self, who: &str, traffic: &[Counters]) -> Result<(), String> {
        let world = self.comparison.world;
        let counted = (0..world.listeners.len())
            .map(Counted::Listener)
            .chain((0..world.vips.len()).map(Counted::Vip))
            .chain((0..world.servers.len()).map(Counted::Server));
        for (counted, is) in counted.zip(traffic) {
            let should = counters(self.oracle.traffic().get(&counted).copied().unwrap_or_default());
            if *is != should {
                return Err(format!("{who}: {counted:?} counted {is:?} in place of {should:?}"));
            }
        }
        Ok(())
    }
}

/// The source of a flow in the host's flow table, as plain data.
fn source(host: &Host, client: SocketAddr, protocol: Protocol, listener: usize) -> Option<SocketAddr> {
    let protocol = match protocol {
        Protocol::Tcp => headers::protocol::TCP,
        Protocol::Udp => headers::protocol::UDP,
    };
    let client = Client::new(&to_address(client.ip()), client.port().to_be(), protocol);
    let (address, port) = host.source_of(&client, state::tag(listener))?;
    let ip = if address.is_v4() { IpAddr::from(address.v4_bytes()) } else { address.v6_bytes().into() };
    Some(SocketAddr::new(ip, u16::from_be(port)))
}

fn counters(Traffic { packets_in, bytes_in, packets_out, bytes_out, new_flows }: Traffic) -> Counters {
    Counters { packets_in, bytes_in, packets_out, bytes_out, new_flows }
}

fn verdict(verdict: datapath::Verdict) -> Verdict {
    match verdict {
        datapath::Verdict::Transmit => Verdict::Transmit,
        datapath::Verdict::Redirect(out) => Verdict::Redirect(out),
        datapath::Verdict::Pass => Verdict::Pass,
        datapath::Verdict::Drop => Verdict::Drop,
    }
}

/// Numbers of the kernel's XDP actions.
const fn xdp_action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Drop => 1,
        Verdict::Pass => 2,
        Verdict::Transmit => 3,
        Verdict::Redirect(_) => 4,
    }
}

/// Numbers and names of the product's actions and reasons.
struct Numbers {
    actions: Vec<u8>,
    reasons: Vec<u32>,
}

impl Numbers {
    fn new() -> Self {
        let action = |action: &Action| {
            let found = stats::Action::ALL.iter().find(|product| product.name() == action.name());
            *found.expect("the product has the action") as u8
        };
        let reason = |reason: &Reason| {
            let found = stats::Reason::ALL.iter().find(|product| product.name() == reason.name());
            *found.expect("the product has the reason") as u32
        };
        Self {
            actions: Action::ALL.iter().map(action).collect(),
            reasons: Reason::ALL.iter().map(reason).collect(),
        }
    }

    fn of(&self, action: Action, reason: Reason) -> (u8, u32) {
        (self.actions[action as usize], self.reasons[reason as usize])
    }

    fn action(&self, number: u8) -> &'static str {
        stats::Action::ALL[usize::from(number)].name()
    }

    fn reason(&self, number: u32) -> &'static str {
        stats::Reason::ALL[number as usize].name()
    }
}
