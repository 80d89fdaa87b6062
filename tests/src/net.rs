//! The network of a world: namespaces, links, addresses.

mod command;
mod decapsulator;
mod namespace;
pub mod pass;
mod received;
mod topology;

pub use pass::{detach_link, replace_with_pass};

pub use command::{find_program, run};
pub use namespace::Namespace;
pub use topology::{Backend, CLIENT_SOURCES, Family, Router, SecondNode, TEAM, Topology, second_address};
