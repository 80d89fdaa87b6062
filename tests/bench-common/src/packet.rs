//! `slb-bench packet`: the control block of its XDP program, and the frame that every packet starts from.
//!
//! The kernel feeds a repeated test run its own output: what the program under test made of a frame is the next packet.
//! So the wrapper writes the head of the frame anew each time. It does so here, where host tests reach it.

use slb_common::{
    abi::Address,
    net::{
        checksum::Delta,
        frame::{Frame, Header},
        headers::Ipv4Hdr,
    },
};

/// Packets between two time stamps.
pub const CHUNK: u64 = 1024;
/// Room for time stamps, a power of two.
pub const MAX_STAMPS: usize = 128;
/// Room for programs under test.
pub const MAX_PROGRAMS: usize = 16;

/// Bytes written anew in an IPv4 frame.
pub const HEAD_V4: usize = 64;
/// Bytes written anew in an IPv6 frame.
pub const HEAD_V6: usize = 96;

/// Offset of the IP header: frames have no VLAN tag.
const NETWORK: usize = 14;
const V4_SOURCE: usize = NETWORK + 12;
const V4_PORTS: usize = NETWORK + 20;
/// The last word of the address, which is the one that varies.
const V6_SOURCE: usize = NETWORK + 8 + 12;
const V6_DESTINATION: usize = V6_SOURCE + 16;
const V6_PORTS: usize = NETWORK + 40;

/// Bits of a flow's number that stand in the port; the others stand in the address.
const PORT_BITS: u32 = 15;
/// Bits of a flow's number that stand in the address.
const ADDRESS_BITS: u32 = 17;
/// Ports of flows start here.
const FIRST_PORT: u16 = 1024;

/// Bits of the largest flow number.
pub const FLOW_BITS: u32 = PORT_BITS + ADDRESS_BITS;

/// What the wrapper is to do, and how far it has come. The host writes it while no packet flows.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BenchControl {
    /// The head of the frame.
    pub template: [u64; HEAD_V6 / 8],
    /// Bytes of the whole frame.
    pub length: u64,
    /// Bytes of the frame as the last packet was found: what the program under test makes of [`Self::length`].
    pub found: u64,
    /// Packets ever sent; decides the flow.
    pub counter: u64,
    /// Spreads consecutive packets over the flows; odd, so that each is met once before any is met again.
    pub multiplier: u64,
    /// Flows minus one; flows are a power of two.
    pub mask: u64,
    /// Packets since the host has set this to 0.
    pub sequence: u64,
    /// Counts up with every packet, for the sake of the locked instruction that does it.
    pub fence: u64,
    /// Which program is under test.
    pub program: u32,
    /// Whether the frame is IPv6, 0 or 1.
    pub is_v6: u32,
    /// All ones if the source varies with the flow, else 0. Masks and not a choice: the cost is the same either way.
    pub vary_source: u32,
    /// All ones if the destination varies with the flow, else 0.
    pub vary_destination: u32,
}

/// When every [`CHUNK`]th packet set out, in nanoseconds.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Stamps {
    /// By the number of the packet over [`CHUNK`], modulo [`MAX_STAMPS`].
    pub at: [u64; MAX_STAMPS],
}

/// Words anywhere in a packet: written whole, which costs an eighth of writing bytes.
#[repr(C, packed)]
struct Words<const N: usize>([u64; N]);

// SAFETY: packed, so its alignment is 1; integers.
unsafe impl<const N: usize> Header for Words<N> {}

/// Address and port of one flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Endpoint {
    /// What is exclusive-ored into the last word of the address, in network byte order.
    address: u32,
    /// In network byte order.
    port: u16,
}

impl Endpoint {
    #[inline(always)]
    const fn of(control: &BenchControl) -> Self {
        let flow = control.counter.wrapping_mul(control.multiplier) & control.mask;
        let low = flow as u16 & ((1 << PORT_BITS) - 1);
        let high = (flow >> PORT_BITS) as u32 & ((1 << ADDRESS_BITS) - 1);
        Self { address: high.to_be(), port: (FIRST_PORT + low).to_be() }
    }
}

/// Writes the head of the frame for the packet whose number is in [`BenchControl::counter`]: the template, with the
/// address and port of its flow on the varying side. The checksum of the IPv4 header is right; those of TCP and UDP are
/// not: nothing on the packet path verifies them.
///
/// Returns `None` if the frame is shorter than its head.
#[inline(always)]
pub fn write_head(frame: &mut Frame<'_>, control: &BenchControl) -> Option<()> {
    let flow = Endpoint::of(control);
    let (vary_source, vary_destination) =
        (flow.address & control.vary_source, flow.address & control.vary_destination);
    if control.is_v6 == 0 {
        fill::<{ HEAD_V4 / 8 }>(frame, control)?;
        let ip = frame.header_mut::<Ipv4Hdr>(NETWORK)?;
        let (source, destination) = (ip.src_addr, ip.dst_addr);
        ip.src_addr = varied(source, vary_source);
        ip.dst_addr = varied(destination, vary_destination);
        ip.check = Delta::default()
            .address(&Address::v4(source), &Address::v4(ip.src_addr))
            .address(&Address::v4(destination), &Address::v4(ip.dst_addr))
            .apply(ip.check);
        put_ports(frame, V4_PORTS, flow.port, control)
    } else {
        fill::<{ HEAD_V6 / 8 }>(frame, control)?;
        for (offset, bits) in [(V6_SOURCE, vary_source), (V6_DESTINATION, vary_destination)] {
            let word = frame.header_mut::<[u8; 4]>(offset)?;
            *word = varied(*word, bits);
        }
        put_ports(frame, V6_PORTS, flow.port, control)
    }
}

