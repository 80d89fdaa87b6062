//! Versions that `--version` prints.

use std::sync::LazyLock;

use slb_common::abi::{ABI_VERSION, decap::DECAP_ABI_VERSION, toa::TOA_ABI_VERSION};

/// Version of `slbd` and `slb`: release, git commit, and the ABI of the pinned maps.
pub static VERSION: LazyLock<String> = LazyLock::new(|| describe(ABI_VERSION));

/// Version of `slb-decap`, whose maps have an ABI of their own.
pub static DECAP_VERSION: LazyLock<String> = LazyLock::new(|| describe(DECAP_ABI_VERSION));

/// Version of `slb-toa`, whose maps have an ABI of their own.
pub static TOA_VERSION: LazyLock<String> = LazyLock::new(|| describe(TOA_ABI_VERSION));

fn describe(abi: u32) -> String {
    format!("{} (git {}, ABI {abi})", env!("CARGO_PKG_VERSION"), env!("SLB_GIT"))
}
