//! A flood of SYNs from random sources beside real clients, answered by SYN cookies: what the clients notice of it.
//!
//! The kernel creates the SYNs (`BPF_PROG_TEST_RUN` with live frames) at the clients' end of the link, on one
//! processor. The SYN-ACKs arrive at the same interface, where a program counts and drops those of the flood and
//! passes those of the clients to their TCP stack. All of it shares the machine's processors with SLB and the servers.

mod clients;
mod flood;

use std::{fmt, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde::Serialize;
use slb_api::types::{ApiListener, ApiSynCookies};

use self::{
    clients::{ClientFigures, Clients},
    flood::SynFlood,
};
use super::machine::Machine;
use crate::{World, server::Service, test_lock::TestLock, wait::wait_for};

/// New connections per second above which SLB answers by cookies: far more than the clients open without a flood.
const ABOVE: u32 = 50_000;
/// Time for SLB to notice a flood.
const BEGIN: Duration = Duration::from_secs(10);
/// Within this share of the asked rate, the flood counts as one of that rate.
const SHORTFALL: f64 = 0.1;

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct SynFloodOptions {
    /// SYNs per second that are answered.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(60_000..=20_000_000))]
    pub rate: u32,
    /// Seconds of each measurement: without the flood, and in it.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
}

/// All figures of a run.
#[derive(Debug, Serialize)]
pub struct SynFloodReport {
    /// The machine.
    pub machine: Machine,
    /// SYN-ACKs per second to sources of the flood, while the clients were measured.
    pub rate: f64,
    /// SYNs of the whole flood.
    pub syns: u64,
    /// SYNs that SLB answered by a cookie, in the whole flood.
    pub cookies: u64,
    /// SYN-ACKs that arrived at the interface of the flood. Its queue loses some.
    pub arrived: u64,
    /// Flows that began in the flood, in addition to those of the clients. SYNs before the flood is noticed begin them.
    pub other_flows: u64,
    /// Flows that began while the clients were measured in the flood, less their exchanges.
    pub flows_without_client: i64,
    /// The clients without a flood.
    pub quiet: ClientFigures,
    /// The clients in the flood.
    pub flooded: ClientFigures,
}

/// Runs the benchmark.
///
/// # Errors
/// The caller is not root, a program cannot be loaded, the machine cannot send that many SYNs, or SLB does not answer
/// them by cookies.
pub fn run(options: &SynFloodOptions) -> Result<SynFloodReport> {
    let mut world = World::new(&[50, 50], TestLock::alone()?)?;
    world.plan.listeners.entry(Service::Http).or_default().syn_cookies = Some(ABOVE);
    let idle = flood::add_link(&mut world)?;
    world.start()?;
    let time = Duration::from_secs(options.seconds);
    let quiet = Clients::of(&world).figures_of(time);

    let before = listener(&world)?;
    drop(idle);
    let flood = SynFlood::start(&world, options.rate)?;
    wait_for("SYN cookies", BEGIN, || Ok(cookies(&listener(&world)?)?.is_flooded.then_some(())))?;
    let noticed = listener(&world)?;
    let answered = flood.answered();
    let flooded = Clients::of(&world).figures_of(time);
    let rate = (flood.answered() - answered) as f64 / flooded.seconds;
    let after = listener(&world)?;
    let (syns, arrived) = flood.end()?;
    let cookies_sent = cookies(&listener(&world)?)?.sent;

    ensure!(
        rate >= f64::from(options.rate) * (1.0 - SHORTFALL),
        "of {} SYNs per second, {rate:.0} were answered on this machine: ask for less with --rate",
        options.rate
    );
    ensure!(cookies(&after)?.is_flooded, "the flood ended while the clients were measured");
    let flows = after.counters.total_flows - noticed.counters.total_flows;
    Ok(SynFloodReport {
        machine: Machine::new()?,
        rate,
        syns,
        cookies: cookies_sent,
        arrived,
        other_flows: noticed.counters.total_flows - before.counters.total_flows,
        flows_without_client: flows as i64 - flooded.exchanges as i64,
        quiet,
        flooded,
    })
}

/// The flooded listener.
fn listener(world: &World) -> Result<ApiListener> {
    let mut listeners = world.status()?.load_balancers.into_iter().flat_map(|balancer| balancer.listeners);
    listeners.find(|listener| listener.name == Service::Http.name()).context("no HTTP listener")
}

fn cookies(listener: &ApiListener) -> Result<ApiSynCookies> {
    listener.limits.and_then(|limits| limits.syn_cookies).context("the listener has no SYN cookies")
}

impl fmt::Display for SynFloodReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { kernel, processor, cores, .. } = &self.machine;
        writeln!(f, "Linux {kernel}, {processor}, {cores} cores")?;
        writeln!(
            f,
            "nat, SYN cookies above {ABOVE} new connections per second; {:.0} SYN-ACKs per second; {} SYNs sent, {} cookies, {} SYN-ACKs arrived",
            self.rate, self.syns, self.cookies, self.arrived
        )?;
        writeln!(f, "  flows before the flood is noticed   {}", self.other_flows)?;
        writeln!(f, "  later flows that no client began    {}", self.flows_without_client)?;
        writeln!(f, "  clients without the flood           {}", self.quiet)?;
        write!(f, "  clients in the flood                {}", self.flooded)
    }
}
