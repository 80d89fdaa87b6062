//! Compares how flows spread over servers with the weights.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

/// Share of a server.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerFraction {
    /// Name of the server.
    pub server: String,
    /// Expected fraction of the flows, 0 to 1.
    pub expected: f64,
    /// Observed fraction of the flows, 0 to 1.
    pub observed: f64,
    /// Number of flows.
    pub flows: u64,
}

impl ServerFraction {
    /// Deviation in percentage points.
    pub fn off_by_points(&self) -> f64 {
        (self.observed - self.expected).abs() * 100.0
    }
}

/// The shares of all servers in `weights`, in that order.
pub fn shares(tally: &BTreeMap<String, u64>, weights: &[(&str, u8)]) -> Vec<ServerFraction> {
    let total = count(tally.values().sum());
    let weight_sum: f64 = weights.iter().map(|(_, weight)| f64::from(*weight)).sum();
    let part = |share: f64, of: f64| if of > 0.0 { share / of } else { 0.0 };
    weights
        .iter()
        .map(|(server, weight)| {
            let flows = tally.get(*server).copied().unwrap_or(0);
            ServerFraction {
                server: (*server).to_owned(),
                expected: part((*weight).into(), weight_sum),
                observed: part(count(flows), total),
                flows,
            }
        })
        .collect()
}

/// Fails unless the flows spread as independent draws by weight. Each server must be within five standard deviations of
/// the binomial distribution. Servers of weight 0, and servers not in `weights`, must have no flows.
///
/// # Errors
/// A share is off; the error names the first such server.
pub fn expect_by_weight(tally: &BTreeMap<String, u64>, weights: &[(&str, u8)]) -> Result<()> {
    for server in tally.keys() {
        ensure!(weights.iter().any(|(name, _)| name == server), "{server} answered and has no weight");
    }
    let total = count(tally.values().sum());
    ensure!(total > 0.0, "nothing was answered");
    for share in shares(tally, weights) {
        let mean = total * share.expected;
        let deviation = (mean * (1.0 - share.expected)).sqrt();
        let off = (count(share.flows) - mean).abs();
        ensure!(
            off <= 5.0 * deviation,
            "{} has {} of {total} flows, {mean:.0} were expected: {:.1} standard deviations; all: {tally:?}",
            share.server,
            share.flows,
            off / deviation
        );
    }
    Ok(())
}

/// A number of flows as a float; exact, since it is far below 2^53.
fn count(flows: u64) -> f64 {
    flows as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{expect_by_weight, shares};

    const WEIGHTS: [(&str, u8); 3] = [("b1", 60), ("b2", 40), ("b3", 0)];

    fn tally(flows: &[(&str, u64)]) -> BTreeMap<String, u64> {
        flows.iter().map(|(server, flows)| ((*server).to_owned(), *flows)).collect()
    }

    #[test]
    fn shares_compare_observed_with_expected_fractions() {
        let shares = shares(&tally(&[("b1", 150), ("b2", 50)]), &WEIGHTS);
        assert_eq!(shares.iter().map(|share| share.observed).collect::<Vec<_>>(), [0.75, 0.25, 0.0]);
        assert_eq!(shares.iter().map(|share| share.expected).collect::<Vec<_>>(), [0.6, 0.4, 0.0]);
        assert!((shares[0].off_by_points() - 15.0).abs() < 1e-9);
    }

    #[test]
    fn spread_tolerance_shrinks_with_sample_size() {
        // The same shares are within chance for 100 flows, and far outside for 100,000.
        expect_by_weight(&tally(&[("b1", 65), ("b2", 35)]), &WEIGHTS).unwrap();
        expect_by_weight(&tally(&[("b1", 65_000), ("b2", 35_000)]), &WEIGHTS).unwrap_err();
    }

    #[test]
    fn flows_to_weight_zero_or_unknown_server_are_rejected() {
        expect_by_weight(&tally(&[("b1", 6000), ("b2", 4000), ("b3", 1)]), &WEIGHTS).unwrap_err();
        expect_by_weight(&tally(&[("b1", 6000), ("b2", 4000), ("b9", 1)]), &WEIGHTS).unwrap_err();
        expect_by_weight(&tally(&[("b1", 6000), ("b2", 4000)]), &WEIGHTS).unwrap();
    }

    #[test]
    fn shares_of_empty_tally_are_zero() {
        assert!(shares(&tally(&[]), &WEIGHTS).iter().all(|share| share.observed == 0.0));
    }
}
