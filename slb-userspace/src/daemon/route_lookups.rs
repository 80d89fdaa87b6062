//! The kernel's permission to look up routes for the XDP program.

use std::fs;

/// Settings that `bpf_fib_lookup` depends on: it answers for interfaces with forwarding enabled only. The program asks for `lo`, where
/// that lets no packet through: packets of `lo` are this host's own.
const SETTINGS: [&str; 2] = ["net/ipv4/conf/lo/forwarding", "net/ipv6/conf/lo/forwarding"];

/// Enables route look-ups in this network namespace, and logs where that fails: answers then go to where clients' packets come from.
pub(super) fn enable() {
    for setting in SETTINGS {
        let path = format!("/proc/sys/{setting}");
        // Without IPv6 there are no routes to look up.
        let is_needed = fs::read_to_string(&path).is_ok_and(|value| value.trim() != "1");
        if is_needed && let Err(error) = fs::write(&path, "1") {
            let setting = setting.replace('/', ".");
            tracing::warn!(
                setting,
                %error,
                "the XDP program cannot look up routes, and sends answers to where clients' packets come from: set {setting} to 1"
            );
        }
    }
}
