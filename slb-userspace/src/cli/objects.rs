//! `slb lb`, `listener`, `group`, `access-list`: objects of the configuration.

mod assignment;
mod show;

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use serde_json::{Map, Value, json};

use self::assignment::{Assignment, merged};
use super::{change, status::Output};
use slb_api::{
    changes::ChangeResult,
    client::{self, RequestRefused, segment},
    objects::ObjectPage,
    problem::ProblemDocument,
};

/// Kinds of objects that have commands of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A load balancer.
    LoadBalancer,
    /// A listener, as LOAD-BALANCER/LISTENER.
    Listener,
    /// A server group.
    ServerGroup,
    /// An access list.
    AccessList,
}

/// Command for objects of a kind.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List them.
    List {
        /// Load balancer whose listeners are listed; all without one.
        #[arg(value_name = "LOAD-BALANCER")]
        owner: Option<String>,
        /// Output format.
        #[arg(long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Show one, as it stands in a configuration file.
    Show {
        /// Its id: the name, unless the id was set. A listener: LOAD-BALANCER/LISTENER.
        id: String,
        /// Output format.
        #[arg(long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Make one.
    Create {
        /// Its name. A listener: LOAD-BALANCER/LISTENER.
        id: String,
        /// Settings, as in the configuration file: port=80, addresses=192.0.2.10,2001:db8::10, health_check.kind=http.
        settings: Vec<Assignment>,
        /// Only show what would change.
        #[arg(long)]
        dry_run: bool,
    },
    /// Change settings of one. `KEY=` returns to the default.
    Set {
        /// Its id. A listener: LOAD-BALANCER/LISTENER.
        id: String,
        /// Settings, as in the configuration file.
        #[arg(required = true)]
        settings: Vec<Assignment>,
        /// Only show what would change.
        #[arg(long)]
        dry_run: bool,
    },
    /// Remove one.
    Delete {
        /// Its id. A listener: LOAD-BALANCER/LISTENER.
        id: String,
        /// Only show what would change.
        #[arg(long)]
        dry_run: bool,
    },
    /// Start a load balancer or a listener that was stopped.
    Start {
        /// Its id. A listener: LOAD-BALANCER/LISTENER.
        id: String,
    },
    /// Stop a load balancer or a listener: it stays configured, and takes no packets.
    Stop {
        /// Its id. A listener: LOAD-BALANCER/LISTENER.
        id: String,
    },
}

impl Kind {
    const fn collection(self) -> &'static str {
        match self {
            Self::LoadBalancer | Self::Listener => "/v1/load-balancers",
            Self::ServerGroup => "/v1/server-groups",
            Self::AccessList => "/v1/access-lists",
        }
    }

    /// The collection of an object, and its id there.
    fn split(self, id: &str) -> Result<(String, String)> {
        let collection = self.collection();
        if self != Self::Listener {
            return Ok((collection.to_owned(), id.to_owned()));
        }
        let (balancer, listener) = id
            .split_once('/')
            .with_context(|| format!("`{id}` names no listener: write LOAD-BALANCER/LISTENER"))?;
        Ok((format!("{collection}/{}/listeners", segment(balancer)), listener.to_owned()))
    }

    fn path(self, id: &str) -> Result<String> {
        let (collection, id) = self.split(id)?;
        Ok(format!("{collection}/{}", segment(&id)))
    }
}

