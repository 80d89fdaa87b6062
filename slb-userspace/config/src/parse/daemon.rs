//! `[daemon]`.

mod interfaces;
mod tunnel_sources;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use slb_common::abi::{DEFAULT_BACKENDS, MAX_BACKENDS};
use toml::Spanned;

use self::interfaces::EXAMPLE;
use super::local_addresses;
use crate::{
    diagnostic::Diagnostic,
    field::Checker,
    model::{DaemonConfig, XdpMode},
    raw::{self, List, Value},
};

/// Mount point of the BPF file system.
const BPF_FS: &str = "/sys/fs/bpf";
const PIN_DIR: &str = "/sys/fs/bpf/slb";
const SOCKET: &str = "/run/slb/slbd.sock";
/// The word for no read-only socket.
const OFF: &str = "off";
/// The default of `state_dir`.
pub(crate) const STATE_DIR: &str = "/var/lib/slb";
/// That of IANA for Generic UDP Encapsulation.
const GUE_PORT: u16 = 6080;
const FLOW_TABLE_ENTRIES: u32 = 262_144;

const XDP_MODES: [(&str, XdpMode); 3] =
    [("auto", XdpMode::Auto), ("native", XdpMode::Native), ("generic", XdpMode::Generic)];

pub(super) fn build(
    checker: &mut Checker,
    table: Option<&raw::RawTable<raw::RawDaemon>>,
) -> Option<DaemonConfig> {
    let Some(table) = table else {
        return checker.refuse(
            Diagnostic::error(0..0, "`[daemon]` is missing", "the interfaces to attach to must be named")
                .help(format!("for example `[daemon]` and, on the next line, `{EXAMPLE}`")),
        );
    };
    let raw = &table.as_ref().0;
    let interfaces = interfaces::build(checker, raw.interfaces.as_ref(), &table.span());
    let xdp_mode = raw
        .xdp_mode
        .as_ref()
        .map_or(Some(XdpMode::Auto), |value| checker.choice("xdp_mode", value, &XDP_MODES));
    let pin_dir = pin_dir(checker, raw.pin_dir.as_ref());
    let socket = socket_path(checker, "socket", raw.socket.as_ref(), SOCKET);
    let read_only_socket = read_only_socket(checker, raw.read_only_socket.as_ref(), socket.as_deref());
    let metrics_address = metrics_address(checker, raw.metrics_address.as_ref());
    let state_dir = checker.absolute_path("state_dir", raw.state_dir.as_ref(), STATE_DIR);
    let flow_table_entries = raw.flow_table_entries.as_ref().map_or(Some(FLOW_TABLE_ENTRIES), |value| {
        checker.integer("flow_table_entries", value, 1 << 10..=1 << 24)
    });
    let max_servers = raw.max_servers.as_ref().map_or(Some(DEFAULT_BACKENDS), |value| {
        checker.integer("max_servers", value, 1 << 10..=MAX_BACKENDS)
    });
    let tunnel_addresses = one_of_each_family(checker, "tunnel_addresses", raw.tunnel_addresses.as_ref());
    let tunnel_sources = tunnel_sources::build(checker, raw.tunnel_sources.as_ref());
    let gue_port = raw.gue_port.as_ref().map_or(Some(GUE_PORT), |value| checker.port("gue_port", value));
    let local_addresses = local_addresses::build(checker, raw.local_addresses.as_ref());
    let probe_source = one_of_each_family(checker, "probe_source", raw.probe_source.as_ref());
    let probe_mark = raw
        .probe_mark
        .as_ref()
        .map_or(Some(None), |value| checker.integer("probe_mark", value, 1..=u32::MAX).map(Some));
    let hash_seed = hash_seed(checker, raw.hash_seed.as_ref());
    let (interfaces, roles) = interfaces?;
    Some(DaemonConfig {
        interfaces,
        roles,
        xdp_mode: xdp_mode?,
        pin_dir: pin_dir?,
        socket: socket?,
        read_only_socket: read_only_socket?,
        metrics_address: metrics_address?,
        state_dir: state_dir?,
        flow_table_entries: flow_table_entries?,
        max_servers: max_servers?,
        tunnel_addresses: tunnel_addresses?,
        tunnel_sources: tunnel_sources?,
        gue_port: gue_port?,
        local_addresses: local_addresses?,
        hash_seed: hash_seed?,
        probe_source: probe_source?,
        probe_mark: probe_mark?,
    })
}

