//! QUIC endpoints: servers that write their IDs into connection IDs, and clients that change their addresses.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use quinn::{
    ClientConfig, Connection, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, ServerConfig,
    TokioRuntime,
    rustls::{
        RootCertStore,
        pki_types::{CertificateDer, PrivateKeyDer},
    },
};
use tokio::{runtime::Runtime, time::timeout};

const NAME: &str = "server.example";
/// How long a client waits for an answer. A connection whose packets reach another server gets none.
const PATIENCE: Duration = Duration::from_secs(5);
/// The config rotation of the listener, in the upper three bits of the first octet.
const CONFIG_ROTATION: u8 = 3 << 5;
/// Octets after the server ID.
const NONCE: usize = 8;
/// Most bytes of an answer.
const ANSWER: usize = 256;

/// Certificate and key of all servers.
pub(super) struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    pub(super) fn new() -> Result<Self> {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).ok().context("a key")?;
        Ok(Self { certificate: made.cert.der().clone(), key })
    }
}

/// Connection IDs of a server: config rotation, server ID of two octets, nonce.
struct Generator {
    server_id: u16,
    nonce: u64,
}

impl ConnectionIdGenerator for Generator {
    fn generate_cid(&mut self) -> ConnectionId {
        self.nonce += 1;
        let id = self.server_id.to_be_bytes();
        ConnectionId::new(&[&[CONFIG_ROTATION | 0x0a][..], &id, &self.nonce.to_be_bytes()].concat())
    }

    fn cid_len(&self) -> usize {
        1 + size_of::<u16>() + NONCE
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Starts a server. It answers each stream with its name and the client's address.
pub(super) fn serve(
    runtime: &Runtime,
    socket: UdpSocket,
    identity: &Identity,
    id: u32,
    name: &str,
) -> Result<()> {
    let server_id = u16::try_from(id)?;
    let mut config = EndpointConfig::default();
    config.cid_generator(move || Box::new(Generator { server_id, nonce: 0 }));
    let server =
        ServerConfig::with_single_cert(vec![identity.certificate.clone()], identity.key.clone_key())?;
    let _guard = runtime.enter();
    let endpoint = Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime))?;
    let name = name.to_owned();
    runtime.spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let name = name.clone();
            tokio::spawn(async move {
                let Ok(connection) = incoming.await else { return };
                // A stream fails when its client has gone.
                while answer(&connection, &name).await.is_ok() {}
            });
        }
    });
    Ok(())
}

async fn answer(connection: &Connection, name: &str) -> Result<()> {
    let (mut to, mut from) = connection.accept_bi().await?;
    from.read_to_end(ANSWER).await?;
    to.write_all(format!("{name} {}", connection.remote_address()).as_bytes()).await?;
    to.finish()?;
    Ok(())
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) server: String,
    /// The client's endpoint, as the server sees it.
    pub(super) client: String,
}

/// A client with one connection.
pub(super) struct QuicClient {
    /// Its first address.
    pub(super) source: IpAddr,
    /// The first answer.
    pub(super) answer: Answer,
    endpoint: Endpoint,
    connection: Connection,
}

impl QuicClient {
    pub(super) async fn connect(socket: UdpSocket, target: SocketAddr, identity: &Identity) -> Result<Self> {
        let source = socket.local_addr()?.ip();
        let mut roots = RootCertStore::empty();
        roots.add(identity.certificate.clone())?;
        let config = ClientConfig::with_root_certificates(Arc::new(roots))?;
        let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))?;
        let connecting = endpoint.connect_with(config, target, NAME)?;
        let connection = timeout(PATIENCE, connecting).await.context("no connection in time")??;
        let answer = ask(connection.clone()).await?;
        Ok(Self { source, answer, endpoint, connection })
    }

    /// Continues the connection from another socket.
    pub(super) fn rebind(&self, socket: UdpSocket) -> Result<()> {
        Ok(self.endpoint.rebind(socket)?)
    }

    /// Asks the server once more.
    pub(super) fn ask(&self) -> impl Future<Output = Result<Answer>> + Send + use<> {
        ask(self.connection.clone())
    }
}

async fn ask(connection: Connection) -> Result<Answer> {
    let exchange = async {
        let (mut to, mut from) = connection.open_bi().await?;
        to.write_all(b"?").await?;
        to.finish()?;
        anyhow::Ok(from.read_to_end(ANSWER).await?)
    };
    let text = String::from_utf8(timeout(PATIENCE, exchange).await.context("no answer in time")??)?;
    let (server, client) = text.split_once(' ').context("an answer of two words")?;
    Ok(Answer { server: server.to_owned(), client: client.to_owned() })
}
