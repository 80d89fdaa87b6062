//! `[[primary_secondary_group]]`.

use std::net::SocketAddr;

use super::{
    group::{GroupEntry, endpoint},
    port_range::GroupsBehindRanges,
    target::failback_after,
    vips::Vips,
};
use crate::{
    diagnostic::Diagnostic,
    field::{Checker, UsedIds, Written},
    model::PrimarySecondaryGroup,
    raw,
};

/// The groups as written in the file.
pub(super) fn listed(
    tables: &[raw::RawTable<raw::RawPrimarySecondaryGroup>],
) -> impl Iterator<Item = GroupEntry<'_>> {
    tables.iter().map(|table| {
        let raw::RawPrimarySecondaryGroup { name, primary, secondary, .. } = &table.as_ref().0;
        let servers = [primary, secondary].into_iter().flatten().map(|server| {
            let raw::RawEndpoint { address, port } = &server.as_ref().0;
            (address.as_ref(), port.as_ref(), None)
        });
        GroupEntry { name: name.as_ref(), servers: servers.collect() }
    })
}

pub(super) fn build(
    checker: &mut Checker,
    table: &raw::RawTable<raw::RawPrimarySecondaryGroup>,
    vips: &Vips,
    behind_ranges: &GroupsBehindRanges<'_>,
    ids: &mut UsedIds,
) -> Option<PrimarySecondaryGroup> {
    let raw = &table.as_ref().0;
    let span = table.span();
    let name_value = checker.required(raw.name.as_ref(), "name", &span, "name = \"db\"");
    let name = name_value.and_then(|value| checker.name(value));
    let id = checker.id(raw.id.as_ref(), name.as_ref());
    if let Some(id) = &id {
        checker.unique_id(ids, id, Written { id: raw.id.as_ref(), name: name_value }, "server group");
    }
    let has_no_ports = behind_ranges.has_no_ports(raw.name.as_ref());
    let mut server = |key: &str, value: &Option<raw::RawTable<raw::RawEndpoint>>| -> Option<SocketAddr> {
        let example = format!("{key} = {{ address = \"10.0.0.31\", port = 5432 }}");
        let value = checker.required(value.as_ref(), key, &span, &example)?;
        let raw::RawEndpoint { address, port } = &value.as_ref().0;
        endpoint(checker, &value.span(), (address.as_ref(), port.as_ref()), vips, has_no_ports)
    };
    let (primary, secondary) = (server("primary", &raw.primary), server("secondary", &raw.secondary));
    if let (Some(primary), Some(secondary), Some(first), Some(second)) =
        (primary, secondary, &raw.primary, &raw.secondary)
        && primary == secondary
    {
        checker.note(
            Diagnostic::error(second.span(), "primary and secondary are the same server", "the same server")
                .related(first.span(), "the primary")
                .help("name another server here: it takes over when the primary is unhealthy"),
        );
    }
    if let (Some(primary), Some(secondary), Some(first), Some(second)) =
        (primary, secondary, &raw.primary, &raw.secondary)
        && primary.is_ipv4() != secondary.is_ipv4()
    {
        checker.note(
            Diagnostic::error(
                second.span(),
                "primary and secondary are of different address families",
                "the one could not take the place of the other",
            )
            .related(first.span(), "the primary")
            .help("give both an IPv4 address, or both an IPv6 address"),
        );
    }
    let failback_after = failback_after(checker, raw.failback_after.as_ref());
    Some(PrimarySecondaryGroup {
        id: id?,
        name: name?,
        primary: primary?,
        secondary: secondary?,
        failback_after: failback_after?,
    })
}
