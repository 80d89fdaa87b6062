//! The TCP address of the metrics. Connections are limited in number and time.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

use crate::supervised;

/// Most concurrent connections. Further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 16;
/// Time limit for the head of a request.
const HEAD: Duration = Duration::from_secs(2);
/// Time limit for a connection.
const CONNECTION: Duration = Duration::from_secs(60);
/// Pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(100);

/// Binds the address.
///
/// # Errors
/// It is in use, or none of this host.
pub(in crate::server) async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!(
            "cannot listen on [daemon] metrics_address = \"{address}\": free it, or write another address of this host, \
             a port from 1024 on, or \"off\""
        )
    })
}

/// Serves requests until dropped: one per connection.
pub(in crate::server) async fn serve(listener: &TcpListener, router: &Router) {
    while supervised::attempt("metrics", answer(listener, router)).await.is_none() {
        sleep(supervised::RESTART_PAUSE).await;
    }
}

async fn answer(listener: &TcpListener, router: &Router) -> Infallible {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        // The semaphore is never closed.
        let permit = Arc::clone(&permits).acquire_owned().await;
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                connections.spawn(async move {
                    let _place = permit;
                    let _ = timeout(CONNECTION, talk(stream, router)).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection for metrics");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn talk(stream: TcpStream, router: Router) {
    let talking = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = talking.await {
        tracing::debug!(%error, "a connection for metrics has ended early");
    }
}
