//! The commands of `slb-decap`.

mod addresses;
pub mod attach;
pub mod detach;
pub mod status;

use anyhow::{Context as _, Result};

use crate::neigh::{self, Link};

/// Reads the interfaces of this network namespace.
fn links() -> Result<Vec<Link>> {
    neigh::links_now()
}

fn find<'links>(links: &'links [Link], name: &str) -> Result<&'links Link> {
    links.iter().find(|link| link.name == name).with_context(|| {
        let mut names: Vec<_> = links.iter().map(|link| link.name.as_str()).collect();
        names.sort_unstable();
        format!("no interface {name}; there are: {}", names.join(", "))
    })
}
