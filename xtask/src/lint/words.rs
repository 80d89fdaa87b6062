//! Counts words that `docs/glossary.md` replaces: in comments, strings, identifiers and documents.
//!
//! A phrase matches whole words. Identifiers are split at `_` and at capital letters, so that `keeper` is found in
//! `keeper_of` and in `KeeperMap`, and not in `housekeeper`.

mod token;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use self::token::Token;

/// Phrases without a place in the project, each with the term to write instead.
const PHRASES: &[(&str, &str)] = &[
    ("keeper", "previous backend"),
    ("keepers", "previous backends"),
    ("by and by", "gradually"),
    ("in force", "active, applied"),
    ("held out", "ejected"),
    ("holds out", "ejects"),
    ("nobody", "no server, no client, no process"),
    ("somebody", "a server, a client, a process"),
    ("everybody", "all clients, all users"),
    ("whoever", "the noun"),
    ("is told", "receives a RST, an error"),
    ("are told", "receive a RST, an error"),
    ("was told", "received a RST, was set to"),
    ("were told", "received a RST, were set to"),
    ("been told", "received a RST"),
    ("be told", "receive a RST, be distinguished"),
    ("stands by", "is standby"),
    ("stand by", "be standby"),
    ("comes back", "returns"),
    ("come back", "return"),
    ("came back", "returned"),
    ("coming back", "returning"),
    ("falls back", "rolls back"),
    ("fallen back", "been rolled back"),
    ("falling back", "being rolled back"),
    ("fell back", "was rolled back"),
    ("on trial", "unconfirmed"),
    ("forgotten", "evicted, expired"),
    ("pushed out", "evicted"),
    ("pushes out", "evicts"),
    ("taken up", "picked up mid-stream"),
    ("changes hands", "is reassigned"),
    ("change hands", "are reassigned"),
    ("changed hands", "reassigned"),
    ("whole client", "affinity entry"),
    ("kept client", "affinity entry"),
    ("fewest flows", "least connections"),
    ("upkeep", "flow-table GC"),
    ("one look", "one GC pass"),
    ("a look", "a GC pass"),
    ("each look", "each GC pass"),
    ("this look", "this GC pass"),
    ("next look", "next GC pass"),
    ("look at the flow table", "GC pass"),
    ("lingering", "removed, draining"),
    ("not remembered", "untracked"),
    ("is remembered", "is tracked"),
    ("are remembered", "are tracked"),
    ("was remembered", "was tracked"),
    ("be remembered", "be tracked"),
    ("who speaks", "an end that sends"),
    ("what is held", "actual state"),
    ("what is wanted", "desired state"),
    ("gets to know", "warms up"),
    ("put in force", "applied"),
    ("sweep", "GC pass"),
    ("sweeps", "GC passes"),
];

/// Phrases in their plain meaning, whatever stands between their words. The first is a line of `/etc/passwd`.
const PLAIN: &[&str] = &["nobody x", "be told apart", "are told apart", "be told from", "is told from"];

/// Directories without text of the project.
const SKIPPED: [&str; 3] = ["target", ".git", "proptest-regressions"];
/// This check: it must name the phrases.
const OWN: &str = "xtask/src/lint/words.rs";

/// A phrase at a place.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    line: usize,
    phrase: &'static str,
    instead: &'static str,
}

/// Searches the whole workspace.
///
/// # Errors
/// A phrase occurs. The error counts all occurrences and lists them.
pub(super) fn check(workspace: &Path) -> Result<()> {
    let mut files = Vec::new();
    collect(workspace, &mut files)?;
    files.sort();
    let mut places = Vec::new();
    for file in &files {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let path = file.strip_prefix(workspace).unwrap_or(file);
        places.extend(search(path, &text).iter().map(|found| {
            format!("{}:{}: `{}`: write {}", path.display(), found.line, found.phrase, found.instead)
        }));
    }
    ensure!(
        places.is_empty(),
        "{} words that docs/glossary.md replaces:\n{}",
        places.len(),
        places.join("\n")
    );
    println!("lint: words: 0 of {} phrases in {} files", PHRASES.len(), files.len());
    Ok(())
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        std::fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if !SKIPPED.iter().any(|skipped| path.ends_with(skipped)) {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|kind| kind == "rs" || kind == "md" || kind == "toml")
            && !path.ends_with(OWN)
        {
            files.push(path);
        }
    }
    Ok(())
}

fn search(path: &Path, text: &str) -> Vec<Found> {
    let tokens = if path.extension().is_some_and(|kind| kind == "rs") {
        token::rust(text)
    } else {
        token::prose(text)
    };
    let mut found = Vec::new();
    for start in 0..tokens.len() {
        let matches = PHRASES.iter().filter(|(phrase, _)| begins(&tokens[start..], phrase, false));
        // "put in force" is one finding, not two.
        let is_plain = PLAIN.iter().any(|phrase| begins(&tokens[start..], phrase, true));
        if !is_plain && let Some((phrase, instead)) = matches.max_by_key(|(phrase, _)| phrase.len()) {
            found.push(Found { line: tokens[start].line, phrase, instead });
        }
    }
    found
}

/// Whether the tokens begin with the words of a phrase; unless they may be separated, in one sentence or one
/// identifier.
fn begins(tokens: &[Token], phrase: &str, may_be_separated: bool) -> bool {
    let mut tokens = tokens.iter();
    phrase.split(' ').enumerate().all(|(number, word)| {
        tokens.next().is_some_and(|token| {
            token.word == word && (number == 0 || may_be_separated || !token.begins_sentence)
        })
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::search;

    fn lines(file: &str, text: &str) -> Vec<(usize, &'static str)> {
        search(Path::new(file), text).iter().map(|found| (found.line, found.phrase)).collect()
    }

    #[test]
    fn phrases_are_found_in_comments_strings_and_identifiers() {
        let text = "// The configuration is in\n// force.\nfn f() { keeper_of(\"a flow \\\n    is told\") }\nstruct KeeperMap;";
        let expected = [(1, "in force"), (3, "keeper"), (4, "is told"), (5, "keeper")];
        assert_eq!(lines("a.rs", text), expected);
    }

    #[test]
    fn parts_of_words_and_separate_sentences_do_not_match() {
        let text = "// A housekeeper. It is. Told: in, force.\nlet in_forced = is(told);";
        assert_eq!(lines("a.rs", text), []);
        assert_eq!(lines("a.md", "reinforced `is` told\n\nin\n\nforce"), []);
    }

    #[test]
    fn documents_are_searched_as_prose() {
        assert_eq!(lines("a.md", "It comes\nback, and nobody\nknows."), [(1, "comes back"), (2, "nobody")]);
    }
}
