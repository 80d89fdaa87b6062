//! Services: what a listener is on one of its VIPs, and the index that finds them.

use super::{Address, MAX_SERVICES, NAME_LEN, Reference};
use crate::hash::mix;

/// One VIP, protocol and port; with an ICMP protocol and port 0, the right to answer echo requests to the VIP.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// The VIP.
    pub address: Address,
    /// Port, in network byte order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Keeps the words aligned.
    pub reserved: u8,
    /// This use of the id; an unused entry has [`Reference`] 0.
    pub reference: Reference,
    /// Index of the server table.
    pub ring: u32,
    /// Jiffies after which a silent flow is forgotten.
    pub idle_timeout: u32,
    /// Keeps what packets need on one cache line.
    pub reserved_words: [u32; 8],
    /// Name of the load balancer, for whoever reads the map.
    pub load_balancer: [u8; NAME_LEN],
    /// Name of the listener, for whoever reads the map.
    pub listener: [u8; NAME_LEN],
    /// Name of the server group, empty for the default group, for whoever reads the map.
    pub group: [u8; NAME_LEN],
}

impl Default for Service {
    fn default() -> Self {
        Self {
            address: Address::default(),
            port: 0,
            protocol: 0,
            reserved: 0,
            reference: Reference::default(),
            ring: 0,
            idle_timeout: 0,
            reserved_words: [0; 8],
            load_balancer: [0; NAME_LEN],
            listener: [0; NAME_LEN],
            group: [0; NAME_LEN],
        }
    }
}

impl Service {
    /// Whether this entry is the service of that address, port and protocol.
    #[inline(always)]
    pub fn is(&self, address: &Address, port: u16, protocol: u8) -> bool {
        self.port == port && self.protocol == protocol && self.address.same(address)
    }
}

/// Slots of the index: four times the services, so that probes stay short.
pub const INDEX_SLOTS: usize = 4 * MAX_SERVICES as usize;
/// Slots a look-up tries at most.
pub const INDEX_PROBES: usize = 16;

/// An open-addressed table of service ids. There are two; the one not in force is filled and then put in force.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ServiceIndex {
    /// Seed of the hash, chosen so that no entry needs more than [`INDEX_PROBES`] probes.
    pub seed: u64,
    /// Service id plus one; 0 ends a probe.
    pub slots: [u16; INDEX_SLOTS],
}

impl ServiceIndex {
    /// The slot a probe starts at.
    #[inline(always)]
    pub fn home(seed: u64, address: &Address, port: u16, protocol: u8) -> usize {
        let [a, b, c, d] = address.0;
        let high = u64::from(a) << 32 | u64::from(b);
        let low = u64::from(c) << 32 | u64::from(d);
        let rest = u64::from(port) << 8 | u64::from(protocol);
        let hash = mix(high.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ low ^ (rest << 33) ^ seed);
        hash as usize & (INDEX_SLOTS - 1)
    }
}

const _: () = assert!(size_of::<Service>() == 256);
const _: () = assert!(INDEX_SLOTS.is_power_of_two() && MAX_SERVICES < u16::MAX as u32);
