//! Objects of the configuration as resources: `/v1/load-balancers`, `/v1/server-groups`, and so on.

pub(super) mod edits;
mod path;
mod render;
mod routes;

pub(super) use routes::{readable, writable};
