//! Marks the layouts as plain data for aya's typed maps.

use super::{
    access_list::AccessKey,
    announce::{AnnouncedVip, Announcement},
    backend::{Backend, NextHop},
    control::Control,
    decap::{DecapCounters, DecapPolicy},
    flow::FlowWords,
    lookup_table::LookupTable,
    losses::{KernelLayout, Losses},
    service::{Service, ServiceIndex},
    stats::{Counters, LimitDrops, Totals},
    toa::{ClientOption, ToaCounters, ToaPolicy},
};

macro_rules! pod {
    ($($layout:ty),+ $(,)?) => {
        $(
            // SAFETY: `repr(C)` of integers and arrays of integers without implicit padding; any bytes are valid.
            unsafe impl aya::Pod for $layout {}
        )+
    };
}

pod!(
    AccessKey,
    AnnouncedVip,
    Announcement,
    Backend,
    NextHop,
    Control,
    FlowWords,
    LookupTable,
    Service,
    ServiceIndex,
    Counters,
    LimitDrops,
    Totals,
    DecapPolicy,
    DecapCounters,
    ClientOption,
    ToaCounters,
    ToaPolicy,
    KernelLayout,
    Losses,
);
