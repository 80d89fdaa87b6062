//! The client.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use slb_userspace::cli::status::{Output, status};

/// The client of SLB, a layer-4 load balancer in XDP.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Unix socket of the daemon.
    #[arg(long, global = true, env = "SLB_SOCKET", default_value = "/run/slb/slbd.sock")]
    socket: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show listeners, servers, health, weights and counters. Without a daemon, from the kernel's maps.
    Status {
        /// How the answer is written.
        #[arg(long, value_enum, default_value = "table")]
        output: Output,
        /// Directory of the pins, read where no daemon answers.
        #[arg(long, env = "SLB_PIN_DIR", default_value = "/sys/fs/bpf/slb")]
        pin_dir: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Status { output, pin_dir } => status(&arguments.socket, pin_dir, output),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("slb: {error:#}");
            ExitCode::FAILURE
        }
    }
}
