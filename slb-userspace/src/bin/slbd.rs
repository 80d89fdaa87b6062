//! `slbd`: the daemon.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};
use slb_userspace::{cli, telemetry, version};

/// The daemon of SLB, a layer-4 load balancer in XDP.
#[derive(Parser)]
#[command(name = "slbd", version = version::VERSION.as_str())]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run in the foreground. SIGHUP or `slb reload` reloads the configuration. SIGTERM ends the daemon and leaves
    /// forwarding on.
    Run {
        /// Configuration file.
        #[arg(long, default_value = "/etc/slb/slb.toml")]
        config: PathBuf,
        /// Format of log lines. SLB_LOG sets the level.
        #[arg(long, value_enum, default_value = "text")]
        log_format: telemetry::Format,
    },
    /// Validate a configuration, and report what is wrong with it.
    Check {
        /// Configuration file.
        #[arg(long, default_value = "/etc/slb/slb.toml")]
        config: PathBuf,
    },
    /// Take the program off all interfaces and remove all pins. Ends forwarding.
    Detach {
        /// Configuration file that names the pin directory.
        #[arg(long, default_value = "/etc/slb/slb.toml", conflicts_with = "pin_dir")]
        config: PathBuf,
        /// Directory of the pins, if the configuration cannot be read any more.
        #[arg(long)]
        pin_dir: Option<PathBuf>,
        /// Detach although VIPs are local addresses, whose connections the kernel then resets, or although the
        /// interfaces are in another network namespace.
        #[arg(long)]
        force: bool,
    },
}

fn main() -> ExitCode {
    let (code, said) = match execute(Arguments::parse().command) {
        Ok(code) => (code, String::new()),
        Err(error) => (ExitCode::FAILURE, format!("slbd: {error:#}")),
    };
    telemetry::log_final(&said);
    code
}

fn execute(command: Command) -> Result<ExitCode> {
    match command {
        Command::Run { config, log_format } => return cli::run::run(&config, log_format),
        Command::Check { config } => return Ok(cli::check::check(&config)),
        Command::Detach { config, pin_dir, force } => cli::detach::detach(&config, pin_dir, force)?,
    }
    Ok(ExitCode::SUCCESS)
}
