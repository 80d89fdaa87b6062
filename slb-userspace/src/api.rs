//! The API: state and commands of the daemon, as JSON over HTTP on a Unix socket.

pub mod client;
pub mod flows;
pub mod interfaces;
pub mod loader;
pub mod requests;
pub mod server;
pub mod status;
pub mod types;
