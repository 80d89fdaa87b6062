//! Puts the XDP program into `OUT_DIR` as `slb.o`, built anew only when its sources have changed.

use std::{env, path::PathBuf};

use ebpf_build::{Build, OBJECTS_VARIABLE, SLB};

fn main() {
    if let Err(message) = object() {
        message.lines().for_each(|line| println!("cargo::error={line}"));
    }
}

fn object() -> Result<(), String> {
    let manifest_dir = directory("CARGO_MANIFEST_DIR")?;
    let out_dir = directory("OUT_DIR")?;
    let workspace = manifest_dir.parent().ok_or("slb-userspace is not inside its workspace")?.to_path_buf();

    println!("cargo::rerun-if-changed=build.rs");
    for input in ebpf_build::inputs() {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }
    println!("cargo::rerun-if-env-changed={OBJECTS_VARIABLE}");
    if let Some(own) = ebpf_build::own_objects() {
        println!("cargo::rerun-if-changed={}", own.display());
    }

    let target_dir = ebpf_build::target_dir(&out_dir).unwrap_or_else(|| out_dir.clone());
    let debug_log = env::var_os("CARGO_FEATURE_DEBUG_LOG").is_some();
    Build { workspace, target_dir, debug_log }.run(&[SLB], &out_dir).map(drop)
}

fn directory(variable: &str) -> Result<PathBuf, String> {
    env::var_os(variable).map(PathBuf::from).ok_or_else(|| format!("cargo has not set {variable}"))
}
