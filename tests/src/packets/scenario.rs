//! A packet case: a sequence of frames and changes with the expected result of each, on the host and in the kernel.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::{Context as _, Result, bail, ensure};
use slb_common::{
    abi::{
        flow::ClientPath,
        ids::ServiceId,
        mac_word,
        service::mode,
        stats::{Action, Counters, Reason},
    },
    datapath::Verdict,
};
use slb_control::{
    dataplane::state::{MapState, Operation},
    diff::diff,
};
use slb_userspace::dataplane::interfaces::Interfaces;

use super::{
    check::{self, Rewrite},
    frames::Frame,
    host::{self, Host, Totals},
    icmp::{self, IcmpCause},
    kernel::{Kernel, action},
    reset, tunnel,
    world::{self, Hop, IDS, LO, PacketListener, PacketServer, PacketWorld},
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
    /// The host's kernel has this route to every client from now on.
    Route(ClientPath),
    /// The host's flow table refuses new entries from now on.
    Full,
    /// Copying of flows into a new flow table begins or ends.
    Resizing(bool),
    /// A GC pass over the host's flow table.
    GcPass,
}

/// Expected result of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Forwarded to a server in the listener's mode.
    ToServer(PacketListener, PacketServer, FlowKind),
    /// Forwarded to the client by this hop.
    ToClient(PacketListener, PacketServer, Hop),
    /// An ICMP error, forwarded to the server as this frame.
    ErrorToServer(PacketListener, PacketServer, &'static [u8]),
    /// An ICMP error, forwarded to the client as this frame.
    ErrorToClient(PacketListener, PacketServer, &'static [u8]),
    /// Rewritten to a RST and forwarded to the server.
    EndServer(PacketListener, PacketServer, FlowKind),
    /// Rewritten to a RST and forwarded to the client.
    EndClient(PacketListener, PacketServer, Hop),
    /// Answered with a RST: the connection is terminated.
    End,
    /// Answered with a RST: unmatched.
    Refuse,
    /// Echo reply.
    Answer(PacketListener),
    /// Answered with an ICMP error.
    IcmpError(IcmpCause),
    /// Passed to the kernel unchanged.
    Pass(Reason),
    /// Dropped.
    Drop(Reason),
}

/// Whether a packet begins a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowKind {
    /// The packet counts as a new flow.
    New,
    /// The packet does not count as a new flow.
    Old,
}

/// The client path, unless a case says otherwise.
pub const CLIENT: Hop = Hop { id: 0, out: LO, peer: world::CLIENT_MAC, own: world::OWN_MAC };

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

    /// From now on the kernel routes to all clients by this interface and neighbour MAC; a MAC of 0 is unresolved.
    #[must_use]
    pub fn route(mut self, ifindex: u32, station: [u8; 6]) -> Self {
        self.steps.push(Step::Route(ClientPath::new(ifindex, mac_word(station))));
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
                Step::Route(route) => run.host.route.set(*route),
                Step::Full => run.host.full.set(true),
                Step::Resizing(resizing) => run.set_resizing(*resizing)?,
                Step::GcPass => run.host.collect(world::HZ),
            }
        }
        run.compare_counters().with_context(|| format!("{}: counters", self.name))
    }
}

/// Expected counters.
#[derive(Default)]
struct ExpectedCounters {
    totals: Totals,
    services: BTreeMap<u32, Counters>,
    backends: BTreeMap<u32, Counters>,
}

struct CaseRun<'k> {
    host: Host,
    kernel: Option<&'k mut Kernel>,
    held: MapState,
    expected: ExpectedCounters,
    labels: FlowLabels,
}

/// Flow labels seen, by addresses, ports and protocol of the client's packets. A flow keeps its label, and different
/// flows of a case have different ones.
#[derive(Default)]
struct FlowLabels(BTreeMap<Vec<u8>, u32>);

impl FlowLabels {
    fn note(&mut self, frame: &Frame, label: u32) -> Result<()> {
        let ip = &frame.bytes[frame.network..];
        let addresses = if ip[0] >> 4 == 4 { &ip[12..20] } else { &ip[8..40] };
        let flow = [addresses, &frame.bytes[frame.transport..][..4], &[frame.protocol]].concat();
        let known = *self.0.entry(flow.clone()).or_insert(label);
        ensure!(known == label, "flow label {label:#x} after {known:#x}");
        // IPv4 has no flow label.
        let shared = self.0.iter().any(|(other, known)| *other != flow && *known == label && label != 0);
        ensure!(!shared, "flow label {label:#x} of another flow");
        Ok(())
    }
}

