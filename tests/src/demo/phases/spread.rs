//! Connections spread over all servers by weight.

use std::{collections::BTreeMap, fmt::Write as _, thread, time::Duration};

use anyhow::Result;

use crate::{
    World,
    client::{Batch, Load},
    demo::{
        figures::{Figures, ServerShare, TrafficSpread},
        view::View,
    },
    spread::{ServerFraction, shares},
    traffic::KINDS,
};

/// Tolerance of a share, in percentage points.
const TOLERANCE: f64 = 1.5;

/// Concurrent exchanges of each kind.
const CONCURRENCY: usize = 16;

/// Interval between two updates of the live part.
const REDRAW: Duration = Duration::from_millis(200);

pub(super) fn phase(world: &World, exchanges: u64, view: &mut View, figures: &mut Figures) -> Result<()> {
    view.phase(&format!(
        "1. {exchanges} TCP connections and {exchanges} UDP flows, each on IPv4 and on IPv6: shares of the servers"
    ));
    let client = world.client();
    let loads: Vec<Load> = KINDS
        .into_iter()
        .map(|(service, family)| client.load(service, world.vip(family, service), exchanges, CONCURRENCY))
        .collect();
    let weights = world.plan.weights();
    while loads.iter().map(Load::done).sum::<u64>() < exchanges * loads.len() as u64 {
        let so_far: Vec<_> = loads.iter().map(Load::so_far).collect();
        view.live(&table(&so_far, &weights));
        thread::sleep(REDRAW);
    }
    let batches: Vec<_> = loads.into_iter().map(Load::finish).collect();
    view.line(&table(&batches, &weights));
    for ((service, family), batch) in KINDS.into_iter().zip(&batches) {
        let traffic = format!("{} {family}", service.name());
        judge(&traffic, batch, &weights, exchanges, figures);
    }
    let largest = figures.spread.iter().map(|spread| spread.largest_deviation_points).fold(0.0, f64::max);
    let failed: usize = batches.iter().map(|batch| batch.failures.len()).sum();
    view.line(&format!("   largest deviation {largest:.2} points (limit {TOLERANCE}), failed {failed}"));
    Ok(())
}

fn judge(traffic: &str, batch: &Batch, weights: &[(&str, u8)], exchanges: u64, figures: &mut Figures) {
    let shares = shares(&batch.tally, weights);
    let largest = shares.iter().map(ServerFraction::off_by_points).fold(0.0, f64::max);
    if let Some(first) = batch.failures.first() {
        figures
            .failures
            .push(format!("{traffic}: {} exchanges failed; the first {first}", batch.failures.len()));
    }
    figures.expect(largest <= TOLERANCE, || format!("{traffic}: a share is off by {largest:.2} points"));
    let known: u64 = shares.iter().map(|share| share.flows).sum();
    figures.expect(known == exchanges, || {
        format!("{traffic}: {known} of {exchanges} exchanges with our servers")
    });
    let servers = shares.into_iter().zip(weights).map(|(share, (_, weight))| ServerShare {
        server: share.server,
        weight: *weight,
        expected_percent: share.expected * 100.0,
        observed_percent: share.observed * 100.0,
        exchanges: share.flows,
    });
    figures.spread.push(TrafficSpread {
        traffic: traffic.to_owned(),
        exchanges: batch.successes(),
        failed: batch.failures.len(),
        retries: batch.retries,
        servers: servers.collect(),
        largest_deviation_points: largest,
    });
}

/// One row per server, one column per kind of traffic.
fn table(batches: &[Batch], weights: &[(&str, u8)]) -> String {
    let mut text = String::from("   server  weight  expected");
    for (service, family) in KINDS {
        let _ = write!(text, "  {:>12}", format!("{} {family}", service.protocol().to_uppercase()));
    }
    let columns: Vec<_> = batches.iter().map(|batch| shares(&batch.tally, weights)).collect();
    let expected = shares(&BTreeMap::new(), weights);
    for (row, (server, weight)) in weights.iter().enumerate() {
        let _ = write!(text, "\n   {server:<6}  {weight:>6}  {:>6.2} %", expected[row].expected * 100.0);
        for column in &columns {
            let _ = write!(text, "  {:>10.2} %", column[row].observed * 100.0);
        }
    }
    text.push_str("\n   exchanges                 ");
    for batch in batches {
        let _ = write!(text, "  {:>12}", batch.successes());
    }
    text
}
