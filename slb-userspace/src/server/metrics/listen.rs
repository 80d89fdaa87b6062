//! The TCP address of the metrics. Connections are limited in number and time.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{sleep, timeout},
};

use crate::{server::connection::talk, supervised};

/// Most concurrent connections. Further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 16;
/// Time limit for a connection.
const CONNECTION: Duration = Duration::from_secs(60);
/// Pause before another attempt to bind.
const RETRY: Duration = Duration::from_secs(1);
/// Pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(100);

/// Binds the address, as soon as that is possible: it may be in use, or not yet an address of this host. Forwarding does
/// not wait for it.
async fn bound(address: SocketAddr) -> TcpListener {
    let mut is_logged = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                if is_logged {
                    tracing::info!(%address, "listening for scrapers of metrics");
                }
                return listener;
            }
            Err(error) if !is_logged => {
                is_logged = true;
                tracing::warn!(
                    %address,
                    %error,
                    "cannot listen on [daemon] metrics_address, retrying every second: free it, or write another address of \
                     this host, a port from 1024 on, or \"off\""
                );
            }
            Err(_) => {}
        }
        sleep(RETRY).await;
    }
}

/// Serves requests until dropped: one per connection.
pub(in crate::server) async fn serve(address: SocketAddr, router: &Router) {
    let listener = &bound(address).await;
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

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn address_in_use_is_bound_once_it_is_free() {
        let occupant = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = occupant.local_addr().unwrap();
        let router = Router::new().route("/metrics", get(|| async { "" }));
        let serving = tokio::spawn(async move { serve(address, &router).await });
        let (accepted, _) = tokio::join!(occupant.accept(), TcpStream::connect(address));
        accepted.unwrap();
        drop(occupant);
        let connected = timeout(Duration::from_secs(10), async {
            while TcpStream::connect(address).await.is_err() {
                sleep(PAUSE).await;
            }
        });
        connected.await.unwrap();
        serving.abort();
    }
}
