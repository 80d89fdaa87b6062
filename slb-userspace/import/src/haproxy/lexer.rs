//! Sections, lines and words of `haproxy.cfg`.

use std::collections::HashMap;

use crate::{
    ImportError,
    ledger::Ledger,
    source::{Lines, Sources},
};

/// Keywords that begin a section.
const SECTIONS: [&str; 20] = [
    "global",
    "defaults",
    "frontend",
    "backend",
    "listen",
    "peers",
    "resolvers",
    "userlist",
    "mailers",
    "program",
    "ring",
    "cache",
    "http-errors",
    "log-forward",
    "log-profile",
    "fcgi-app",
    "crt-store",
    "traces",
    "acme",
    "dynamic-update",
];

/// Options that speak a protocol which SLB's checks do not know.
pub(super) const FOREIGN: [&str; 7] =
    ["mysql-check", "pgsql-check", "redis-check", "smtpchk", "ldap-check", "spop-check", "external-check"];

/// Whether an option chooses the kind of checks.
pub(super) fn is_check(option: &str) -> bool {
    matches!(option, "httpchk" | "tcp-check" | "ssl-hello-chk") || FOREIGN.contains(&option)
}

/// A line with its words, without comment.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) at: Lines,
    pub(super) words: Vec<String>,
}

impl Line {
    pub(super) fn keyword(&self) -> &str {
        self.word(0)
    }

    /// The word of this number; empty if it is absent.
    pub(super) fn word(&self, number: usize) -> &str {
        self.words.get(number).map_or("", String::as_str)
    }

    /// The words from this number on.
    pub(super) fn from(&self, number: usize) -> &[String] {
        self.words.get(number..).unwrap_or_default()
    }
}

/// A section with its lines.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) keyword: String,
    pub(super) words: Vec<String>,
    pub(super) head: Lines,
    pub(super) whole: Lines,
    pub(super) lines: Vec<Line>,
}

/// Reads all sections.
pub(super) fn read(sources: &Sources<'_>, ledger: &mut Ledger) -> Result<Vec<Section>, ImportError> {
    let mut sections: Vec<Section> = Vec::new();
    for (index, text) in sources.text(0).lines().enumerate() {
        let at = Lines::one(0, index + 1);
        let words =
            words(text).map_err(|found| sources.error(at, found, "a quote at the end of the text"))?;
        let Some(first) = words.first() else { continue };
        if first.starts_with('.') {
            ledger.left_out(
                at,
                "conditions are not evaluated: the lines between them are read as if they hold",
            );
        } else if SECTIONS.contains(&first.as_str()) {
            let keyword = first.clone();
            sections.push(Section { keyword, words, head: at, whole: at, lines: Vec::new() });
        } else if let Some(section) = sections.last_mut() {
            section.whole = section.whole.until(at);
            section.lines.push(Line { at, words });
        } else {
            let found = format!("`{first}` in no section");
            return Err(sources.error(
                at,
                found,
                "`global`, `defaults`, `frontend`, `backend` or `listen` before it",
            ));
        }
    }
    Ok(sections)
}

/// What a line sets, if the last such line of a section holds.
pub(super) fn setting(line: &Line) -> Option<String> {
    const ONCE: [&str; 6] = ["mode", "balance", "hash-type", "default_backend", "stick-table", "source"];
    match (line.keyword(), line.word(1)) {
        ("timeout", name) => Some(format!("timeout {name}")),
        ("http-check", "expect") => Some("http-check expect".to_owned()),
        ("option", option) if is_check(option) => Some("check".to_owned()),
        (keyword, _) => ONCE.contains(&keyword).then(|| keyword.to_owned()),
    }
}

/// Leaves out lines that a later one of the same section replaces.
pub(super) fn leave_out_replaced(ledger: &mut Ledger, lines: &[Line]) {
    let settings: Vec<Option<String>> = lines.iter().map(setting).collect();
    let last: HashMap<&str, Lines> =
        settings.iter().zip(lines).filter_map(|(name, line)| Some((name.as_deref()?, line.at))).collect();
    for (name, line) in settings.iter().zip(lines) {
        if let Some(at) = name.as_deref().and_then(|name| last.get(name)).filter(|at| **at != line.at) {
            ledger.left_out(line.at, format!("line {} sets it again", at.first));
        }
    }
}

/// Words of a line: quotes and backslashes as in HAProxy.
fn words(line: &str) -> Result<Vec<String>, &'static str> {
    const OPEN: &str = "a quoted text has no end";
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '#' => break,
            '\\' => word.get_or_insert_default().extend(chars.next().map(escaped)),
            '\'' => {
                let text = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or(OPEN)? {
                        '\'' => break,
                        c => text.push(c),
                    }
                }
            }
            '"' => {
                let text = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or(OPEN)? {
                        '"' => break,
                        '\\' => text.push(chars.next().map(escaped).ok_or(OPEN)?),
                        c => text.push(c),
                    }
                }
            }
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

const fn escaped(c: char) -> char {
    match c {
        'r' => '\r',
        'n' => '\n',
        't' => '\t',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_quotes_and_escapes() {
        let read = |text| words(text).expect("words");
        assert_eq!(read("a 'b c' \"d\\\"e\" f\\ g # h"), ["a", "b c", "d\"e", "f g"]);
        assert_eq!(read("HTTP/1.1\\r\\nHost:\\ x"), ["HTTP/1.1\r\nHost: x"]);
        assert_eq!(read("  # c"), Vec::<String>::new());
        assert!(words("a 'b").is_err());
    }
}
