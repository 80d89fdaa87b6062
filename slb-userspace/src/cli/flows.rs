//! `slb flows`: commands on the flow table.

use std::path::Path;

use anyhow::Result;
use clap::{Args, Subcommand};

use slb_api::{
    client,
    flows::{Flush, Flushed},
};

/// Command of `slb flows`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Erase entries of the flow table, as `conntrack -D` does: flows and affinity entries. Entries must match all
    /// given filters.
    #[command(after_help = "\
What becomes of connections whose entries are erased:
  nat          The server's packets do not reach the client until the client sends one. The client's packet goes to the server of its
               hash; on a migrating slot it goes to the previous backend. With the schedulers maglev and maglev-client that is mostly
               the same server, and the connection goes on. Another server answers by a RST: connections of rr, wrr, wlc, of session_persistence, or that
               began before or during a change of the servers, may end.
  dsr, ipip, gue
               Packets go by the hash: connections go on where nothing is tracked. Else as in mode nat.
With --not-assured, established connections keep their entries. A connection that is being opened loses packets, which are sent again;
under rr, wrr, wlc and session_persistence it may be reset. A UDP flow without an answer, or younger than 2 s, begins anew. To end a
server's connections use `slb server drain`.")]
    Flush(Filters),
}

/// Filters of entries, and whether they are erased.
#[derive(Debug, Args)]
pub struct Filters {
    /// Of clients in this prefix, or of this address: 203.0.113.0/24, 2001:db8::7.
    #[arg(long, value_name = "PREFIX")]
    client: Option<String>,
    /// Of this VIP, or of its listener at this port: 192.0.2.10, 192.0.2.10:80, [2001:db8::10]:80.
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    vip: Option<String>,
    /// Of this listener, as `slb status` names it: shop/web.
    #[arg(long, value_name = "LOAD_BALANCER/LISTENER")]
    listener: Option<String>,
    /// With this server: 10.0.0.11, 10.0.0.11:8080.
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    server: Option<String>,
    /// Only those that are not assured: their client has not shown that it hears its server, as with forged sources.
    #[arg(long)]
    not_assured: bool,
    /// Every entry.
    #[arg(long)]
    all: bool,
    /// Print how many entries would be erased, and erase none.
    #[arg(long)]
    dry_run: bool,
}

/// Executes the command.
pub async fn flows(socket: &Path, Command::Flush(filters): Command) -> Result<()> {
    let Filters { client, vip, listener, server, not_assured, all, dry_run } = filters;
    let flush = Flush { client, vip, listener, server, not_assured, all, dry_run };
    let Flushed { entries, locked } = client::post(socket, "/v1/flows/flush", &flush).await?;
    println!("{entries} entries {}", if dry_run { "would be erased" } else { "erased" });
    if locked > 0 {
        println!("{locked} entries were being written, and have been skipped: try again");
    }
    Ok(())
}
