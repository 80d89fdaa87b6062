//! A contestant: a system under test in its lane, and the frames that it gets.

use anyhow::{Result, ensure};
use serde::Serialize;
use slb_bench_common::pps::{ExpectedFrames, SinkCounters};

use super::{
    conntrack,
    frame::BenchSegment,
    lane::{Arms, PpsLane},
};
use crate::bench::slbd::Slbd;

/// Number of flows in [`PpsWorkload::Many`].
const MANY: u32 = 1 << 16;

/// How the frames are spread over flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PpsWorkload {
    /// All frames belong to one connection.
    One,
    /// Frames belong to 65,536 connections in turn, all established before the measurement.
    Many,
    /// Each frame opens a connection.
    New,
}

impl PpsWorkload {
    pub(super) const ALL: [Self; 3] = [Self::One, Self::Many, Self::New];

    /// Name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::One => "1 flow",
            Self::Many => "64k flows",
            Self::New => "new flows",
        }
    }

    pub(super) fn segment(self) -> BenchSegment {
        match self {
            Self::One | Self::Many => BenchSegment::Ack,
            Self::New => BenchSegment::Syn,
        }
    }

    /// Number of flows, minus one.
    pub(super) fn mask(self) -> u32 {
        match self {
            Self::One => 0,
            Self::Many => MANY - 1,
            Self::New => u32::MAX,
        }
    }

    /// Number of frames before the measurement; enough to establish every flow, even if some are lost.
    pub(super) fn warm_up(self) -> u32 {
        match self {
            Self::One | Self::New => 4096,
            Self::Many => 2 * MANY,
        }
    }
}

/// A system under test.
pub(super) struct Contestant {
    /// Name of the contestant.
    pub(super) name: String,
    /// The interface by which frames leave it.
    pub(super) arms: Arms,
    /// Whether it is a floor, with which others are compared.
    pub(super) floor: bool,
    pub(super) workloads: &'static [PpsWorkload],
    /// The frames that the sink must see.
    pub(super) expected: ExpectedFrames,
    /// Whether the frames at the sink show their server.
    pub(super) shows_servers: bool,
    /// Whether it uses the kernel's conntrack table.
    pub(super) conntrack: bool,
    /// The daemon, for SLB.
    pub(super) _slbd: Option<Slbd>,
    pub(super) lane: PpsLane,
}

impl Contestant {
    /// A contestant that rewrites only MACs.
    pub(super) fn new(name: &str, arms: Arms, expected: ExpectedFrames, lane: PpsLane) -> Self {
        Self {
            name: name.to_owned(),
            arms,
            floor: false,
            workloads: &[PpsWorkload::One],
            expected,
            shows_servers: false,
            conntrack: false,
            _slbd: None,
            lane,
        }
    }

    /// Clears the state that would carry over to the next slice.
    pub(super) fn prepare_round(&self) -> Result<()> {
        if self.conntrack { self.lane.sut.on_thread(conntrack::flush) } else { Ok(()) }
    }

    /// Checks what arrived of `sent` frames.
    pub(super) fn judge(&self, workload: PpsWorkload, sent: u64, arrived: &SinkCounters) -> Result<()> {
        let (name, what) = (&self.name, workload.name());
        let SinkCounters { expected, unexpected, servers } = arrived;
        ensure!(*expected > 0, "{name}, {what}: of {sent} frames none arrived as it should");
        ensure!(
            *unexpected == 0,
            "{name}, {what}: {unexpected} frames arrived that should not have been sent like this"
        );
        ensure!(*expected <= sent, "{name}, {what}: {expected} frames arrived of {sent} sent");
        if self.shows_servers {
            let chosen = servers.iter().filter(|frames| **frames > 0).count();
            let all = self.arms.servers().count();
            let least = servers.iter().filter(|frames| **frames > 0).min().copied().unwrap_or(0);
            match workload {
                PpsWorkload::One => {
                    ensure!(chosen == 1, "{name}: one connection went to servers {servers:?}");
                }
                PpsWorkload::Many | PpsWorkload::New => ensure!(
                    chosen == all && least > expected / (2 * all as u64),
                    "{name}, {what}: uneven or missing servers: {servers:?}"
                ),
            }
        }
        Ok(())
    }
}
