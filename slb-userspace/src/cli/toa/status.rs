//! `slb-toa status`.

use std::{net::IpAddr, path::PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use slb_common::abi::toa::ToaOutcome;
use slb_control::dataplane::state::to_ip;

use crate::{
    cli::{arguments::ensure_root, status::Output, table::table},
    dataplane::bpf::toa::ToaPins,
};

/// What `slb-toa` does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToaStatus {
    /// Whether programs are attached.
    pub attached: bool,
    /// Sources whose option is trusted.
    pub sources: Vec<IpAddr>,
    /// Connections of these sources by outcome since the first attach.
    pub connections: Vec<ToaConnections>,
}

/// Connections with one outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToaConnections {
    /// `client`, `no_option`, `no_syn` or `no_memory`.
    pub outcome: String,
    /// Their number.
    pub connections: u64,
}

/// Prints sources and counters.
pub fn status(pin_dir: PathBuf, output: Output) -> Result<()> {
    ensure_root("status")?;
    let pins = ToaPins::new(pin_dir);
    let status = match pins.read()? {
        None => ToaStatus { attached: false, sources: Vec::new(), connections: Vec::new() },
        Some(state) => ToaStatus {
            attached: true,
            sources: state.policy.sources.as_slice().iter().map(to_ip).collect(),
            connections: state.connections.into_iter().map(connections).collect(),
        },
    };
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&status)?),
        Output::Table if !status.attached => {
            println!("slb-toa is not attached (pins: {})", pins.root().display());
        }
        Output::Table => println!("{}", render(&status)),
    }
    Ok(())
}

fn connections((outcome, connections): (ToaOutcome, u64)) -> ToaConnections {
    ToaConnections { outcome: outcome.name().to_owned(), connections }
}

fn render(status: &ToaStatus) -> String {
    let sources: Vec<_> = status.sources.iter().map(ToString::to_string).collect();
    let mut outcomes = table(["outcome", "connections"], 1);
    for ToaConnections { outcome, connections } in &status.connections {
        outcomes.add_row([outcome.clone(), connections.to_string()]);
    }
    format!("from {}\n{outcomes}", sources.join(", "))
}
