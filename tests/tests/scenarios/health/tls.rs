//! Health checks over TLS, against servers with self-made certificates next to the real ones.

use std::{io::ErrorKind, net::Ipv6Addr, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use slb_api::types::ApiHealth;
use slb_tests::{World, client::PATIENCE, net::Backend, scenario, server::Service, wait::wait_for};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};

use super::{VICTIM, WEIGHTS, used};

const PORT: u16 = 8443;
const CHECK: &str = "kind = \"https\", port = 8443, host = \"shop.example\"";
const VERIFIED: &str = "kind = \"https\", port = 8443, host = \"shop.example\", verify = true";

#[test]
fn https_check_detects_unexpected_status() {
    scenario!(&WEIGHTS, |world| {
        world.plan.checks.insert(Service::Http, CHECK);
        let mut servers = start(world, 200)?;
        world.start()?;
        used(world, Service::Http, true)?;

        replace(&mut servers[VICTIM], &world.net.backends[VICTIM], 500)?;
        let found = world.wait_for_health_of(Service::Http, VICTIM, ApiHealth::Unhealthy)?;
        let detail = found[0].detail.as_deref();
        ensure!(detail == Some("status 500, expected 2xx"), "{detail:?}");
        used(world, Service::Http, false)?;

        replace(&mut servers[VICTIM], &world.net.backends[VICTIM], 200)?;
        world.wait_for_health_of(Service::Http, VICTIM, ApiHealth::Healthy)?;
        used(world, Service::Http, true)
    });
}

#[test]
fn https_check_with_verify_rejects_self_signed_certificate() {
    scenario!(&WEIGHTS, |world| {
        world.plan.checks.insert(Service::Http, VERIFIED);
        let _servers = start(world, 200)?;
        world.start_without_waiting()?;
        // A machine without root certificates cannot probe, and logs it.
        let rootless = wait_for("the first probe", PATIENCE, || {
            let log = world.log();
            let rootless = log.contains("has no root certificates");
            Ok((rootless || log.contains("TLS: ")).then_some(rootless))
        })?;
        if rootless {
            println!("skipped: this machine has no root certificates");
            return Ok(());
        }
        let found = world.wait_for_health_of(Service::Http, VICTIM, ApiHealth::Unhealthy)?;
        let detail = found[0].detail.clone().unwrap_or_default();
        ensure!(detail.starts_with("TLS: ") && detail.contains("certificate"), "{detail:?}");
        Ok(())
    });
}

/// Starts a server on every backend.
fn start(world: &World, status: u16) -> Result<Vec<JoinHandle<()>>> {
    world.net.backends.iter().map(|backend| serve(backend, status)).collect()
}

/// Ends a server and starts another on the same port.
fn replace(server: &mut JoinHandle<()>, backend: &Backend, status: u16) -> Result<()> {
    server.abort();
    while !server.is_finished() {
        std::thread::yield_now();
    }
    *server = serve(backend, status)?;
    Ok(())
}

/// Answers every request with this status.
fn serve(backend: &Backend, status: u16) -> Result<JoinHandle<()>> {
    let made = rcgen::generate_simple_self_signed(["shop.example".to_owned()])?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).ok().context("a key")?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    // The last server's socket may live for a moment, such as in a process that is just being started.
    let listener = wait_for("the port to be free", PATIENCE, || {
        let bind = async { TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).await };
        match backend.namespace.block_on(bind) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => Ok(None),
            bound => Ok(Some(bound?)),
        }
    })?;
    Ok(backend.namespace.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A probe that rejects the certificate ends the handshake here.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let answer = format!("HTTP/1.1 {status} Status\r\n\r\n");
            if stream.read(&mut [0; 1_024]).await.is_ok() && stream.write_all(answer.as_bytes()).await.is_ok()
            {
                let _ = stream.flush().await;
                let _ = stream.read(&mut [0; 1]).await;
            }
        }
    }))
}
