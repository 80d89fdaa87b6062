//! `slb import`: turns the configuration of another load balancer into one of SLB.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Subcommand;
use glob::{MatchOptions, Pattern};
use slb_config::LoadedConfig;
use slb_control::map_limits;
use slb_import::{Budget, Files, Format, NoteKind};

/// Largest file, in bytes, as of a configuration of SLB.
const MAX_BYTES: u64 = 16 << 20;

/// Patterns of `include` match as `glob(3)` does: no hidden file, and no slash.
const AS_IN_SHELLS: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// What is imported.
#[derive(Subcommand)]
pub enum Command {
    /// Virtual servers of a keepalived.conf, and of the files that it includes.
    Keepalived {
        /// The file; - for standard input.
        file: PathBuf,
    },
    /// Output of `ipvsadm -S -n`.
    Ipvsadm {
        /// The file; - for standard input.
        file: PathBuf,
    },
    /// Frontends, backends and listen sections of mode tcp of a haproxy.cfg.
    Haproxy {
        /// The file; - for standard input.
        file: PathBuf,
    },
    /// Servers and upstreams of the stream block of an nginx.conf, and of the files that it includes.
    Nginx {
        /// The file; - for standard input.
        file: PathBuf,
    },
}

/// Writes the configuration to standard output. What was left out is counted on standard error. After an error standard
/// output is empty.
pub fn import(command: &Command) -> ExitCode {
    let (format, file) = match command {
        Command::Keepalived { file } => (Format::Keepalived, file),
        Command::Ipvsadm { file } => (Format::Ipvsadm, file),
        Command::Haproxy { file } => (Format::Haproxy, file),
        Command::Nginx { file } => (Format::Nginx, file),
    };
    let (toml, summary) = match converted(format, file) {
        Ok(converted) => converted,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = io::stdout().write_all(toml.as_bytes()) {
        eprintln!("error: the configuration cannot be written: {error}");
        return ExitCode::FAILURE;
    }
    eprintln!("{summary}");
    ExitCode::SUCCESS
}

/// Returns the configuration and a summary, or an error in whole lines.
fn converted(format: Format, file: &Path) -> Result<(String, String), String> {
    let is_stdin = file == Path::new("-");
    let name = if is_stdin { "-".to_owned() } else { file.display().to_string() };
    let text = if is_stdin {
        read("-", io::stdin().lock())?
    } else {
        let opened =
            fs::File::open(file).map_err(|error| format!("error: {name}: cannot be read: {error}"))?;
        read(&name, opened)?
    };
    let directory = if is_stdin { None } else { file.parent() };
    let includes = Includes { format, directory: directory.unwrap_or_else(|| Path::new("")) };
    let imported = slb_import::import(format, &name, &text, &includes).map_err(|error| error.to_string())?;
    let LoadedConfig { config, warnings } =
        slb_config::parse("slb.toml", &imported.toml).map_err(|error| {
            format!("{error}\n\nerror: {name}: the result is refused: please report this file")
        })?;
    map_limits::check(&config).map_err(|large| format!("error: {name}: {large}"))?;
    let count = |kind| imported.notes.iter().filter(|note| note.kind == kind).count();
    let mut summary = format!(
        "{name}: listeners: {}; left out: {}; with another meaning: {}. The comments in the result say what and why",
        imported.listeners,
        count(NoteKind::LeftOut),
        count(NoteKind::Changed),
    );
    for warning in warnings.diagnostics() {
        summary += &format!("\nwarning: {}", warning.message());
    }
    Ok((imported.toml, summary))
}

fn read(name: &str, from: impl io::Read) -> Result<String, String> {
    let mut bytes = Vec::new();
    let unreadable = |error: io::Error| format!("error: {name}: cannot be read: {error}");
    from.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!(
            "error: {name}: is larger than {} MiB: this is not a configuration file",
            MAX_BYTES >> 20
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count();
        format!("error: {name}:{line}: bytes that are no text: expected UTF-8")
    })
}

/// Reads included files of this host.
struct Includes<'p> {
    format: Format,
    /// The directory of the first file.
    directory: &'p Path,
}

impl Files for Includes<'_> {
    fn read(&self, from: &str, pattern: &str, budget: Budget) -> Result<Vec<(String, String)>, String> {
        // nginx reads them relative to the main file, keepalived to the file that includes.
        let directory = match self.format {
            Format::Nginx => self.directory,
            _ => Path::new(from).parent().unwrap_or(self.directory),
        };
        // Only `pattern` is one: the directory may have such characters in its name.
        let full = Path::new(&Pattern::escape(&directory.display().to_string())).join(pattern);
        let full = full.display().to_string();
        let paths = glob::glob_with(&full, AS_IN_SHELLS).map_err(|error| error.to_string())?;
        let mut files = Vec::new();
        let paths: Vec<PathBuf> =
            paths.take(budget.files + 1).collect::<Result<_, _>>().map_err(|error| error.to_string())?;
        if paths.len() > budget.files {
            return Err("more files than are read: 1,000 files at most".to_owned());
        }
        let mut bytes = budget.bytes;
        for path in paths {
            let name = path.display().to_string();
            let opened = fs::File::open(&path).map_err(|error| format!("{name}: {error}"))?;
            let text = read(&name, opened)?;
            bytes = bytes
                .checked_sub(text.len())
                .ok_or_else(|| format!("{name}: all files together exceed {} MiB", MAX_BYTES >> 20))?;
            files.push((name, text));
        }
        if files.is_empty() && !pattern.contains(['*', '?', '[']) {
            return Err(format!("{} does not exist", directory.join(pattern).display()));
        }
        Ok(files)
    }
}