/// The mode of a listener, which determines how frames are rewritten.
fn mode_of(state: &MapState, listener: &PacketListener) -> u8 {
    state.services.get(&ServiceId::new(listener.id)).map_or(mode::NAT, |service| service.mode)
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
        if let Expect::ToServer(listener, server, _) | Expect::EndServer(listener, server, _) = expect
            && mode_of(&self.held, listener) == mode::IPIP
        {
            let label = tunnel::label(&out, frame.untagged().network);
            self.labels.note(frame, label)?;
            bytes = tunnel::wrapped(&sent(frame, expect), &server.hop, server.at, label);
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

impl ExpectedCounters {
    /// Changes the counters of a listener and of a server.
    fn count(&mut self, listener: &PacketListener, server: &PacketServer, change: impl Fn(&mut Counters)) {
        change(self.services.entry(listener.id).or_default());
        change(self.backends.entry(server.id).or_default());
    }

    /// Counts the frame; returns the expected verdict and frame.
    fn note(&mut self, frame: &Frame, ifindex: u32, expect: &Expect, held: &MapState) -> (Verdict, Vec<u8>) {
        let (came, frame) = (frame, &frame.untagged());
        let len = came.bytes.len() as u64;
        let send = |hop: &Hop| {
            if hop.out == ifindex { Verdict::Transmit } else { Verdict::Redirect(hop.out) }
        };
        let (action, reason, verdict, bytes) = match expect {
            Expect::ToServer(listener, server, flow) | Expect::EndServer(listener, server, flow) => {
                self.count(listener, server, |counters| {
                    counters.packets_in += 1;
                    counters.bytes_in += len;
                    counters.new_flows += u64::from(*flow == FlowKind::New);
                });
                let hop = &server.hop;
                let rewrite = match mode_of(held, listener) {
                    mode::NAT => Rewrite::Destination(server.at),
                    // For mode `ipip` the caller adds the outer header.
                    _ => Rewrite::Nothing,
                };
                let bytes = check::rewritten(&sent(frame, expect), hop.peer, hop.own, rewrite);
                let is_end = matches!(expect, Expect::EndServer(..));
                let reason = if is_end { Reason::Reset } else { Reason::ToServer };
                (Action::Forward, reason, send(hop), bytes)
            }
            Expect::ToClient(listener, server, hop) | Expect::EndClient(listener, server, hop) => {
                let sent_len = sent(frame, expect).bytes.len() as u64;
                self.count(listener, server, |counters| {
                    counters.packets_out += 1;
                    counters.bytes_out += sent_len;
                });
                let rewrite = Rewrite::Source(listener.at);
                let bytes = check::rewritten(&sent(frame, expect), hop.peer, hop.own, rewrite);
                let is_end = matches!(expect, Expect::EndClient(..));
                let reason = if is_end { Reason::Reset } else { Reason::ToClient };
                (Action::Forward, reason, send(hop), bytes)
            }
            Expect::ErrorToServer(listener, server, bytes) => {
                self.count(listener, server, |counters| {
                    counters.packets_in += 1;
                    counters.bytes_in += len;
                });
                (Action::Forward, Reason::ToServer, send(&server.hop), bytes.to_vec())
            }
            Expect::ErrorToClient(listener, server, bytes) => {
                self.count(listener, server, |counters| {
                    counters.packets_out += 1;
                    counters.bytes_out += bytes.len() as u64;
                });
                (Action::Forward, Reason::ToClient, send(&CLIENT), bytes.to_vec())
            }
            Expect::End => (Action::Answer, Reason::Reset, Verdict::Transmit, reset::back(frame).bytes),
            Expect::Refuse => {
                (Action::Answer, Reason::Unmatched, Verdict::Transmit, reset::back(frame).bytes)
            }
            Expect::Answer(listener) => {
                let counters = self.services.entry(listener.id).or_default();
                counters.packets_in += 1;
                counters.bytes_in += len;
                let mac = |at: usize| frame.bytes[at..at + 6].try_into().expect("six bytes");
                let bytes = check::rewritten(frame, mac(6), mac(0), Rewrite::Reply);
                (Action::Answer, Reason::Echo, Verdict::Transmit, bytes)
            }
            Expect::IcmpError(cause) => {
                let reason = match cause {
                    IcmpCause::HopLimit => Reason::HopLimit,
                    IcmpCause::TooBig(_) => Reason::TooBig,
                    IcmpCause::NoPort | IcmpCause::NoProtocol => Reason::Unmatched,
                };
                let bytes = icmp::icmp_error(&frame.bytes, frame.network, *cause);
                (Action::Answer, reason, Verdict::Transmit, bytes)
            }
            Expect::Pass(reason) => (Action::Pass, *reason, Verdict::Pass, came.bytes.clone()),
            Expect::Drop(reason) => (Action::Drop, *reason, Verdict::Drop, came.bytes.clone()),
        };
        *self.totals.entry((action as u8, reason as u32)).or_default() += 1;
        (verdict, bytes)
    }
}

/// The frame that is forwarded, before it is rewritten.
fn sent(frame: &Frame, expect: &Expect) -> Frame {
    match expect {
        Expect::EndServer(..) | Expect::EndClient(..) => reset::forward(&frame.untagged()),
        _ => frame.untagged(),
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
