//! BPF filters at the ingress of an interface (tc, `clsact`).

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcMessage, TcOption};

use super::{super::host_interfaces::IngressFilter, Kernel};

impl Kernel {
    /// BPF filters at the ingress of an interface. None if it has no place for them.
    pub(in crate::neigh) async fn ingress_filters(&mut self, interface: u32) -> Result<Vec<IngressFilter>> {
        let request = self.handle.traffic_filter(interface.cast_signed()).get().ingress();
        let replies: Vec<TcMessage> =
            request.execute().try_collect().await.context("cannot list the filters of an interface")?;
        self.ensure_alive()?;
        Ok(replies.iter().filter_map(ingress_filter).collect())
    }
}

/// Parses a filter; `None` if it is not in BPF.
fn ingress_filter(message: &TcMessage) -> Option<IngressFilter> {
    let program = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => options.iter().find_map(|option| match option {
            TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(*id),
            _ => None,
        }),
        _ => None,
    })?;
    // The upper half is the priority, the lower one the protocol.
    let priority = (message.header.info >> 16) as u16;
    Some(IngressFilter { priority, handle: message.header.handle.into(), program })
}
