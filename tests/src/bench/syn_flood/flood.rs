//! The flood: SYNs from one processor, as many as are answered at a rate, until it ends.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::net::if_::if_nametoindex;
use slb_bench_common::pps::ExpectedFrames;

use crate::{
    World,
    bench::{
        machine::pin_to_core,
        pps::{
            frame::{BenchFrame, BenchSegment},
            programs::{BenchProgram, BenchPrograms},
        },
    },
    net::Family,
    server::Service,
};

/// Time between two batches.
const TICK: Duration = Duration::from_millis(2);
/// Most SYNs that are sent at once: those of this time.
const MOST_DUE: Duration = Duration::from_millis(100);
/// Longest flood.
const LONGEST: Duration = Duration::from_secs(700);
/// Interfaces of the flood's link: that of the client and that of `slb`.
const SENDER: &str = "eth1";
const RECEIVER: &str = "client1";
/// Addresses of the source program.
const SOURCES: (Ipv4Addr, u32) = (Ipv4Addr::new(198, 18, 0, 0), 15);
/// Odd, so that all sources occur, in no order.
const STRIDE: u32 = 0x9e37_79b1;

/// A flood. It ends when this is dropped.
pub(super) struct SynFlood {
    is_to_end: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<(u64, u64)>>>,
}

impl SynFlood {
    /// Sends SYNs to the VIP of IPv4 from then on.
    pub(super) fn start(world: &World, rate: u32) -> Result<Self> {
        let SocketAddr::V4(vip) = world.vip(Family::V4, Service::Http) else { bail!("the VIP is not IPv4") };
        let client = world.net.client.clone();
        let macs = [client.mac(SENDER)?, world.net.slb.mac(RECEIVER)?];
        let frame = BenchFrame::new(macs[0], macs[1], *vip.ip(), vip.port(), BenchSegment::Syn);
        let programs = client.on_thread(|| prepare(&frame))?;
        let (is_to_end, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = thread::spawn({
            let (is_to_end, answered) = (is_to_end.clone(), answered.clone());
            move || client.on_thread(|| send(programs, rate, &is_to_end, &answered))
        });
        Ok(Self { is_to_end, answered, thread: Some(thread) })
    }

    /// SYN-ACKs to its sources so far.
    pub(super) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Ends the flood. Returns the numbers of SYNs and of SYN-ACKs.
    pub(super) fn end(mut self) -> Result<(u64, u64)> {
        self.is_to_end.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the flood has ended")?;
        thread.join().map_err(|_| anyhow!("the flood has panicked"))?
    }
}

impl Drop for SynFlood {
    fn drop(&mut self) {
        self.is_to_end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Adds a link for the flood, so that its queues are not those of the clients. SLB has it from its next start on. The
/// flood takes the place of the returned program, which passes all frames.
pub(super) fn add_link(world: &mut World) -> Result<OwnedFd> {
    world.plan.interfaces.push(RECEIVER.to_owned());
    world.net.second_client_link()
}

/// Attaches the sieve, and prepares the SYNs.
fn prepare(frame: &BenchFrame) -> Result<BenchPrograms> {
    let mut programs = BenchPrograms::load()?;
    programs.expect(ExpectedFrames::tcp(SOURCES, 0))?;
    programs.attach(BenchProgram::Sieve, SENDER)?;
    programs.prepare(frame, STRIDE, u32::MAX, if_nametoindex(SENDER)?)?;
    Ok(programs)
}

fn send(
    mut programs: BenchPrograms,
    rate: u32,
    is_to_end: &AtomicBool,
    answered: &AtomicU64,
) -> Result<(u64, u64)> {
    let core = pin_to_core()?;
    let begun = Instant::now();
    while !is_to_end.load(Ordering::Relaxed) && begun.elapsed() < LONGEST {
        let answers = programs.arrived(core)?.0.expected;
        answered.store(answers, Ordering::Relaxed);
        // The queue of the link loses some SYNs and SYN-ACKs. They are made up for.
        let due = (begun.elapsed() + TICK).as_secs_f64() * f64::from(rate) - answers as f64;
        // A call waits for a grace period of the kernel, up to 25 ms. What a machine still fails to send is left out.
        let frames = due.clamp(0.0, f64::from(rate) * MOST_DUE.as_secs_f64()) as u32;
        if frames > 0 {
            programs.send(frames)?;
        }
        thread::sleep(TICK);
    }
    Ok((programs.sent()?, programs.arrived(core)?.0.expected))
}
