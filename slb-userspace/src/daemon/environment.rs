//! What the event loop reaches outside of itself: the clock, the kernel's interfaces, health checks, next hops, the GC
//! thread. Tests replace it, and run the event loop without root.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    time::Duration,
};

use anyhow::Result;

use super::gc_thread::{Finished, Job};
use crate::{
    announce::Wanted,
    devices::VlanExit,
    health::{Health, Target, TargetEvent, path::ProbeSettings},
    neigh::{Link, LinkChange, Resolutions, vips::VipStates},
};
use slb_config::model::InterfaceRole;
use slb_control::dataplane::DataPlane;

/// Interfaces by name; alternative names are keys too.
pub(super) type Links = BTreeMap<String, Link>;

/// The result of a poll.
#[derive(Debug, Default)]
pub(super) struct PollResult {
    /// An interface has become able or unable to forward.
    pub(super) changed: bool,
    /// An interface has lost the program.
    pub(super) lost: bool,
}

/// Something that has happened outside of the event loop.
pub(super) enum Event {
    /// A health check has a result.
    Probe(Box<TargetEvent>),
    /// The kernel's next hops to servers have changed.
    NextHops(Resolutions),
    /// The kernel's next hops to sampled clients have changed.
    ClientNextHops(Resolutions),
    /// VIPs have become addresses of this host, or no longer are.
    Vips(VipStates),
    /// Interfaces have changed.
    Links(LinkChange),
    /// The GC thread has done a job.
    GcFinished(Finished),
}

/// What the event loop reaches outside of itself.
pub(super) trait Environment {
    /// What holds the maps.
    type Plane: DataPlane;
    /// The interfaces with the XDP program.
    type Interfaces: Interfaces;

    /// Time since boot, as used by deadlines in the maps.
    ///
    /// # Errors
    /// The clock cannot be read.
    fn since_boot(&self) -> Result<Duration>;

    /// Waits for the next event. Cancel-safe.
    ///
    /// # Errors
    /// A source of events has ended.
    async fn next_event(&mut self) -> Result<Event>;

    /// Reads the interfaces of this network namespace.
    ///
    /// # Errors
    /// The kernel does not answer.
    async fn links(&self) -> Result<Links>;

    /// Reads the state of VIPs on this host.
    ///
    /// # Errors
    /// The kernel does not answer.
    async fn read_vips(&self, vips: &BTreeSet<IpAddr>) -> Result<VipStates>;

    /// The interfaces with the XDP program.
    fn interfaces(&self) -> &Self::Interfaces;

    /// As [`Self::interfaces`].
    fn interfaces_mut(&mut self) -> &mut Self::Interfaces;

    /// Makes these the targets of health checks, with the last verdict on each.
    fn set_targets(&mut self, targets: BTreeMap<Target, Option<Health>>);

    /// Restarts all probes with other settings. [`Self::set_targets`] follows.
    fn restart_probes(&mut self, settings: ProbeSettings);

    /// Watches the next hops to these servers.
    fn watch_servers(&self, destinations: BTreeSet<IpAddr>);

    /// Learns path MTUs from ICMP errors about packets of these sources and IP protocols.
    fn follow_tunnels(&self, tunnels: BTreeSet<(IpAddr, u8)>);

    /// Watches the next hops to these clients.
    fn watch_clients(&self, samples: BTreeSet<IpAddr>);

    /// Watches whether these VIPs are addresses of this host and answered for.
    fn watch_vips(&self, vips: BTreeSet<IpAddr>);

    /// Announces these VIPs to the hosts of their subnets, and no others.
    fn announce(&self, wanted: Wanted);

    /// Announces no VIP any more: forwarding ends with this process.
    async fn end_announcements(&mut self);

    /// Queues a job for the GC thread.
    fn start_gc(&self, job: Job);

    /// Work waits for the running GC pass.
    fn hurry_gc(&self);

    /// Polls what sends no notification: links, pins, peers, lost packets.
    fn poll(&mut self) -> PollResult;
}

/// The interfaces with the XDP program.
pub(super) trait Interfaces {
    /// The interfaces by their configured names.
    fn known(&self, links: &Links) -> Links;

    /// Names of the interfaces that run the program and forward, by index, without those named in `without`.
    fn attached_without(&self, without: &[String]) -> BTreeMap<u32, String>;

    /// Configured names of the interfaces that run the program and forward.
    fn attached_names(&self) -> BTreeSet<String>;

    /// Indexes of the interfaces through which packets may leave, without those named in `without`. It includes members
    /// of bonds.
    fn exits(&self, without: &[String]) -> BTreeSet<u32>;

    /// Existing interfaces that do not forward, by index, with the reason.
    fn refused(&self) -> BTreeMap<u32, String>;

    /// Configured names without an interface.
    fn absent(&self) -> BTreeSet<String>;

    /// What to do about servers behind interfaces without the program, by interface name.
    fn advice(&self) -> BTreeMap<String, String>;

    /// VLAN devices upon interfaces that run the program, by index, as they are once it no longer runs on those named in
    /// `without`.
    fn vlans(&self, without: &[String]) -> BTreeMap<u32, VlanExit>;

    /// Whether the program could not be attached to an existing interface.
    fn has_refused(&self) -> bool;

    /// Why pins are missing, if they are.
    fn pins_trouble(&self) -> Option<&str>;

    /// Attaches the program to more interfaces. An absent one is attached when it appears.
    ///
    /// # Errors
    /// If one interface cannot be attached, no new attachment stays.
    fn add(&mut self, names: &[String], links: &Links) -> Result<()>;

    /// Attaches the program to more interfaces, and retries later where that fails now. Returns the same as
    /// [`Self::follow`], empty instead of `None`.
    fn restore(&mut self, names: &[String], links: &Links) -> BTreeSet<u32>;

    /// Detaches the program from interfaces.
    fn remove(&mut self, names: &[String]);

    /// Sets the roles of interfaces that are to be attached.
    fn add_roles(&mut self, added: &[String], roles: &BTreeMap<String, InterfaceRole>);

    /// Sets the roles of all interfaces.
    fn set_roles(&mut self, roles: BTreeMap<String, InterfaceRole>);

    /// Writes the hardware addresses of the interfaces to the interface table.
    fn note_addresses(&mut self, links: &Links);

    /// Compares with the interfaces of the kernel, and attaches or detaches as needed. Returns the indexes of removed
    /// interfaces, also where they exist again; `None` if nothing has changed.
    fn follow(&mut self, links: &Links) -> Option<BTreeSet<u32>>;

    /// Persists the record of what was changed on this host in `directory`, for the next run and for `slbd detach`.
    fn persist_record_in(&self, directory: &Path);
}
