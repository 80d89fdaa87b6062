//! `slbd check`: validates a configuration.

use std::{
    env,
    io::{self, IsTerminal},
    path::Path,
    process::ExitCode,
};

use slb_config as config;
use slb_config::{Config, ConfigError, LoadedConfig};
use slb_control::map_limits;

/// Validates a configuration file. Prints one line on standard output if it is valid; warnings and errors go to
/// standard error.
///
/// Uses colours on a terminal unless `NO_COLOR` is set and not empty (no-color.org).
pub fn check(path: &Path) -> ExitCode {
    let colour = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    match check_file(path, colour) {
        Ok(CheckOutcome { summary, warnings }) => {
            eprint!("{warnings}");
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(errors) => {
            eprint!("{errors}");
            ExitCode::FAILURE
        }
    }
}

/// Output for a valid configuration.
struct CheckOutcome {
    /// Its content in one line.
    summary: String,
    /// Warnings in whole lines.
    warnings: String,
}

/// Returns the output, or the errors in whole lines.
fn check_file(path: &Path, colour: bool) -> Result<CheckOutcome, String> {
    let shown = path.display();
    match config::load(path) {
        Ok(LoadedConfig { config, warnings }) => {
            if let Err(large) = map_limits::check(&config) {
                let count = counted(large.exceeded_limits().len(), "error");
                return Err(format!("error: {large}\n\n{shown}: refused: {count}\n"));
            }
            let count = warnings.diagnostics().len();
            let (noted, warnings) = match count {
                0 => (String::new(), String::new()),
                _ => {
                    (format!(" ({})", counted(count, "warning")), format!("{}\n\n", warnings.render(colour)))
                }
            };
            Ok(CheckOutcome { summary: format!("{shown}: ok: {}{noted}", summary(&config)), warnings })
        }
        Err(ConfigError::Invalid(report)) => {
            let count = counted(report.diagnostics().len(), "error");
            Err(format!("{}\n\n{shown}: refused: {count}\n", report.render(colour)))
        }
        Err(rejected) => Err(format!("{rejected}\n")),
    }
}

/// Summarizes a configuration by numbers.
fn summary(config: &Config) -> String {
    let balancers = &config.load_balancers;
    let servers = balancers.iter().map(|balancer| balancer.servers.len()).sum::<usize>()
        + config.server_groups.iter().map(|group| group.servers.len()).sum::<usize>();
    [
        counted(balancers.len(), "load balancer"),
        counted(balancers.iter().map(|balancer| balancer.listeners.len()).sum(), "listener"),
        counted(config.server_groups.len(), "server group"),
        counted(servers, "server"),
    ]
    .join(", ")
}

fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::PermissionsExt,
        path::PathBuf,
    };

    use tempfile::TempDir;

    use super::*;

    fn written(text: &str) -> (TempDir, PathBuf) {
        let dir = TempDir::new().expect("temporary directory");
        let path = dir.path().join("slb.toml");
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("permissions");
        (dir, path)
    }

    #[test]
    fn check_accepts_the_shipped_example() {
        let (_dir, path) = written(include_str!("../../../config/slb.toml"));
        let verdict = check_file(&path, false).expect("ok");
        let holds = "ok: 2 load balancers, 3 listeners, 1 server group, 5 servers";
        assert_eq!(verdict.summary, format!("{}: {holds}", path.display()));
        assert_eq!(verdict.warnings, "");
    }

    #[test]
    fn check_shows_and_counts_warnings() {
        let (_dir, path) = written("[daemon]\ninterfaces = [\"eth0\"]\n");
        let verdict = check_file(&path, false).expect("ok");
        assert!(
            verdict
                .summary
                .ends_with("ok: 0 load balancers, 0 listeners, 0 server groups, 0 servers (1 warning)")
        );
        assert!(verdict.warnings.starts_with("warning: there is no load balancer"), "{}", verdict.warnings);
        assert!(verdict.warnings.ends_with("\n\n"), "{:?}", verdict.warnings);
    }

    #[test]
    fn check_shows_and_counts_errors() {
        let (_dir, path) = written("[daemon]\ninterfaces = []\nhash_seed = -1\n");
        let errors = check_file(&path, false).err().expect("refused");
        assert!(errors.contains(&format!("--> {}:2:14\n", path.display())), "{errors}");
        assert!(errors.ends_with(&format!("\n\n{}: refused: 2 errors\n", path.display())), "{errors}");
        assert!(check_file(&path, true).err().expect("refused").contains('\u{1b}'));
    }

    /// As `slbd run` and `slb reload`.
    #[test]
    fn check_refuses_a_configuration_beyond_the_map_size() {
        let listener = |port: u32| {
            format!(
                "[[load_balancer.listener]]\nname = \"l{port}\"\nprotocol = \"tcp\"\nport = {port}\ndefault_group_port = 80\n"
            )
        };
        let listeners: String = (1..=50).map(listener).collect();
        let balancer = |n: u32| {
            format!(
                "[[load_balancer]]\nname = \"lb{n}\"\naddresses = [\"192.0.2.{n}\"]\n[[load_balancer.server]]\n\
                 address = \"10.0.0.1\"\n{listeners}"
            )
        };
        let balancers: String = (1..=100).map(balancer).collect();
        let (_dir, path) = written(&format!("[daemon]\ninterfaces = [\"eth0\"]\n{balancers}"));
        let errors = check_file(&path, false).err().expect("refused");
        assert!(
            errors.starts_with("error: the configuration needs 5100 services, and the maps hold 4096 ("),
            "{errors}"
        );
        assert!(errors.ends_with(&format!("\n\n{}: refused: 1 error\n", path.display())), "{errors}");
        assert_eq!(check(&path), ExitCode::FAILURE);
    }

    #[test]
    fn check_of_a_missing_file_is_an_error() {
        let (dir, _) = written("");
        let errors = check_file(&dir.path().join("absent"), false).err().expect("refused");
        assert!(errors.contains("cannot be read") && errors.ends_with('\n'), "{errors}");
    }

    #[test]
    fn check_exit_code_reports_the_result() {
        let (_dir, path) = written("[daemon]\ninterfaces = [\"eth0\"]\n");
        assert_eq!(check(&path), ExitCode::SUCCESS);
        assert_eq!(check(&path.with_extension("absent")), ExitCode::FAILURE);
    }
}
