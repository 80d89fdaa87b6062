//! `slb reload`, `diff`, `apply`, `confirm`.

use std::{path::Path, time::Duration};

use anyhow::{Result, bail};

use crate::{
    api::{
        client::{self, Refused},
        types::{Changed, Differences, Text},
    },
    config,
};

/// Has the daemon read its file again and put it in force.
pub async fn reload(socket: &Path) -> Result<()> {
    shown(&client::post(socket, "/v1/reload", &()).await?);
    Ok(())
}

/// Shows what would change if a file, or the daemon's own, were put in force.
pub async fn diff(socket: &Path, file: Option<&Path>) -> Result<()> {
    let text = match file {
        Some(file) => read(file, None)?,
        None => Text::default(),
    };
    let Differences { changes, refused, warnings } = client::post(socket, "/v1/diff", &text).await?;
    warn(&warnings);
    if changes.is_empty() {
        println!("no difference");
    }
    changes.iter().for_each(|change| println!("{change}"));
    match refused {
        Some(why) => Err(Refused(format!("{why}\nthis would be refused")).into()),
        None => Ok(()),
    }
}

/// Puts a file in force without writing it to the daemon's.
pub async fn apply(socket: &Path, file: &Path, confirm_within: Option<Duration>) -> Result<()> {
    if confirm_within.is_some_and(|limit| limit.subsec_nanos() != 0 || limit.is_zero()) {
        bail!("--confirm-within: whole seconds are counted, from 1 s on: for example `--confirm-within 60s`");
    }
    let changed: Changed = client::post(socket, "/v1/apply", &read(file, confirm_within)?).await?;
    shown(&changed);
    match changed.confirm_within_seconds {
        Some(seconds) => println!("it falls back in {seconds} s unless `slb confirm` comes"),
        None => println!("it is in force until the daemon is started again or reads its own file"),
    }
    Ok(())
}

/// Keeps the configuration that would fall back.
pub async fn confirm(socket: &Path) -> Result<()> {
    let Changed { changes, .. } = client::post(socket, "/v1/confirm", &()).await?;
    changes.iter().for_each(|change| println!("{change}"));
    println!("confirmed: in force until the daemon is started again or reads its own file");
    Ok(())
}

fn read(file: &Path, confirm_within: Option<Duration>) -> Result<Text> {
    let text = config::text(file).map_err(|rejected| Refused(rejected.to_string()))?;
    Ok(Text {
        name: Some(file.display().to_string()),
        text: Some(text),
        confirm_within_seconds: confirm_within.map(|limit| limit.as_secs()),
    })
}

pub(super) fn shown(changed: &Changed) {
    warn(&changed.warnings);
    if changed.changes.is_empty() {
        println!("no difference to what was in force");
    }
    changed.changes.iter().for_each(|change| println!("{change}"));
}

fn warn(warnings: &str) {
    if !warnings.is_empty() {
        eprintln!("{warnings}\n");
    }
}
