//! Attaches the program to interfaces, all in the same hook.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context as _, Result, anyhow};
use nix::errno::Errno;

use super::{ManagedInterface, Ports};
use crate::{
    advice,
    dataplane::bpf::{
        link::Link as Pinned,
        xdp::{self, Attachment, HookOccupied},
    },
    devices::{self, Hook, HookScope},
    neigh::Link,
};
use slb_config::model::XdpMode;

/// Another program is attached to the interface.
#[derive(Debug, thiserror::Error)]
#[error("{0}, or leave the interface out of [daemon] interfaces")]
struct OccupiedError(HookOccupied);

/// The interfaces cannot forward to each other in native XDP.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NativeConflict(String);

impl Ports {
    /// Attaches the program to these interfaces, in one hook: the hook of interfaces that already run it, if there are
    /// any.
    ///
    /// # Errors
    /// No interface runs the program that did not run it before.
    pub(super) fn attach_together(&mut self, links: &[&Link]) -> Result<()> {
        let running = self.running_hook(links);
        let first = match (running, self.mode) {
            (Some(hook), _) => hook,
            (None, XdpMode::Generic) => Hook::Generic,
            (None, XdpMode::Auto) if self.why_generic.is_some() => Hook::Generic,
            (None, XdpMode::Native | XdpMode::Auto) => Hook::Native,
        };
        let error = match self.attach_all(links, first) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let can_fall_back = first == Hook::Native && is_native_failure(&error);
        match (running, self.mode) {
            (None, XdpMode::Auto) if can_fall_back => {
                let why = format!("{error:#}");
                tracing::warn!(why, "no native XDP between these interfaces: all take the generic hook");
                self.attach_all(links, Hook::Generic)?;
                self.why_generic = Some(why);
                Ok(())
            }
            (None, XdpMode::Native) if can_fall_back => Err(error.context(
                "xdp_mode = \"native\" cannot forward between these interfaces (set [daemon] xdp_mode = \"auto\" or \
                 \"generic\", which takes the generic hook for all of them)",
            )),
            (Some(_), _) if error.is::<NativeConflict>() => Err(error.context(
                "the other interfaces run the program natively (to have all take the generic hook: stop slbd, run \
                 `slbd detach`, which interrupts forwarding, and start slbd with [daemon] xdp_mode = \"auto\" or \"generic\")",
            )),
            _ => Err(error),
        }
    }

    /// Attaches the program to an interface that has appeared while others run it, in their hook.
    pub(super) fn attach_later(&mut self, link: &Link) -> Result<Attachment> {
        let replaced = self.is_attached(link);
        self.attach_together(&[link])?;
        Ok(match self.held.get(&link.index).map(|held| held.hook) {
            _ if replaced => Attachment::Replaced,
            Some(Hook::Native) => Attachment::Native,
            _ => Attachment::Generic,
        })
    }

    /// The hook of interfaces that already run the program, including these. Native takes precedence.
    fn running_hook(&self, links: &[&Link]) -> Option<Hook> {
        let kept = links.iter().filter(|link| self.is_attached(link));
        let kept = kept.filter_map(|link| link.xdp.map(|xdp| hook(xdp.native)));
        let hooks: Vec<Hook> = self.held.values().map(|held| held.hook).chain(kept).collect();
        if hooks.contains(&Hook::Native) { Some(Hook::Native) } else { hooks.first().copied() }
    }

    /// Whether a BPF link of an earlier run binds the interface.
    fn is_attached(&self, link: &Link) -> bool {
        let pinned = Pinned::open(&self.pins.link(link.index)).ok().flatten();
        let bound = pinned.and_then(|pinned| pinned.bound().ok());
        bound.is_some_and(|bound| bound.interface.is_some())
    }

