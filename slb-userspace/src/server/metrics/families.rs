//! The families of metrics: names, types, units and what they mean. docs/metrics.md lists the same.

/// Type of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows; begins again at 0 with new maps, or with the daemon. Samples end in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Durations in buckets.
    Histogram,
    /// Labels only, with the value 1. Samples end in `_info`.
    Info,
}

/// A family of metrics.
#[derive(Debug)]
pub(super) struct Family {
    /// Name without the suffix of its type.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// `seconds`, `bytes`, or empty. The name ends with it.
    pub(super) unit: &'static str,
    /// One sentence, without line breaks, quotes and backslashes.
    pub(super) help: &'static str,
}

impl Family {
    /// The end of the names of its samples.
    pub(super) const fn suffix(&self) -> &'static str {
        match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        }
    }
}

/// Declares the families, and the list of all of them.
macro_rules! families {
    ($($constant:ident = $kind:ident $name:literal $($unit:literal)?: $help:literal;)*) => {
        $(pub(super) const $constant: &Family =
            &Family { name: $name, kind: Kind::$kind, unit: concat!($($unit)?), help: $help };)*

        /// All families.
        #[cfg(test)]
        pub(super) const ALL: &[&Family] = &[$($constant),*];
    };
}

families! {
    BUILD = Info "slb_build": "Version of slbd.";
    CONFIG_SUCCESS = Gauge "slb_config_last_reload_successful": "Whether the last reload or apply became active.";
    CONFIG_TIME = Gauge "slb_config_last_change_timestamp_seconds" "seconds":
        "Time at which the active configuration became active.";
    CONFIG_DIFFERS = Gauge "slb_config_differs_from_file":
        "Whether the file of the daemon differs from the active configuration or cannot be used.";
    CONFIG_PENDING = Gauge "slb_config_pending": "Whether a configuration waits for its servers.";
    CONFIG_UNCONFIRMED = Gauge "slb_config_unconfirmed":
        "Whether the active configuration is rolled back unless it is confirmed.";
    COMMANDS = Counter "slb_commands": "Commands by result.";
    OVERRIDES = Gauge "slb_overrides": "Overrides of servers.";
    DIGEST = Gauge "slb_digest":
        "The first 52 bits of the digest of all slots, equal on nodes that choose the same servers.";
    EVENT_LOOP_DELAY = Histogram "slb_event_loop_delay_seconds" "seconds":
        "How much later than planned the event loop has run, twice a second.";
    EVENT_LOOP_AGE = Gauge "slb_event_loop_age_seconds" "seconds": "Time since the event loop last ran.";
    TABLE_BUILD = Histogram "slb_table_build_duration_seconds" "seconds":
        "Durations of changes of the data plane in which server tables were built.";
    APPLY_FAILURES = Counter "slb_apply_failures": "Changes of the data plane that failed and are retried.";
    LOST_LOG_LINES = Counter "slb_log_lines_lost": "Log lines that could not be written.";
    TASK_RESTARTS = Counter "slb_task_restarts": "Restarts of panicked tasks.";
    API_REQUESTS = Counter "slb_api_requests": "Requests to the API by route and HTTP status.";
    COLLECTION = Gauge "slb_metrics_collection_duration_seconds" "seconds":
        "Time in which the maps were read for these metrics.";
    PROCESS_START = Gauge "process_start_time_seconds" "seconds": "Time at which slbd started.";
    PROCESS_CPU = Counter "process_cpu_seconds" "seconds": "CPU time of slbd.";
    PROCESS_MEMORY = Gauge "process_resident_memory_bytes" "bytes": "Resident memory of slbd.";
    PROCESS_FDS = Gauge "process_open_fds": "Open file descriptors of slbd.";
    PROCESS_MAX_FDS = Gauge "process_max_fds": "Limit of open file descriptors of slbd.";
    PINNED = Gauge "slb_pinned": "Whether forwarding continues without the daemon.";
    INTERFACE = Info "slb_interface": "Interfaces that run the XDP program, with their hook and role.";
    INTERFACE_FORWARDING = Gauge "slb_interface_forwarding": "Whether a configured interface forwards.";
    INTERFACE_LOST = Counter "slb_interface_lost_packets":
        "Packets that the kernel lost at an interface after SLB forwarded them.";
    PACKETS = Counter "slb_packets": "Packets by action and reason, each counted once.";
    MAP_ENTRIES = Gauge "slb_map_entries": "Entries in use of a map.";
    MAP_MAX_ENTRIES = Gauge "slb_map_max_entries": "Capacity of a map in entries.";
    FLOW_ENTRIES = Gauge "slb_flow_table_entries": "Entries of the flow table in use.";
    FLOW_ASSURED = Gauge "slb_flow_table_assured_entries": "Entries of assured flows.";
    FLOW_MAX_ENTRIES = Gauge "slb_flow_table_max_entries": "Capacity of the flow table in entries.";
    FLOW_EVICTIONS = Counter "slb_flow_table_evictions": "Live flows that were evicted.";
    GC_DURATION = Histogram "slb_gc_pass_duration_seconds" "seconds":
        "Durations of GC passes of the flow table, with their pauses.";
    GC_CPU = Counter "slb_gc_cpu_seconds" "seconds": "CPU time of GC passes.";
    GC_FAILURES = Counter "slb_gc_failures": "GC passes that failed and are retried.";
    CHECK_DURATION = Histogram "slb_health_check_duration_seconds" "seconds":
        "Durations of health-check probes.";
    CHECKS = Counter "slb_health_checks": "Health-check probes by result.";
    CHECK_TRANSITIONS = Counter "slb_health_transitions": "Changes of health by health checks.";
    LISTENER = Info "slb_listener": "Listeners and the server tables behind their VIPs.";
    LISTENER_RUNNING = Gauge "slb_listener_running": "Whether a listener is running.";
    LISTENER_OUTAGE = Gauge "slb_listener_outage_vips":
        "VIPs of a listener without a server that receives new flows.";
    LISTENER_SECONDARY = Gauge "slb_listener_on_secondary":
        "Whether the secondary servers of a listener have its traffic.";
    LISTENER_PACKETS = Counter "slb_listener_packets": "Packets of a listener.";
    LISTENER_BYTES = Counter "slb_listener_bytes" "bytes": "Bytes of frames of a listener.";
    LISTENER_NEW = Counter "slb_listener_new_connections": "Connections that clients have begun.";
    LISTENER_OPEN = Gauge "slb_listener_open_connections": "Tracked connections.";
    LISTENER_LIMIT_BANDWIDTH = Gauge "slb_listener_bandwidth_limit_bytes" "bytes":
        "Limit of bytes per second in each direction.";
    LISTENER_LIMIT_NEW = Gauge "slb_listener_new_connections_limit": "Limit of new connections per second.";
    LISTENER_LIMIT_DROPS = Counter "slb_listener_limit_dropped_packets": "Packets over a limit.";
    LISTENER_FLOODED = Gauge "slb_listener_syn_flood": "Whether SYNs are answered by SYN cookies now.";
    LISTENER_COOKIES = Counter "slb_listener_syn_cookies": "SYN cookies by what became of them.";
    SERVERS = Gauge "slb_servers": "Servers of a server table by health.";
    SERVER_UP = Gauge "slb_server_up": "Whether a server is healthy, unchecked or standby.";
    SERVER_DRAINING = Gauge "slb_server_draining": "Whether a server drains.";
    SERVER_DISABLED = Gauge "slb_server_disabled": "Whether an administrator has disabled a server.";
    SERVER_WEIGHT = Gauge "slb_server_weight": "Weight of a server, 0 to 100.";
    SERVER_SLOTS = Gauge "slb_server_slots": "Slots of a server in its table, its expected share of new flows.";
    SERVER_PACKETS = Counter "slb_server_packets": "Packets of a server.";
    SERVER_BYTES = Counter "slb_server_bytes" "bytes": "Bytes of frames of a server.";
    SERVER_NEW = Counter "slb_server_new_connections": "Connections that a server has received.";
    SERVER_OPEN = Gauge "slb_server_open_connections": "Tracked connections of a server.";
    SOURCE_PORTS_USED = Gauge "slb_source_ports_used":
        "Ports of a local address that flows to a server use, as of the last GC pass.";
    SOURCE_PORTS = Gauge "slb_source_ports": "Ports of a local address that flows to a server may use.";
}
