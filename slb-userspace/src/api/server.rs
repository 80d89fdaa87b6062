//! Serves the API on a unix socket.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use axum::{Json, Router, extract::State as Shared, http::StatusCode, routing::get};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
};

use super::{
    status::{Context, Details, status},
    types::{Daemon, Status},
};
use crate::{
    dataplane::{bpf::maps::Maps, state::State},
    neigh,
};

/// What the control loop last put in force.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// What the data plane holds.
    pub state: Arc<State>,
    /// Why servers are in the state they are in.
    pub details: Details,
}

/// The socket; its file goes with it.
pub struct Socket {
    listener: Option<UnixListener>,
    path: PathBuf,
}

impl Socket {
    /// Binds the socket. A file left by a daemon that was killed is replaced; one that answers is not.
    pub async fn bind(path: &Path) -> Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        }
        match UnixStream::connect(path).await {
            Ok(_) => bail!(
                "another daemon answers on {}: stop it, or set [daemon] socket to another path",
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
                        "{} is in the way: remove it, or set [daemon] socket to another path",
                        path.display()
                    )
                });
            }
        }
        let listener = UnixListener::bind(path).with_context(|| format!("cannot bind {}", path.display()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
        Ok(Self { listener: Some(listener), path: path.to_owned() })
    }

    /// Answers until the future is dropped. To be called once.
    pub fn serve(
        &mut self,
        maps: Maps,
        snapshots: watch::Receiver<Arc<Snapshot>>,
    ) -> Result<impl Future<Output = Result<()>> + use<>> {
        let Some(listener) = self.listener.take() else { bail!("the API is served already") };
        let api = Arc::new(Api { maps, snapshots, started: Instant::now() });
        let router = Router::new().route("/v1/status", get(serve_status)).with_state(api);
        Ok(async { Ok(axum::serve(listener, router).await?) })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = fs::remove_file(&self.path);
    }
}

fn is_socket(path: &Path) -> Result<bool> {
    Ok(fs::symlink_metadata(path)?.file_type().is_socket())
}

struct Api {
    maps: Maps,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    started: Instant,
}

async fn serve_status(Shared(api): Shared<Arc<Api>>) -> Result<Json<Status>, (StatusCode, String)> {
    let failed = |error: anyhow::Error| (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}"));
    let interfaces = neigh::links().await.map_err(failed)?;
    let snapshot = Arc::clone(&api.snapshots.borrow());
    let daemon = Daemon {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: api.started.elapsed().as_secs(),
    };
    let context = Context { daemon: Some(daemon), details: &snapshot.details, interfaces: &interfaces };
    status(&snapshot.state, &api.maps, context).map(Json).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_is_not_a_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("precious.txt");
        fs::write(&path, "mine").unwrap();
        let error = Socket::bind(&path).await.err().unwrap();
        assert!(format!("{error:#}").contains("is in the way"), "{error:#}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }

    #[tokio::test]
    async fn a_socket_nobody_listens_on_is_replaced_and_a_living_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("slbd.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let first = Socket::bind(&path).await.unwrap();
        let error = Socket::bind(&path).await.err().unwrap();
        assert!(error.to_string().contains("another daemon answers"), "{error:#}");
        drop(first);
        assert!(!path.exists());
    }
}
