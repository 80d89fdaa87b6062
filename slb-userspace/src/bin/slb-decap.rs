//! `slb-decap`: the decapsulator at a server behind SLB.

use std::{net::IpAddr, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand, value_parser};
use slb_userspace::{
    cli::{
        decap::{attach, detach, status},
        status::Output,
    },
    telemetry, version,
};

/// Decapsulates tunnel packets of SLB (IPv4 or IPv6 in IPv4 or IPv6, or in UDP) in XDP, on servers whose kernel has no tunnel
/// device.
#[derive(Parser)]
#[command(name = "slb-decap", version = version::DECAP_VERSION.as_str())]
pub(crate) struct Arguments {
    /// Directory of the pins, one for each network namespace.
    #[arg(long, global = true, env = "SLB_DECAP_PIN_DIR", default_value = "/sys/fs/bpf/slb-decap")]
    pin_dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Decapsulate tunnel packets of these sources, until `detach`. A repeated attach replaces the addresses
    /// atomically, and no packet is missed.
    Attach {
        /// Interface that receives the tunnel packets.
        #[arg(long)]
        interface: String,
        /// Source addresses of the load balancers' tunnels. Packets of all other sources pass to the kernel.
        #[arg(long, value_name = "ADDRESS", num_args = 1.., value_delimiter = ',')]
        from: Vec<IpAddr>,
        /// The only inner destinations that are accepted.
        #[arg(long, value_name = "ADDRESS", num_args = 1.., value_delimiter = ',')]
        vip: Vec<IpAddr>,
        /// Accept every inner destination: a forged or compromised source then reaches whatever this server routes to.
        #[arg(long, conflicts_with = "vip")]
        any_vip: bool,
        /// UDP destination port of tunnel packets of mode `gue`, for instance 6080. Without it all UDP passes to the
        /// kernel.
        #[arg(long, value_name = "PORT", value_parser = value_parser!(u16).range(1..))]
        gue_port: Option<u16>,
        /// XDP mode.
        #[arg(long, value_enum, default_value = "auto")]
        xdp_mode: attach::XdpMode,
    },
    /// Take the program off an interface and remove its pins.
    Detach {
        /// Interface.
        #[arg(long, required_unless_present = "all")]
        interface: Option<String>,
        /// Every interface that has pins.
        #[arg(long, conflicts_with = "interface")]
        all: bool,
        /// Also if the interface is in another network namespace.
        #[arg(long)]
        force: bool,
    },
    /// Show interfaces, addresses and counters by reason.
    Status {
        /// Output format.
        #[arg(long, value_enum, default_value = "table")]
        output: Output,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    telemetry::init(telemetry::Format::Text);
    let (code, said) = match execute(arguments) {
        Ok(()) => (ExitCode::SUCCESS, String::new()),
        Err(error) => (ExitCode::FAILURE, format!("slb-decap: {error:#}")),
    };
    telemetry::log_final(&said);
    code
}

fn execute(arguments: Arguments) -> Result<()> {
    match arguments.command {
        Command::Attach { interface, from, vip, any_vip, gue_port, xdp_mode } => {
            let vips = if any_vip { attach::Vips::Any } else { attach::Vips::Only(vip) };
            attach::attach(arguments.pin_dir, &interface, &from, &vips, gue_port, xdp_mode)
        }
        Command::Detach { interface, force, .. } => {
            detach::detach(arguments.pin_dir, interface.as_deref(), force)
        }
        Command::Status { output } => status::status(arguments.pin_dir, output),
    }
}
