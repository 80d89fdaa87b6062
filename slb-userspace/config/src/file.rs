//! Reads a configuration file that only trusted users can write.
//!
//! Every check is made on the opened file, so the file cannot be replaced between check and use.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use super::ConfigError;

/// Maximum file size in bytes.
pub(super) const MAX_BYTES: u64 = 16 << 20;

/// Returns the text of a file. Pipes are allowed, so that `--config <(generator)` works.
///
/// # Errors
///
/// Every variant of [`ConfigError`] but [`ConfigError::Invalid`].
pub(super) fn read(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |error: io::Error| ConfigError::Unreadable { path: path.to_owned(), error };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(ConfigError::Directory { path: path.to_owned() });
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if metadata.is_file() && mode & 0o002 != 0 {
        return Err(ConfigError::WorldWritable { path: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    // One byte more than allowed reveals a file that is too large, whatever its metadata says.
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(ConfigError::TooLarge { path: path.to_owned() });
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count();
        ConfigError::NotText { path: path.to_owned(), line }
    })
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        path::PathBuf,
    };

    use tempfile::TempDir;

    use super::*;

    fn written(bytes: &[u8], mode: u32) -> (TempDir, PathBuf) {
        let dir = TempDir::new().expect("temporary directory");
        let path = dir.path().join("slb.toml");
        fs::write(&path, bytes).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("permissions");
        (dir, path)
    }

    #[test]
    fn utf8_file_is_read() {
        let (_dir, path) = written("# ü\n".as_bytes(), 0o644);
        assert_eq!(read(&path).expect("readable"), "# ü\n");
    }

    #[test]
    fn missing_file_gives_path_and_reason() {
        let dir = TempDir::new().expect("temporary directory");
        let path = dir.path().join("absent.toml");
        let text = read(&path).expect_err("absent").to_string();
        assert!(text.contains("absent.toml") && text.contains("No such file"), "{text}");
    }

    #[test]
    fn directory_in_place_of_a_file_is_refused() {
        let dir = TempDir::new().expect("temporary directory");
        let error = read(dir.path()).expect_err("directory");
        assert!(matches!(error, ConfigError::Directory { .. }), "{error}");
    }

    #[test]
    fn world_writable_file_is_refused_and_says_what_to_do() {
        for mode in [0o666, 0o602, 0o777] {
            let (_dir, path) = written(b"", mode);
            let text = read(&path).expect_err("refused").to_string();
            assert!(text.contains(&format!("chmod o-w {}", path.display())), "{text}");
            assert!(text.contains(&format!("{mode:04o}")), "{text}");
        }
        for mode in [0o600, 0o640, 0o664, 0o775] {
            let (_dir, path) = written(b"", mode);
            assert_eq!(read(&path).expect("allowed"), "");
        }
    }

    #[test]
    fn file_size_limit_is_exact() {
        let limit = usize::try_from(MAX_BYTES).expect("fits");
        let (_dir, path) = written(&vec![b'\n'; limit], 0o600);
        assert_eq!(read(&path).expect("allowed").len(), limit);
        let (_dir, path) = written(&vec![b'\n'; limit + 1], 0o600);
        let text = read(&path).expect_err("too large").to_string();
        assert!(text.contains("larger than 16 MiB"), "{text}");
    }

    #[test]
    fn invalid_utf8_is_refused_with_its_line() {
        let (_dir, path) = written(b"# a\n# b\n# \xff\n", 0o600);
        let error = read(&path).expect_err("not text");
        assert!(matches!(error, ConfigError::NotText { line: 3, .. }), "{error}");
    }
}
