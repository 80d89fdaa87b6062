//! Checks that modules do not depend on each other in a circle, nor top-level modules with all that lies in them, and
//! that crates and modules keep away from what they must not know.

mod modules;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result, bail};

use self::modules::Crate;

/// Crates whose modules are checked, by directory.
const CRATES: [&str; 8] = [
    "slb-common",
    "slb-ebpf",
    "slb-userspace",
    "slb-userspace/api",
    "slb-userspace/config",
    "slb-userspace/control",
    "slb-userspace/import",
    "xtask",
];

/// Crates that must not depend on these packages, by directory.
const FORBIDDEN_DEPENDENCIES: [(&str, &[&str]); 4] = [
    ("slb-userspace/control", &["aya", "nix", "rtnetlink", "slb-api", "socket2", "tokio", "tracing"]),
    ("slb-userspace/config", &["aya", "nix", "rtnetlink", "slb-api", "slb-control", "socket2", "tokio"]),
    (
        "slb-userspace/import",
        &["aya", "glob", "nix", "rtnetlink", "slb-api", "slb-common", "slb-control", "socket2", "tokio"],
    ),
    ("slb-userspace/api", &["aya", "nix", "slb-common", "slb-config", "slb-control"]),
];

/// Modules that alone may name a crate: directory of the crate, module, name.
const ONLY_IN: [(&str, &str, &str); 2] =
    [("slb-userspace", "dataplane::bpf", "aya"), ("slb-common", "abi::user", "aya")];

/// Checks all crates.
///
/// # Errors
/// Names every circle with the modules that make it, and every forbidden dependency.
pub(super) fn check(workspace: &Path) -> Result<()> {
    let mut faults = Vec::new();
    for directory in CRATES {
        let read = Crate::read(&workspace.join(directory).join("src"))
            .with_context(|| format!("cannot read the modules of {directory}"))?;
        faults.extend(circles(&read).into_iter().map(|circle| format!("{directory}: circle: {circle}")));
        faults.extend(
            top_level_circle(&read)
                .into_iter()
                .map(|circle| format!("{directory}: circle of top-level modules: {circle}")),
        );
        for (_, only, name) in ONLY_IN.iter().filter(|(at, ..)| *at == directory) {
            let uses = read.uses_of(name).into_iter().filter(|module| !module.to_string().starts_with(only));
            faults.extend(uses.map(|module| format!("{directory}: {module} names {name}: only {only} may")));
        }
    }
    for (directory, forbidden) in FORBIDDEN_DEPENDENCIES {
        let manifest = workspace.join(directory).join("Cargo.toml");
        let manifest = fs::read_to_string(&manifest).with_context(|| manifest.display().to_string())?;
        let dependencies = dependencies(&manifest);
        let found = forbidden.iter().filter(|name| dependencies.contains(*name));
        faults.extend(found.map(|name| format!("{directory}: must not depend on {name}")));
    }
    if faults.is_empty() {
        return Ok(());
    }
    bail!("the structure has faults:\n{}", faults.join("\n"))
}

/// Names under `[dependencies]` of a manifest.
fn dependencies(manifest: &str) -> BTreeSet<&str> {
    let lines = manifest.lines().skip_while(|line| *line != "[dependencies]").skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    lines.filter_map(|line| line.split(['.', ' ', '=']).next()).filter(|name| !name.is_empty()).collect()
}

/// A circle of modules (files) that name each other, as `a -> b -> a`. A module and those inside it may.
fn circles(read: &Crate) -> Option<String> {
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (from, to) in read.edges().into_iter().filter(|(from, to)| !from.is_around(to) && !to.is_around(from))
    {
        graph.entry(from.to_string()).or_default().insert(to.to_string());
    }
    circle(&graph).map(|names| names.join(" -> "))
}

/// A circle of top-level modules, each with all that lies inside it.
fn top_level_circle(read: &Crate) -> Option<String> {
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (from, to) in read.edges() {
        if let (Some(from), Some(to)) = (from.top_level(), to.top_level())
            && from != to
        {
            graph.entry(from.to_owned()).or_default().insert(to.to_owned());
        }
    }
    circle(&graph).map(|names| names.join(" -> "))
}

/// A circle of a graph, its first name also at the end; `None` without one.
fn circle(graph: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    let mut done = BTreeSet::new();
    graph.keys().find_map(|start| walk(graph, start, &mut Vec::new(), &mut done))
}

fn walk<'g>(
    graph: &'g BTreeMap<String, BTreeSet<String>>,
    at: &'g String,
    path: &mut Vec<&'g String>,
    done: &mut BTreeSet<&'g String>,
) -> Option<Vec<String>> {
    if let Some(begin) = path.iter().position(|seen| *seen == at) {
        return Some(path[begin..].iter().copied().chain([at]).cloned().collect());
    }
    if !done.insert(at) {
        return None;
    }
    path.push(at);
    let found = graph.get(at).into_iter().flatten().find_map(|next| walk(graph, next, path, done));
    path.pop();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &str)]) -> BTreeMap<String, BTreeSet<String>> {
        let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in edges {
            graph.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        graph
    }

    #[test]
    fn circle_of_modules_is_found() {
        assert_eq!(circle(&graph(&[("a", "b"), ("a", "c"), ("b", "c")])), None);
        let found = circle(&graph(&[("a", "b"), ("b", "c"), ("c", "b")])).unwrap();
        assert_eq!(found, ["b", "c", "b"]);
    }

    #[test]
    fn dependencies_are_read_from_their_table_only() {
        let manifest = "[package]\nname = \"x\"\n[dependencies]\nanyhow.workspace = true\n\
                        slb-common = { workspace = true }\n\n[dev-dependencies]\ntokio.workspace = true\n";
        assert_eq!(dependencies(manifest), BTreeSet::from(["anyhow", "slb-common"]));
    }
}
