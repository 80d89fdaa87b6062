//! VIP path: how probes of `dsr`, `ipip` and `gue` reach a VIP at a server.
//!
//! ```text
//! probe namespace                          host
//! kernel socket -> route -> TUN device --> `ProbeSender`: to the server's hardware address, or in a tunnel --> server
//! kernel socket <---------- TUN device <-- `Capture` <----------------------- VIP answers the host's address
//! ```
//! A host socket (`port_guard`) holds the port meanwhile, so that the host does not answer in the probe's place.

use std::{
    io,
    mem::MaybeUninit,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use socket2::Socket;
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
    time::sleep,
};

use super::{
    ProbeSettings, ProbeSocket, Transport,
    capture::Capture,
    port_guard,
    probe_namespace::ProbeNamespace,
    registry::{ProbeKey, ProbePath, Registry, RunningProbe, SendError},
    sender::ProbeSender,
    socket, source,
    tun::Tun,
};
use crate::{
    health::{ProbeError, Target, Via},
    neigh::{NextHop, Resolution, Resolutions},
    supervised,
};

/// Maximum packet length in bytes.
const PACKET: usize = 65_536;

/// Time after which reading is retried after an error.
const PAUSE: Duration = Duration::from_secs(1);
/// The same after an error of one packet or interface.
const SHORT_PAUSE: Duration = Duration::from_millis(1);

/// Attempts to find an identifier that no running probe has.
const ATTEMPTS: usize = 16;

/// The probe namespace, and its connection to the host.
#[derive(Debug)]
pub(super) struct VipPath {
    namespace: ProbeNamespace,
    registry: Arc<Registry>,
    v4: Arc<Capture>,
    v6: Arc<Capture>,
    /// Addresses of the host that the namespace has too.
    added_sources: Mutex<Vec<IpAddr>>,
    released: mpsc::UnboundedSender<ReleasedProbe>,
    /// Set while packets cannot be read from the namespace.
    broken: Arc<AtomicBool>,
    _pumps: JoinSet<()>,
}

/// A finished probe, whose last packets may still have to be sent.
#[derive(Debug)]
struct ReleasedProbe {
    key: ProbeKey,
    _guard: Option<Socket>,
}

/// Keeps the path of one probe open until dropped.
#[derive(Debug)]
pub(in crate::health) struct Lease {
    released: mpsc::UnboundedSender<ReleasedProbe>,
    probe: Option<ReleasedProbe>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(probe) = self.probe.take() {
            // Without a receiver no packets are sent any more.
            let _ = self.released.send(probe);
        }
    }
}

impl VipPath {
    /// Makes the namespace and connects it to the host.
    pub(super) async fn open(settings: &ProbeSettings) -> Result<Self> {
        let (namespace, tun) = ProbeNamespace::create().await?;
        let tun = Arc::new(tun);
        let emitter = ProbeSender::open(settings)?;
        let registry = Arc::new(Registry::default());
        let [v4, v6] = [Capture::open(true)?, Capture::open(false)?].map(Arc::new);
        let (released, over) = mpsc::unbounded_channel();
        let broken = Arc::new(AtomicBool::new(false));
        let mut pumps = JoinSet::new();
        let (emitter, over) = (Arc::new(emitter), Arc::new(Mutex::new(over)));
        let (device, ways, flag) = (Arc::clone(&tun), Arc::clone(&registry), Arc::clone(&broken));
        pumps.spawn(supervised::run("packets of health checks", move || {
            let (tun, emitter, registry) = (Arc::clone(&device), Arc::clone(&emitter), Arc::clone(&ways));
            let (over, broken) = (Arc::clone(&over), Arc::clone(&flag));
            async move { forward_probes(&tun, &emitter, &registry, &mut *over.lock().await, &broken).await }
        }));
        for capture in [&v4, &v6] {
            let (capture, tun) = (Arc::clone(capture), Arc::clone(&tun));
            pumps.spawn(supervised::run("answers to health checks", move || {
                let (capture, tun) = (Arc::clone(&capture), Arc::clone(&tun));
                async move { forward_answers(&capture, &tun).await }
            }));
        }
        Ok(Self {
            namespace,
            registry,
            v4,
            v6,
            added_sources: Mutex::default(),
            released,
            broken,
            _pumps: pumps,
        })
    }

    /// Whether packets cannot be read from the namespace now.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Opens a socket whose packets go to the target's VIP at the target's server.
    pub(super) async fn socket(
        &self,
        target: &Target,
        vip: IpAddr,
        transport: Transport,
        settings: &ProbeSettings,
        hop: &NextHop,
        send_error: SendError,
    ) -> Result<ProbeSocket, ProbeError> {
        let server = target.address.ip();
        let source = source(settings, vip, server, hop)?;
        let probe_path = match target.via {
            Via::Dsr { .. } => ProbePath::Dsr { interface: hop.interface_index, mac: hop.destination_mac },
            Via::Gue { .. } => ProbePath::Gue { server },
            Via::Ipip { .. } | Via::Direct => ProbePath::Ipip { server },
        };
        let lease = self.register(source, transport, &RunningProbe { probe_path, send_error })?;
        let id = lease.probe.as_ref().map_or(0, |probe| probe.key.id);
        self.add_source(source).await.map_err(|error| ProbeError::NoProbePath(format!("{error:#}")))?;
        let capture = if vip.is_ipv4() { &self.v4 } else { &self.v6 };
        capture.allow(vip, source)?;
        let socket = self
            .namespace
            .run(move || {
                let socket = socket::open(vip, transport, None)?;
                let port = if transport == Transport::Icmp { 0 } else { id };
                socket.bind(&std::net::SocketAddr::new(source, port).into())?;
                Ok(socket)
            })
            .await
            .map_err(|gone| ProbeError::NoProbePath(gone.to_string()))??;
        let remote = target.remote();
        Ok(ProbeSocket { socket, remote, id, lease: Some(lease) })
    }

