//! Counts what the kernel of a namespace has received, by the kernel's own counters.

use std::fs;

use anyhow::{Context as _, Result};

use super::Namespace;

/// TCP segments and UDP datagrams of both families, also those for ports without a socket.
pub(super) fn received(namespace: &Namespace) -> Result<u64> {
    namespace.on_thread(|| {
        let read = |name| fs::read_to_string(format!("/proc/thread-self/net/{name}")).context(name);
        count(&read("snmp")?, &read("snmp6")?)
    })
}

/// The sum of the counters in `/proc/net/snmp` and `snmp6`. `Tcp:` in `snmp` counts the segments of both families.
fn count(snmp: &str, snmp6: &str) -> Result<u64> {
    let of_v4 = |protocol: &str, name: &str| {
        let mut lines = snmp.lines().filter_map(|line| line.strip_prefix(protocol));
        let (names, values) = (lines.next().context("no names")?, lines.next().context("no values")?);
        let mut columns = names.split_whitespace().zip(values.split_whitespace());
        let value = columns.find(|(column, _)| *column == name);
        Ok::<u64, anyhow::Error>(value.with_context(|| format!("no {protocol} {name}"))?.1.parse()?)
    };
    let of_v6 = |name: &str| {
        let value = snmp6.lines().find_map(|line| line.strip_prefix(name));
        Ok::<u64, anyhow::Error>(value.with_context(|| format!("no {name}"))?.trim().parse()?)
    };
    Ok(of_v4("Tcp:", "InSegs")?
        + of_v4("Udp:", "InDatagrams")?
        + of_v4("Udp:", "NoPorts")?
        + of_v6("Udp6InDatagrams ")?
        + of_v6("Udp6NoPorts ")?)
}

#[cfg(test)]
mod tests {
    use super::count;

    const SNMP: &str = "Ip: Forwarding InReceives\nIp: 2 900\nTcp: RtoMin InSegs OutSegs\nTcp: 200 30 31\n\
                        Udp: InDatagrams NoPorts\nUdp: 4 500\nUdpLite: InDatagrams NoPorts\nUdpLite: 7 7\n";
    const SNMP6: &str =
        "Ip6InReceives \t70\nUdp6InDatagrams \t6000\nUdp6NoPorts \t70000\nUdpLite6InDatagrams \t1\n";

    #[test]
    fn segments_and_datagrams_are_counted() {
        assert_eq!(count(SNMP, SNMP6).unwrap(), 76_534);
        assert!(count("", SNMP6).is_err() && count(SNMP, "").is_err());
    }
}
