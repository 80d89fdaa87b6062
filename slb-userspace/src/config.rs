//! Configuration: from a TOML file to a model that holds only valid values.

pub mod model;
