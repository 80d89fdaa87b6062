//! What an interface's driver can do for XDP, as the kernel says it: from Linux 6.3 on in words of its own (the netdev
//! family), before that only by what kind of interface it is.

use anyhow::{Context as _, Result};
use nix::libc;

use super::netlink::{self, Family, attribute};
use crate::neigh::{self, Link};

/// Command `NETDEV_CMD_DEV_GET`; attributes `NETDEV_A_DEV_IFINDEX` and `NETDEV_A_DEV_XDP_FEATURES`.
const DEV_GET: u8 = 1;
const IFINDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;

/// `enum netdev_xdp_act`.
const BASIC: u64 = 1;
const REDIRECT: u64 = 2;
const NDO_XMIT: u64 = 4;

/// Kinds of interfaces that have no native XDP in any kernel: frames are in socket buffers already when they come to them.
const GENERIC_ONLY: [&str; 11] =
    ["bridge", "vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "vrf", "dummy", "ifb", "macsec", "vxlan"];

/// What a native XDP program can do at an interface, and if not, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Native {
    /// It runs there.
    pub run: Result<(), String>,
    /// Its frames can leave by other interfaces.
    pub redirect: Result<(), String>,
    /// Frames that come from other interfaces can leave there.
    pub receive: Result<(), String>,
    /// Its frames can leave where they came in.
    pub back: Result<(), String>,
}

/// Finds out what native XDP can do at an interface. Before the program runs there, some drivers do not say yet that frames
/// can be sent: `runs` tells whether it does.
///
/// # Errors
/// The kernel cannot be asked.
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

/// The features of an interface; `None` where the kernel does not tell them.
fn features(index: u32) -> Result<Option<u64>> {
    let Some(netdev) = Family::open("netdev")? else { return Ok(None) };
    match netdev.request(DEV_GET, &[attribute(IFINDEX, index.to_ne_bytes())]) {
        Ok(reply) => {
            let features = reply.get(&XDP_FEATURES).and_then(|value| value[..].try_into().ok());
            Ok(features.map(u64::from_ne_bytes))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot ask what interface {index} can do for XDP")),
    }
}

/// A veth delivers frames of native XDP only where its peer polls, and what XDP sends back (`XDP_TX`) only where that runs a
/// native XDP program: `veth_xdp_flush` in drivers/net/veth.c, the same from Linux 5.13 to 6.18.
fn veth(link: &Link) -> Result<(), String> {
    let name = &link.name;
    let look = |namespace, index| netlink::link_in(namespace, index).map(neigh::link);
    // Read afresh: the peer may have been moved to another network namespace.
    let peer = look(None, link.index).map(|own| own.and_then(|own| own.below));
    let peer = peer.and_then(|peer| peer.map_or(Ok(None), |peer| look(peer.namespace, peer.index)));
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
    fn drivers_that_announce_sending_late_are_asked_again_once_the_program_runs() {
        assert_eq!(read("eth0", BASIC | REDIRECT, false).receive, Ok(()));
        let why = "the driver of eth0 does not send frames that native XDP redirects to it".to_owned();
        assert_eq!(read("eth0", BASIC | REDIRECT, true).receive, Err(why));
        assert_eq!(read("eth0", BASIC | REDIRECT | NDO_XMIT, true).receive, Ok(()));
    }

    #[test]
    fn a_driver_says_what_it_lacks() {
        let native = read("eth0", BASIC | NDO_XMIT, true);
        assert!(native.run.is_ok() && native.redirect.is_err(), "{native:?}");
        assert!(read("eth0", NDO_XMIT, false).run.unwrap_err().contains("has no native XDP"));
    }

    #[test]
    fn the_kernel_is_asked_about_the_loopback_interface() {
        // Old kernels do not know; newer ones say that it has nothing.
        assert!(matches!(features(1).unwrap(), None | Some(0)));
        assert_eq!(features(u32::MAX >> 1).unwrap(), None);
    }
}