#[inline(always)]
fn fill<const N: usize>(frame: &mut Frame<'_>, control: &BenchControl) -> Option<()> {
    let words = frame.header_mut::<Words<N>>(0)?;
    for i in 0..N {
        words.0[i] = control.template[i];
    }
    Some(())
}

#[inline(always)]
const fn varied(bytes: [u8; 4], bits: u32) -> [u8; 4] {
    (u32::from_ne_bytes(bytes) ^ bits).to_ne_bytes()
}

/// Writes both ports in one store: a program that reads them in one load does not wait for two.
#[inline(always)]
fn put_ports(frame: &mut Frame<'_>, offset: usize, port: u16, control: &BenchControl) -> Option<()> {
    const SOURCE: u32 = u32::from_ne_bytes([0xff, 0xff, 0, 0]);
    let mask = control.vary_source & SOURCE | control.vary_destination & !SOURCE;
    let both = u32::from(port) | u32::from(port) << 16;
    let ports = frame.header_mut::<[u8; 4]>(offset)?;
    *ports = (u32::from_ne_bytes(*ports) & !mask | both & mask).to_ne_bytes();
    Some(())
}

const _: () = assert!(size_of::<BenchControl>() == HEAD_V6 + 7 * 8 + 4 * 4);
const _: () = assert!(MAX_STAMPS.is_power_of_two());
const _: () = assert!(V4_SOURCE + 8 == V4_PORTS);

// SAFETY: `repr(C)` of integers and arrays of integers without implicit padding; any bytes are valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for BenchControl {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Stamps {}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

    use super::*;

    const ALL: u32 = u32::MAX;

    fn frame(v6: bool) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = if v6 {
            ethernet.ipv6([1; 16], [2; 16], 64)
        } else {
            ethernet.ipv4([198, 18, 0, 0], [198, 20, 0, 0], 64)
        };
        let mut bytes = Vec::new();
        ip.tcp(7, 9, 1, 1000).write(&mut bytes, &[0; 40]).unwrap();
        bytes
    }

    fn control(frame: &[u8], v6: bool, flows: u64) -> BenchControl {
        let mut template = [0; HEAD_V6 / 8];
        for (word, bytes) in template.iter_mut().zip(frame.as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        BenchControl {
            template,
            length: frame.len() as u64,
            found: 0,
            counter: 0,
            multiplier: 0x9e37_79b1,
            mask: flows - 1,
            sequence: 0,
            fence: 0,
            program: 0,
            is_v6: v6.into(),
            vary_source: ALL,
            vary_destination: 0,
        }
    }

    /// Source and destination, address and port.
    fn ends(bytes: &[u8]) -> [(Vec<u8>, u16); 2] {
        // Strict in the checksum of the IPv4 header, which it verifies.
        let packet = SlicedPacket::from_ethernet(bytes).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { panic!("not TCP") };
        let (from, to) = match packet.net.unwrap() {
            etherparse::NetSlice::Ipv4(ip) => {
                let header = ip.header();
                assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
                (header.source().to_vec(), header.destination().to_vec())
            }
            etherparse::NetSlice::Ipv6(ip) => {
                (ip.header().source().to_vec(), ip.header().destination().to_vec())
            }
            other => panic!("{other:?}"),
        };
        [(from, tcp.source_port()), (to, tcp.destination_port())]
    }

    #[test]
    fn generated_flows_are_distinct_and_vary_on_one_side_only() {
        const FLOWS: u64 = 1 << 17;
        for v6 in [false, true] {
            let sound = frame(v6);
            let [from, to] = ends(&sound);
            for side in 0..2 {
                let mut control = control(&sound, v6, FLOWS);
                [control.vary_source, control.vary_destination] = if side == 0 { [ALL, 0] } else { [0, ALL] };
                let mut seen = HashSet::new();
                let mut bytes = sound.clone();
                for counter in 0..FLOWS {
                    control.counter = counter;
                    write_head(&mut Frame::from_slice(&mut bytes), &control).unwrap();
                    let found = ends(&bytes);
                    assert_eq!(found[1 - side], [&from, &to][1 - side].clone());
                    seen.insert(found[side].clone());
                }
                assert_eq!(seen.len() as u64, FLOWS);
            }
        }
    }

    #[test]
    fn write_head_overwrites_every_header_byte() {
        for (v6, head) in [(false, HEAD_V4), (true, HEAD_V6)] {
            let sound = frame(v6);
            let control = control(&sound, v6, 1);
            let mut clean = sound.clone();
            write_head(&mut Frame::from_slice(&mut clean), &control).unwrap();
            let mut spoilt = sound.clone();
            spoilt[..head].fill(0xaa);
            write_head(&mut Frame::from_slice(&mut spoilt), &control).unwrap();
            assert_eq!(clean, spoilt);
        }
    }

    #[test]
    fn smallest_and_largest_flow_number_differ_in_address_and_port() {
        let sound = frame(false);
        let mut control = control(&sound, false, 1 << FLOW_BITS);
        control.multiplier = 1;
        let mut bytes = sound.clone();
        let mut ports = Vec::new();
        for counter in [0, (1 << FLOW_BITS) - 1] {
            control.counter = counter;
            write_head(&mut Frame::from_slice(&mut bytes), &control).unwrap();
            ports.push(ends(&bytes)[0].clone());
        }
        assert_eq!(ports, [(vec![198, 18, 0, 0], 1024), (vec![198, 19, 255, 255], 33_791)]);
    }

    #[test]
    fn write_head_refuses_a_frame_shorter_than_its_headers() {
        let sound = frame(false);
        let mut short = sound[..HEAD_V4 - 1].to_vec();
        assert!(write_head(&mut Frame::from_slice(&mut short), &control(&sound, false, 1)).is_none());
    }
}
