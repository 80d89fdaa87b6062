//! The modules of a crate, and which of them name which.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use syn::visit::{self, Visit};

/// Path of a module below its crate's root.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ModulePath(Vec<String>);

impl fmt::Display for ModulePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "crate".to_owned() } else { self.0.join("::") }.as_str())
    }
}

impl ModulePath {
    /// The top-level module that this one lies in; `None` for the crate's root.
    pub(super) fn top_level(&self) -> Option<&str> {
        self.0.first().map(String::as_str)
    }

    /// Whether `other` lies inside this module.
    pub(super) fn is_around(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }
}

/// The modules of a crate with the paths that each names. Tests and documentation do not count.
pub(super) struct Crate(BTreeMap<ModulePath, BTreeSet<Vec<String>>>);

impl Crate {
    /// Reads all modules below `source`, the directory of `lib.rs` or `main.rs`.
    pub(super) fn read(source: &Path) -> Result<Self> {
        let mut modules = BTreeMap::new();
        for root in ["lib.rs", "main.rs"].map(|name| source.join(name)) {
            if root.is_file() {
                read(&root, source, &ModulePath::default(), &mut modules)?;
            }
        }
        Ok(Self(modules))
    }

    /// Pairs of modules of which the first names the second.
    pub(super) fn edges(&self) -> Vec<(ModulePath, ModulePath)> {
        let edges = self.0.iter().flat_map(|(module, paths)| {
            paths.iter().filter_map(|path| Some((module.clone(), self.module_of(module, path)?)))
        });
        edges.filter(|(from, to)| from != to).collect()
    }

    /// Modules that name the crate `name`.
    pub(super) fn uses_of(&self, name: &str) -> Vec<&ModulePath> {
        let names = |paths: &BTreeSet<Vec<String>>| paths.iter().any(|path| path[0] == name);
        self.0.iter().filter(|(_, paths)| names(paths)).map(|(module, _)| module).collect()
    }

    /// The module in which the item of a path lies; `None` if that is in another crate.
    fn module_of(&self, from: &ModulePath, path: &[String]) -> Option<ModulePath> {
        let mut at = from.0.clone();
        let mut names = path.iter().peekable();
        match names.peek()?.as_str() {
            "crate" => {
                at.clear();
                names.next();
            }
            "self" => drop(names.next()),
            "super" => {
                while names.next_if(|name| *name == "super").is_some() {
                    at.pop()?;
                }
            }
            child => {
                let child = ModulePath(at.iter().cloned().chain([child.to_owned()]).collect());
                self.0.contains_key(&child).then_some(())?;
            }
        }
        for name in names {
            at.push(name.clone());
            if !self.0.contains_key(&ModulePath(at.clone())) {
                at.pop();
                break;
            }
        }
        Some(ModulePath(at))
    }
}

/// Reads the file of a module, and those of its modules. `directory` is where their files lie.
fn read(
    file: &Path,
    directory: &Path,
    module: &ModulePath,
    modules: &mut BTreeMap<ModulePath, BTreeSet<Vec<String>>>,
) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let parsed = syn::parse_file(&text).with_context(|| file.display().to_string())?;
    let mut found = Names::default();
    found.visit_file(&parsed);
    modules.insert(module.clone(), found.paths);
    for child in found.modules {
        let beside: [PathBuf; 2] =
            [directory.join(format!("{child}.rs")), directory.join(&child).join("mod.rs")];
        if let Some(path) = beside.iter().find(|path| path.is_file()) {
            let below = ModulePath(module.0.iter().cloned().chain([child.clone()]).collect());
            read(path, &directory.join(&child), &below, modules)?;
        }
    }
    Ok(())
}

/// The paths and modules that a file names.
#[derive(Default)]
struct Names {
    paths: BTreeSet<Vec<String>>,
    modules: Vec<String>,
}

impl Names {
    fn tree(&mut self, tree: &syn::UseTree, before: &[String]) {
        let with =
            |name: &syn::Ident| -> Vec<String> { before.iter().cloned().chain([name.to_string()]).collect() };
        match tree {
            syn::UseTree::Path(path) => self.tree(&path.tree, &with(&path.ident)),
            syn::UseTree::Name(name) => drop(self.paths.insert(with(&name.ident))),
            syn::UseTree::Rename(rename) => drop(self.paths.insert(with(&rename.ident))),
            syn::UseTree::Glob(_) => drop(self.paths.insert(before.to_vec())),
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.tree(item, before)),
        }
    }
}

/// Whether an item is left out of ordinary builds: tests, and imports for documentation.
fn is_left_out(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().filter(|attribute| attribute.path().is_ident("cfg")).any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else { return false };
        matches!(list.tokens.to_string().as_str(), "test" | "doc")
    })
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_left_out(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if item.content.is_none() {
            self.modules.push(item.ident.to_string());
        }
        visit::visit_item_mod(self, item);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            self.paths.insert(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }
}
