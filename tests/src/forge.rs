//! Forged frames: sends frames with any content, and captures what reaches the sender.
//!
//! - A [`Forger`] sends frames of any content to an interface, one by one or as a flood with a rate limit.
//! - A [`Tap`] captures what arrives there, for any destination MAC.
//! - A [`Peer`] is a TCP client in user space, which sends any segment on its connections.

mod arp;
mod peer;
mod tap;

use std::{
    io,
    net::SocketAddr,
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{libc, net::if_::if_nametoindex};
use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

use crate::{
    net::Namespace,
    packets::frames::{self, Frame, Segment, flag},
};

pub use arp::ArpSocket;
pub use peer::{Peer, ports};
pub use tap::{CapturedFrame, Tap};

/// Sequence numbers of forged segments. About one connection in 100,000 of a test has them too.
pub const NUMBERS: [u32; 3] = [0x0000_3039, 0x7fff_0000, 0xdead_beef];

/// Send buffer of the packet socket, in bytes.
const SEND_BUFFER: usize = 4 << 20;
/// Frames that a flood sends between two reads of the clock.
const BUNDLE: usize = 8;

/// Sends frames unchanged from one interface.
#[derive(Debug)]
pub struct Forger {
    socket: Socket,
    /// Hardware address of the interface.
    pub mac: [u8; 6],
}

/// Result of a flood.
#[derive(Debug, Clone, Copy, Default)]
pub struct FloodStats {
    /// Frames sent.
    pub frames: u64,
    /// Time that sending took.
    pub time: Duration,
}

impl FloodStats {
    /// The sum of two floods.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { frames: self.frames + other.frames, time: self.time + other.time }
    }

    /// Frames per second; times under 1 ms count as 1 ms.
    pub fn rate(&self) -> u64 {
        (self.frames as f64 / self.time.as_secs_f64().max(0.001)) as u64
    }
}

impl Forger {
    /// Opens a packet socket on an interface of this namespace.
    ///
    /// # Errors
    /// The interface does not exist, or the caller is not root.
    pub fn at(namespace: &Namespace, interface: &str) -> Result<Self> {
        let mac = namespace.mac(interface)?;
        namespace.on_thread(|| {
            let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
            socket.set_send_buffer_size(SEND_BUFFER)?;
            // A packet socket bound to protocol 0 receives no frames.
            socket.bind(&address(if_nametoindex(interface)?, 0))?;
            Ok(Self { socket, mac })
        })
    }

    /// Sends one frame; waits while the queue of the interface is full.
    ///
    /// # Errors
    /// The interface is down, or the frame is longer than its MTU allows.
    pub fn send(&self, frame: &Frame) -> Result<()> {
        loop {
            match self.socket.send(&frame.bytes) {
                // The receiving end of the link is busy; the next attempt may succeed.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => thread::yield_now(),
                sent => return sent.map(drop).context("cannot send a frame"),
            }
        }
    }

    /// Sends these frames without a rate limit.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_all(&self, frames: impl IntoIterator<Item = Frame>) -> Result<FloodStats> {
        self.flood(u32::MAX, frames)
    }

    /// Sends these frames at `rate` frames per second, or as fast as this machine can if that is less.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn flood(&self, rate: u32, frames: impl IntoIterator<Item = Frame>) -> Result<FloodStats> {
        let (begun, mut sent) = (Instant::now(), 0_u32);
        for (frame, place) in frames.into_iter().zip(0_usize..) {
            if place % BUNDLE == 0 {
                let due = Duration::from_secs_f64(f64::from(sent) / f64::from(rate));
                thread::sleep(due.saturating_sub(begun.elapsed()));
            }
            self.send(&frame)?;
            sent += 1;
        }
        Ok(FloodStats { frames: sent.into(), time: begun.elapsed() })
    }
}

/// MAC pair of the frames that it builds.
#[derive(Debug, Clone, Copy)]
pub struct MacPair {
    /// Hardware address of the sender.
    pub sender: [u8; 6],
    /// Hardware address of the receiver.
    pub receiver: [u8; 6],
}

impl MacPair {
    /// A TCP segment without options. `numbers`: sequence and acknowledgement number.
    pub fn segment(self, from: SocketAddr, to: SocketAddr, flags: u8, numbers: [u32; 2]) -> Frame {
        self.carrying(from, to, flags, numbers, b"")
    }

