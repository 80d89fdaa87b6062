//! `slb server`: what is set at run time for single servers.

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use clap::{Args, Subcommand};

use super::{
    change, drain,
    status::{set_in_words, trouble},
};
use crate::{
    api::{
        client,
        types::{Changed, Servers, Set, place},
    },
    control::overrides::Place,
};

/// What is to be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what is set, by whom and since when.
    List,
    /// Set a weight in place of the configured one.
    Set {
        /// Share of new connections, 0 to 100; 0 takes none and keeps the ones it has.
        #[arg(long, value_parser = clap::value_parser!(u8).range(0..=100))]
        weight: u8,
        /// Of which servers.
        #[command(flatten)]
        which: Which,
    },
    /// Give no new connections to servers: their connections are to end. Shows how many are left.
    Drain {
        /// Wait until no connection is left, or until the deadline (`connection_drain`), at which those that are left are reset.
        /// Exit code 0: none is left; 3: the deadline has passed.
        #[arg(long)]
        wait: bool,
        /// Which servers.
        #[command(flatten)]
        which: Which,
    },
    /// Take servers out of service: no new connections. They are still checked.
    Disable(Which),
    /// Give new connections to servers again. A weight that is set stays.
    Enable(Which),
    /// Have servers as they are configured.
    Reset(Which),
}

/// Servers of one group. All are changed, or none if one is not there.
#[derive(Debug, Args)]
pub struct Which {
    /// Name of the server group.
    group: String,
    /// Address and port, as in 10.0.0.11:8080 or [fd00::11]:8080.
    #[arg(required = true)]
    servers: Vec<String>,
    /// GROUP names a load balancer: its default group is meant, whose servers are addresses without a port.
    #[arg(long)]
    default_group: bool,
    /// Even if a listener is left without a server that receives new connections.
    #[arg(long)]
    force: bool,
}

/// Does it.
pub async fn server(socket: &Path, command: Command) -> Result<ExitCode> {
    match command {
        Command::List => list(socket).await,
        Command::Set { weight, which } => set(socket, which, Set::Weight(weight)).await,
        Command::Drain { wait, which } => {
            // What is not a server is refused first.
            let places = which.places();
            set(socket, which, Set::Drain).await?;
            return drain::drain(socket, &places?, wait).await;
        }
        Command::Disable(which) => set(socket, which, Set::Disable).await,
        Command::Enable(which) => set(socket, which, Set::Enable).await,
        Command::Reset(which) => set(socket, which, Set::Reset).await,
    }?;
    Ok(ExitCode::SUCCESS)
}

impl Which {
    /// The entries of the configuration.
    fn places(&self) -> Result<Vec<Place>> {
        let group = Some(self.group.as_str());
        let (group, balancer) = if self.default_group { (None, group) } else { (group, None) };
        self.servers.iter().map(|server| place(group, balancer, server)).collect()
    }
}

async fn set(socket: &Path, which: Which, set: Set) -> Result<()> {
    let Which { group, servers, default_group, force } = which;
    let (server_group, load_balancer) = if default_group { (None, Some(group)) } else { (Some(group), None) };
    let servers = Servers { server_group, load_balancer, servers, set, force };
    let changed: Changed = client::post(socket, "/v1/servers", &servers).await?;
    change::shown(&changed);
    Ok(())
}

async fn list(socket: &Path) -> Result<()> {
    let status = client::status(socket).await?;
    let Some(daemon) = status.and_then(|status| status.daemon) else {
        return Err(client::no_daemon(socket));
    };
    print!("{}", trouble(daemon.overrides_trouble.as_deref()));
    if daemon.overrides.is_empty() {
        println!("all servers are as configured");
    }
    for set in &daemon.overrides {
        println!("{}: {}", set.place()?, set_in_words(set));
    }
    Ok(())
}
