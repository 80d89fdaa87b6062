//! `slb-toa`: client addresses at a server behind SLB.

use std::{net::IpAddr, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};
use slb_userspace::{
    cli::{
        status::Output,
        toa::{attach, detach, status},
    },
    telemetry, version,
};

/// Gives applications on servers the client's address in place of SLB's local address (mode full-nat with toa), where
/// they ask for the other end of a connection: accept and getpeername.
#[derive(Parser)]
#[command(name = "slb-toa", version = version::TOA_VERSION.as_str())]
pub(crate) struct Arguments {
    /// Directory of the pins.
    #[arg(long, global = true, env = "SLB_TOA_PIN_DIR", default_value = "/sys/fs/bpf/slb-toa")]
    pin_dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Give client addresses for connections of these sources, until `detach`. A repeated attach replaces the sources;
    /// no connection is missed, and open ones keep their client address.
    Attach {
        /// Local addresses of the load balancers. The options of other sources are ignored.
        #[arg(long, value_name = "ADDRESS", num_args = 1.., value_delimiter = ',')]
        from: Vec<IpAddr>,
        /// Directory of a cgroup (version 2): only sockets made in it give client addresses. By default all do.
        #[arg(long, value_name = "DIRECTORY")]
        cgroup: Option<PathBuf>,
    },
    /// Detach the programs and remove their pins.
    Detach,
    /// Show sources, and connections by outcome.
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
        Err(error) => (ExitCode::FAILURE, format!("slb-toa: {error:#}")),
    };
    telemetry::log_final(&said);
    code
}

fn execute(arguments: Arguments) -> Result<()> {
    match arguments.command {
        Command::Attach { from, cgroup } => attach::attach(arguments.pin_dir, cgroup, &from),
        Command::Detach => detach::detach(arguments.pin_dir),
        Command::Status { output } => status::status(arguments.pin_dir, output),
    }
}
