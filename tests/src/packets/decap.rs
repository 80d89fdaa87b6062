//! Cases of the decapsulator: what must become of a frame, asked of its code on the host and of its program in the
//! kernel.

mod cases;

use anyhow::{Context as _, Result, ensure};
use slb_common::{
    abi::decap::{Action, Policy, Reason},
    decap::process,
    net::frame::Frame,
};
use slb_userspace::dataplane::bpf::{
    decap::{self, Pins},
    xdp::Program,
};

pub use cases::{all, policy};

use super::kernel::action;
use crate::leftovers::{self, RunId};

/// The interface the pins are made for; it need not exist.
const INTERFACE: u32 = 1;

/// A frame and what must become of it.
#[derive(Debug, Clone)]
pub struct Case {
    /// What it shows.
    pub name: String,
    /// What comes in.
    pub frame: Vec<u8>,
    /// Why the frame meets its fate, and thereby which.
    pub reason: Reason,
    /// What the kernel gets of a frame that is stripped.
    pub out: Vec<u8>,
}

impl Case {
    /// The XDP action, and the frame that must come out.
    pub fn expected(&self) -> (u32, &[u8]) {
        match self.reason.action() {
            Action::Strip => (action::PASS, &self.out),
            Action::Pass => (action::PASS, &self.frame),
            Action::Drop => (action::DROP, &self.frame),
        }
    }
}

/// What the code makes of a frame on the host: the reason, the XDP action and the frame.
pub fn on_host(policy: &Policy, frame: &[u8]) -> (Reason, u32, Vec<u8>) {
    let mut bytes = frame.to_vec();
    let outcome = process(&mut Frame::from_slice(&mut bytes), policy);
    let action = if outcome.reason.action() == Action::Drop { action::DROP } else { action::PASS };
    (outcome.reason, action, bytes.split_off(outcome.cut))
}

/// The program in the kernel, with a policy and a tally of its own. Its pins go away with it.
pub struct Kernel {
    program: Program,
    pins: Pins,
}

impl Kernel {
    /// Loads the program.
    ///
    /// # Errors
    /// The kernel refuses it, or there is no BPF file system.
    pub fn load(policy: &Policy) -> Result<Self> {
        leftovers::ensure_bpf_fs()?;
        leftovers::remove_dead()?;
        let pins = Pins::new(RunId::next().pin_dir());
        pins.create()?;
        let program = decap::load(&pins, INTERFACE, policy)?;
        Ok(Self { program, pins })
    }

    /// Instructions the verifier processed.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn verified_instructions(&mut self) -> Result<u32> {
        self.program.facts()?.verified_instructions.context("this kernel does not count them")
    }

    /// What the program makes of a frame of at least 14 bytes: the reason, the XDP action and the frame.
    ///
    /// # Errors
    /// It cannot be run, or has counted otherwise than once.
    pub fn process(&mut self, frame: &[u8]) -> Result<(Reason, u32, Vec<u8>)> {
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

impl Drop for Kernel {
    fn drop(&mut self) {
        if let Err(error) = self.pins.remove(INTERFACE) {
            eprintln!("pins stay behind: {error:#}");
        }
    }
}
