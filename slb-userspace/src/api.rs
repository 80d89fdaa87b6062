//! The API: what the daemon says of itself, as JSON over HTTP on a unix socket.

pub mod client;
pub mod flows;
pub mod interfaces;
pub mod loader;
pub mod requests;
pub mod server;
pub mod status;
pub mod types;
