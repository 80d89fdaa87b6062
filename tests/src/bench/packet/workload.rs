//! What is measured: a state of the data plane, the packets that come to it, and what must become of them.

use slb_common::abi::stats::{Action, Reason};
use slb_userspace::dataplane::state::State;

use crate::packets::{frames::Frame, kernel::action};

/// Which end of a packet varies with the flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The sender: packets of clients.
    Source,
    /// The receiver: answers of servers.
    Destination,
    /// None: one flow, whatever lies before the IP header.
    Neither,
}

/// Packets of so many flows, each with a client endpoint of its own.
#[derive(Debug, Clone)]
pub struct Traffic {
    /// The packet of flow 0; in the address that varies, the bits of flow numbers are 0.
    pub frame: Vec<u8>,
    /// How many flows, a power of two.
    pub flows: u64,
    /// Which end is the client's.
    pub side: Side,
}

impl Traffic {
    /// Packets like this one.
    pub fn new(frame: Frame, flows: u64, side: Side) -> Self {
        Self { frame: frame.bytes, flows, side }
    }

    /// Whether the packets are IPv6.
    pub fn is_v6(&self) -> bool {
        self.frame.get(12..14) == Some(&[0x86, 0xdd])
    }
}

/// What must become of every packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expect {
    /// The XDP action.
    pub verdict: u32,
    /// What SLB counts it under.
    pub counted: (Action, Reason),
    /// Whether SLB counts a new flow for it.
    pub new_flow: bool,
    /// Bytes by which SLB makes the frame grow.
    pub grown: i64,
}

impl Expect {
    /// A packet goes to a server, unencapsulated.
    pub const TO_SERVER: Self =
        Self { verdict: action::TX, counted: (Action::Forward, Reason::ToServer), new_flow: false, grown: 0 };
    /// An answer goes to its client.
    pub const TO_CLIENT: Self = Self { counted: (Action::Forward, Reason::ToClient), ..Self::TO_SERVER };
    /// A packet is left to the kernel.
    pub const NOT_OURS: Self =
        Self { verdict: action::PASS, counted: (Action::Pass, Reason::NotOurs), ..Self::TO_SERVER };

    /// The same, and the packet begins a flow.
    #[must_use]
    pub const fn beginning(self) -> Self {
        Self { new_flow: true, ..self }
    }
}

/// Packets that are sent, and what must become of them.
#[derive(Debug, Clone)]
pub struct Step {
    /// The packets.
    pub traffic: Traffic,
    /// How many; of the measured step, how many are sent before measuring begins.
    pub packets: u64,
    /// What must become of them.
    pub expect: Expect,
}

impl Step {
    /// Sends one packet of each flow.
    pub fn once(traffic: Traffic, expect: Expect) -> Self {
        Self { packets: traffic.flows, traffic, expect }
    }
}

/// A thing to measure.
#[derive(Debug, Clone)]
pub struct Workload {
    /// What people read, and filters look for.
    pub name: String,
    /// What is in force.
    pub state: State,
    /// Room in the flow table.
    pub flow_table: u32,
    /// Sent once at the start.
    pub fill: Option<Step>,
    /// What is measured.
    pub measured: Step,
    /// Sent once at the end: shows that what was filled was still there, where the measured packets cannot.
    pub audit: Option<Step>,
}
