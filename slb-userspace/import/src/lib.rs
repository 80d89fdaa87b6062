//! Turns the configuration of another load balancer into one of SLB.
//!
//! The stages are a parser for each format -> `model`, in terms of SLB -> `fit`, which applies SLB's rules -> `writer`.
//! The `ledger` knows what became of each line of the source. The result is accepted by [`slb_config::parse`].

pub use ledger::{Note, NoteKind};
pub use source::{Budget, Files, NoFiles};

use crate::{ledger::Ledger, model::Model, source::Sources};

mod excerpt;
mod fit;
mod haproxy;
mod ipvs;
mod ipvsadm;
mod keepalived;
mod ledger;
mod limits;
mod model;
mod nginx;
mod source;
#[cfg(test)]
mod tests;
mod tree;
mod writer;

/// What a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `keepalived.conf`.
    Keepalived,
    /// Output of `ipvsadm -S`.
    Ipvsadm,
    /// `haproxy.cfg`.
    Haproxy,
    /// `nginx.conf`.
    Nginx,
}

impl Format {
    /// The word for it in commands.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Keepalived => "keepalived",
            Self::Ipvsadm => "ipvsadm",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }

    fn is_comment(self, line: &str) -> bool {
        line.is_empty() || line.starts_with('#') || self == Self::Keepalived && line.starts_with('!')
    }
}

/// A configuration of SLB, and what became of the source.
#[derive(Debug)]
pub struct Imported {
    /// Text of `slb.toml`, with the notes as comments.
    pub toml: String,
    /// Lines that are left out or mean something else, in the order of the source. All others are part of the result.
    pub notes: Vec<Note>,
    /// Number of listeners.
    pub listeners: usize,
}

/// A text that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("error: {file}:{line}: {found}: expected {expected}")]
pub struct ImportError {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub found: String,
    /// What belongs there.
    pub expected: String,
}

/// Turns a text into a configuration. `name` is its file name in notes and errors; `files` reads what it includes.
///
/// # Errors
/// The text breaks the syntax of its format, or an included file cannot be read.
pub fn import(format: Format, name: &str, text: &str, files: &dyn Files) -> Result<Imported, ImportError> {
    let mut sources = Sources::new(name, text, files);
    let mut ledger = Ledger::default();
    let mut model = Model::default();
    match format {
        Format::Keepalived => keepalived::read(&mut sources, &mut ledger, &mut model)?,
        Format::Ipvsadm => ipvsadm::read(&sources, &mut ledger, &mut model)?,
        Format::Haproxy => haproxy::read(&sources, &mut ledger, &mut model)?,
        Format::Nginx => nginx::read(&mut sources, &mut ledger, &mut model)?,
    }
    let fitted = fit::fit(model, &mut ledger);
    ledger.leave_out_rest(&sources, |line| format.is_comment(line));
    let notes = ledger.notes(&sources);
    let toml = writer::write(&format!("slb import {} {name}", format.name()), &fitted, &notes);
    let listeners = fitted.balancers.iter().map(|balancer| balancer.listeners.len()).sum();
    Ok(Imported { toml, notes, listeners })
}
