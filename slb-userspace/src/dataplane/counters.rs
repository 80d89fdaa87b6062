//! Counters of the data plane, read map by map in batches. The status reads them from here.

use slb_common::abi::{
    ids::{BackendId, ServiceId},
    stats::{Action, Counters, LimitDrops, Reason, Totals},
};

/// All counters in use, summed over all CPUs. Ids are those of the maps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CounterSnapshot {
    /// Traffic of services, by id.
    services: Vec<Counters>,
    /// Packets over the limits of services, by id.
    drops: Vec<LimitDrops>,
    /// Traffic of servers, by id.
    backends: Vec<Counters>,
    /// Packets by action and reason; evictions.
    totals: Totals,
}

impl CounterSnapshot {
    /// A snapshot from traffic and drops by id, and the totals of each CPU.
    pub fn new(
        services: Vec<Counters>,
        drops: Vec<LimitDrops>,
        backends: Vec<Counters>,
        totals: &[Totals],
    ) -> Self {
        Self { services, drops, backends, totals: totals.iter().fold(Totals::default(), sum_totals) }
    }

    /// Traffic of a service; zeros if the id was not in use.
    pub fn service(&self, id: ServiceId) -> Counters {
        self.services.get(id.index() as usize).copied().unwrap_or_default()
    }

    /// Packets over the limits of a service; zeros if the id was not in use.
    pub fn limit_drops(&self, id: ServiceId) -> LimitDrops {
        self.drops.get(id.index() as usize).copied().unwrap_or_default()
    }

    /// Traffic of a server; zeros if the id was not in use.
    pub fn backend(&self, id: BackendId) -> Counters {
        self.backends.get(id.index() as usize).copied().unwrap_or_default()
    }

    /// Packets by action and reason, without zeros.
    pub fn packets(&self) -> impl Iterator<Item = (Action, Reason, u64)> {
        self.packets_of(|_, _, packets| packets != 0)
    }

    /// Packets by action and reason, where these and the packets are wanted.
    pub fn packets_of(
        &self,
        is_wanted: impl Fn(Action, Reason, u64) -> bool,
    ) -> impl Iterator<Item = (Action, Reason, u64)> {
        let pairs = Action::ALL.iter().flat_map(|action| Reason::ALL.iter().map(|reason| (*action, *reason)));
        let packets = pairs
            .map(|(action, reason)| (action, reason, self.totals.packets[action as usize][reason as usize]));
        packets.filter(move |(action, reason, packets)| is_wanted(*action, *reason, *packets))
    }

    /// Live flows that have been evicted: not assured ones, and assured ones.
    pub fn evicted(&self) -> [u64; 2] {
        [self.totals.evicted, self.totals.evicted_assured]
    }
}

/// Adds the traffic of two CPUs, or of two services.
pub fn sum(a: Counters, b: &Counters) -> Counters {
    let Counters { packets_in, bytes_in, packets_out, bytes_out, new_flows } = a;
    Counters {
        packets_in: packets_in + b.packets_in,
        bytes_in: bytes_in + b.bytes_in,
        packets_out: packets_out + b.packets_out,
        bytes_out: bytes_out + b.bytes_out,
        new_flows: new_flows + b.new_flows,
    }
}

/// Adds the drops of two CPUs.
pub fn sum_drops(a: LimitDrops, b: &LimitDrops) -> LimitDrops {
    LimitDrops {
        bandwidth_in: a.bandwidth_in + b.bandwidth_in,
        bandwidth_out: a.bandwidth_out + b.bandwidth_out,
        new_connections: a.new_connections + b.new_connections,
        cookies_sent: a.cookies_sent + b.cookies_sent,
        cookies_accepted: a.cookies_accepted + b.cookies_accepted,
        cookies_refused: a.cookies_refused + b.cookies_refused,
    }
}

/// Adds the counters of a CPU. Its rate limits are no counters.
fn sum_totals(sum: Totals, of_cpu: &Totals) -> Totals {
    let Totals { mut packets, evicted_migrating, evicted, evicted_assured, limits } = sum;
    for (sum, of_cpu) in packets.iter_mut().flatten().zip(of_cpu.packets.iter().flatten()) {
        *sum += of_cpu;
    }
    Totals {
        packets,
        evicted_migrating: evicted_migrating + of_cpu.evicted_migrating,
        evicted: evicted + of_cpu.evicted,
        evicted_assured: evicted_assured + of_cpu.evicted_assured,
        limits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_summed_over_cpus_and_zeros_are_left_out() {
        let mut totals = [Totals::default(), Totals::default()];
        totals[0].packets[Action::Drop as usize][Reason::ALL[0] as usize] = 2;
        totals[1].packets[Action::Drop as usize][Reason::ALL[0] as usize] = 3;
        (totals[0].evicted, totals[1].evicted, totals[1].evicted_assured) = (5, 6, 7);
        let snapshot = CounterSnapshot::new(Vec::new(), Vec::new(), Vec::new(), &totals);
        assert_eq!(snapshot.packets().collect::<Vec<_>>(), [(Action::Drop, Reason::ALL[0], 5)]);
        assert_eq!(snapshot.evicted(), [11, 7]);
    }

    #[test]
    fn id_that_was_not_in_use_has_zeros() {
        let one = Counters { packets_in: 1, ..Counters::default() };
        let snapshot = CounterSnapshot::new(vec![Counters::default(), one], Vec::new(), vec![one], &[]);
        assert_eq!(
            (snapshot.service(ServiceId::new(1)), snapshot.service(ServiceId::new(2))),
            (one, Counters::default())
        );
        assert_eq!(
            (snapshot.backend(BackendId::new(0)), snapshot.backend(BackendId::new(1))),
            (one, Counters::default())
        );
    }
}
