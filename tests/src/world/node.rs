//! A second load balancer in front of the same servers.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use slb_api::types::Status;

use super::World;
use crate::{
    config::Plan,
    daemon::{Daemon, Programs},
    net::{Family, SecondNode, second_address},
};

/// Another node with its own daemon, the same configuration and the same hash seed. Dropping it removes all of it.
#[derive(Debug)]
pub struct Node {
    /// Namespace and links.
    pub net: SecondNode,
    plan: Plan,
    programs: Programs,
    log: PathBuf,
    daemon: Option<Daemon>,
}

impl Node {
    /// The status of this node's daemon.
    ///
    /// # Errors
    /// It does not answer.
    pub fn status(&self) -> Result<Status> {
        self.programs.status(&self.plan.socket)
    }

    /// The log of this node's daemon.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl World {
    /// Starts a second node with the current plan, and waits until it is ready.
    ///
    /// # Errors
    /// A command fails, or it does not become ready.
    pub fn second_node(&self) -> Result<Node> {
        let net = self.net.second_node(&self.id.prefix())?;
        let mut plan = self.plan.clone();
        let apart = |path: &std::path::Path| path.with_extension("second");
        plan.pin_dir = format!("{}-second", self.plan.pin_dir.display()).into();
        plan.socket = apart(&plan.socket);
        plan.state_dir = apart(&plan.state_dir);
        plan.tunnel_addresses = Family::ALL.map(second_address).into();
        let log = self.directory.path().join("slbd-second.log");
        let programs = Programs::new(&net.slb, log.clone())?;
        let config = self.write_config("second.toml", &plan.toml())?;
        let daemon = Some(programs.run(&config)?);
        let mut node = Node { net, plan, programs, log, daemon };
        let daemon = node.daemon.as_mut().context("no daemon runs")?;
        daemon.ready(&node.programs, &node.plan.socket)?;
        Ok(node)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.daemon.take());
        let pins = &self.plan.pin_dir;
        if pins.exists()
            && let Err(error) = fs::remove_dir_all(pins)
        {
            eprintln!("cannot remove {}: {error}", pins.display());
        }
    }
}
