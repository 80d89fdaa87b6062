//! `cargo xtask build-ebpf`: builds the XDP program and says what is in it.

use anyhow::{Result, anyhow};
use ebpf_build::Build;

use crate::process::{target_dir, workspace};

/// Builds the XDP program and prints path, size, programs, maps.
pub(crate) fn run(debug_log: bool) -> Result<()> {
    let build = Build { workspace: workspace()?, target_dir: target_dir()?, debug_log };
    let name = if debug_log { "slb-debug-log.o" } else { "slb.o" };
    let output = build.target_dir.join(name);
    let object = build.run(&output).map_err(|message| anyhow!("{message}"))?;
    println!("object   {}", output.display());
    println!("size     {} bytes", object.size);
    println!("license  {}", object.license);
    for function in &object.functions {
        println!(
            "{}  {} (section {}): {} instructions, {} bytes of stack",
            if function.is_program() { "program" } else { "subprog" },
            function.name,
            function.section,
            function.instructions,
            function.stack,
        );
    }
    println!("maps     {}", if object.maps.is_empty() { "none".to_owned() } else { object.maps.join(", ") });
    Ok(())
}