    /// A TCP segment without options, with a payload.
    pub fn carrying(
        self,
        from: SocketAddr,
        to: SocketAddr,
        flags: u8,
        [sequence, acknowledgement]: [u32; 2],
        payload: &[u8],
    ) -> Frame {
        let segment = Segment { flags, sequence, acknowledgement, payload };
        frames::segment(from, to, segment).macs(self.sender, self.receiver).build()
    }

    /// A UDP datagram.
    pub fn datagram(self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Frame {
        frames::udp(from, to, payload).macs(self.sender, self.receiver).build()
    }

    /// Segments that could end, restart or redirect a connection if their numbers were believed.
    ///
    /// Each kind comes with each of [`NUMBERS`], first with a wrong checksum, then with a valid one. Seven segments
    /// with valid checksums and the sequence number 99,999 follow, as one sequence.
    pub fn attacks(self, from: SocketAddr, to: SocketAddr) -> Vec<Frame> {
        const KINDS: [u8; 6] = [
            flag::RST,
            flag::RST | flag::ACK,
            flag::FIN | flag::ACK,
            flag::FIN,
            flag::SYN,
            flag::PSH | flag::ACK,
        ];
        let mut frames = Vec::new();
        for number in NUMBERS {
            for flags in KINDS {
                let payload: &[u8] = if flags == flag::PSH | flag::ACK { b"forged\n" } else { b"" };
                let sound = self.carrying(from, to, flags, [number, number.rotate_left(7)], payload);
                frames.extend([wrong_checksum(sound.clone()), sound]);
            }
        }
        for flags in [flag::RST, flag::SYN, flag::ACK, flag::FIN | flag::ACK, flag::SYN, flag::RST, flag::SYN]
        {
            frames.push(self.segment(from, to, flags, [99_999, 0]));
        }
        frames
    }
}

/// The frame with a wrong checksum in its transport header.
///
/// # Panics
/// The frame carries neither TCP nor UDP.
#[must_use]
pub fn wrong_checksum(frame: Frame) -> Frame {
    let at = match frame.protocol {
        frames::number::TCP => 16,
        frames::number::UDP => 6,
        other => panic!("protocol {other} is neither TCP nor UDP"),
    };
    frame.patch(|frame| frame.bytes[frame.transport + at] ^= 0x55)
}

/// Address of a packet socket. `interface` is an index, `protocol` an EtherType in network byte order.
pub(crate) fn address(interface: u32, protocol: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is a socket address and fits into the storage.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as libc::sa_family_t;
    link.sll_protocol = protocol;
    link.sll_ifindex = interface.cast_signed();
    // SAFETY: the storage holds an address of this family and length.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}

/// Sets an integer option of a packet socket.
fn set_option(socket: &Socket, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the kernel reads an integer.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packets::check;

    const MACS: MacPair = MacPair { sender: [2, 0, 0, 0, 0, 1], receiver: [2, 0, 0, 0, 0, 2] };

    #[test]
    fn attack_frames_parse_back_and_some_have_wrong_checksums() {
        for (from, to) in [("10.0.0.1:5", "10.0.0.2:7"), ("[fd00::1]:5", "[fd00::2]:7")] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let frames = MACS.attacks(from, to);
            let mut wrong = 0;
            for frame in &frames {
                let seen = CapturedFrame::parse(&frame.bytes).unwrap();
                assert_eq!((seen.from, seen.to, seen.receiver), (from, to, MACS.receiver));
                let (_, sequence, _) = seen.tcp.unwrap();
                assert!(NUMBERS.contains(&sequence) || sequence == 99_999);
                wrong += usize::from(frame.clone().patch(check::refresh) != *frame);
            }
            assert_eq!((wrong, frames.len()), (18, 43));
        }
    }

    #[test]
    fn parsed_frame_has_payload_and_icmp_type() {
        let [from, to]: [SocketAddr; 2] =
            ["10.0.0.1:5", "10.0.0.2:7"].map(|address| address.parse().unwrap());
        let seen = CapturedFrame::parse(&MACS.datagram(from, to, b"said").bytes).unwrap();
        assert_eq!((seen.payload.as_slice(), seen.tcp), (&b"said"[..], None));
        let echo = frames::echo(from.ip(), to.ip(), b"said").build();
        assert_eq!(CapturedFrame::parse(&echo.bytes).unwrap().icmp, Some(8));
    }
}
