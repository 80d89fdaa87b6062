//! `cargo xtask build-ebpf`: builds the XDP programs and prints their contents.

use std::fs;

use anyhow::{Result, anyhow};
use ebpf_build::{Build, PACKAGES, elf::Object};

use crate::process::{target_dir, workspace};

/// Builds the XDP programs, and prints path, size, programs and maps.
pub(crate) fn run(debug_log: bool) -> Result<()> {
    let build = Build { workspace: workspace()?, target_dir: target_dir()?, debug_log };
    let directory = build.target_dir.join(if debug_log { "objects-debug-log" } else { "objects" });
    fs::create_dir_all(&directory)?;
    for package in PACKAGES {
        let objects = build.run(package, &directory).map_err(|message| anyhow!("{message}"))?;
        for (name, object) in package.programs.iter().zip(&objects) {
            println!("object   {}", directory.join(format!("{name}.o")).display());
            describe(object);
        }
    }
    Ok(())
}

fn describe(object: &Object) {
    println!("size     {} bytes", object.size);
    println!("license  {}", object.license);
    for function in &object.functions {
        println!(
            "{}  {} (section {}): {} instructions, {} bytes of stack, {} with its calls",
            if function.is_program() { "program" } else { "subprog" },
            function.name,
            function.section,
            function.instructions,
            function.stack,
            function.deepest_chain,
        );
    }
    println!("maps     {}", if object.maps.is_empty() { "none".to_owned() } else { object.maps.join(", ") });
}
