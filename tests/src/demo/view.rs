//! Output of the demo: redrawn in place on a terminal, appended otherwise.

use std::io::{self, IsTerminal, Write};

/// Where the demo writes.
#[derive(Debug)]
pub(super) struct View {
    terminal: bool,
    /// Lines of the live part that are on the screen.
    drawn: usize,
}

impl View {
    /// Standard output.
    pub(super) fn new() -> Self {
        Self { terminal: io::stdout().is_terminal(), drawn: 0 }
    }

    /// Writes text that stays; it replaces the live part.
    pub(super) fn line(&mut self, text: &str) {
        let text = format!("{}{text}\n", self.erasing());
        self.drawn = 0;
        Self::write(&text);
    }

    /// Begins a phase.
    pub(super) fn phase(&mut self, title: &str) {
        self.line(&format!("\n{title}"));
    }

    /// Draws the live part anew, on a terminal only.
    pub(super) fn live(&mut self, text: &str) {
        if self.terminal {
            let drawn = format!("{}{text}\n", self.erasing());
            self.drawn = text.lines().count();
            Self::write(&drawn);
        }
    }

    /// Control codes that move up over the live part and erase it.
    fn erasing(&self) -> String {
        if self.drawn > 0 { format!("\x1b[{}A\x1b[0J", self.drawn) } else { String::new() }
    }

    /// A reader that has gone away is no reason to fail.
    fn write(text: &str) {
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes());
        let _ = out.flush();
    }
}
