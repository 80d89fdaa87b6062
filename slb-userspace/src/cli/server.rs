//! `slb server`: overrides of single servers.

use std::{net::SocketAddr, path::Path, process::ExitCode};

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    change, drain, objects,
    status::{set_in_words, trouble},
};
use crate::server::override_keys::{named_server, named_server_of};
use slb_api::{
    changes::ChangeResult,
    client::{self, segment},
    objects::{Batch, BatchOperation},
    types::{OverrideRequest, Set},
};
use slb_control::overrides::NamedServer;

/// Command of `slb server`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the overrides, by whom and since when.
    List,
    /// Add servers to a group that was made through the API.
    Add {
        /// Share of new connections, 0 to 100.
        #[arg(long, value_parser = clap::value_parser!(u8).range(0..=100))]
        weight: Option<u8>,
        /// The servers.
        #[command(flatten)]
        which: ServerArguments,
    },
    /// Remove servers from a group that was made through the API. Their connections drain.
    Remove(ServerArguments),
    /// Set a weight in place of the configured one.
    Set {
        /// Share of new connections, 0 to 100. 0 receives none and keeps the established ones.
        #[arg(long, value_parser = clap::value_parser!(u8).range(0..=100))]
        weight: u8,
        /// The servers.
        #[command(flatten)]
        which: ServerArguments,
    },
    /// Drain servers: no new connections, while established ones may end. Shows how many remain.
    Drain {
        /// Wait until no connection remains, or until the deadline (`drain_timeout`), when remaining ones are reset.
        /// Exit code 0: none remains; 3: the deadline has passed.
        #[arg(long)]
        wait: bool,
        /// The servers.
        #[command(flatten)]
        which: ServerArguments,
    },
    /// Take servers out of service: no new connections. Health checks go on.
    Disable(ServerArguments),
    /// Enable servers: new connections again. A weight override stays.
    Enable(ServerArguments),
    /// Remove overrides: servers are as configured.
    Reset(ServerArguments),
}

/// Servers of one group. If one does not exist, none is changed.
#[derive(Debug, Args)]
pub struct ServerArguments {
    /// Name of the server group.
    group: String,
    /// Address and port, as in 10.0.0.11:8080 or [fd00::11]:8080.
    #[arg(required = true)]
    servers: Vec<String>,
    /// GROUP is the name of a load balancer: selects its default server group, whose servers are addresses without a
    /// port.
    #[arg(long)]
    default_group: bool,
    /// Even if a listener is left without a server that receives new connections.
    #[arg(long)]
    force: bool,
}

/// Executes the command.
pub async fn server(socket: &Path, command: Command) -> Result<ExitCode> {
    match command {
        Command::List => list(socket).await,
        Command::Add { weight, which } => which.edit(socket, |server| add(server, weight)).await,
        Command::Remove(which) => which.edit(socket, |_| None).await,
        Command::Set { weight, which } => set(socket, which, Set::Weight(weight)).await,
        Command::Drain { wait, which } => {
            // Invalid servers are refused first.
            let servers = which.named_servers();
            set(socket, which, Set::Drain).await?;
            return drain::drain(socket, &servers?, wait).await;
        }
        Command::Disable(which) => set(socket, which, Set::Disable).await,
        Command::Enable(which) => set(socket, which, Set::Enable).await,
        Command::Reset(which) => set(socket, which, Set::Reset).await,
    }?;
    Ok(ExitCode::SUCCESS)
}

impl ServerArguments {
    /// Makes these servers what `value` says, or removes those for which it is `None`: all or none.
    async fn edit(self, socket: &Path, value: impl Fn(&str) -> Option<Value>) -> Result<()> {
        let collection = if self.default_group { "load-balancers" } else { "server-groups" };
        let operations = self.servers.iter().map(|server| {
            let path = format!("/v1/{collection}/{}/servers/{}", segment(&self.group), segment(server));
            match value(server) {
                Some(value) => BatchOperation::Create { path, value },
                None => BatchOperation::Delete { path, if_match: None },
            }
        });
        let batch = serde_json::to_value(Batch { operations: operations.collect() })?;
        objects::write(socket, "POST", "/v1/batch", Some(batch), false).await
    }

    /// The configured servers.
    fn named_servers(&self) -> Result<Vec<NamedServer>> {
        let group = Some(self.group.as_str());
        let (group, balancer) = if self.default_group { (None, group) } else { (group, None) };
        self.servers.iter().map(|server| named_server(group, balancer, server)).collect()
    }
}

/// The value of a new server.
fn add(server: &str, weight: Option<u8>) -> Option<Value> {
    let mut value = match server.parse::<SocketAddr>() {
        Ok(endpoint) => json!({ "address": endpoint.ip(), "port": endpoint.port() }),
        // The address alone in a default server group. The daemon says what is wrong with others.
        Err(_) => json!({ "address": server }),
    };
    if let Some(weight) = weight {
        value["weight"] = json!(weight);
    }
    Some(value)
}

async fn set(socket: &Path, which: ServerArguments, set: Set) -> Result<()> {
    let ServerArguments { group, servers, default_group, force } = which;
    let (server_group, load_balancer) = if default_group { (None, Some(group)) } else { (Some(group), None) };
    let servers = OverrideRequest { server_group, load_balancer, servers, set, force };
    let changed: ChangeResult = client::post(socket, "/v1/servers", &servers).await?;
    change::print_changes(&changed);
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
        println!("{}: {}", named_server_of(set)?, set_in_words(set));
    }
    Ok(())
}
