//! Explicit Congestion Notification at the end of a tunnel (RFC 6040, 4.2).

/// Not ECN-capable.
pub(super) const NOT_ECT: u32 = 0;
/// ECN-capable, ECT(1).
pub(super) const ECT_1: u32 = 1;
/// Congestion experienced.
pub(super) const CE: u32 = 3;

/// The ECN field of the inner packet behind the tunnel; `None` if the packet must be dropped.
#[inline(always)]
pub(super) const fn combine(outer: u32, inner: u32) -> Option<u32> {
    match (outer & 3, inner & 3) {
        (CE, NOT_ECT) => None,
        (_, NOT_ECT) => Some(NOT_ECT),
        (CE, _) | (_, CE) => Some(CE),
        (ECT_1, _) => Some(ECT_1),
        (_, inner) => Some(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ECT_0: u32 = 2;

    /// Figure 4 of RFC 6040: a row per inner field and a column per outer field, both in the order Not-ECT, ECT(0),
    /// ECT(1), CE.
    #[test]
    fn ecn_combination_matches_rfc_6040_figure_4() {
        const ORDER: [u32; 4] = [NOT_ECT, ECT_0, ECT_1, CE];
        let table = [
            [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None],
            [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)],
            [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)],
            [Some(CE); 4],
        ];
        for (row, inner) in table.iter().zip(ORDER) {
            for (expected, outer) in row.iter().zip(ORDER) {
                assert_eq!(combine(outer, inner), *expected, "inner {inner}, outer {outer}");
            }
        }
    }
}
