//! Sockets of the API. They have their mode from the first moment, and are bound again if their files are removed.

use std::{
    fs,
    io::ErrorKind,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use nix::sys::stat::{Mode, umask};
use tokio::net::{UnixListener, UnixStream};

use crate::advice::{Attempt, with_advice};
use slb_config::model;

/// Mode of the full socket.
const FULL: u32 = 0o660;
/// Mode of the read-only socket.
const READ_ONLY: u32 = 0o666;

/// The sockets of the API.
pub struct Sockets {
    pub(super) full: Socket,
    pub(super) read_only: Option<Socket>,
    /// The TCP address of the metrics.
    pub(super) metrics: Option<SocketAddr>,
}

impl Sockets {
    /// Binds the sockets.
    ///
    /// # Errors
    /// Another daemon answers on a socket, or another file is in its place.
    pub async fn bind(daemon: &model::DaemonConfig) -> Result<Self> {
        let full = Socket::bind(&daemon.socket, FULL, "socket").await?;
        let read_only = match &daemon.read_only_socket {
            Some(path) => Some(Socket::bind(path, READ_ONLY, "read_only_socket").await?),
            None => None,
        };
        Ok(Self { full, read_only, metrics: daemon.metrics_address })
    }
}

/// A bound socket. Dropping it removes its file.
pub(super) struct Socket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    mode: u32,
    /// Device and inode of its file.
    file: (u64, u64),
    /// Why it has no file now, if so.
    trouble: Option<String>,
}

impl Socket {
    /// Binds a socket. Replaces the file of a killed daemon, but not of one that answers.
    async fn bind(path: &Path, mode: u32, setting: &str) -> Result<Self> {
        match UnixStream::connect(path).await {
            Ok(_) => bail!(
                "another daemon answers on {}: stop it, or set [daemon] {setting} to another path",
                path.display()
            ),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.kind() == ErrorKind::ConnectionRefused && is_socket(path)? => {
                fs::remove_file(path)
                    .with_context(|| format!("cannot remove the old socket {}", path.display()))?;
            }
            Err(error) => {
                return Err(error).with_context(|| {
                    format!(
                        "{} is in the way: remove it, or set [daemon] {setting} to another path",
                        path.display()
                    )
                });
            }
        }
        let (listener, file) = listen(path, mode)?;
        Ok(Self { listener, path: path.to_owned(), mode, file, trouble: None })
    }

    /// Binds the socket again if its file is gone. Another file in its place is not touched.
    pub(super) fn restore(&mut self) {
        let trouble = match identity(&self.path) {
            Ok(file) if file == self.file => None,
            Ok(_) => Some("another file is in its place: remove that".to_owned()),
            Err(_) => match listen(&self.path, self.mode) {
                Ok((listener, file)) => {
                    (self.listener, self.file) = (listener, file);
                    tracing::warn!(socket = %self.path.display(), "the API's socket was removed; it is bound again");
                    None
                }
                Err(error) => Some(format!("it was removed and cannot be bound again: {error:#}")),
            },
        };
        if let Some(why) = trouble.as_ref().filter(|_| trouble != self.trouble) {
            tracing::error!(socket = %self.path.display(), why, "no API on its socket; retrying");
        }
        self.trouble = trouble;
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            // A file that is already gone is fine.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds and listens on an unused path.
fn listen(path: &Path, mode: u32) -> Result<(UnixListener, (u64, u64))> {
    if let Some(parent) = path.parent() {
        let made = fs::create_dir_all(parent).map_err(|error| with_advice(error.into(), Attempt::Write));
        made.with_context(|| format!("cannot make {}", parent.display()))?;
    }
    // Between bind and chmod only this user can connect. The umask applies to the whole process: files that other
    // threads create meanwhile are for this user only too.
    let before = umask(Mode::S_IRWXG | Mode::S_IRWXO);
    let bound = UnixListener::bind(path);
    umask(before);
    let listener = bound
        .map_err(|error| with_advice(error.into(), Attempt::Bind))
        .with_context(|| format!("cannot bind {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok((listener, identity(path)?))
}

fn identity(path: &Path) -> Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

fn is_socket(path: &Path) -> Result<bool> {
    Ok(fs::symlink_metadata(path)?.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bind_refuses_to_replace_a_file_that_is_not_a_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("precious.txt");
        fs::write(&path, "mine").unwrap();
        let error = Socket::bind(&path, FULL, "socket").await.err().unwrap();
        assert!(format!("{error:#}").contains("is in the way"), "{error:#}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }

    #[tokio::test]
    async fn stale_socket_is_replaced_and_active_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("slbd.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let first = Socket::bind(&path, FULL, "socket").await.unwrap();
        let error = Socket::bind(&path, FULL, "socket").await.err().unwrap();
        assert!(error.to_string().contains("another daemon answers"), "{error:#}");
        drop(first);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn removed_socket_file_is_bound_again_unless_another_file_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub/slbd.sock");
        let mut socket = Socket::bind(&path, FULL, "socket").await.unwrap();
        fs::remove_dir_all(directory.path().join("sub")).unwrap();
        socket.restore();
        UnixStream::connect(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, FULL);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        socket.restore();
        assert!(socket.trouble.as_deref().is_some_and(|why| why.contains("another file")));
        drop(socket);
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }

    /// Watches a path while sockets are bound there repeatedly.
    #[tokio::test]
    async fn socket_permissions_never_exceed_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("slbd.sock");
        let watched = path.clone();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let watcher = std::thread::spawn(move || {
            let mut seen = 0;
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                seen |= fs::metadata(&watched).map_or(0, |file| file.permissions().mode() & 0o777);
            }
            seen
        });
        for _ in 0..2_000 {
            drop(Socket::bind(&path, FULL, "socket").await.unwrap());
        }
        drop(stop);
        let seen = watcher.join().unwrap();
        assert_ne!(seen, 0, "the watcher has seen no socket");
        assert_eq!(seen & 0o077 & !FULL, 0, "{seen:o}");
    }
}
