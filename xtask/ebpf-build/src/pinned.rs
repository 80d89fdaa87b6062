//! The versions that `xtask/bpf-toolchain.toml` pins: what `cargo xtask setup` installs.

/// The file, as of the build of this crate.
const TEXT: &str = include_str!("../../bpf-toolchain.toml");

/// The pinned toolchain of rustup, without the host's triple: `nightly-YEAR-MONTH-DAY`.
#[must_use]
pub fn toolchain() -> &'static str {
    value("toolchain")
}

/// Version of bpf-linker that is built from source.
#[must_use]
pub fn linker() -> &'static str {
    value("linker")
}

/// Version of bpf-linker whose finished binary contains the LLVM of the pinned toolchain.
#[must_use]
pub fn linker_binary() -> &'static str {
    value("linker_binary")
}

/// Whether rustup's toolchain `name` is the pinned one, for any host.
#[must_use]
pub fn is_toolchain(name: &str) -> bool {
    name.strip_prefix(toolchain()).is_some_and(|host| host.is_empty() || host.starts_with('-'))
}

/// Value of a key. A missing key is an empty string; a test reads all keys.
fn value(key: &str) -> &'static str {
    let of_key = |line: &'static str| line.strip_prefix(key)?.trim_start().strip_prefix('=');
    TEXT.lines().find_map(of_key).unwrap_or_default().trim().trim_matches('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toolchain_is_a_nightly_of_one_day() {
        let date = toolchain().strip_prefix("nightly-").unwrap();
        let lengths: Vec<usize> = date.split('-').map(str::len).collect();
        assert_eq!(lengths, [4, 2, 2], "{date}");
        assert!(date.split('-').all(|part| part.parse::<u32>().is_ok()), "{date}");
    }

    #[test]
    fn linkers_are_full_versions() {
        for version in [linker(), linker_binary()] {
            let parts: Vec<Result<u32, _>> = version.split('.').map(str::parse).collect();
            assert!(parts.len() == 3 && parts.iter().all(Result::is_ok), "{version:?}");
        }
    }

    #[test]
    fn other_toolchains_are_not_the_pinned_one() {
        assert!(is_toolchain(toolchain()));
        assert!(is_toolchain(&format!("{}-x86_64-unknown-linux-gnu", toolchain())));
        for other in
            ["nightly-x86_64-unknown-linux-gnu", "nightly", "nightly-2026-01-01-x86_64-unknown-linux-gnu"]
        {
            assert!(!is_toolchain(other), "{other}");
        }
        assert!(!is_toolchain(&format!("{}0", toolchain())));
    }
}
