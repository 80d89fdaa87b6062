//! ARP requests with any sender, and the replies to them.

use std::{io::ErrorKind, mem::MaybeUninit, net::Ipv4Addr, time::Duration};

use anyhow::Result;
use nix::{libc, net::if_::if_nametoindex};
use socket2::{Domain, SockAddr, Socket, Type};

use super::address;
use crate::{net::Namespace, wait::wait_for};

/// A packet socket for ARP at one interface.
#[derive(Debug)]
pub struct ArpSocket {
    socket: Socket,
    to: SockAddr,
    mac: [u8; 6],
}

impl ArpSocket {
    /// Opens it at an interface of this namespace.
    ///
    /// # Errors
    /// The interface does not exist, or the caller is not root.
    pub fn at(namespace: &Namespace, interface: &str) -> Result<Self> {
        let mac = namespace.mac(interface)?;
        namespace.on_thread(|| {
            let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), None)?;
            let to = address(if_nametoindex(interface)?, (libc::ETH_P_ARP as u16).to_be());
            socket.bind(&to)?;
            Ok(Self { socket, to, mac })
        })
    }

    /// Asks for the hardware address of `target` by broadcast. An unspecified `sender` makes it a probe (RFC 5227).
    ///
    /// # Errors
    /// The interface is down.
    pub fn ask(&self, sender: Ipv4Addr, target: Ipv4Addr) -> Result<()> {
        let ethernet = [&[0xff; 6][..], &self.mac, &[8, 6]].concat();
        let ends = [&self.mac[..], &sender.octets(), &[0; 6], &target.octets()].concat();
        self.socket.send_to(&[&ethernet[..], &[0, 1, 8, 0, 6, 4, 0, 1], &ends].concat(), &self.to)?;
        Ok(())
    }

    /// The next reply: the address that it is about, and its hardware address.
    ///
    /// # Errors
    /// None arrives in time.
    pub fn next_reply(&self, limit: Duration) -> Result<(Ipv4Addr, [u8; 6])> {
        wait_for("an ARP reply", limit, || {
            let mut buffer = [MaybeUninit::<u8>::uninit(); 64];
            let length = match self.socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            // SAFETY: the kernel has written the first `length` bytes.
            let frame = unsafe { buffer[..length].assume_init_ref() };
            let is_reply = frame.len() >= 42 && frame[20..22] == [0, 2];
            Ok(is_reply.then(|| {
                let (mut mac, mut of) = ([0; 6], [0; 4]);
                mac.copy_from_slice(&frame[22..28]);
                of.copy_from_slice(&frame[28..32]);
                (of.into(), mac)
            }))
        })
    }
}
