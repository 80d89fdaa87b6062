//! Output of the demo: updated in place on a terminal, otherwise appended.

use std::io::{self, IsTerminal, Write};

/// Output stream of the demo, with a live part at the end.
#[derive(Debug)]
pub(super) struct View {
    terminal: bool,
    /// Number of lines of the live part on the screen.
    drawn: usize,
}

impl View {
    /// Standard output.
    pub(super) fn new() -> Self {
        Self { terminal: io::stdout().is_terminal(), drawn: 0 }
    }

    /// Writes permanent text in place of the live part.
    pub(super) fn line(&mut self, text: &str) {
        let text = format!("{}{text}\n", self.erasing());
        self.drawn = 0;
        Self::write(&text);
    }

    /// Prints the title of a phase.
    pub(super) fn phase(&mut self, title: &str) {
        self.line(&format!("\n{title}"));
    }

    /// Draws the live part again, on a terminal only.
    pub(super) fn live(&mut self, text: &str) {
        if self.terminal {
            let drawn = format!("{}{text}\n", self.erasing());
            self.drawn = text.lines().count();
            Self::write(&drawn);
        }
    }

    /// Control sequences that erase the live part.
    fn erasing(&self) -> String {
        if self.drawn > 0 { format!("\x1b[{}A\x1b[0J", self.drawn) } else { String::new() }
    }

    /// Writes text; a closed output is no failure.
    fn write(text: &str) {
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes());
        let _ = out.flush();
    }
}
