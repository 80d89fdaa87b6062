//! Socket filters in classic BPF.

use std::net::IpAddr;

use nix::libc::{BPF_ABS, BPF_JA, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
use socket2::SockFilter;

/// Maximum length of a filter, in instructions.
const MAX_INSTRUCTIONS: usize = 4_096;

/// Passes nothing.
pub(super) fn nothing() -> [SockFilter; 1] {
    [returns(0)]
}

/// Passes packets of an address family from any address of `from` to any of `to`. If `from` does not fit, any source
/// passes. Packets start with the IP header.
pub(super) fn between(is_v4: bool, from: &[IpAddr], to: &[IpAddr]) -> Vec<SockFilter> {
    let (source, destination) = if is_v4 { (12, 16) } else { (8, 24) };
    let [from, to] = [from, to].map(|addresses| {
        addresses.iter().filter(|address| address.is_ipv4() == is_v4).map(words).collect::<Vec<_>>()
    });
    let mut checks = any_of(source, &from);
    // Reached by a packet from any of the sources.
    checks.push(returns(u32::MAX));
    if checks.len() > MAX_INSTRUCTIONS / 2 {
        checks = vec![returns(u32::MAX)];
    }
    let mut filter = any_of(destination, &to);
    filter.append(&mut checks);
    filter
}

/// Continues after these instructions if the address at `offset` is one of `addresses`. Otherwise drops the packet.
fn any_of(offset: u32, addresses: &[Vec<u32>]) -> Vec<SockFilter> {
    let width = addresses.first().map_or(0, |words| 2 * words.len() + 1);
    let total = width * addresses.len() + 1;
    let mut filter = Vec::with_capacity(total);
    for words in addresses {
        for (index, word) in (0..).zip(words) {
            filter.push(statement(BPF_LD | BPF_W | BPF_ABS, offset + 4 * index));
            // Skip to the next address: two instructions for each remaining word, and the final jump.
            let skipped = 2 * (words.len() as u8 - 1 - index as u8) + 1;
            filter.push(SockFilter::new((BPF_JMP | BPF_JEQ | BPF_K) as u16, 0, skipped, *word));
        }
        let rest = total - filter.len() - 1;
        filter.push(statement(BPF_JMP | BPF_JA, rest as u32));
    }
    filter.push(returns(0));
    filter
}

/// An address as 32-bit words in host byte order, as BPF loads return them.
fn words(address: &IpAddr) -> Vec<u32> {
    match address {
        IpAddr::V4(v4) => vec![v4.to_bits()],
        IpAddr::V6(v6) => {
            let bytes = v6.octets();
            bytes
                .chunks_exact(4)
                .map(|word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]))
                .collect()
        }
    }
}

fn returns(length: u32) -> SockFilter {
    statement(BPF_RET | BPF_K, length)
}

fn statement(code: u32, k: u32) -> SockFilter {
    SockFilter::new(code as u16, 0, 0, k)
}

#[cfg(test)]
mod tests {
    use std::{io, os::unix::net::UnixDatagram};

    use socket2::SockRef;

    use super::*;

    /// Whether the kernel passes a packet through a filter.
    fn passes(filter: &[SockFilter], packet: &[u8]) -> bool {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        SockRef::from(&receiver).attach_filter(filter).unwrap();
        receiver.set_nonblocking(true).unwrap();
        match sender.send(packet) {
            Ok(_) => receiver.recv(&mut [0; 100]).is_ok(),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn packet(from: IpAddr, to: IpAddr) -> Vec<u8> {
        let mut packet = vec![0; 60];
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                packet[12..16].copy_from_slice(&from.octets());
                packet[16..20].copy_from_slice(&to.octets());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                packet[8..24].copy_from_slice(&from.octets());
                packet[24..40].copy_from_slice(&to.octets());
            }
            _ => panic!("two families"),
        }
        packet
    }

    fn addresses(all: &[&str]) -> Vec<IpAddr> {
        all.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn socket_filter_passes_only_packets_from_vips_to_own_addresses() {
        let vips = addresses(&["192.0.2.10", "2001:db8::10", "192.0.2.11", "2001:db8::11"]);
        let own = addresses(&["10.0.0.1", "fd00::1", "10.0.1.1", "fd00:1::1"]);
        let others = addresses(&["10.0.0.2", "fd00::2", "192.0.2.1", "2001:db8:1::10"]);
        let all: Vec<_> = [vips.clone(), own.clone(), others].concat();
        for is_v4 in [true, false] {
            let filter = between(is_v4, &vips, &own);
            let of_family = || all.iter().filter(|address| address.is_ipv4() == is_v4);
            for from in of_family() {
                for to in of_family() {
                    let expected = vips.contains(from) && own.contains(to);
                    assert_eq!(passes(&filter, &packet(*from, *to)), expected, "{from} to {to}");
                }
            }
        }
        assert!(!passes(&between(true, &[], &own), &packet(vips[0], own[0])));
        assert!(!passes(&between(true, &vips, &[]), &packet(vips[0], own[0])));
        assert!(!passes(&nothing(), &packet(vips[0], own[0])));
    }

    #[test]
    fn socket_filter_passes_all_sources_if_they_do_not_fit() {
        let own = addresses(&["10.0.0.1", "fd00::1"]);
        let many: Vec<IpAddr> =
            (0..2_000_u32).map(|n| std::net::Ipv4Addr::from(0xc000_0200 + n).into()).collect();
        let filter = between(true, &many, &own);
        assert!(filter.len() < MAX_INSTRUCTIONS);
        assert!(passes(&filter, &packet(many[1_999], own[0])));
        assert!(!passes(&filter, &packet(own[0], many[0])));
    }
}
