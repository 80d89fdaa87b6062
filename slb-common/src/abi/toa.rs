//! The TCP option that carries a client endpoint to a server (TCP Option Address, TOA), and the layouts of the maps of
//! its reader on servers, `slb-toa`. They share nothing with those of the daemon.

use super::{Address, address_list::AddressList, named_enum::named_enum};

/// Kind of the option: the second one for experiments (RFC 4727, 4.2), which readers of TOA expect.
pub const KIND: u8 = 254;
/// Length of the option with an IPv4 address in bytes.
pub const IPV4_LEN: usize = 8;
/// Length of the option with an IPv6 address in bytes.
pub const IPV6_LEN: usize = 20;
/// Bytes before the address: kind, length, port.
const BEFORE_ADDRESS: usize = 4;
/// Length of a TCP header without options.
const TCP: usize = 20;
/// Length of a TCP header whose only option is the longer one.
pub const HEADER_LEN: usize = TCP + IPV6_LEN;

/// A client endpoint as the option carries it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientOption {
    /// Address of the client.
    pub address: Address,
    /// Port of the client, in network byte order.
    pub port: u16,
    /// Padding; zero.
    reserved: [u16; 3],
}

impl ClientOption {
    /// A client endpoint; `port` is in network byte order.
    #[inline(always)]
    pub const fn new(address: Address, port: u16) -> Self {
        Self { address, port, reserved: [0; 3] }
    }

    /// Writes the option. `LEN` is [`IPV4_LEN`] or [`IPV6_LEN`], and decides on the family.
    #[inline(always)]
    pub const fn write<const LEN: usize>(&self, option: &mut [u8; LEN]) {
        const { assert!(LEN == IPV4_LEN || LEN == IPV6_LEN) };
        let port = self.port.to_ne_bytes();
        option[0] = KIND;
        option[1] = LEN as u8;
        option[2] = port[0];
        option[3] = port[1];
        let (address, skipped) = (self.address.v6_bytes(), size_of::<Address>() + BEFORE_ADDRESS - LEN);
        let mut n = BEFORE_ADDRESS;
        while n < LEN {
            option[n] = address[n - BEFORE_ADDRESS + skipped];
            n += 1;
        }
    }

    /// The client endpoint of a segment, from the beginning of its TCP header: SLB writes the option as the first one.
    #[inline(always)]
    pub const fn read(tcp: &[u8; HEADER_LEN]) -> Option<Self> {
        let (header, len) = ((tcp[12] >> 4) as usize * 4, tcp[TCP + 1] as usize);
        if tcp[TCP] != KIND || header < TCP + len {
            return None;
        }
        let port = u16::from_ne_bytes([tcp[TCP + 2], tcp[TCP + 3]]);
        let at = TCP + BEFORE_ADDRESS;
        let four = [tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]];
        if len == IPV4_LEN {
            return Some(Self::new(Address::v4(four), port));
        }
        if len != IPV6_LEN {
            return None;
        }
        let mut address = [0; 16];
        let mut n = 0;
        while n < address.len() {
            address[n] = tcp[at + n];
            n += 1;
        }
        Some(Self::new(Address::v6(address), port))
    }
}

/// The socket option that has the kernel save SYNs (include/uapi/linux/tcp.h).
pub const TCP_SAVE_SYN: i32 = 27;

/// Version of the layouts of `slb-toa`, part of the names of its pins.
pub const TOA_ABI_VERSION: u32 = 1;

/// Sources whose option is trusted.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToaPolicy {
    /// Local addresses of SLB. An empty list trusts none.
    pub sources: AddressList,
}

named_enum! {
    /// What a connection of an allowed source shows of its client.
    enum ToaOutcome:
    /// Its SYN has the option: applications get the client endpoint.
    Client = "client",
    /// Its SYN has no option, or another one first.
    NoOption = "no_option",
    /// The kernel has not saved its SYN: it sent SYN cookies, or the connection began before `slb-toa` was attached.
    NoSyn = "no_syn",
    /// The kernel has no memory for the client endpoint.
    NoMemory = "no_memory",
}

/// Size of the array by outcome, a power of two.
pub const TOA_OUTCOMES: usize = 4;

/// Connections by outcome on one processor.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ToaCounters {
    /// `connections[outcome]`.
    pub connections: [u64; TOA_OUTCOMES],
}

const _: () = assert!(ToaOutcome::ALL.len() <= TOA_OUTCOMES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_has_the_layout_that_readers_expect() {
        let mut option = [0; IPV4_LEN];
        let port = 443_u16.to_be();
        ClientOption::new(Address::v4([192, 0, 2, 1]), port).write(&mut option);
        assert_eq!(option, [254, 8, 1, 187, 192, 0, 2, 1]);
        let mut option = [0; IPV6_LEN];
        let address: [u8; 16] = core::array::from_fn(|n| n as u8 + 32);
        ClientOption::new(Address::v6(address), port).write(&mut option);
        assert_eq!(option[..4], [254, 20, 1, 187]);
        assert_eq!(option[4..], address);
    }

    /// A TCP header of `words` words with an option as its first one.
    fn header(words: u8, option: &[u8]) -> [u8; HEADER_LEN] {
        let mut header = [1; HEADER_LEN];
        header[12] = words << 4;
        header[TCP..TCP + option.len()].copy_from_slice(option);
        header
    }

    #[test]
    fn option_that_was_written_is_read() {
        let four = ClientOption::new(Address::v4([192, 0, 2, 1]), 443_u16.to_be());
        let six = ClientOption::new(Address::v6(core::array::from_fn(|n| n as u8)), 80);
        let (mut short, mut long) = ([0; IPV4_LEN], [0; IPV6_LEN]);
        four.write(&mut short);
        six.write(&mut long);
        assert_eq!(ClientOption::read(&header(7, &short)), Some(four));
        assert_eq!(ClientOption::read(&header(10, &long)), Some(six));
        // Behind the end of the header.
        assert_eq!(ClientOption::read(&header(6, &short)), None);
        assert_eq!(ClientOption::read(&header(9, &long)), None);
        // Another option, one of another length, one behind another, and no header at all.
        assert_eq!(ClientOption::read(&header(10, &[253, 8, 0, 1])), None);
        assert_eq!(ClientOption::read(&header(10, &[KIND, 6, 0, 1])), None);
        assert_eq!(ClientOption::read(&header(10, &[&[1], &short[..]].concat())), None);
        assert_eq!(ClientOption::read(&[0; HEADER_LEN]), None);
    }
}
