//! What the rules of listeners share.

use std::collections::{HashMap, HashSet};

use super::{
    access_list::AccessListIndex, families::Families, group::GroupIndex, port_range::GroupsBehindRanges,
    vips::Vips,
};
use crate::{
    diagnostic::Span,
    field::{Checker, UsedIds},
};

/// Context of a load balancer in the file.
pub(super) struct BalancerScope<'s, 'a> {
    /// Collects diagnostics.
    pub(super) checker: &'s mut Checker,
    /// The VIPs of all load balancers.
    pub(super) vips: &'s Vips,
    /// The server groups of the file.
    pub(super) groups: &'s GroupIndex<'a>,
    /// The primary/secondary server groups of the file.
    pub(super) pairs: &'s GroupIndex<'a>,
    /// The server groups behind port ranges.
    pub(super) behind_ranges: &'s GroupsBehindRanges<'a>,
    /// Address families of tunnel source addresses, if they could be read.
    pub(super) tunnels: Option<Families>,
    /// Address families of local addresses, if they could be read.
    pub(super) locals: Option<Families>,
    /// Server groups that listeners have referred to so far.
    pub(super) used: &'s mut HashSet<&'a str>,
    /// Primary/secondary groups that listeners have referred to so far.
    pub(super) used_pairs: &'s mut HashSet<&'a str>,
    /// The access lists of the file.
    pub(super) lists: &'s AccessListIndex<'a>,
    /// Access lists that listeners have referred to so far.
    pub(super) used_lists: &'s mut HashSet<&'a str>,
    /// Names of load balancers so far.
    pub(super) names: &'s mut HashMap<String, Span>,
    /// Ids of load balancers so far.
    pub(super) ids: &'s mut UsedIds,
}

/// Properties of the load balancer that a listener needs.
pub(super) struct BalancerContext {
    /// Address families of its VIPs.
    pub(super) vips: Families,
    /// Address families of its default servers that receive new flows; `None` without default servers.
    pub(super) default_servers: Option<Families>,
    /// Address families of all its default servers.
    pub(super) all_default_servers: Families,
}
