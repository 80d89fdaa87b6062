//! Capacity of the kernel's neighbour tables, and the sysctls to raise it.

use std::{fs, net::IpAddr};

use tracing::{info, warn};

/// The neighbour table of an address family. All network namespaces of a machine share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AddressFamily {
    V4,
    V6,
}

/// Garbage-collection thresholds of a table, in entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Thresholds {
    /// `gc_thresh2`: above it, the kernel drops entries that were unused for five seconds.
    soft: usize,
    /// `gc_thresh3`: above it, the table is full.
    hard: usize,
}

/// The last warning about each table.
#[derive(Debug, Default)]
pub(super) struct TableLimits {
    said: [Option<String>; 2],
}

impl TableLimits {
    /// Warns if a table is too small for the watched neighbours, or has refused one. Logs changes only.
    pub(super) fn check(
        &mut self,
        watched: impl Iterator<Item = IpAddr>,
        refused: impl Iterator<Item = IpAddr>,
    ) {
        let (mut counts, mut are_full) = ([0, 0], [false, false]);
        watched.for_each(|address| counts[AddressFamily::of(address) as usize] += 1);
        refused.for_each(|address| are_full[AddressFamily::of(address) as usize] = true);
        for (family, said) in [AddressFamily::V4, AddressFamily::V6].into_iter().zip(&mut self.said) {
            let (count, is_full) = (counts[family as usize], are_full[family as usize]);
            let complaint = family.complaint(count, is_full, family.thresholds());
            if complaint == *said {
                continue;
            }
            match &complaint {
                Some(complaint) => warn!("{complaint}"),
                None => info!("the kernel's {} table has room for all next hops", family.table()),
            }
            *said = complaint;
        }
    }
}

impl AddressFamily {
    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn table(self) -> &'static str {
        match self {
            Self::V4 => "IPv4 neighbour",
            Self::V6 => "IPv6 neighbour",
        }
    }

    fn sysctl(self) -> &'static str {
        match self {
            Self::V4 => "net.ipv4.neigh.default",
            Self::V6 => "net.ipv6.neigh.default",
        }
    }

    /// `None` if unreadable: these files exist only in the initial network namespace.
    fn thresholds(self) -> Option<Thresholds> {
        let directory = format!("/proc/sys/{}", self.sysctl().replace('.', "/"));
        let read = |name: &str| fs::read_to_string(format!("{directory}/{name}")).ok()?.trim().parse().ok();
        Some(Thresholds { soft: read("gc_thresh2")?, hard: read("gc_thresh3")? })
    }

    fn complaint(self, watched: usize, is_full: bool, thresholds: Option<Thresholds>) -> Option<String> {
        let (table, sysctl) = (self.table(), self.sysctl());
        // A full table also has entries of other programs.
        let present = thresholds.filter(|_| is_full).map_or(0, |thresholds| thresholds.hard);
        let need = watched.max(present).saturating_mul(2).next_power_of_two();
        let set = format!("set {sysctl}.gc_thresh2={need} and gc_thresh3={}", need.saturating_mul(2));
        match thresholds {
            Some(Thresholds { hard, .. }) if is_full || watched > hard => Some(format!(
                "the kernel's {table} table holds {hard} entries (gc_thresh3), and {watched} next hops need one: {set}"
            )),
            None if is_full => Some(format!(
                "the kernel's {table} table is full, and {watched} next hops need an entry: {set} on the host"
            )),
            Some(Thresholds { soft, .. }) if watched > soft => Some(format!(
                "the kernel drops entries of its {table} table above {soft} (gc_thresh2), and {watched} next hops need one: {set}"
            )),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: Option<Thresholds> = Some(Thresholds { soft: 512, hard: 1024 });

    #[test]
    fn small_neighbour_table_is_reported_with_sysctls_to_set() {
        let said = |watched, is_full, thresholds| AddressFamily::V4.complaint(watched, is_full, thresholds);
        assert_eq!(said(512, false, DEFAULT), None);
        assert_eq!(
            said(600, false, DEFAULT).unwrap(),
            "the kernel drops entries of its IPv4 neighbour table above 512 (gc_thresh2), and 600 next hops need one: \
             set net.ipv4.neigh.default.gc_thresh2=2048 and gc_thresh3=4096"
        );
        assert_eq!(
            said(3000, false, DEFAULT).unwrap(),
            "the kernel's IPv4 neighbour table holds 1024 entries (gc_thresh3), and 3000 next hops need one: \
             set net.ipv4.neigh.default.gc_thresh2=8192 and gc_thresh3=16384"
        );
        // Entries of other programs count too.
        let said_of_others = said(100, true, DEFAULT).unwrap();
        assert!(said_of_others.ends_with("gc_thresh2=2048 and gc_thresh3=4096"), "{said_of_others}");
        assert_eq!(said(3000, false, None), None);
        assert_eq!(
            AddressFamily::V6.complaint(3000, true, None).unwrap(),
            "the kernel's IPv6 neighbour table is full, and 3000 next hops need an entry: \
             set net.ipv6.neigh.default.gc_thresh2=8192 and gc_thresh3=16384 on the host"
        );
    }

    #[test]
    fn neighbour_table_warning_is_logged_once() {
        let mut limits = TableLimits::default();
        let address = IpAddr::from([192, 0, 2, 1]);
        let mut log = |refused: bool| {
            crate::telemetry::logged(|| {
                limits.check([address].into_iter(), refused.then_some(address).into_iter());
            })
        };
        assert_eq!(log(false), "");
        assert!(log(true).contains("WARN"));
        assert_eq!(log(true), "");
        assert!(log(false).contains("has room"));
    }
}
