//! Expected ICMP errors, built independently of the packet path.

use super::{
    check::{put, sum},
    frames::number,
};

/// Why a packet cannot be forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IcmpCause {
    /// Its TTL or hop limit is used up.
    HopLimit,
    /// It is larger than this MTU, in bytes.
    TooBig(u16),
    /// Port unreachable.
    NoPort,
    /// Protocol unreachable, or unrecognised next header in IPv6.
    NoProtocol,
}

/// The expected answer. `network` is the offset of the IP header in the frame that arrived.
pub fn icmp_error(frame: &[u8], network: usize, cause: IcmpCause) -> Vec<u8> {
    let packet = &frame[network..];
    let v4 = packet[0] >> 4 == 4;
    let mut message = match (v4, cause) {
        (true, IcmpCause::HopLimit) => vec![11, 0, 0, 0, 0, 0, 0, 0],
        (true, IcmpCause::TooBig(mtu)) => [&[3, 4, 0, 0, 0, 0][..], &mtu.to_be_bytes()].concat(),
        (true, IcmpCause::NoPort) => vec![3, 3, 0, 0, 0, 0, 0, 0],
        (true, IcmpCause::NoProtocol) => vec![3, 2, 0, 0, 0, 0, 0, 0],
        (false, IcmpCause::NoPort) => vec![1, 4, 0, 0, 0, 0, 0, 0],
        // Parameter problem; the pointer is 6, the offset of the next-header field.
        (false, IcmpCause::NoProtocol) => vec![4, 1, 0, 0, 0, 0, 0, 6],
        (false, IcmpCause::HopLimit) => vec![3, 0, 0, 0, 0, 0, 0, 0],
        (false, IcmpCause::TooBig(mtu)) => [&[2, 0, 0, 0, 0, 0][..], &mtu.to_be_bytes()].concat(),
    };
    let len = if v4 {
        u16::from_be_bytes([packet[2], packet[3]])
    } else {
        40 + u16::from_be_bytes([packet[4], packet[5]])
    };
    let most = if v4 { 576 - 28 } else { 1280 - 48 };
    let least = if v4 { 28 } else { 48 };
    message.extend(&packet[..if len >= most { usize::from(most) } else { least }]);

    let mut out = Vec::new();
    out.extend(&frame[6..12]);
    out.extend(&frame[..6]);
    out.extend(&frame[12..network]);
    if v4 {
        let check = !sum(&message);
        put(&mut message, 2, check);
        let mut header = vec![0x45, 0];
        header.extend((20 + message.len() as u16).to_be_bytes());
        header.extend([0, 0, 0x40, 0, 64, number::ICMP, 0, 0]);
        header.extend(&packet[16..20]);
        header.extend(&packet[12..16]);
        let check = !sum(&header);
        put(&mut header, 10, check);
        out.extend(header);
    } else {
        let addresses = [&packet[24..40], &packet[8..24]].concat();
        let len = (message.len() as u16).to_be_bytes();
        let pseudo = [&addresses[..], &[0, 0], &len, &[0, 0, 0, number::ICMPV6]].concat();
        let check = !sum(&[&pseudo[..], &message[..]].concat());
        put(&mut message, 2, check);
        out.extend([0x60, 0, 0, 0, len[0], len[1], number::ICMPV6, 64]);
        out.extend(addresses);
    }
    out.extend(message);
    out
}
