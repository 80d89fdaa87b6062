//! How often each outcome was reached.

use std::{collections::BTreeMap, fmt};

use slb_oracle::{Action, Group, Reason, generator::Extent};

/// Outcomes that a run of the default size must reach: a run that reaches nothing cannot fail.
const EXPECTED: &[(Action, &[Reason])] = &[
    (Action::Forward, &[Reason::ToServer, Reason::ToClient, Reason::Reset]),
    (Action::Answer, &[Reason::Echo, Reason::HopLimit, Reason::TooBig, Reason::Reset, Reason::Unmatched]),
    (
        Action::Pass,
        &[
            Reason::NotIp,
            Reason::LinkMulticast,
            Reason::NotOurs,
            Reason::OtherProtocol,
            Reason::Truncated,
            Reason::BadHeader,
            Reason::BadLength,
            Reason::Fragment,
            Reason::ExtensionHeaders,
            Reason::SourceRoute,
            Reason::OtherHost,
        ],
    ),
    (
        Action::Drop,
        &[
            Reason::Echo,
            Reason::Truncated,
            Reason::BadHeader,
            Reason::BadLength,
            Reason::Fragment,
            Reason::ExtensionHeaders,
            Reason::SourceRoute,
            Reason::HopLimit,
            Reason::MartianSource,
            Reason::Hairpin,
            Reason::NoServer,
            Reason::NoNextHop,
            Reason::PortConflict,
            Reason::ClientPortBusy,
            Reason::NoInterface,
            Reason::NoClientHop,
            Reason::VlanCrossing,
            Reason::TooBig,
            Reason::Loop,
            Reason::Reset,
            Reason::NotReady,
            Reason::Unmatched,
            Reason::WrongInterface,
            Reason::ForgedIcmp,
            Reason::BandwidthLimit,
            Reason::NewConnectionLimit,
            Reason::NoSourcePort,
        ],
    ),
];

/// Outcomes that the kernel does not reach: a frame that ends before its Ethernet type, and limits by the clock.
const HOST_ONLY: [(Action, Reason); 3] = [
    (Action::Pass, Reason::Truncated),
    (Action::Drop, Reason::BandwidthLimit),
    (Action::Drop, Reason::NewConnectionLimit),
];

/// Packets by outcome, and sequences.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets that were compared.
    pub packets: u64,
    /// Sequences that were compared.
    pub sequences: u64,
    outcomes: BTreeMap<(Action, Reason), u64>,
    groups: BTreeMap<Group, u64>,
}

impl Tally {
    /// Counts a packet.
    pub(super) fn count(&mut self, action: Action, reason: Reason, group: Option<Group>) {
        self.packets += 1;
        *self.outcomes.entry((action, reason)).or_default() += 1;
        if let Some(group) = group {
            *self.groups.entry(group).or_default() += 1;
        }
    }

    /// Adds another tally.
    pub fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.sequences += other.sequences;
        for (outcome, packets) in &other.outcomes {
            *self.outcomes.entry(*outcome).or_default() += packets;
        }
        for (group, packets) in &other.groups {
            *self.groups.entry(*group).or_default() += packets;
        }
    }

    /// Packets by outcome.
    pub const fn outcomes(&self) -> &BTreeMap<(Action, Reason), u64> {
        &self.outcomes
    }

    /// Names of outcomes and groups that a run of this extent must reach and has not.
    pub fn missed(&self, extent: Extent) -> Vec<String> {
        let groups = Group::ALL.iter().filter(|group| !self.groups.contains_key(group));
        let groups = groups.map(|group| group.name().to_owned());
        let expected =
            EXPECTED.iter().flat_map(|(action, reasons)| reasons.iter().map(|reason| (*action, *reason)));
        expected
            .filter(|outcome| !self.outcomes.contains_key(outcome))
            .filter(|outcome| extent == Extent::Host || !HOST_ONLY.contains(outcome))
            .map(|(action, reason)| format!("{} {}", action.name(), reason.name()))
            .chain(groups)
            .collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} packets in {} sequences", self.packets, self.sequences)?;
        for ((action, reason), packets) in &self.outcomes {
            writeln!(f, "{packets:>10}  {} {}", action.name(), reason.name())?;
        }
        for (group, packets) in &self.groups {
            writeln!(f, "{packets:>10}  {}", group.name())?;
        }
        Ok(())
    }
}
