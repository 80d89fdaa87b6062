//! `slb`: the client.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Parser, Subcommand};
use slb_api::client::{NoDaemon, RequestRefused};
use slb_userspace::{
    cli::{
        change, flows, import, metrics,
        objects::{self, Kind, objects},
        server,
        status::{Output, status},
    },
    version,
};

/// Exit code if no daemon answers.
const NO_DAEMON: u8 = 4;

/// The client of SLB, a layer-4 load balancer in XDP.
#[derive(Parser)]
#[command(
    name = "slb",
    version = version::VERSION.as_str(),
    after_help = "Exit codes: 0 done; 1 refused or failed; 2 wrong usage; 3 connections were left at the deadline (server drain \
                  --wait); 4 no daemon answers"
)]
pub(crate) struct Arguments {
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
        /// Output format.
        #[arg(long, value_enum, default_value = "table")]
        output: Output,
        /// Directory of the pins, read if no daemon answers.
        #[arg(long, env = "SLB_PIN_DIR", default_value = "/sys/fs/bpf/slb")]
        pin_dir: PathBuf,
    },
    /// Show metrics in Prometheus' text format.
    Metrics {
        /// Parts of the metrics; all by default.
        #[arg(long = "scope", value_enum)]
        scopes: Vec<metrics::Scope>,
    },
    /// Apply the daemon's own configuration file, as it is now. A file that is refused changes nothing.
    Reload,
    /// Show what would change if a configuration were applied.
    Diff {
        /// Configuration file; by default the daemon's own.
        file: Option<PathBuf>,
    },
    /// Apply another file until slbd restarts or reloads, which return to the daemon's own file. To keep the change,
    /// write it to that file. A file that is refused changes nothing.
    Apply {
        /// Configuration file.
        file: PathBuf,
        /// Roll back unless `slb confirm` comes within this time: "60s", "5m".
        #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
        confirm_within: Option<Duration>,
    },
    /// Confirm what `slb apply --confirm-within` has applied. It stays active until slbd restarts or reloads.
    Confirm,
    /// Set weights of single servers; drain, disable and enable them. A restart keeps that until it is reset.
    Server {
        #[command(subcommand)]
        command: server::Command,
    },
    /// Load balancers: list, show, create, set, delete, start, stop.
    Lb {
        #[command(subcommand)]
        command: objects::Command,
    },
    /// Listeners of load balancers: list, show, create, set, delete, start, stop.
    Listener {
        #[command(subcommand)]
        command: objects::Command,
    },
    /// Server groups: list, show, create, set, delete.
    Group {
        #[command(subcommand)]
        command: objects::Command,
    },
    /// Access lists: list, show, create, set, delete.
    AccessList {
        #[command(subcommand)]
        command: objects::Command,
    },
    /// Erase entries of the flow table, as under an attack.
    Flows {
        #[command(subcommand)]
        command: flows::Command,
    },
    /// Turn the configuration of another load balancer into one of SLB, on standard output. Lines without a counterpart
    /// are comments in it, with the reason.
    Import {
        #[command(subcommand)]
        command: import::Command,
    },
}

fn main() -> ExitCode {
    match execute(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            match error.downcast_ref::<RequestRefused>() {
                // The refusal has a format of its own.
                Some(refused) => eprintln!("{refused}"),
                None => eprintln!("slb: {error:#}"),
            }
            match error.downcast_ref::<NoDaemon>() {
                Some(_) => ExitCode::from(NO_DAEMON),
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn execute(Arguments { socket, command }: Arguments) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Status { output, pin_dir } => {
                let is_answered = status(&socket, pin_dir, output).await?;
                return Ok(if is_answered { ExitCode::SUCCESS } else { ExitCode::from(NO_DAEMON) });
            }
            Command::Metrics { scopes } => metrics::metrics(&socket, &scopes).await,
            Command::Reload => change::reload(&socket).await,
            Command::Diff { file } => change::diff(&socket, file.as_deref()).await,
            Command::Apply { file, confirm_within } => change::apply(&socket, &file, confirm_within).await,
            Command::Confirm => change::confirm(&socket).await,
            Command::Flows { command } => flows::flows(&socket, command).await,
            Command::Lb { command } => objects(&socket, Kind::LoadBalancer, command).await,
            Command::Listener { command } => objects(&socket, Kind::Listener, command).await,
            Command::Group { command } => objects(&socket, Kind::ServerGroup, command).await,
            Command::AccessList { command } => objects(&socket, Kind::AccessList, command).await,
            Command::Server { command } => return server::server(&socket, command).await,
            Command::Import { command } => return Ok(import::import(&command)),
        }?;
        Ok(ExitCode::SUCCESS)
    })
}
