//! Summary of the slices of one contestant.

use serde::Serialize;

use super::stats::median;

/// Worst, median and best slice.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FigureSpread {
    /// The worst.
    pub min: f64,
    /// Median slice.
    pub median: f64,
    /// Best slice: the contestant without disturbance.
    pub best: f64,
}

impl FigureSpread {
    /// Summary of figures for which more is better; `None` if there are none.
    pub fn of(figures: &[f64]) -> Option<Self> {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self { min: *sorted.first()?, median: median(&sorted)?, best: *sorted.last()? })
    }
}

#[cfg(test)]
mod tests {
    use super::FigureSpread;

    #[test]
    fn spread_median_handles_odd_and_even_counts() {
        assert_eq!(FigureSpread::of(&[]), None);
        assert_eq!(
            FigureSpread::of(&[3.0, 1.0, 2.0]),
            Some(FigureSpread { min: 1.0, median: 2.0, best: 3.0 })
        );
        assert_eq!(
            FigureSpread::of(&[4.0, 1.0, 2.0, 3.0]),
            Some(FigureSpread { min: 1.0, median: 2.5, best: 4.0 })
        );
    }
}
