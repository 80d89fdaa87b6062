//! A packet case: a sequence of frames and changes with the expected result of each, on the host and in the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use anyhow::{Context as _, Result, bail, ensure};
use slb_common::{
    abi::{flow::ClientPath, mac_word, service::mode, tunnel::Tunnel},
    datapath::Verdict,
};
use slb_control::{
    dataplane::state::{MapState, Operation},
    diff::diff,
};
use slb_userspace::dataplane::interfaces::Interfaces;

pub use super::expected::{CLIENT, Expect, FlowKind};
use super::{
    check,
    expected::{ExpectedCounters, mode_of, sent},
    frames::Frame,
    host::{self, Host},
    icmp::IcmpCause,
    kernel::{Kernel, action},
    tunnel::{self, TunnelFlow},
    world::{self, IDS, LO, PacketWorld},
};

/// A packet case.
pub struct Scenario {
    /// What the case shows.
    pub name: String,
    /// The state at the beginning.
    pub world: PacketWorld,
    /// Frames and changes, in order.
    pub steps: Vec<Step>,
    /// Whether it runs on the host only. A kernel run cannot set the clock or the arrival interface, nor take
    /// frames under 14 bytes.
    pub host_only: bool,
}

/// A step of a case.
pub enum Step {
    /// A frame arrives on an interface.
    Frame(Box<Frame>, u32, Expect),
    /// The data plane changes to another state.
    ChangeState(Box<PacketWorld>),
    /// Roles and MACs of the interfaces change.
    Interfaces(Box<Interfaces>),
    /// The host's clock is set, in jiffies.
    Clock(u32),
    /// The host's clock of token buckets advances by this many nanoseconds.
    Nanoseconds(u64),
    /// The host's kernel has this route to every client from now on.
    Route(ClientPath),
    /// The host's kernel routes to every client's address on the link of this interface from now on; 0: by a gateway.
    Link(u32),
    /// The host's flow table refuses new entries from now on.
    Full,
    /// Copying of flows into a new flow table begins or ends.
    Resizing(bool),
    /// A GC pass over the host's flow table.
    GcPass,
}

impl Scenario {
    /// A case in the standard world.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), world: PacketWorld::standard(), steps: Vec::new(), host_only: false }
    }

    /// A case in another world.
    #[must_use]
    pub fn in_world(self, world: PacketWorld) -> Self {
        Self { world, ..self }
    }

    /// Runs the case on the host only.
    #[must_use]
    pub fn host_only(self) -> Self {
        Self { host_only: true, ..self }
    }

    /// A frame arrives on the loopback interface.
    #[must_use]
    pub fn frame(self, frame: Frame, expect: Expect) -> Self {
        self.frame_through(LO, frame, expect)
    }

    /// A frame arrives on another interface.
    #[must_use]
    pub fn frame_through(mut self, ifindex: u32, frame: Frame, expect: Expect) -> Self {
        self.steps.push(Step::Frame(Box::new(frame), ifindex, expect));
        self
    }

    /// The data plane changes to another state.
    #[must_use]
    pub fn change(mut self, world: PacketWorld) -> Self {
        self.steps.push(Step::ChangeState(Box::new(world)));
        self
    }

    /// Roles or MACs of the interfaces change.
    #[must_use]
    pub fn interfaces(mut self, interfaces: Interfaces) -> Self {
        self.steps.push(Step::Interfaces(Box::new(interfaces)));
        self
    }

    /// The host's clock is set, in jiffies.
    #[must_use]
    pub fn clock(mut self, jiffies: u32) -> Self {
        self.steps.push(Step::Clock(jiffies));
        self
    }

    /// The host's clock of token buckets advances.
    #[must_use]
    pub fn nanoseconds(mut self, nanoseconds: u64) -> Self {
        self.steps.push(Step::Nanoseconds(nanoseconds));
        self
    }

    /// From now on the kernel routes to all clients by this interface and neighbour MAC; a MAC of 0 is unresolved.
    #[must_use]
    pub fn route(mut self, ifindex: u32, station: [u8; 6]) -> Self {
        self.steps.push(Step::Route(ClientPath::new(ifindex, mac_word(station))));
        self
    }

    /// From now on all clients are on the link of this interface; 0: behind a gateway.
    #[must_use]
    pub fn link(mut self, ifindex: u32) -> Self {
        self.steps.push(Step::Link(ifindex));
        self
    }

    /// The flow table refuses new entries from now on.
    #[must_use]
    pub fn full(mut self) -> Self {
        self.steps.push(Step::Full);
        self
    }

    /// Copying of flows into a new flow table begins or ends.
    #[must_use]
    pub fn resizing(mut self, resizing: bool) -> Self {
        self.steps.push(Step::Resizing(resizing));
        self
    }

    /// A GC pass finds expired connections and provokes their ends.
    #[must_use]
    pub fn collect(mut self) -> Self {
        self.steps.push(Step::GcPass);
        self
    }

    /// Runs the steps on the host and, if given, in the kernel.
    ///
    /// # Errors
    /// A result differs from the expected one, or host and kernel differ.
    pub fn run(&self, kernel: Option<&mut Kernel>) -> Result<()> {
        let mut run = CaseRun {
            host: host::host(),
            kernel,
            held: MapState::default(),
            expected: ExpectedCounters::default(),
            labels: FlowLabels::default(),
        };
        if let Some(kernel) = &mut run.kernel {
            kernel.begin(&self.world.state)?;
            kernel.put_interfaces(&world::interfaces())?;
        }
        run.become_world(&self.world)?;
        for (number, step) in self.steps.iter().enumerate() {
            match step {
                Step::Frame(frame, ifindex, expect) => run
                    .frame(frame, *ifindex, expect)
                    .with_context(|| format!("{}: step {number}: {expect:?}", self.name))?,
                Step::ChangeState(world) => run.become_world(world)?,
                Step::Interfaces(interfaces) => run.put_interfaces(interfaces)?,
                Step::Clock(jiffies) => run.host.now.set(*jiffies),
                Step::Nanoseconds(passed) => run.host.nanoseconds.update(|now| now + passed),
                Step::Route(route) => run.host.route.set(*route),
                Step::Link(link) => run.host.link.set(*link),
                Step::Full => run.host.full.set(true),
                Step::Resizing(resizing) => run.set_resizing(*resizing)?,
                Step::GcPass => run.host.collect(world::HZ),
            }
        }
        run.labels.are_spread(&run.held.index.tunnel).with_context(|| self.name.clone())?;
        run.compare_counters().with_context(|| format!("{}: counters", self.name))
    }
}