    fn attach_all(&mut self, links: &[&Link], hook: Hook) -> Result<()> {
        let all: BTreeSet<u32> =
            self.held.keys().copied().chain(links.iter().map(|link| link.index)).collect();
        let role = HookScope::of(all.len());
        let (kept, new): (Vec<&Link>, Vec<&Link>) = links.iter().partition(|link| self.is_attached(link));
        let running = self.held.values().map(|held| held.link.clone());
        let running: BTreeMap<u32, Link> =
            running.chain(kept.into_iter().cloned()).map(|link| (link.index, link)).collect();
        if HookScope::of(running.len()) != role {
            // An interface that sufficed as the only one may not suffice among several.
            let running: Vec<&Link> =
                running.values().filter(|link| new.iter().all(|new| new.index != link.index)).collect();
            self.expect_no_conflict(&running, hook, role, true)?;
        }
        let attached = self.expect_no_conflict(&new, hook, role, false);
        let attached = attached.and_then(|()| links.iter().try_for_each(|link| self.attach(link, hook)));
        // Some drivers show their capabilities only while a program is attached.
        let attached = attached.and_then(|()| self.expect_no_conflict(&new, hook, role, true));
        if attached.is_err() {
            for link in new {
                self.held.remove(&link.index);
                let pin = self.pins.link(link.index);
                if pin.exists() {
                    fs::remove_file(pin)?;
                }
            }
        }
        attached
    }

    fn expect_no_conflict(&self, links: &[&Link], hook: Hook, role: HookScope, runs: bool) -> Result<()> {
        for link in links.iter().filter(|_| hook == Hook::Native) {
            let native = devices::native(link, runs)?;
            if let Some(why) = devices::conflict(&native, role) {
                return Err(NativeConflict(why.to_owned()).into());
            }
        }
        Ok(())
    }

    fn attach(&mut self, link: &Link, hook: Hook) -> Result<()> {
        let pin = self.pins.link(link.index);
        let attached = self.program.attach_in(&pin, link.index, hook);
        let attachment = attached.map_err(|error| explain(error, link))?;
        let hook = match attachment {
            Attachment::Native => Hook::Native,
            Attachment::Generic => Hook::Generic,
            Attachment::Replaced => hook_of(link),
        };
        let pinned = Pinned::open(&pin)?.with_context(|| format!("{} is gone", pin.display()))?;
        report(link, attachment, hook, self.mode);
        self.held.insert(
            link.index,
            ManagedInterface {
                link: link.clone(),
                pinned,
                hook,
                start_refusal: None,
                trouble: None,
                failed_polls: 0,
                below: BTreeSet::new(),
                notes: Vec::new(),
            },
        );
        Ok(())
    }
}

/// Whether an error means that native XDP is impossible. Missing interfaces, descriptors or permissions do not.
fn is_native_failure(error: &anyhow::Error) -> bool {
    !error.is::<OccupiedError>()
        && !matches!(
            advice::errno(error),
            Some(Errno::ENODEV | Errno::ENXIO | Errno::EMFILE | Errno::ENFILE | Errno::EPERM)
        )
}

fn explain(error: anyhow::Error, link: &Link) -> anyhow::Error {
    let error = match error.downcast::<HookOccupied>() {
        Ok(occupied) => anyhow!(OccupiedError(occupied)),
        Err(error) => error,
    };
    let occupant = link.xdp.map_or_else(String::new, |on| {
        let name = xdp::name_of(on.program).unwrap_or_default();
        format!(" (it runs program {} {name})", on.program)
    });
    error.context(format!("cannot attach to {}{occupant}", link.name))
}

fn hook(native: bool) -> Hook {
    if native { Hook::Native } else { Hook::Generic }
}

fn hook_of(link: &Link) -> Hook {
    link.xdp.map_or(Hook::Generic, |xdp| hook(xdp.native))
}

fn report(interface: &Link, attachment: Attachment, hook: Hook, wanted: XdpMode) {
    let mode = hook.name();
    tracing::info!(interface = interface.name, mode, how = ?attachment, "attached");
    if matches!((wanted, hook), (XdpMode::Native, Hook::Generic) | (XdpMode::Generic, Hook::Native)) {
        tracing::warn!(
            interface = interface.name,
            mode,
            "keeping the active XDP mode; `slbd detach` and a start apply the configured one"
        );
    }
    if interface.kind.as_deref() == Some("veth") {
        tracing::warn!(
            interface = interface.name,
            "veth: switch off transmit checksum offload on both ends (`ethtool -K NAME tx off`), or TCP will stall"
        );
    }
}
