//! A workload: a state of the data plane, the packets that arrive, and their expected verdict.

use slb_common::abi::stats::{Action, Reason};
use slb_control::dataplane::state::MapState;

use crate::packets::{frames::Frame, kernel::action};

/// The end of a packet that varies with the flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VariedAddress {
    /// The source: packets of clients.
    Source,
    /// The destination: answers of servers.
    Destination,
    /// None: one flow, whatever precedes the IP header.
    Neither,
}

/// Packets of this many flows, each with its own client endpoint.
#[derive(Debug, Clone)]
pub struct PacketStream {
    /// The packet of flow 0. The bits of the flow number in the varying address are 0.
    pub frame: Vec<u8>,
    /// Number of flows, a power of two.
    pub flows: u64,
    /// The end that is the client's.
    pub side: VariedAddress,
}

impl PacketStream {
    /// Packets that differ from this frame in the client endpoint only.
    pub fn new(frame: Frame, flows: u64, side: VariedAddress) -> Self {
        Self { frame: frame.bytes, flows, side }
    }

    /// Whether the packets are IPv6.
    pub fn is_v6(&self) -> bool {
        self.frame.get(12..14) == Some(&[0x86, 0xdd])
    }
}

/// Expected result of every packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpectedResult {
    /// The XDP action.
    pub verdict: u32,
    /// Action and reason that SLB counts.
    pub counted: (Action, Reason),
    /// Whether SLB counts a new flow.
    pub new_flow: bool,
    /// Bytes that SLB adds to the frame.
    pub grown: i64,
}

impl ExpectedResult {
    /// A packet to a server, without encapsulation.
    pub const TO_SERVER: Self =
        Self { verdict: action::TX, counted: (Action::Forward, Reason::ToServer), new_flow: false, grown: 0 };
    /// An answer to a client.
    pub const TO_CLIENT: Self = Self { counted: (Action::Forward, Reason::ToClient), ..Self::TO_SERVER };
    /// A packet that is passed to the kernel.
    pub const NOT_OURS: Self =
        Self { verdict: action::PASS, counted: (Action::Pass, Reason::NotOurs), ..Self::TO_SERVER };

    /// The same, for a packet that begins a flow.
    #[must_use]
    pub const fn beginning(self) -> Self {
        Self { new_flow: true, ..self }
    }
}

/// Packets to send, and their expected result.
#[derive(Debug, Clone)]
pub struct WorkloadStep {
    /// The packets.
    pub traffic: PacketStream,
    /// Number of packets; for the measured step, the number before the measurement begins.
    pub packets: u64,
    /// Expected result of each.
    pub expect: ExpectedResult,
}

impl WorkloadStep {
    /// One packet of each flow.
    pub fn once(traffic: PacketStream, expect: ExpectedResult) -> Self {
        Self { packets: traffic.flows, traffic, expect }
    }
}

/// A workload.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Name in the figures, and for filters.
    pub name: String,
    /// State of the data plane.
    pub state: MapState,
    /// Entries of the flow table.
    pub flow_table: u32,
    /// Step sent once at the start.
    pub fill: Option<WorkloadStep>,
    /// Step that is measured.
    pub measured: WorkloadStep,
    /// Step sent once at the end. It shows that the entries of `fill` still exist, where the measured packets cannot.
    pub audit: Option<WorkloadStep>,
}