/// Executes the command.
pub async fn objects(socket: &Path, kind: Kind, command: Command) -> Result<()> {
    match command {
        Command::List { owner, output } => list(socket, kind, owner.as_deref(), output).await,
        Command::Show { id, output } => {
            let object = request(socket, "GET", &kind.path(&id)?, None).await?;
            print!("{}", show::object(object, output)?);
            Ok(())
        }
        Command::Create { id, settings, dry_run } => {
            let (collection, name) = kind.split(&id)?;
            let mut object = Map::new();
            object.insert("name".to_owned(), json!(name));
            let object = merged(object, settings)?;
            write(socket, "POST", &collection, Some(object), dry_run).await
        }
        Command::Set { id, settings, dry_run } => {
            let patch = merged(Map::new(), settings)?;
            write(socket, "PATCH", &kind.path(&id)?, Some(patch), dry_run).await
        }
        Command::Delete { id, dry_run } => write(socket, "DELETE", &kind.path(&id)?, None, dry_run).await,
        Command::Start { id } => run(socket, kind, &id, "running").await,
        Command::Stop { id } => run(socket, kind, &id, "stopped").await,
    }
}

async fn run(socket: &Path, kind: Kind, id: &str, state: &str) -> Result<()> {
    if !matches!(kind, Kind::LoadBalancer | Kind::Listener) {
        bail!("only load balancers and listeners are started and stopped");
    }
    write(socket, "PATCH", &kind.path(id)?, Some(json!({ "state": state })), false).await
}

async fn list(socket: &Path, kind: Kind, owner: Option<&str>, output: Output) -> Result<()> {
    if owner.is_some() && kind != Kind::Listener {
        bail!("only listeners belong to a load balancer: leave `{}` out", owner.unwrap_or_default());
    }
    let mut items = Vec::new();
    let mut after = String::new();
    loop {
        let page = request(socket, "GET", &format!("{}{after}", kind.collection()), None).await?;
        let ObjectPage { items: page, next } = serde_json::from_value(page)?;
        items.extend(page);
        let Some(next) = next else { break };
        after = format!("?after={}", segment(&next));
    }
    if kind == Kind::Listener {
        items = listeners(items, owner)?;
    }
    print!("{}", show::list(kind, &items, output)?);
    Ok(())
}

/// The listeners of these load balancers, each with the name of its load balancer.
fn listeners(balancers: Vec<Value>, owner: Option<&str>) -> Result<Vec<Value>> {
    let is_asked = |balancer: &Value| owner.is_none_or(|owner| balancer["id"] == owner);
    let asked: Vec<_> = balancers.into_iter().filter(is_asked).collect();
    if let (Some(owner), true) = (owner, asked.is_empty()) {
        bail!("there is no load balancer `{owner}`");
    }
    let mut listeners = Vec::new();
    for mut balancer in asked {
        let (owner, source) = (balancer["id"].clone(), balancer["source"].clone());
        let mut of_balancer = balancer.get_mut("listener").map(Value::take);
        let all = of_balancer.iter_mut().filter_map(Value::as_array_mut).flatten();
        for mut listener in all.map(Value::take) {
            listener["load_balancer"] = owner.clone();
            listener["source"] = source.clone();
            listeners.push(listener);
        }
    }
    Ok(listeners)
}

/// Makes a change, and prints what has changed.
pub(super) async fn write(
    socket: &Path,
    method: &str,
    path: &str,
    value: Option<Value>,
    dry_run: bool,
) -> Result<()> {
    let path = if dry_run { format!("{path}?dry_run=true") } else { path.to_owned() };
    let answer = change::with_progress(socket, request(socket, method, &path, value.as_ref())).await?;
    if dry_run {
        return change::print_difference(serde_json::from_value(answer)?);
    }
    let changed: ChangeResult = serde_json::from_value(answer)?;
    change::print_changes(&changed);
    Ok(())
}

/// Sends a request. A refusal is an error with its text.
async fn request(socket: &Path, method: &str, path: &str, value: Option<&Value>) -> Result<Value> {
    let answer = client::send(socket, method, path, &[], value).await?;
    if answer.status.is_success() {
        return serde_json::from_slice(&answer.body)
            .context("the daemon's answer is not a document of this version");
    }
    let problem: Option<ProblemDocument> = serde_json::from_slice(&answer.body).ok();
    let text = || String::from_utf8_lossy(&answer.body).into_owned();
    Err(RequestRefused(problem.map_or_else(text, |problem| problem.detail)).into())
}
