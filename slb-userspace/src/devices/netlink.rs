//! Synchronous netlink queries: the kernel has replied when `send` returns.

use std::{collections::BTreeMap, ffi::CStr, io};

use anyhow::{Context as _, Result, bail};
use rtnetlink::{
    packet_core::{
        DefaultNla, Emitable as _, ErrorBuffer, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
        NetlinkDeserializable, NetlinkHeader, NlasIterator,
    },
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkMessage},
    },
    sys::{Socket, SocketAddr, protocols},
};

/// `NLM_F_REQUEST`, `NLM_F_ACK`.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;
const NLA_TYPE: u16 = !(3 << 14);
/// Sizes of `nlmsghdr` and `genlmsghdr`.
const HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;
/// Generic netlink's controller family, its command `CTRL_CMD_GETFAMILY`, and attributes `CTRL_ATTR_FAMILY_ID` and
/// `_NAME`.
const CONTROLLER: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// Attributes of a message by type. The last one of a type wins.
pub(super) type Attributes = BTreeMap<u16, Vec<u8>>;

/// An attribute of a request.
pub(super) fn attribute(kind: u16, value: impl Into<Vec<u8>>) -> DefaultNla {
    DefaultNla::new(kind, value.into())
}

/// A nested attribute.
pub(super) fn nest(kind: u16, of: &[DefaultNla]) -> DefaultNla {
    DefaultNla::new(kind | NESTED, bytes(of))
}

/// A zero-terminated string.
pub(super) fn text(text: &str) -> Vec<u8> {
    text.bytes().chain([0]).collect()
}

/// Parses attributes in order. A type may occur several times.
pub(super) fn attributes(bytes: &[u8]) -> Result<Vec<(u16, Vec<u8>)>> {
    let read = |nla: Result<rtnetlink::packet_core::NlaBuffer<&[u8]>, _>| {
        let nla = nla.context("cannot read netlink attributes")?;
        Ok((nla.kind() & NLA_TYPE, nla.value().to_vec()))
    };
    NlasIterator::new(bytes).map(read).collect()
}

/// The string in an attribute.
pub(super) fn read_text(bytes: &[u8]) -> Option<&str> {
    CStr::from_bytes_until_nul(bytes).ok()?.to_str().ok()
}

/// A generic netlink family, such as `ethtool`.
pub(super) struct GenericFamily {
    socket: Socket,
    id: u16,
}

impl GenericFamily {
    /// Looks up the family; `None` if the kernel does not have it.
    pub(super) fn open(name: &str) -> Result<Option<Self>> {
        let socket = connect(protocols::NETLINK_GENERIC)?;
        let found = transact(&socket, CONTROLLER, generic(GET_FAMILY, &[attribute(FAMILY_NAME, text(name))]));
        let reply = match found {
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => return Ok(None),
            reply => reply.with_context(|| format!("cannot ask for the netlink family {name}"))?,
        };
        let id = of_generic(&reply)?
            .get(&FAMILY_ID)
            .and_then(|id| Some(u16::from_ne_bytes(id[..].try_into().ok()?)));
        match id {
            Some(id) => Ok(Some(Self { socket, id })),
            None => bail!("the netlink family {name} has no id"),
        }
    }

    /// Sends a command. Returns the attributes of the reply; none if the kernel only acknowledges.
    pub(super) fn request(&self, command: u8, of: &[DefaultNla]) -> io::Result<Attributes> {
        let reply = transact(&self.socket, self.id, generic(command, of))?;
        of_generic(&reply).map_err(io::Error::other)
    }
}

/// The interface with this index: in the network namespace with this nsid, or in the calling thread's.
pub(super) fn link_in(namespace: Option<i32>, index: u32) -> Result<LinkMessage> {
    let socket = connect(protocols::NETLINK_ROUTE)?;
    let mut question = LinkMessage::default();
    question.header.index = index;
    question.attributes.extend(namespace.map(LinkAttribute::IfNetnsId));
    let mut body = vec![0; question.buffer_len()];
    question.emit(&mut body);
    let reply = transact(&socket, GET_LINK, body)?;
    let mut header = NetlinkHeader::default();
    header.message_type = NEW_LINK;
    match RouteNetlinkMessage::deserialize(&header, &reply)? {
        RouteNetlinkMessage::NewLink(link) => Ok(link),
        _ => bail!("the kernel answered with another message than was asked for"),
    }
}

/// `RTM_NEWLINK` and `RTM_GETLINK`.
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;

fn connect(protocol: isize) -> Result<Socket> {
    let mut socket = Socket::new(protocol).context("cannot open a netlink socket")?;
    socket.bind_auto().context("cannot bind a netlink socket")?;
    socket.connect(&SocketAddr::new(0, 0)).context("cannot connect a netlink socket")?;
    Ok(socket)
}

fn bytes(of: &[DefaultNla]) -> Vec<u8> {
    let mut bytes = vec![0; of.buffer_len()];
    of.emit(&mut bytes);
    bytes
}

/// Body of a generic netlink message. All commands used here have version 1.
fn generic(command: u8, of: &[DefaultNla]) -> Vec<u8> {
    [&[command, 1, 0, 0][..], &bytes(of)].concat()
}

fn of_generic(reply: &[u8]) -> Result<Attributes> {
    Ok(attributes(reply.get(GENERIC_HEADER..).unwrap_or_default())?.into_iter().collect())
}

/// Sends a request and reads until its acknowledgement. Returns the body of the reply, empty if there was none.
fn transact(socket: &Socket, kind: u16, body: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut header = NetlinkHeader::default();
    header.length = (HEADER + body.len()) as u32;
    header.message_type = kind;
    header.flags = REQUEST | ACK;
    let mut request = vec![0; HEADER];
    header.emit(&mut request);
    request.extend(body);
    socket.send(&request, 0)?;
    let mut reply = Vec::new();
    loop {
        let (received, _) = socket.recv_from_full()?;
        let mut rest = &received[..];
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
            match message.message_type() {
                NLMSG_ERROR => {
                    let error = ErrorBuffer::new_checked(message.payload()).map_err(io::Error::other)?;
                    return error
                        .code()
                        .map_or(Ok(reply), |code| Err(io::Error::from_raw_os_error(-code.get())));
                }
                NLMSG_DONE => return Ok(reply),
                _ => reply = message.payload().to_vec(),
            }
            let aligned = (message.length() as usize).next_multiple_of(4);
            rest = rest.get(aligned..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_generic_netlink_family_is_none() {
        assert!(GenericFamily::open("slb-absent").unwrap().is_none());
    }

    #[test]
    fn nested_attributes_are_read_as_they_were_written() {
        let written = [nest(3, &[attribute(1, 7_u32.to_ne_bytes()), attribute(2, text("rx-gro"))])];
        let outer = attributes(&bytes(&written)).unwrap();
        assert_eq!(outer[0].0, 3);
        let inner = attributes(&outer[0].1).unwrap();
        assert_eq!(inner[0], (1, 7_u32.to_ne_bytes().to_vec()));
        assert_eq!(read_text(&inner[1].1), Some("rx-gro"));
    }
}
