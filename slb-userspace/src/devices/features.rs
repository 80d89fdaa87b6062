//! Native XDP capabilities of drivers. Linux 6.3 and later report them (netdev netlink family). On earlier kernels they
//! follow from the interface's kind.

use anyhow::{Context as _, Result};
use nix::libc;

use super::netlink::{self, GenericFamily, attribute};
use crate::neigh::{self, Link};

/// Command `NETDEV_CMD_DEV_GET`; attributes `NETDEV_A_DEV_IFINDEX` and `NETDEV_A_DEV_XDP_FEATURES`.
const DEV_GET: u8 = 1;
const IFINDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;

/// `enum netdev_xdp_act`.
const BASIC: u64 = 1;
const REDIRECT: u64 = 2;
const NDO_XMIT: u64 = 4;

/// Kinds of interfaces without native XDP in any kernel: they receive socket buffers.
const GENERIC_ONLY: [&str; 11] =
    ["bridge", "vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "vrf", "dummy", "ifb", "macsec", "vxlan"];

/// What a native XDP program can do at an interface; each error says why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Native {
    /// It can be attached.
    pub run: Result<(), String>,
    /// `XDP_REDIRECT` of its frames to other interfaces works.
    pub redirect: Result<(), String>,
    /// Frames redirected from other interfaces are transmitted.
    pub receive: Result<(), String>,
    /// `XDP_TX` works.
    pub back: Result<(), String>,
}

/// Reads the native XDP capabilities of an interface. Some drivers report that they transmit redirected frames only
/// while a program is attached: `runs` says whether one is.
///
/// # Errors
/// The kernel cannot be queried.
pub fn native(link: &Link, runs: bool) -> Result<Native> {
    let able = Native { run: Ok(()), redirect: Ok(()), receive: Ok(()), back: Ok(()) };
    match link.kind.as_deref() {
        Some(kind) if GENERIC_ONLY.contains(&kind) => {
            let run = Err(format!("{} is a {kind}, which has no native XDP", link.name));
            Ok(Native { run, ..able })
        }
        Some("veth") => {
            let peer = veth(link);
            Ok(Native { receive: peer.clone(), back: peer, ..able })
        }
        _ => Ok(features(link.index)?.map_or(able, |features| read(&link.name, features, runs))),
    }
}

fn read(name: &str, features: u64, runs: bool) -> Native {
    let has = |feature: u64, why: &str| {
        if features & feature == 0 { Err(format!("the driver of {name} {why}")) } else { Ok(()) }
    };
    let receive = has(NDO_XMIT, "does not send frames that native XDP redirects to it");
    Native {
        run: has(BASIC, "has no native XDP"),
        redirect: has(REDIRECT, "cannot redirect frames of native XDP"),
        receive: if runs { receive } else { Ok(()) },
        back: Ok(()),
    }
}

/// XDP features of an interface; `None` if the kernel does not report them.
fn features(index: u32) -> Result<Option<u64>> {
    let Some(netdev) = GenericFamily::open("netdev")? else { return Ok(None) };
    match netdev.request(DEV_GET, &[attribute(IFINDEX, index.to_ne_bytes())]) {
        Ok(reply) => {
            let features = reply.get(&XDP_FEATURES).and_then(|value| value[..].try_into().ok());
            Ok(features.map(u64::from_ne_bytes))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot ask what interface {index} can do for XDP")),
    }
}

/// A veth delivers redirected frames only if its peer polls with NAPI, and `XDP_TX` frames only if the peer runs a
/// native XDP program. See `veth_xdp_flush` in drivers/net/veth.c, unchanged from Linux 5.13 to 6.18.
fn veth(link: &Link) -> Result<(), String> {
    let name = &link.name;
    let read = |namespace, index| netlink::link_in(namespace, index).map(neigh::link);
    // Read again: the peer may have moved to another network namespace.
    let peer = read(None, link.index).map(|own| own.and_then(|own| own.below));
    let peer = peer.and_then(|peer| peer.map_or(Ok(None), |peer| read(peer.namespace, peer.index)));
    match peer {
        Ok(Some(peer)) if peer.xdp.is_some_and(|xdp| xdp.native) => Ok(()),
        Ok(Some(_)) => Err(format!(
            "{name} is a veth whose peer runs no native XDP program, without which it does not deliver frames"
        )),
        Ok(None) => Err(format!("{name} is a veth whose peer is not known")),
        Err(error) => Err(format!("{name} is a veth whose peer cannot be looked at: {error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ndo_xmit_is_required_only_once_the_program_runs() {
        assert_eq!(read("eth0", BASIC | REDIRECT, false).receive, Ok(()));
        let why = "the driver of eth0 does not send frames that native XDP redirects to it".to_owned();
        assert_eq!(read("eth0", BASIC | REDIRECT, true).receive, Err(why));
        assert_eq!(read("eth0", BASIC | REDIRECT | NDO_XMIT, true).receive, Ok(()));
    }

    #[test]
    fn missing_driver_feature_is_named() {
        let native = read("eth0", BASIC | NDO_XMIT, true);
        assert!(native.run.is_ok() && native.redirect.is_err(), "{native:?}");
        assert!(read("eth0", NDO_XMIT, false).run.unwrap_err().contains("has no native XDP"));
    }

    #[test]
    fn loopback_interface_reports_no_xdp_features() {
        // Old kernels do not report features; newer ones report none for `lo`.
        assert!(matches!(features(1).unwrap(), None | Some(0)));
        assert_eq!(features(u32::MAX >> 1).unwrap(), None);
    }
}
