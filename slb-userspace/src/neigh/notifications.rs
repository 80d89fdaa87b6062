//! Rtnetlink notifications.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context as TaskContext, Poll},
};

use anyhow::{Context as _, Result};
use futures_util::{Stream, StreamExt as _, stream::BoxStream};
use rtnetlink::{
    MulticastGroup,
    packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkSerializable},
    packet_route::RouteNetlinkMessage,
    proto::{
        new_connection,
        sys::{AsyncSocket as _, SocketAddr, protocols::NETLINK_ROUTE},
    },
};
use tokio::task::JoinSet;

/// Groups of events that change the kernel's choice of routes, or their interfaces. A change of a nexthop object need
/// not cause a notification of its routes.
pub(super) const ROUTES: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Nexthop,
];

/// A notification of the kernel.
pub(super) type Notification = NetlinkMessage<NotificationBody>;

/// Content of a notification.
#[derive(Debug)]
pub(super) enum NotificationBody {
    /// A message that the netlink library can parse.
    Known(RouteNetlinkMessage),
    /// Any other message: a nexthop object, or one of a later kernel.
    Unknown,
}

impl NetlinkDeserializable for NotificationBody {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(RouteNetlinkMessage::deserialize(header, payload).map_or(Self::Unknown, Self::Known))
    }
}

/// A connection requires this. Nothing is sent over a connection for notifications.
impl NetlinkSerializable for NotificationBody {
    fn message_type(&self) -> u16 {
        match self {
            Self::Known(message) => message.message_type(),
            Self::Unknown => 0,
        }
    }

    fn buffer_len(&self) -> usize {
        match self {
            Self::Known(message) => message.buffer_len(),
            Self::Unknown => 0,
        }
    }

    fn serialize(&self, buffer: &mut [u8]) {
        if let Self::Known(message) = self {
            message.serialize(buffer);
        }
    }
}

/// Notifications as they arrive; dropping it closes the socket. The stream ends when the socket fails.
pub(super) struct Notifications {
    stream: BoxStream<'static, Notification>,
    _monitor: JoinSet<()>,
}

impl Notifications {
    /// Subscribes to notifications in the network namespace of the calling thread.
    ///
    /// # Errors
    /// A netlink socket cannot be opened.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub(super) fn subscribe(groups: &[MulticastGroup]) -> Result<Self> {
        let connect = || {
            let (mut monitor, _, stream) = new_connection::<NotificationBody>(NETLINK_ROUTE)?;
            let socket = monitor.socket_mut().socket_mut();
            socket.bind(&SocketAddr::new(0, 0))?;
            for &group in groups {
                socket.add_membership(group as u32)?;
            }
            std::io::Result::Ok((monitor, stream))
        };
        let (monitor, stream) = connect().context("cannot subscribe to netlink notifications")?;
        Ok(Self {
            stream: stream.map(|(message, _)| message).boxed(),
            _monitor: JoinSet::from_iter([monitor]),
        })
    }
}

impl Stream for Notifications {
    type Item = Notification;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Option<Notification>> {
        self.stream.poll_next_unpin(context)
    }
}
