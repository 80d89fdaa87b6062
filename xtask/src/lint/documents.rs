//! Checks links in the project's documents. Each must lead to a file or directory of the tree, and to a heading if it
//! names one.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

/// Directories that contain no documents of the project.
const SKIPPED: [&str; 2] = ["target", ".git"];

/// Checks the links of every Markdown document below `workspace`.
///
/// # Errors
/// A link leads nowhere; the error lists each with its document.
pub(super) fn check(workspace: &Path) -> Result<()> {
    let mut documents = Vec::new();
    collect(workspace, &mut documents)?;
    let mut broken = Vec::new();
    for document in &documents {
        let text = read(document)?;
        for link in links(&text) {
            if let Some(why) = fault(document, link)? {
                broken.push(format!("{}: {link}: {why}", document.display()));
            }
        }
    }
    ensure!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
    Ok(())
}

fn collect(directory: &Path, documents: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if !SKIPPED.iter().any(|skipped| path.ends_with(skipped)) {
                collect(&path, documents)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "md") {
            documents.push(path);
        }
    }
    Ok(())
}

fn read(document: &Path) -> Result<String> {
    fs::read_to_string(document).with_context(|| format!("reading {}", document.display()))
}

/// Targets of inline links outside of code blocks.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    let prose = text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    prose.flat_map(|line| line.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)))
}

/// Why a link of a document leads nowhere. `None` if it is valid, or leads out of the tree.
fn fault(document: &Path, link: &str) -> Result<Option<&'static str>> {
    if link.contains("://") {
        return Ok(None);
    }
    let (file, heading) = link.split_once('#').unwrap_or((link, ""));
    let target = if file.is_empty() {
        document.to_path_buf()
    } else {
        document.parent().unwrap_or(document).join(file)
    };
    if !target.exists() {
        return Ok(Some("no such file"));
    }
    let has_heading =
        heading.is_empty() || target.is_file() && read(&target)?.lines().any(|line| anchor(line) == heading);
    Ok((!has_heading).then_some("no such heading"))
}

/// The anchor of a heading as renderers make it; empty if the line is no heading.
fn anchor(line: &str) -> String {
    let Some(heading) = line.strip_prefix('#') else { return String::new() };
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_in_prose_and_not_in_code() {
        let text = "a [b](c.md) and [d](e.md#f)\n```\n[g](h.md)\n```\n[i](#j)";
        assert_eq!(links(text).collect::<Vec<_>>(), ["c.md", "e.md#f", "#j"]);
    }

    #[test]
    fn links_to_missing_files_and_headings_are_broken() -> Result<()> {
        let directory = std::env::temp_dir().join(format!("slb-documents-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        let at = directory.join("a.md");
        fs::write(
            &at,
            "# One thing, `two`\n[x](#one-thing-two) [y](b.md) [z](#three) [w](https://example.com/)",
        )?;
        let error = check(&directory).map_err(|error| error.to_string());
        fs::remove_dir_all(&directory)?;
        let error = error.expect_err("two links are broken");
        assert!(error.contains("b.md: no such file") && error.contains("#three: no such heading"), "{error}");
        assert!(!error.contains("#one-thing-two"), "{error}");
        Ok(())
    }
}
