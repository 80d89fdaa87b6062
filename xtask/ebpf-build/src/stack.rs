//! Stack of a call chain: the kernel gives a program and all subprograms below it 512 bytes together.

use std::collections::{BTreeMap, BTreeSet};

/// What the verifier rounds each frame up to; later kernels round to 16 bytes where machine code is made.
const GRANULE: u32 = 32;

/// Frames and calls of the functions of an object, by name.
#[derive(Debug, Default)]
pub(crate) struct CallGraph {
    /// Bytes of each function's own frame.
    pub(crate) frames: BTreeMap<String, u32>,
    /// Functions that each function calls.
    pub(crate) calls: BTreeMap<String, BTreeSet<String>>,
}

impl CallGraph {
    /// Bytes of stack of the deepest chain of calls that begins with a function. Programs of the kernel have no
    /// recursion.
    pub(crate) fn deepest_chain(&self, function: &str) -> u32 {
        let own = self.frames.get(function).copied().unwrap_or_default().max(1).next_multiple_of(GRANULE);
        let called = self.calls.get(function).into_iter().flatten();
        own + called.map(|callee| self.deepest_chain(callee)).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deepest_chain_adds_rounded_frames() {
        let frames = [("entry", 40), ("shallow", 200), ("middle", 32), ("deep", 180)];
        let calls = [("entry", vec!["shallow", "middle"]), ("middle", vec!["deep"])];
        let graph = CallGraph {
            frames: frames.map(|(name, bytes)| (name.to_owned(), bytes)).into(),
            calls: calls
                .map(|(name, to)| (name.to_owned(), to.into_iter().map(str::to_owned).collect()))
                .into(),
        };
        assert_eq!(graph.deepest_chain("deep"), 192);
        assert_eq!(graph.deepest_chain("entry"), 64 + 32 + 192);
    }
}
