//! What the daemon shows of its interfaces, whenever that changes.

use std::collections::BTreeMap;

use crate::devices::Hook;

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Those that run the program and forward, by index.
    pub attached: BTreeMap<u32, Shown>,
    /// Those that are there and do not forward, by name, and why not.
    pub without: BTreeMap<String, String>,
    /// Names of all that the program has been put on, by index.
    pub held: BTreeMap<u32, String>,
    /// Why pins are missing, without which forwarding ends with the daemon, if so.
    pub pins_trouble: Option<String>,
}

/// One that forwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its name.
    pub name: String,
    /// Where the program runs.
    pub hook: Hook,
    /// What is special about it, in words.
    pub notes: Vec<String>,
}