fn hash_seed(checker: &mut Checker, value: Option<&Value>) -> Option<Option<u64>> {
    let Some(value) = value else { return Some(None) };
    let seed = checker.integer("hash_seed", value, 0..=u64::MAX)?;
    if seed == 0 {
        let message = "`hash_seed = 0` is a well-known value";
        checker.note(
            Diagnostic::warning(value.span(), message, "clients can choose which server they load").help(
                "leave it out: slbd makes a random one, keeps it in `state_dir`, and `slb status` shows it. Machines that serve the same VIPs \
                 must have the same: write a random number here on each",
            ),
        );
    }
    Some(Some(seed))
}

fn pin_dir(checker: &mut Checker, value: Option<&Value>) -> Option<PathBuf> {
    let path = checker.absolute_path("pin_dir", value, PIN_DIR)?;
    // The kernel returns EPERM: names with dots are reserved (bpf_lookup in kernel/bpf/inode.c).
    let has_dot = path.strip_prefix(BPF_FS).is_ok_and(|below| below.to_string_lossy().contains('.'));
    match value {
        Some(value) if has_dot => checker.refuse(
            Diagnostic::error(
                value.span(),
                "`pin_dir` has a dot in a name",
                format!("names below {BPF_FS} cannot have dots"),
            )
            .help(format!("the default is `pin_dir = \"{PIN_DIR}\"`")),
        ),
        _ => Some(path),
    }
}

fn socket_path(checker: &mut Checker, key: &str, value: Option<&Value>, default: &str) -> Option<PathBuf> {
    /// The kernel's `sun_path` without the terminating zero, unix(7).
    const MAX_BYTES: usize = 107;
    let path = checker.absolute_path(key, value, default)?;
    let bytes = path.as_os_str().len();
    match value {
        Some(value) if bytes > MAX_BYTES => checker.refuse(
            Diagnostic::error(
                value.span(),
                format!("`{key}` is {bytes} bytes long"),
                format!("the path of a unix socket has at most {MAX_BYTES} bytes"),
            )
            .help(format!("the default is `{key} = \"{default}\"`")),
        ),
        _ => Some(path),
    }
}

fn read_only_socket(
    checker: &mut Checker,
    value: Option<&Value>,
    socket: Option<&Path>,
) -> Option<Option<PathBuf>> {
    const KEY: &str = "read_only_socket";
    let Some(value) = value else { return Some(None) };
    if checker.text(KEY, value, "an absolute path, or \"off\"")? == OFF {
        return Some(None);
    }
    let path = socket_path(checker, KEY, Some(value), OFF)?;
    if Some(path.as_path()) == socket {
        let message = format!("`{KEY}` is `socket`");
        return checker.refuse(
            Diagnostic::error(value.span(), message, "all users may open it, and `socket` takes changes")
                .help(format!("name another path, for example `{KEY} = \"/run/slb/slbd-status.sock\"`")),
        );
    }
    Some(Some(path))
}

fn metrics_address(checker: &mut Checker, value: Option<&Value>) -> Option<Option<SocketAddr>> {
    const KEY: &str = "metrics_address";
    const HELP: &str = "for example `metrics_address = \"127.0.0.1:9813\"`, `\"[::1]:9813\"` or `\"off\"`";
    let Some(value) = value else { return Some(None) };
    let text = checker.text(KEY, value, "an address and a port, or \"off\"")?;
    if text == OFF {
        return Some(None);
    }
    let problem = match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => return Some(Some(address)),
        Ok(_) => "port 0 is none that a scraper can know",
        Err(_) => "an IP address and a port must be here, an IPv6 address in brackets",
    };
    let message = format!("`{KEY} = \"{text}\"` is no address and port");
    checker.refuse(Diagnostic::error(value.span(), message, problem).help(HELP))
}

/// Checks local addresses: at most one per address family.
fn one_of_each_family(
    checker: &mut Checker,
    key: &str,
    list: Option<&Spanned<List<Value>>>,
) -> Option<Vec<IpAddr>> {
    let mut seen = HashMap::new();
    let mut addresses = Vec::new();
    for value in list.iter().flat_map(|list| &list.as_ref().0) {
        let address = checker.address(key, value)?;
        let family = if address.is_ipv4() { "an IPv4 address" } else { "an IPv6 address" };
        checker.unique(&mut seen, address.is_ipv4(), value.span(), family);
        addresses.push(address);
    }
    Some(addresses)
}
