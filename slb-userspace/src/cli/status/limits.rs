//! The line of a listener's limits.

use slb_api::types::{ApiLimits, ApiListener, ApiSynCookies};
use slb_config::model::Bandwidth;

/// The limits of a listener, and what they have dropped.
pub(super) fn limits(listener: &ApiListener) -> String {
    let Some(limits) = &listener.limits else { return String::new() };
    let ApiLimits {
        bandwidth,
        new_connections,
        dropped_from_clients,
        dropped_to_clients,
        dropped_new_connections,
        syn_cookies,
    } = *limits;
    let bandwidth = bandwidth.map(|bits| {
        let bandwidth = Bandwidth::of_kilobits(u32::try_from(bits / 1000).unwrap_or(u32::MAX));
        format!(
            "bandwidth {bandwidth} per second (dropped {dropped_from_clients} packets from clients, {dropped_to_clients} to \
             clients)"
        )
    });
    let new_connections = new_connections
        .map(|number| format!("{number} new connections per second (dropped {dropped_new_connections})"));
    let syn_cookies = syn_cookies.map(|cookies| {
        let ApiSynCookies { above, is_flooded, sent, accepted, refused } = cookies;
        let flood = if is_flooded { "flood, " } else { "" };
        format!(
            "SYN cookies above {above} new connections per second ({flood}sent {sent}, accepted {accepted}, refused {refused})"
        )
    });
    let limits: Vec<_> = bandwidth.into_iter().chain(new_connections).chain(syn_cookies).collect();
    format!("limits: {}\n", limits.join("; "))
}

#[cfg(test)]
mod tests {
    fn line(limits: &str) -> String {
        let listener = format!(
            r#"{{"name": "web", "state": "running", "protocol": "tcp", "port": 80, "mode": "nat", "addresses": [],
            "counters": {{"packets_from_clients": 0, "bytes_from_clients": 0, "packets_to_clients": 0,
            "bytes_to_clients": 0, "total_flows": 0}}, "outages": [], "servers": [], "limits": {limits}}}"#
        );
        super::limits(&serde_json::from_str(&listener).expect("a listener"))
    }

    #[test]
    fn limits_are_shown_with_their_drops() {
        let dropped = r#""dropped_from_clients": 3, "dropped_to_clients": 4, "dropped_new_connections": 5"#;
        assert_eq!(
            line(&format!(r#"{{"bandwidth": 1500000000, "new_connections": 1000, {dropped}}}"#)),
            "limits: bandwidth 1500Mbit per second (dropped 3 packets from clients, 4 to clients); 1000 new connections per \
             second (dropped 5)\n"
        );
        assert_eq!(
            line(&format!(r#"{{"bandwidth": null, "new_connections": 1, {dropped}}}"#)),
            "limits: 1 new connections per second (dropped 5)\n"
        );
        let cookies = r#"{"above": 500, "is_flooded": true, "sent": 6, "accepted": 7, "refused": 8}"#;
        let limits =
            format!(r#"{{"bandwidth": null, "new_connections": null, "syn_cookies": {cookies}, {dropped}}}"#);
        let shown = |flood| {
            format!(
                "limits: SYN cookies above 500 new connections per second ({flood}sent 6, accepted 7, refused 8)\n"
            )
        };
        assert_eq!(line(&limits), shown("flood, "));
        assert_eq!(line(&limits.replace("true", "false")), shown(""));
        assert_eq!(line("null"), "");
    }
}
