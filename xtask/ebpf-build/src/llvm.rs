//! LLVM of compilers and linkers: the library of a compiler, and the version in a bpf-linker.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Oldest major version that is looked for in a linker: it tells versions from other numbers after "LLVM".
const OLDEST: u32 = 15;

/// The shared library of LLVM below the prefix of a compiler: rustup's are named `libLLVM.so.22.1-rust-1.97.0-nightly`.
/// `None` if LLVM is part of the compiler.
#[must_use]
pub fn library(prefix: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(prefix.join("lib")).ok()?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let name = names.filter(|name| name.starts_with("libLLVM.so.")).min()?;
    Some(prefix.join("lib").join(name))
}

/// Major version of LLVM in a linker's file. A linker with LLVM inside holds `LLVM22.1.8`, with which it marks its
/// output; another one names the library: `libLLVM.so.22.1`. `None` if the linker loads its compiler's LLVM, or the
/// file cannot be read.
#[must_use]
pub fn of_linker(path: &Path) -> Option<u32> {
    version(&fs::read(path).ok()?)
}

fn version(bytes: &[u8]) -> Option<u32> {
    let mut rest = bytes;
    while let Some(start) = rest.iter().position(|byte| *byte == b'L') {
        rest = &rest[start + 1..];
        if let Some(after) = rest.strip_prefix(b"LVM")
            && let Some(major) = major(after.strip_prefix(b".so.").unwrap_or(after))
        {
            return Some(major);
        }
    }
    None
}

/// The number before the first dot, if it can be a version of LLVM.
fn major(text: &[u8]) -> Option<u32> {
    let digits = text.iter().take(4).position(|byte| *byte == b'.')?;
    let number: u32 = std::str::from_utf8(&text[..digits]).ok()?.parse().ok()?;
    (number >= OLDEST).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_of_llvm_is_found_in_both_kinds_of_linkers() {
        assert_eq!(version(b"\0libLLVM.so.22.1-rust-1.97.0-nightly\0"), Some(22));
        assert_eq!(version(b"\0LLVM 22 builds\0LLVM3.2\0LLVM23.1.4-rust-1.101.0-nightly\0"), Some(23));
        for unknown in [&b"LLLVM"[..], b"LLVM", b"LLVM.so.", b"LLVM22", b"LLVM.so.x.1", b"llvm22.1"] {
            assert_eq!(version(unknown), None, "{unknown:?}");
        }
    }

    #[test]
    fn library_is_the_file_with_the_full_name() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(library(root.path()), None);
        let lib = root.path().join("lib");
        fs::create_dir(&lib).unwrap();
        assert_eq!(library(root.path()), None);
        for name in ["libLLVM-22-rust-1.97.0-nightly.so", "libLLVM.so.22.1-rust-1.97.0-nightly"] {
            fs::write(lib.join(name), "").unwrap();
        }
        assert_eq!(library(root.path()), Some(lib.join("libLLVM.so.22.1-rust-1.97.0-nightly")));
    }
}
