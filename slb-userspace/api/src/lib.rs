//! The API of the daemon: its documents and a client. JSON over HTTP on a Unix socket.

pub mod changes;
pub mod client;
pub mod flows;
pub mod objects;
pub mod problem;
pub mod types;
