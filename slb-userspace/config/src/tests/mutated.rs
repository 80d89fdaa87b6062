//! Random texts: parsing and reporting them never panics.

use proptest::{prelude::*, sample::Index};

use crate::{ConfigError, Severity, parse};

const EXAMPLE: &str = include_str!("../../../../config/slb.toml");

/// Pieces that violate rules rather than syntax.
const PIECES: [&str; 24] = [
    "\"\"",
    "\"tcp\"",
    "\"udp\"",
    "\"web\"",
    "\"none\"",
    "\"::1\"",
    "\"fd00::21\"",
    "\"192.0.2.10\"",
    "0",
    "-1",
    "70000",
    "1.5",
    "true",
    "[]",
    "{}",
    "[[]]",
    "\"0s\"",
    "\"ß\\u0000\"",
    "1979-05-27",
    "99999999999999999999999",
    "\n",
    "\t",
    "'",
    "[[load_balancer]]\n",
];

#[derive(Debug, Clone)]
enum Mutation {
    /// Removes characters.
    Remove(Index, usize),
    /// Inserts any character.
    Insert(Index, char),
    /// Replaces a value by one of the pieces.
    Value(Index, Index),
    /// Copies a line to another position.
    Line(Index, Index),
    /// Truncates the text.
    Cut(Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let index = any::<Index>;
    prop_oneof![
        1 => (index(), 1..40_usize).prop_map(|(at, count)| Mutation::Remove(at, count)),
        1 => (index(), any::<char>()).prop_map(|(at, c)| Mutation::Insert(at, c)),
        4 => (index(), index()).prop_map(|(at, piece)| Mutation::Value(at, piece)),
        2 => (index(), index()).prop_map(|(from, to)| Mutation::Line(from, to)),
        1 => index().prop_map(Mutation::Cut),
    ]
}

fn mutate(text: &str, mutation: &Mutation) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    match mutation {
        Mutation::Remove(at, count) if !chars.is_empty() => {
            let at = at.index(chars.len());
            chars.drain(at..(at + count).min(chars.len()));
        }
        Mutation::Insert(at, c) => chars.insert(at.index(chars.len() + 1), *c),
        Mutation::Value(at, piece) => {
            let settings: Vec<usize> = (0..lines.len()).filter(|i| lines[*i].contains(" = ")).collect();
            if !settings.is_empty() {
                let line = settings[at.index(settings.len())];
                let key = lines[line].split(" = ").next().unwrap_or_default();
                let replaced = format!("{key} = {}\n", piece.get(&PIECES));
                lines[line] = &replaced;
                return lines.concat();
            }
        }
        Mutation::Line(from, to) if !lines.is_empty() => {
            lines.insert(to.index(lines.len()), lines[from.index(lines.len())]);
            return lines.concat();
        }
        Mutation::Cut(at) => chars.truncate(at.index(chars.len() + 1)),
        Mutation::Remove(..) | Mutation::Line(..) => {}
    }
    chars.into_iter().collect()
}

/// Parses a text and renders its diagnostics. Returns whether it is valid.
fn survives(text: &str) -> bool {
    match parse("mutated.toml", text) {
        Ok(loaded) => {
            assert!(loaded.warnings.diagnostics().iter().all(|d| d.severity() == Severity::Warning));
            loaded.warnings.render(true);
            true
        }
        Err(ConfigError::Invalid(report)) => {
            assert!(report.diagnostics().iter().all(|d| d.severity() == Severity::Error));
            assert!(report.render(false).contains("mutated.toml:"), "a refusal names a place: {report}");
            report.render(true);
            false
        }
        Err(other) => panic!("{other}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn mutated_example_never_panics(mutations in prop::collection::vec(mutation(), 1..8)) {
        let text = mutations.iter().fold(EXAMPLE.to_owned(), |text, mutation| mutate(&text, mutation));
        survives(&text);
    }

    #[test]
    fn any_text_never_panics(text in "\\PC{0,80}|[\\x00-\\x7f]{0,80}") {
        survives(&text);
    }
}

#[test]
fn every_value_replaced_by_every_piece_never_panics() {
    let lines: Vec<&str> = EXAMPLE.split_inclusive('\n').collect();
    let mut refused = 0;
    for at in (0..lines.len()).filter(|at| lines[*at].contains(" = ")) {
        for piece in PIECES {
            let key = lines[at].split(" = ").next().expect("a key");
            let replaced = format!("{key} = {piece}\n");
            let mut lines = lines.clone();
            lines[at] = &replaced;
            refused += usize::from(!survives(&lines.concat()));
        }
    }
    assert!(refused > 500, "most of these are wrong: {refused}");
}

#[test]
fn deep_nesting_never_overflows_the_stack() {
    const DEPTH: usize = 100_000;
    for text in [
        format!("daemon = {}", "[".repeat(DEPTH)),
        format!("daemon = {}", "{ a = ".repeat(DEPTH)),
        format!("{}a = 1", "a.".repeat(DEPTH)),
        format!("daemon.hash_seed.{}a = 1", "a.".repeat(DEPTH)),
        format!("[daemon.hash_seed.{}a]", "a.".repeat(DEPTH)),
    ] {
        assert!(!survives(&text));
    }
}
