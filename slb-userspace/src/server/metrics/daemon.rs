//! Metrics of the daemon, the packet path as a whole, and the flow table.

use std::{sync::atomic::Ordering::Relaxed, time::SystemTime};

use slb_common::abi::{
    MAX_SERVICES,
    service::Service,
    stats::{Action, Reason},
};

use super::{
    collected::{Collected, ProcessUsage},
    families as f,
    writer::{ReaderGone, Writer, labels},
};
use crate::{
    instruments::INSTRUMENTS,
    server::{
        status::{interfaces::attached, servers::Servers},
        status_source::without,
    },
    supervised, telemetry,
};
use slb_api::types::{ApiInterfaceRole, AttachMode, InterfaceStatus};
use slb_control::dataplane::{digest, state::SPARE_TABLE};

/// Writes the metrics of the daemon.
pub(super) fn write(writer: &mut Writer<'_>, collected: &Collected) -> Result<(), ReaderGone> {
    write_configuration(writer, collected)?;
    write_work(writer, collected)?;
    if let Some(process) = &collected.process {
        write_process(writer, process)?;
    }
    write_interfaces(writer, collected)?;
    write_packet_path(writer, collected)?;
    write_flow_table(writer, collected)?;
    write_health_checks(writer)
}

fn write_configuration(writer: &mut Writer<'_>, collected: &Collected) -> Result<(), ReaderGone> {
    let running = &collected.snapshot.running;
    writer.family(f::BUILD).sample(&labels(&[("version", env!("CARGO_PKG_VERSION"))]), "", true)?;
    writer.family(f::CONFIG_SUCCESS).sample("", "", INSTRUMENTS.is_last_reload_successful())?;
    writer.family(f::CONFIG_TIME).sample("", "", INSTRUMENTS.configured_at.load(Relaxed))?;
    writer.family(f::CONFIG_DIFFERS).sample("", "", collected.differs)?;
    writer.family(f::CONFIG_PENDING).sample("", "", running.pending.is_some())?;
    writer.family(f::CONFIG_UNCONFIRMED).sample("", "", running.confirm_deadline.is_some())?;
    writer.family(f::OVERRIDES).sample("", "", running.overrides.len())?;
    writer.family(f::DIGEST).sample("", "", digest_of(collected))?;
    let mut samples = writer.family(f::COMMANDS);
    for (name, command) in INSTRUMENTS.commands() {
        let name = labels(&[("command", name)]);
        samples.sample(&name, "result=\"done\"", command.done.get())?;
        samples.sample(&name, "result=\"refused\"", command.refused.get())?;
    }
    Ok(())
}

/// The first 52 bits of the digest of `slb status`: a floating-point number holds as many.
fn digest_of(collected: &Collected) -> u64 {
    let context = collected.context();
    let servers = Servers::of(&collected.snapshot.state, &collected.readings, &context);
    let digest = |service| (service, servers.digest(service));
    let services: Vec<&Service> = collected.services().map(|(_, service)| service).collect();
    digest::all(services.into_iter().map(digest)).number() >> 12
}

fn write_work(writer: &mut Writer<'_>, collected: &Collected) -> Result<(), ReaderGone> {
    writer.family(f::EVENT_LOOP_DELAY).histogram("", INSTRUMENTS.event_loop_delay.read())?;
    writer.family(f::EVENT_LOOP_AGE).sample("", "", collected.age.as_secs_f64())?;
    writer.family(f::TABLE_BUILD).histogram("", INSTRUMENTS.table_builds.read())?;
    writer.family(f::APPLY_FAILURES).sample("", "", INSTRUMENTS.failed_applies.get())?;
    writer.family(f::LOST_LOG_LINES).sample("", "", telemetry::lost())?;
    writer.family(f::TASK_RESTARTS).sample("", "", supervised::restarts())?;
    writer.family(f::COLLECTION).sample("", "", collected.took.as_secs_f64())?;
    let mut samples = writer.family(f::API_REQUESTS);
    for ((route, code), requests) in INSTRUMENTS.requests.read() {
        samples.sample(&labels(&[("route", &route), ("code", &code.to_string())]), "", requests)?;
    }
    Ok(())
}

fn write_process(writer: &mut Writer<'_>, process: &ProcessUsage) -> Result<(), ReaderGone> {
    let ProcessUsage { started, cpu_seconds, resident_bytes, open_fds, max_fds } = *process;
    let started = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    writer.family(f::PROCESS_START).sample("", "", started.as_secs_f64())?;
    writer.family(f::PROCESS_CPU).sample("", "", cpu_seconds)?;
    writer.family(f::PROCESS_MEMORY).sample("", "", resident_bytes)?;
    writer.family(f::PROCESS_FDS).sample("", "", open_fds)?;
    writer.family(f::PROCESS_MAX_FDS).sample("", "", max_fds)
}

