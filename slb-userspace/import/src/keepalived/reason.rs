//! Why keywords of virtual and real servers have no counterpart.

/// Why a keyword has no counterpart.
pub(super) fn reason(keyword: &str) -> &'static str {
    match keyword {
        "persistence_granularity" => "persistence of SLB is that of single addresses, not of networks",
        "alpha" | "omega" | "warmup" | "hysteresis" | "delay_loop_jitter" => {
            "SLB has its own timing: a new server is probed before it receives traffic"
        }
        "failover_up" | "failover_down" | "quorum_up" | "quorum_down" | "notify_up" | "notify_down"
        | "smtp_alert" => "SLB starts no programs and sends no mails: its log and `slb status` show health",
        "ops" => {
            "each datagram goes to a server of its own in IPVS; SLB keeps the datagrams of a flow together"
        }
        "inhibit_on_failure" | "sorry_server_inhibit" => {
            "an unhealthy server keeps its connections in SLB anyway; `drain_timeout` ends them"
        }
        "uthreshold" | "lthreshold" => {
            "SLB has no limit of connections for a server; `new_connections` limits a listener"
        }
        "nat_mask" | "net_mask" => "IPVS needs no mask any more",
        "ha_suspend" => "SLB checks servers whether or not the VIP is an address of this host",
        "sh-fallback" | "mh-fallback" | "flag-1" => {
            "consistent hashing of SLB always chooses another healthy server"
        }
        "ip_family" => "SLB takes the family from the addresses",
        "syn_proxy" => "write `syn_cookies` into the listener",
        "bps_limit" | "cps_limit" => "write `bandwidth` or `new_connections` into the listener",
        "est_timeout" => "write `established_timeout` into the listener",
        "virtualhost" => "only HTTP checks have a host",
        _ => "unknown directive",
    }
}
