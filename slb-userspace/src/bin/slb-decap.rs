//! The decapsulator of a server behind SLB.

use std::{net::IpAddr, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};
use slb_userspace::{
    cli::{
        decap::{attach, detach, status},
        status::Output,
    },
    telemetry, version,
};

/// Takes packets of SLB out of their tunnels (IPv4 or IPv6 in IPv4 or IPv6), in XDP, on servers whose kernel has no
/// tunnel device.
#[derive(Parser)]
#[command(name = "slb-decap", version = version::DECAP_VERSION.as_str())]
struct Arguments {
    /// Directory of the pins, one for each network namespace.
    #[arg(long, global = true, env = "SLB_DECAP_PIN_DIR", default_value = "/sys/fs/bpf/slb-decap")]
    pin_dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Strip tunnel packets of these sources; in force until `detach`. Again, with others: they are replaced in one
    /// step, and no packet is missed.
    Attach {
        /// Interface the tunnel packets come in by.
        #[arg(long)]
        interface: String,
        /// Addresses load balancers send from: the outer sources. Packets of all others are left to the kernel.
        #[arg(long, value_name = "ADDRESS", num_args = 1.., value_delimiter = ',')]
        from: Vec<IpAddr>,
        /// The only inner destinations that are accepted.
        #[arg(long, value_name = "ADDRESS", num_args = 1.., value_delimiter = ',')]
        vip: Vec<IpAddr>,
        /// Accept every inner destination: a source that is forged or compromised then reaches whatever this server routes to.
        #[arg(long, conflicts_with = "vip")]
        any_vip: bool,
        /// Where the program runs.
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
        /// Also where the interface is in another network namespace.
        #[arg(long)]
        force: bool,
    },
    /// Show interfaces, addresses and counters by reason.
    Status {
        /// How the answer is written.
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
    telemetry::last_words(&said);
    code
}

fn execute(arguments: Arguments) -> Result<()> {
    match arguments.command {
        Command::Attach { interface, from, vip, any_vip, xdp_mode } => {
            let vips = if any_vip { attach::Vips::Any } else { attach::Vips::Only(vip) };
            attach::attach(arguments.pin_dir, &interface, &from, &vips, xdp_mode)
        }
        Command::Detach { interface, force, .. } => {
            detach::detach(arguments.pin_dir, interface.as_deref(), force)
        }
        Command::Status { output } => status::status(arguments.pin_dir, output),
    }
}
