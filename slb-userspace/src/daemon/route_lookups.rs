//! Enables route look-ups of the XDP program.

use std::fs;

/// Settings for `bpf_fib_lookup`, which answers only for interfaces with forwarding enabled. The program asks for `lo`.
/// Forwarding on `lo` lets no packet through, because packets of `lo` are local.
const V4: &str = "net.ipv4.conf.lo.forwarding";
const V6: &str = "net.ipv6.conf.lo.forwarding";
/// Flags of a default route from a router advertisement (`RTF_DEFAULT`, `RTF_ADDRCONF`).
const ADVERTISED: u32 = 0x5_0000;

/// Enables route look-ups in this network namespace. Logs a failure: answers then leave towards the hardware address
/// that the client's packets came from.
pub(super) fn enable() {
    enable_setting(V4);
    // When forwarding is enabled on any interface, the kernel deletes default routes from router advertisements.
    let routes = fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap_or_default();
    if !is_enabled(V6) && has_advertised_default(&routes) {
        tracing::warn!(
            "IPv6 answers go to where clients' packets come from: for look-ups of routes {V6} has to be 1, and setting it deletes \
             default routes of router advertisements (but for interfaces with accept_ra 2): set both before slbd starts"
        );
    } else {
        enable_setting(V6);
    }
}

fn path(setting: &str) -> String {
    format!("/proc/sys/{}", setting.replace('.', "/"))
}

/// Whether a setting is 1 or does not exist. Without IPv6 there are no routes to look up.
fn is_enabled(setting: &str) -> bool {
    fs::read_to_string(path(setting)).map_or(true, |value| value.trim() == "1")
}

fn enable_setting(setting: &str) {
    if !is_enabled(setting)
        && let Err(error) = fs::write(path(setting), "1")
    {
        tracing::warn!(
            setting,
            %error,
            "the XDP program cannot look up routes, and sends answers to where clients' packets come from: set {setting} to 1"
        );
    }
}

/// Whether a table in the format of `/proc/net/ipv6_route` has a default route from a router advertisement.
fn has_advertised_default(routes: &str) -> bool {
    let flags = |line: &str| u32::from_str_radix(line.split_whitespace().nth(8)?, 16).ok();
    routes.lines().filter_map(flags).any(|flags| flags & ADVERTISED == ADVERTISED)
}

#[cfg(test)]
mod tests {
    use super::has_advertised_default;

    const ANY: &str = "00000000000000000000000000000000";

    #[test]
    fn advertised_default_route_is_recognised_by_its_flags() {
        let line = |flags: &str| format!("{ANY} 00 {ANY} 00 {ANY} 00000400 00000001 00000000 {flags} eth0\n");
        let fixed = line("00000003") + &line("00040001");
        assert!(!has_advertised_default(&fixed));
        assert!(has_advertised_default(&(fixed + &line("00450003"))));
        assert!(!has_advertised_default("") && !has_advertised_default("short line\n"));
    }
}
