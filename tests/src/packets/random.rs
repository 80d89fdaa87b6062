//! Random frames. Most are nearly valid, so that they reach deep code; endpoints are few, so that flows meet.

use std::net::SocketAddr;

use proptest::{
    collection::vec,
    prelude::{Just, Strategy, any},
    sample::{Index, select},
};

use super::{
    frames::{Builder, Frame, echo, flag, number, tcp, udp},
    oracle,
    world::{CLIENT4, CLIENT6, SERVERS, VIP4, VIP6},
};

/// Sequences of frames.
pub fn sequences(len: usize) -> impl Strategy<Value = Vec<Vec<u8>>> {
    vec(frame(), 1..=len)
}

/// A frame of at least 14 bytes.
pub fn frame() -> impl Strategy<Value = Vec<u8>> {
    (sound(), mutations()).prop_map(|(frame, mutations)| mutations.into_iter().fold(frame, mutate).bytes)
}

#[derive(Debug, Clone, Copy)]
enum Mutation {
    /// Sets a byte of the headers.
    Byte(usize, u8),
    /// Flips one bit of the headers.
    Bit(usize, u8),
    /// Truncates the frame.
    Cut(usize),
    /// Sets a 16-bit word of the IP header, as most length fields are.
    Word(usize, u16),
    /// Appends padding after the packet.
    Pad(usize),
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let one = proptest::prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Byte(at, byte)),
        (any::<usize>(), 0..8_u8).prop_map(|(at, bit)| Mutation::Bit(at, bit)),
        any::<usize>().prop_map(Mutation::Cut),
        (0..4_usize, 0..200_u16).prop_map(|(at, word)| Mutation::Word(at, word)),
        (0..64_usize).prop_map(Mutation::Pad),
    ];
    proptest::prop_oneof![3 => Just(Vec::new()), 2 => vec(one, 1..4)]
}

fn mutate(mut frame: Frame, mutation: Mutation) -> Frame {
    let headers = frame.bytes.len().min(frame.transport + 24);
    match mutation {
        Mutation::Byte(at, byte) => frame.bytes[at % headers] = byte,
        Mutation::Bit(at, bit) => frame.bytes[at % headers] ^= 1 << bit,
        Mutation::Cut(len) => {
            let len = 14 + len % (frame.bytes.len() - 13);
            frame.bytes.truncate(len);
        }
        Mutation::Word(at, word) => {
            let at = frame.network + 2 * at;
            if let Some(bytes) = frame.bytes.get_mut(at..at + 2) {
                bytes.copy_from_slice(&word.to_be_bytes());
            }
        }
        Mutation::Pad(len) => frame.bytes.extend(std::iter::repeat_n(0x5a, len)),
    }
    frame
}

fn sound() -> impl Strategy<Value = Frame> {
    (packet(), shape()).prop_map(|(builder, shape)| shape.apply(builder).build())
}

/// Tags, options and extension headers of a frame.
#[derive(Debug, Clone)]
struct Shape {
    tags: Vec<(u16, u16)>,
    options: usize,
    extensions: Vec<(u8, usize)>,
    hop_limit: u8,
}

fn shape() -> impl Strategy<Value = Shape> {
    let kinds =
        select(vec![number::HOP_BY_HOP, number::ROUTING, number::DESTINATION_OPTIONS, number::FRAGMENT]);
    let rarely_none = |strategy| proptest::prop_oneof![4 => Just(Vec::new()), 1 => strategy];
    (
        // A third of the tags are priority tags.
        rarely_none(vec((select(vec![0x8100_u16, 0x88a8]), select(vec![7, 8, 0xa000])), 1..4).boxed()),
        proptest::prop_oneof![4 => Just(0), 1 => 1..=10_usize],
        proptest::prop_oneof![4 => Just(Vec::new()), 1 => vec((kinds, 1..8_usize), 1..9)],
        select(vec![0, 1, 2, 64, 64, 64, 64, 255]),
    )
        .prop_map(|(tags, options, extensions, hop_limit)| Shape {
            tags,
            options,
            extensions,
            hop_limit,
        })
}

impl Shape {
    fn apply(self, builder: Builder) -> Builder {
        // All frames have the same source MAC: when answers follow another one depends on the clock.
        let builder = builder.options(self.options).hop_limit(self.hop_limit);
        let builder =
            self.tags.into_iter().fold(builder, |builder, (kind, control)| builder.tag(kind, control));
        self.extensions.into_iter().fold(builder, |builder, (kind, units)| builder.extension(kind, units))
    }
}

fn packet() -> impl Strategy<Value = Builder> {
    let flags = select(vec![
        flag::SYN,
        flag::SYN | flag::ACK,
        flag::ACK,
        flag::ACK | flag::FIN,
        flag::RST,
        flag::SYN | flag::FIN,
        flag::SYN | flag::RST,
    ]);
    let request = (select(destinations()), 0..3_u16, flags.clone(), vec(any::<u8>(), 0..40)).prop_map(
        |(listener, client, flags, payload)| between(client_of(listener, client), listener, flags, &payload),
    );
    let answer = (select(SERVERS.to_vec()), 0..3_u16, flags, vec(any::<u8>(), 0..40)).prop_map(
        |(server, client, flags, payload)| between(server.at, client_of(server.at, client), flags, &payload),
    );
    let ping = (any::<bool>(), vec(any::<u8>(), 0..40)).prop_map(|(v4, payload)| {
        if v4 { echo(CLIENT4.ip(), VIP4, &payload) } else { echo(CLIENT6.ip(), VIP6, &payload) }
    });
    // From server endpoints, and from VIPs.
    let odd = (select(destinations()), any::<Index>()).prop_map(|(to, from)| {
        let ends = SERVERS.map(|server| server.at).into_iter().chain(destinations());
        let ends: Vec<_> = ends.filter(|end| end.is_ipv4() == to.is_ipv4()).collect();
        between(ends[from.index(ends.len())], to, flag::SYN, b"odd")
    });
    proptest::prop_oneof![8 => request, 6 => answer, 2 => ping, 1 => odd]
}

fn destinations() -> Vec<SocketAddr> {
    oracle::listeners().filter(|listener| listener.table.is_some()).map(|listener| listener.at).collect()
}

fn client_of(other: SocketAddr, number: u16) -> SocketAddr {
    let mut client = if other.is_ipv4() { CLIENT4 } else { CLIENT6 };
    client.set_port(client.port() + number);
    client
}

/// A packet of the protocol that one of the ports belongs to.
fn between(from: SocketAddr, to: SocketAddr, flags: u8, payload: &[u8]) -> Builder {
    let is_udp = [from, to].iter().any(|end| [53, 54, 5353].contains(&end.port()));
    if is_udp { udp(from, to, payload) } else { tcp(from, to, flags) }
}