fn write_interfaces(writer: &mut Writer<'_>, collected: &Collected) -> Result<(), ReaderGone> {
    let Collected { snapshot, view, interfaces, readings, losses, .. } = collected;
    writer.family(f::PINNED).sample("", "", view.pins_trouble.is_none())?;
    let mut samples = writer.family(f::INTERFACE);
    for InterfaceStatus { name, mode, role, .. } in
        attached(&snapshot.state, readings, interfaces, Some(view))
    {
        let mode = match mode {
            AttachMode::Native => "native",
            AttachMode::Generic => "generic",
        };
        let role = match role {
            ApiInterfaceRole::Client => "client",
            ApiInterfaceRole::Server => "server",
            ApiInterfaceRole::Both => "both",
        };
        samples.sample(&labels(&[("interface", &name), ("mode", mode), ("role", role)]), "", true)?;
    }
    let configured = &snapshot.running.config.daemon.interfaces;
    let without = without(configured, &snapshot.running.attached, interfaces, view);
    let mut samples = writer.family(f::INTERFACE_FORWARDING);
    for name in configured {
        let forwards = without.iter().all(|inactive| inactive.name != *name);
        samples.sample(&labels(&[("interface", name)]), "", forwards)?;
    }
    let mut samples = writer.family(f::INTERFACE_LOST);
    for (name, lost) in losses.iter().flatten() {
        let interface = labels(&[("interface", name)]);
        for (cause, packets) in
            [("redirect", lost.redirect), ("transmit", lost.transmit), ("exception", lost.exception)]
        {
            samples.sample(&interface, &labels(&[("cause", cause)]), packets)?;
        }
    }
    Ok(())
}

fn write_packet_path(writer: &mut Writer<'_>, collected: &Collected) -> Result<(), ReaderGone> {
    let mut samples = writer.family(f::PACKETS);
    for (action, reason, packets) in collected.readings.counters.packets_of(is_shown) {
        samples.sample(&labels(&[("action", action.name()), ("reason", reason.name())]), "", packets)?;
    }
    let state = &collected.snapshot.state;
    let maps = [
        ("services", state.services.len(), MAX_SERVICES),
        ("server_tables", state.tables.len(), SPARE_TABLE.index()),
        ("servers", state.backends.len(), collected.snapshot.running.config.daemon.max_servers),
    ];
    let mut samples = writer.family(f::MAP_ENTRIES);
    for (map, used, _) in maps {
        samples.sample(&labels(&[("map", map)]), "", used)?;
    }
    let mut samples = writer.family(f::MAP_MAX_ENTRIES);
    for (map, _, most) in maps {
        samples.sample(&labels(&[("map", map)]), "", most)?;
    }
    Ok(())
}

/// Whether a sample is written. Drops have one for every reason from the start, so that the first drop is an increase.
const fn is_shown(action: Action, _: Reason, packets: u64) -> bool {
    packets != 0 || matches!(action, Action::Drop)
}

fn write_flow_table(writer: &mut Writer<'_>, collected: &Collected) -> Result<(), ReaderGone> {
    let fill = &collected.readings.current_flows.fill;
    writer.family(f::FLOW_ENTRIES).sample("", "", fill.used)?;
    writer.family(f::FLOW_ASSURED).sample("", "", fill.assured)?;
    writer.family(f::FLOW_MAX_ENTRIES).sample("", "", fill.entries)?;
    let [evicted, evicted_assured] = collected.readings.counters.evicted();
    let mut samples = writer.family(f::FLOW_EVICTIONS);
    samples.sample("assured=\"false\"", "", evicted)?;
    samples.sample("assured=\"true\"", "", evicted_assured)?;
    writer.family(f::GC_DURATION).histogram("", INSTRUMENTS.gc_passes.read())?;
    let cpu = INSTRUMENTS.gc_cpu_nanoseconds.get() as f64 / 1e9;
    writer.family(f::GC_CPU).sample("", "", cpu)?;
    writer.family(f::GC_FAILURES).sample("", "", INSTRUMENTS.failed_gc_passes.get())
}

fn write_health_checks(writer: &mut Writer<'_>) -> Result<(), ReaderGone> {
    let checks = || INSTRUMENTS.checks().map(|(kind, check)| (labels(&[("kind", kind)]), check));
    let mut samples = writer.family(f::CHECK_DURATION);
    for (kind, check) in checks() {
        samples.histogram(&kind, check.durations.read())?;
    }
    let mut samples = writer.family(f::CHECKS);
    for (kind, check) in checks() {
        samples.sample(&kind, "result=\"passed\"", check.passed.get())?;
        samples.sample(&kind, "result=\"failed\"", check.failed.get())?;
        samples.sample(&kind, "result=\"not_probed\"", check.not_probed.get())?;
    }
    let mut samples = writer.family(f::CHECK_TRANSITIONS);
    for (kind, check) in checks() {
        samples.sample(&kind, "to=\"healthy\"", check.to_healthy.get())?;
        samples.sample(&kind, "to=\"unhealthy\"", check.to_unhealthy.get())?;
    }
    Ok(())
}
