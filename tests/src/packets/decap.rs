//! Cases of the decapsulator: frames with written-out expectations, run by its code on the host and by its program in
//! the kernel.

mod cases;

use anyhow::{Context as _, Result, ensure};
use slb_common::{
    abi::decap::{DecapAction, DecapPolicy, DecapReason},
    decap::process,
    net::frame::Frame,
};
use slb_userspace::dataplane::bpf::{
    decap::{self, DecapPins},
    xdp::Program,
};

pub use cases::{all, policy};

use super::kernel::action;
use crate::leftovers::{self, RunId};

/// Interface index in the pin names. The interface need not exist.
const INTERFACE: u32 = 1;

/// A frame and the expected result.
#[derive(Debug, Clone)]
pub struct DecapCase {
    /// What the case shows.
    pub name: String,
    /// The frame that arrives.
    pub frame: Vec<u8>,
    /// Expected reason, which implies the action.
    pub reason: DecapReason,
    /// For stripped frames: the expected frame after decapsulation.
    pub out: Vec<u8>,
}

impl DecapCase {
    /// Expected XDP action and frame.
    pub fn expected(&self) -> (u32, &[u8]) {
        match self.reason.action() {
            DecapAction::Strip => (action::PASS, &self.out),
            DecapAction::Pass => (action::PASS, &self.frame),
            DecapAction::Drop => (action::DROP, &self.frame),
        }
    }
}

/// Runs the code on the host: returns the reason, the XDP action and the frame.
pub fn on_host(policy: &DecapPolicy, frame: &[u8]) -> (DecapReason, u32, Vec<u8>) {
    let mut bytes = frame.to_vec();
    let outcome = process(&mut Frame::from_slice(&mut bytes), policy);
    let action = if outcome.reason.action() == DecapAction::Drop { action::DROP } else { action::PASS };
    (outcome.reason, action, bytes.split_off(outcome.cut))
}

/// The program in the kernel with its own policy and counters. Dropping it removes its pins.
pub struct DecapKernel {
    program: Program,
    pins: DecapPins,
}

impl DecapKernel {
    /// Loads the program.
    ///
    /// # Errors
    /// The kernel refuses the program, or no BPF file system can be mounted.
    pub fn load(policy: &DecapPolicy) -> Result<Self> {
        leftovers::ensure_bpf_fs()?;
        leftovers::remove_dead()?;
        let pins = DecapPins::new(RunId::next().pin_dir());
        pins.create()?;
        let program = decap::load(&pins, INTERFACE, policy)?;
        Ok(Self { program, pins })
    }

    /// Number of instructions that the verifier processed.
    ///
    /// # Errors
    /// The kernel does not report it.
    pub fn verified_instructions(&mut self) -> Result<u32> {
        let stats = self.program.stats()?;
        let verified = stats.iter().filter_map(|program| program.verified_instructions).max();
        verified.context("this kernel does not count them")
    }

    /// Runs the program over a frame of at least 14 bytes: returns the reason, the XDP action and the frame.
    ///
    /// # Errors
    /// The program cannot be run, or does not count the frame exactly once.
    pub fn process(&mut self, frame: &[u8]) -> Result<(DecapReason, u32, Vec<u8>)> {
        let before = decap::tally(&mut self.program)?;
        let (action, out) =
            self.program.test_run(frame).with_context(|| format!("a frame of {} bytes", frame.len()))?;
        let mut counted = decap::tally(&mut self.program)?;
        for (reason, frames) in &mut counted {
            *frames -= before.iter().find(|(other, _)| other == reason).map_or(0, |(_, frames)| *frames);
        }
        counted.retain(|(_, frames)| *frames != 0);
        ensure!(matches!(counted[..], [(_, 1)]), "counted: {counted:?}");
        Ok((counted[0].0, action, out))
    }
}

impl Drop for DecapKernel {
    fn drop(&mut self) {
        if let Err(error) = self.pins.remove(INTERFACE) {
            eprintln!("pins stay behind: {error:#}");
        }
    }
}
