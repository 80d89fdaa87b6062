//! Interfaces as the daemon publishes them at each change.

use std::collections::BTreeMap;

use crate::devices::Hook;

/// All interfaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterfaceView {
    /// Interfaces that run the program and forward, by index.
    pub attached: BTreeMap<u32, AttachedInterface>,
    /// Existing interfaces that do not forward, by configured name, with the reason.
    pub without: BTreeMap<String, String>,
    /// Names of all interfaces that the program was attached to, by index.
    pub held: BTreeMap<u32, String>,
    /// Why pins are missing, if they are. Without pins forwarding ends with the daemon.
    pub pins_trouble: Option<String>,
}

/// An interface that forwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedInterface {
    /// Its name.
    pub name: String,
    /// Its XDP hook.
    pub hook: Hook,
    /// Remarks about it.
    pub notes: Vec<String>,
}