struct CaseRun<'k> {
    host: Host,
    kernel: Option<&'k mut Kernel>,
    held: MapState,
    expected: ExpectedCounters,
    labels: FlowLabels,
}

/// Flow labels, outer source ports and addresses seen, by addresses, ports and protocol of the client's packets. A flow keeps both,
/// and different flows of a case have different labels and, but for one in eight, different ports.
#[derive(Default)]
struct FlowLabels(BTreeMap<Vec<u8>, TunnelFlow>);

impl FlowLabels {
    fn note(&mut self, frame: &Frame, tunnel: TunnelFlow) -> Result<()> {
        let ip = &frame.bytes[frame.network..];
        let addresses = if ip[0] >> 4 == 4 { &ip[12..20] } else { &ip[8..40] };
        let flow = [addresses, &frame.bytes[frame.transport..][..4], &[frame.protocol]].concat();
        let known = *self.0.entry(flow.clone()).or_insert(tunnel);
        ensure!(known == tunnel, "{tunnel:x?} after {known:x?}");
        // IPv4 has no flow label.
        let label = tunnel.label;
        let shared = self.0.iter().any(|(other, known)| *other != flow && known.label == label && label != 0);
        ensure!(!shared, "flow label {label:#x} of another flow");
        Ok(())
    }

    /// Checks that outer source ports and addresses differ. Two flows may have the same one by chance.
    fn are_spread(&self, tunnel: &Tunnel) -> Result<()> {
        let ports: Vec<u16> = self.0.values().map(|flow| flow.port).filter(|port| *port != 0).collect();
        let distinct = BTreeSet::from_iter(&ports).len();
        ensure!(distinct * 8 >= ports.len() * 7, "{distinct} source ports of {} flows", ports.len());
        if tunnel.by_flow_v4 | tunnel.by_flow_v6 != 0 {
            let sources: BTreeSet<_> = self.0.values().map(|flow| flow.source).collect();
            let (distinct, all) = (sources.len(), self.0.len());
            ensure!(distinct * 4 >= all * 3, "{distinct} sources of {all} flows");
        }
        Ok(())
    }
}

