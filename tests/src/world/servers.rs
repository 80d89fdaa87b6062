//! The servers of a world.

use anyhow::{Context as _, Result};

use super::World;
use crate::server::{Behaviour, Servers};

impl World {
    /// Kills the servers of backend `index`.
    ///
    /// # Panics
    /// The servers are not running.
    pub fn kill_servers(&mut self, index: usize) {
        self.servers[index].take().expect("the servers run").kill();
    }

    /// Long-lived connections that the servers of backend `index` have seen end with a RST.
    pub fn resets(&self, index: usize) -> usize {
        self.servers[index].as_ref().map_or(0, Servers::resets)
    }

    /// Starts the servers of backend `index` again.
    ///
    /// # Errors
    /// A port is in use.
    pub fn start_servers(&mut self, index: usize) -> Result<()> {
        let backend = &self.net.backends[index];
        self.servers[index] = Some(Servers::start(&backend.namespace, &backend.name)?);
        Ok(())
    }

    /// Serves HTTP on backend `index` at an additional port, under another name.
    ///
    /// # Errors
    /// The servers are not running, or the port is in use.
    pub fn serve_also(&self, index: usize, name: &str, port: u16) -> Result<()> {
        self.servers[index].as_ref().context("no servers run")?.serve_also(name, port)
    }

    /// Serves the line protocol on backend `index` at an additional port.
    ///
    /// # Errors
    /// The servers are not running, or the port is in use.
    pub fn serve_lines_also(&self, index: usize, port: u16) -> Result<()> {
        let servers = self.servers[index].as_ref().context("no servers run")?;
        servers.serve_lines_also(&self.net.backends[index].name, port)
    }

    /// Echoes datagrams on backend `index` at an additional port.
    ///
    /// # Errors
    /// The servers are not running, or the port is in use.
    pub fn echo_also(&self, index: usize, port: u16) -> Result<()> {
        let servers = self.servers[index].as_ref().context("no servers run")?;
        servers.echo_also(&self.net.backends[index].name, port)
    }

    /// Settings of how the servers of backend `index` answer.
    ///
    /// # Panics
    /// The servers are not running.
    pub fn behaviour(&self, index: usize) -> &Behaviour {
        &self.servers[index].as_ref().expect("the servers run").behaviour
    }
}
