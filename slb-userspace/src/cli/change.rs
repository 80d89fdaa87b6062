//! `slb reload`, `diff`, `apply`, `confirm`.

use std::{path::Path, pin::pin, time::Duration};

use anyhow::{Result, bail};
use tokio::time::timeout;

use crate::server::changes::lines;
use slb_api::{
    changes::{ChangeResult, DiffResult},
    client::{self, RequestRefused},
    types::{ApiPendingChange, ConfigText},
};
use slb_config as config;

/// Time after which `slb` queries what a change waits for.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Reloads the daemon's file.
pub async fn reload(socket: &Path) -> Result<()> {
    print_changes(&with_progress(socket, client::post(socket, "/v1/reload", &())).await?);
    Ok(())
}

/// Shows what would change with a file, or with the daemon's own.
pub async fn diff(socket: &Path, file: Option<&Path>) -> Result<()> {
    let text = match file {
        Some(file) => read(file, None)?,
        None => ConfigText::default(),
    };
    print_difference(client::post(socket, "/v1/diff", &text).await?)
}

/// Prints what would change.
///
/// # Errors
/// The change would be refused.
pub(super) fn print_difference(difference: DiffResult) -> Result<()> {
    let DiffResult { changes, overrides, refused, warnings } = difference;
    warn(&warnings);
    let lines = lines(&changes, &overrides);
    if lines.is_empty() {
        println!("no difference");
    }
    lines.iter().for_each(|line| println!("{line}"));
    match refused {
        Some(why) => Err(RequestRefused(format!("{why}\nthis would be refused")).into()),
        None => Ok(()),
    }
}

/// Applies a file without writing it to the daemon's file.
pub async fn apply(socket: &Path, file: &Path, confirm_within: Option<Duration>) -> Result<()> {
    if confirm_within.is_some_and(|limit| limit.subsec_nanos() != 0 || limit.is_zero()) {
        bail!("--confirm-within: whole seconds are counted, from 1 s on: for example `--confirm-within 60s`");
    }
    let text = read(file, confirm_within)?;
    let changed: ChangeResult = with_progress(socket, client::post(socket, "/v1/apply", &text)).await?;
    print_changes(&changed);
    match changed.confirm_within_seconds {
        Some(seconds) => println!("active; it rolls back in {seconds} s unless `slb confirm` follows"),
        None => println!(
            "active until slbd restarts or reloads its own file; to keep it, write it to that file (`slb status` names it)"
        ),
    }
    Ok(())
}

/// Confirms the configuration that would be rolled back.
pub async fn confirm(socket: &Path) -> Result<()> {
    let ChangeResult { changes, overrides, .. } = client::post(socket, "/v1/confirm", &()).await?;
    lines(&changes, &overrides).iter().for_each(|line| println!("{line}"));
    println!(
        "confirmed: active until slbd restarts or reloads its own file; to keep it, write it to that file (`slb status` names it)"
    );
    Ok(())
}

fn read(file: &Path, confirm_within: Option<Duration>) -> Result<ConfigText> {
    let text = config::text(file).map_err(|rejected| RequestRefused(rejected.to_string()))?;
    Ok(ConfigText {
        name: Some(file.display().to_string()),
        text: Some(text),
        confirm_within_seconds: confirm_within.map(|limit| limit.as_secs()),
    })
}

/// Waits for the answer. Meanwhile prints what the daemon waits for.
pub(super) async fn with_progress<T>(socket: &Path, answer: impl Future<Output = Result<T>>) -> Result<T> {
    let mut answer = pin!(answer);
    let mut said = Vec::new();
    loop {
        if let Ok(answered) = timeout(PATIENCE, &mut answer).await {
            return answered;
        }
        let pending = client::pending(socket).await;
        let Ok(Some(ApiPendingChange { waits_for, at_most_seconds, .. })) = pending else { continue };
        if said != waits_for && !waits_for.is_empty() {
            eprintln!(
                "waiting for {}, at most {at_most_seconds} s; the active configuration stays until then",
                waits_for.join(", ")
            );
            said = waits_for;
        }
    }
}

pub(super) fn print_changes(changed: &ChangeResult) {
    warn(&changed.warnings);
    let lines = lines(&changed.changes, &changed.overrides);
    if lines.is_empty() {
        println!("no difference to the active configuration");
    }
    lines.iter().for_each(|line| println!("{line}"));
    changed.waited.iter().for_each(|waited| println!("{waited}"));
}

fn warn(warnings: &str) {
    if !warnings.is_empty() {
        eprintln!("{warnings}\n");
    }
}
