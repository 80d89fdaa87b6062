//! Modules of a kernel in load order.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};

/// Paths of modules and all their dependencies below `directory`, by `modules.dep`, dependencies first. Built-in
/// modules are left out.
pub(super) fn in_order(directory: &Path, names: &[&str]) -> Result<Vec<String>> {
    let read = |file: &str| {
        let path = directory.join(file);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    order(&read("modules.dep")?, &read("modules.builtin")?, names)
}

fn order(dependencies: &str, builtin: &str, names: &[&str]) -> Result<Vec<String>> {
    let mut ordered: Vec<String> = Vec::new();
    for name in names {
        if builtin.lines().any(|path| is_of(path, name)) {
            continue;
        }
        let line =
            dependencies.lines().find(|line| line.split_once(':').is_some_and(|(path, _)| is_of(path, name)));
        let Some((module, needed)) = line.and_then(|line| line.split_once(':')) else {
            bail!("the kernel has no module {name}");
        };
        // `modules.dep` lists dependencies of a module in reverse load order.
        let needed = needed.split_whitespace().rev();
        for path in needed.chain([module]) {
            if !ordered.iter().any(|known| known == path) {
                ordered.push(path.to_owned());
            }
        }
    }
    Ok(ordered)
}

/// Whether `path` is the file of module `name`, compressed or not.
fn is_of(path: &str, name: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split_once(".ko").is_some_and(|(stem, _)| stem == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_dependencies_are_loaded_first() {
        let dependencies = "k/fou6.ko.xz: k/fou.ko.xz k/udp_tunnel.ko.xz\nk/fou.ko.xz: k/udp_tunnel.ko.xz\nk/udp_tunnel.ko.xz:\n";
        let order = order(dependencies, "k/virtio_pci.ko\n", &["fou", "virtio_pci", "fou6"]).unwrap();
        assert_eq!(order, ["k/udp_tunnel.ko.xz", "k/fou.ko.xz", "k/fou6.ko.xz"]);
    }

    #[test]
    fn missing_kernel_module_is_named() {
        let error = order("k/fou.ko:\n", "", &["fo"]).unwrap_err().to_string();
        assert_eq!(error, "the kernel has no module fo");
    }
}