impl CaseRun<'_> {
    fn set_resizing(&mut self, resizing: bool) -> Result<()> {
        self.host.resizing.set(resizing);
        self.kernel.as_mut().map_or(Ok(()), |kernel| kernel.set_resizing(resizing))
    }

    fn put_interfaces(&mut self, interfaces: &Interfaces) -> Result<()> {
        host::put_interfaces(&mut self.host, interfaces);
        self.kernel.as_mut().map_or(Ok(()), |kernel| kernel.put_interfaces(interfaces))
    }

    fn become_world(&mut self, world: &PacketWorld) -> Result<()> {
        for operation in diff(&self.held, &world.state) {
            self.host.apply(&operation);
            match operation {
                Operation::PutService { id, is_new: true, .. } => {
                    self.expected.services.remove(&id.index());
                }
                Operation::PutBackends(backends) => {
                    backends.iter().filter(|put| put.is_new).for_each(|put| {
                        self.expected.backends.remove(&put.id.index());
                    });
                }
                _ => {}
            }
        }
        self.held = world.state.clone();
        self.kernel.as_mut().map_or(Ok(()), |kernel| kernel.become_state(&world.state))
    }

    fn frame(&mut self, frame: &Frame, ifindex: u32, expect: &Expect) -> Result<()> {
        let (verdict, mut bytes) = self.expected.note(frame, ifindex, expect, &self.held);
        let is_sent = matches!(verdict, Verdict::Transmit | Verdict::Redirect(_));
        // The checksum of an unknown transport protocol cannot be verified.
        if is_sent && *expect != Expect::IcmpError(IcmpCause::NoProtocol) {
            check::verify(&frame.bytes).map_err(anyhow::Error::msg).context("the frame that went in")?;
        }

        let mut out = frame.bytes.clone();
        let decided = self.host.process(&mut out, ifindex);
        ensure!(
            decided == verdict,
            "host: {decided:?} in place of {verdict:?}; counted {:?}",
            self.host.totals()
        );
        if let Expect::ToServer(listener, server, _)
        | Expect::EndServer(listener, server, _)
        | Expect::FragmentToServer(listener, server, ..) = expect
            && mode::is_tunnel(mode_of(&self.held, listener))
        {
            let leaving = sent(frame, expect).in_vlan(server.hop.vlan);
            let mode = mode_of(&self.held, listener);
            let flow = TunnelFlow::read(&out, leaving.network, mode, &self.held.index.tunnel);
            // A fragment has the label of its flow, whose ports only the first one has.
            let of = if let Expect::FragmentToServer(.., fragment) = expect { fragment.whole } else { frame };
            self.labels.note(of, flow)?;
            bytes = tunnel::wrapped(&leaving, &server.hop, server.at, mode, flow);
        }
        // A dropped frame may be left half rewritten.
        if verdict != Verdict::Drop {
            same("host", &out, &bytes)?;
        }
        let totals = self.host.totals();
        ensure!(
            totals == self.expected.totals,
            "host: counted {totals:?} in place of {:?}",
            self.expected.totals
        );
        if matches!(verdict, Verdict::Transmit | Verdict::Redirect(_)) {
            check::verify(&out).map_err(anyhow::Error::msg).context("the frame that came out")?;
        }

        if let Some(kernel) = &mut self.kernel {
            let (number, in_kernel) = kernel.process(&frame.bytes)?;
            ensure!(number == xdp_action(verdict), "kernel: XDP action {number} in place of {verdict:?}");
            if verdict != Verdict::Drop {
                same("kernel", &in_kernel, &bytes)?;
            }
        }
        Ok(())
    }

    fn compare_counters(&self) -> Result<()> {
        let ExpectedCounters { totals, services, backends } = &self.expected;
        for id in 0..IDS {
            let wanted = services.get(&id).copied().unwrap_or_default();
            ensure!(
                self.host.service_counters(id) == wanted,
                "host: service {id}: {:?}",
                self.host.service_counters(id)
            );
            let wanted = backends.get(&id).copied().unwrap_or_default();
            ensure!(
                self.host.backend_counters(id) == wanted,
                "host: server {id}: {:?}",
                self.host.backend_counters(id)
            );
        }
        ensure!(self.host.totals() == *totals, "host: {:?} in place of {totals:?}", self.host.totals());
        self.kernel.as_ref().map_or(Ok(()), |kernel| same_counters(&self.host, kernel))
    }
}

/// XDP action number of a verdict.
pub fn xdp_action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Transmit => action::TX,
        Verdict::Redirect(_) => action::REDIRECT,
        Verdict::Pass => action::PASS,
        Verdict::Drop => action::DROP,
    }
}

/// Compares every counter of host and kernel.
///
/// # Errors
/// A counter differs.
pub fn same_counters(host: &Host, kernel: &Kernel) -> Result<()> {
    let (ours, theirs) = (host.totals(), kernel.totals()?);
    ensure!(ours == theirs, "host counted {ours:?}, kernel {theirs:?}");
    for id in 0..IDS {
        let (ours, theirs) = (host.service_counters(id), kernel.service_counters(id)?);
        ensure!(ours == theirs, "service {id}: host counted {ours:?}, kernel {theirs:?}");
        let (ours, theirs) = (host.limit_drops(id), kernel.limit_drops(id)?);
        ensure!(ours == theirs, "service {id}: host dropped {ours:?}, kernel {theirs:?}");
        let (ours, theirs) = (host.backend_counters(id), kernel.backend_counters(id)?);
        ensure!(ours == theirs, "server {id}: host counted {ours:?}, kernel {theirs:?}");
    }
    Ok(())
}

/// Compares two frames; the error shows where they differ.
///
/// # Errors
/// The frames differ.
pub fn same(half: &str, is: &[u8], should: &[u8]) -> Result<()> {
    if is == should {
        return Ok(());
    }
    let mut message = format!("{half}: {} bytes in place of {}", is.len(), should.len());
    for (at, (is, should)) in is.iter().zip(should).enumerate().filter(|(_, (is, should))| is != should) {
        write!(message, "; [{at}] {is:02x} in place of {should:02x}")?;
    }
    bail!(message)
}
