//! Where a compiler comes from.

use std::{fmt, path::PathBuf};

/// Origin of a compiler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A nightly toolchain of rustup, by its name.
    Rustup(String),
    /// Packages of the system, below this prefix.
    System(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rustup(name) => write!(f, "rustup's {name}"),
            Self::System(prefix) => write!(f, "the system's compiler in {}", prefix.display()),
        }
    }
}
