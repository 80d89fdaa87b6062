//! The client endpoint as a TCP option (TOA) in segments to servers.

use std::net::IpAddr;

use crate::{
    bytes::{put, word},
    checksum::carry,
    packet::{Content, Packet},
    rewrite::End,
};

/// Kind of the option.
const KIND: u8 = 254;
/// The kind that options of a client get where there is no room.
const OTHER_KIND: u8 = 253;
/// Length of a TCP header without options.
const TCP: usize = 20;
/// Longest TCP header.
const LONGEST: usize = 60;

impl Packet {
    /// The segment with its source as the first TCP option, if it may become `room` bytes longer. Else the same segment
    /// without such an option.
    pub(crate) fn with_client_option(&self, room: usize) -> Self {
        if self.content != Content::Tcp {
            return self.clone();
        }
        let address = self.frame[self.address_range(self.network, End::Source)].to_vec();
        let len = address.len() + 4;
        let header = usize::from(self.frame[self.transport + 12] >> 4) * 4;
        if !self.is_plain() || self.fragment.is_some() || header + len > LONGEST || len > room {
            return self.without_client_option(header);
        }
        let option = [&[KIND, len as u8][..], &self.source.port().to_be_bytes(), &address].concat();
        let mut out = self.clone();
        let behind = self.transport + TCP;
        out.frame[self.transport + 12] += (len / 4 * 16) as u8;
        // What the checksum covers besides: zeros become the option, and the length of the pseudo-header grows.
        let check = self.transport + 16;
        let (mut before, mut after) = (vec![0; len + 2], option.clone());
        after.extend((len as u16).to_be_bytes());
        for (bytes, frame) in [(&mut before, &self.frame), (&mut after, &out.frame)] {
            bytes.extend(&frame[self.transport..behind]);
        }
        let at = len + 2 + 16;
        let all = 0..before.len();
        carry(&before, &mut after, at, &[all]);
        put(&mut out.frame, check, word(&after, at).expect("it has a header"));
        out.frame.splice(behind..behind, option);
        let field = self.network + if matches!(self.source.ip(), IpAddr::V4(_)) { 2 } else { 4 };
        put(&mut out.frame, field, word(&self.frame, field).expect("it has a header") + len as u16);
        if self.is_v4() {
            self.refresh_header(&mut out.frame, self.network);
        }
        out.len += len;
        out
    }

    /// `header` is the length of the TCP header.
    fn without_client_option(&self, header: usize) -> Self {
        let mut out = self.clone();
        let options = self.transport + TCP..self.transport + header;
        let mut at = options.start;
        while at < options.end && out.frame[at] != 0 {
            if out.frame[at] == 1 {
                at += 1;
                continue;
            }
            if out.frame[at] == KIND {
                out.frame[at] = OTHER_KIND;
            }
            match out.frame.get(at + 1) {
                Some(len) if *len >= 2 => at += usize::from(*len),
                _ => break,
            }
        }
        let covered = self.transport..options.end;
        carry(&self.frame, &mut out.frame, self.transport + 16, &[covered]);
        out
    }
}
