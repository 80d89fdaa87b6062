//! Statistics of samples.

use serde::Serialize;

/// A distribution, reduced to its repeatable figures; its tail is noise of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// Smallest sample.
    pub min: f64,
    /// Median of the samples.
    pub median: f64,
    /// Number of samples.
    pub samples: usize,
}

impl Summary {
    /// Summary of these samples; `None` if there are none.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        Some(Self { min: *sorted.first()?, median: median(&sorted)?, samples: sorted.len() })
    }
}

/// Median of sorted samples; `None` if there are none.
pub(super) fn median(sorted: &[f64]) -> Option<f64> {
    let upper = sorted.get(sorted.len() / 2)?;
    Some(f64::midpoint(sorted[(sorted.len() - 1) / 2], *upper))
}

/// Several distributions of the same figure, such as one per load of the program.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summaries {
    /// Median of the distributions' minima.
    pub min: f64,
    /// Lowest and highest of the distributions' minima.
    pub range: [f64; 2],
    /// Median of the distributions' medians.
    pub median: f64,
    /// Number of samples of all distributions.
    pub samples: usize,
}

impl Summaries {
    /// Summary of these distributions; `None` if there are none.
    pub fn of(summaries: &[Summary]) -> Option<Self> {
        let sorted = |figure: fn(&Summary) -> f64| {
            let mut figures: Vec<f64> = summaries.iter().map(figure).collect();
            figures.sort_unstable_by(f64::total_cmp);
            figures
        };
        let minima = sorted(|summary| summary.min);
        Some(Self {
            min: median(&minima)?,
            range: [*minima.first()?, *minima.last()?],
            median: median(&sorted(|summary| summary.median))?,
            samples: summaries.iter().map(|summary| summary.samples).sum(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_combine_minima_ranges_and_medians() {
        let summary = |min| Summary { min, median: min + 10.0, samples: 2 };
        let all = Summaries::of(&[summary(5.0), summary(1.0), summary(2.0)]);
        assert_eq!(all, Some(Summaries { min: 2.0, range: [1.0, 5.0], median: 12.0, samples: 6 }));
        assert_eq!(Summaries::of(&[]), None);
    }

    #[test]
    fn summary_median_handles_odd_and_even_counts() {
        let summary = |samples: &[f64]| Summary::of(samples).map(|s| (s.min, s.median, s.samples));
        assert_eq!(summary(&[9.0, 1.0, 4.0]), Some((1.0, 4.0, 3)));
        assert_eq!(summary(&[9.0, 1.0, 4.0, 5.0]), Some((1.0, 4.5, 4)));
        assert_eq!(summary(&[7.0]), Some((7.0, 7.0, 1)));
        assert_eq!(summary(&[]), None);
    }
}