    /// Finds a free port or identifier, and registers the probe with it.
    fn register(
        &self,
        source: IpAddr,
        transport: Transport,
        entry: &RunningProbe,
    ) -> Result<Lease, ProbeError> {
        for _ in 0..ATTEMPTS {
            let (guard, id) = match transport {
                Transport::Icmp => (None, fastrand::u16(..)),
                _ => {
                    let (guard, port) = port_guard::reserve_port(source, transport)?;
                    (Some(guard), port)
                }
            };
            let key = ProbeKey { transport, is_v4: source.is_ipv4(), id };
            // Two addresses of the host may both have the port free.
            if self.registry.register(key, entry.clone()) {
                let probe = ReleasedProbe { key, _guard: guard };
                return Ok(Lease { released: self.released.clone(), probe: Some(probe) });
            }
        }
        Err(ProbeError::Local(io::ErrorKind::AddrInUse.into()))
    }

    /// Adds an address of the host to the namespace.
    async fn add_source(&self, source: IpAddr) -> Result<()> {
        let mut added_sources = self.added_sources.lock().await;
        if !added_sources.contains(&source) {
            self.namespace.add_address(source).await?;
            added_sources.push(source);
        }
        Ok(())
    }
}

/// The source address of a probe: the configured one, else the one towards the server, else one of the interface.
fn source(
    settings: &ProbeSettings,
    vip: IpAddr,
    server: IpAddr,
    hop: &NextHop,
) -> Result<IpAddr, ProbeError> {
    if let Some(source) = settings.source(vip)? {
        return Ok(source);
    }
    if vip.is_ipv4() == server.is_ipv4() {
        return Ok(source::source_towards(server)?);
    }
    source::of_interface(&hop.interface, vip.is_ipv4()).ok_or_else(|| {
        let family = if vip.is_ipv4() { "IPv4" } else { "IPv6" };
        ProbeError::NoProbePath(format!(
            "{} has no {family} address that a probe of {vip} could come from: name one as [daemon] probe_source",
            hop.interface
        ))
    })
}

/// The next hop of a server, if it is resolved.
pub(super) fn resolved(resolutions: &Resolutions, server: IpAddr) -> Option<NextHop> {
    match resolutions.get(&server)? {
        Resolution::Resolved(hop) => Some(hop.clone()),
        Resolution::Unresolved(_) => None,
    }
}

/// Sends the packets that leave the namespace.
async fn forward_probes(
    tun: &Tun,
    emitter: &ProbeSender,
    registry: &Registry,
    over: &mut mpsc::UnboundedReceiver<ReleasedProbe>,
    broken: &AtomicBool,
) {
    let mut packet = vec![0; PACKET];
    let send = |packet: &[u8]| {
        let Some(RunningProbe { probe_path, send_error }) = registry.entry(packet) else { return };
        if let Err(error) = emitter.send(packet, probe_path) {
            // Other errors are as a lost packet: the probe fails, and its detail says why.
            tracing::debug!(%error, ?probe_path, "cannot send a packet of a health check");
            let _ = send_error.set(error);
        }
    };
    loop {
        tokio::select! {
            read = tun.read(&mut packet) => match read {
                Ok(length) => {
                    broken.store(false, Ordering::Relaxed);
                    send(&packet[..length]);
                }
                Err(error) => {
                    if !broken.swap(true, Ordering::Relaxed) {
                        tracing::error!(%error, "packets of health checks cannot be read; trying again");
                    }
                    sleep(PAUSE).await;
                }
            },
            probe = over.recv() => {
                let Some(probe) = probe else { return };
                // The probe's socket was closed first, so its last packets are in the device by now.
                while let Some(length) = tun.try_read(&mut packet) {
                    send(&packet[..length]);
                }
                registry.remove(probe.key);
            }
        }
    }
}

/// Passes answers to the namespace.
async fn forward_answers(capture: &Capture, tun: &Tun) {
    let mut buffer = vec![MaybeUninit::uninit(); PACKET];
    loop {
        match capture.next(&mut buffer).await {
            Ok(packet) => {
                if let Err(error) = tun.write(packet) {
                    tracing::debug!(%error, "cannot take an answer to a health check");
                }
            }
            // An interface may have gone down; others still work. The pause keeps a persistent error from using a whole
            // CPU.
            Err(error) => {
                tracing::debug!(%error, "answers to health checks");
                sleep(SHORT_PAUSE).await;
            }
        }
    }
}
