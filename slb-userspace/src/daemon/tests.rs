//! The event loop over a fake data plane, with a virtual clock and without root.

mod announcements;
mod fake;
mod gc_passes;
mod reconfigurations;
mod restarts;
mod tunnels;

use std::{
    cell::RefCell, collections::BTreeSet, future::Future, net::IpAddr, rc::Rc, sync::Arc, time::Duration,
};

use slb_api::{
    changes::ChangeResult,
    types::{Requester, Set},
};
use slb_common::abi::backend::Backend;
use slb_config::{LoadedConfig, parse};
use slb_control::{dataplane::state::to_ip, ids::MapLimits, overrides::NamedServer, reconcile::Reconciler};
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{JoinHandle, LocalSet},
    time::{Instant, timeout},
};

use self::fake::{FakeEnvironment, FakeHost, Plane, probe};
use super::{environment::Event, event_loop::EventLoop, signals::Signals, store::Store};
use crate::{
    dataplane::bpf::lifetime::PinLifetime,
    neigh::vips::VipStates,
    server::{
        Snapshot,
        loader::Loader,
        requests::{ApiCommand, Request, RequestError},
    },
};

/// Runs a test in virtual time.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    LocalSet::new().block_on(&runtime.unwrap(), test);
}

const SECOND: Duration = Duration::from_secs(1);
/// Longest wait for a condition, in virtual time.
const LIMIT: Duration = Duration::from_secs(120);

type Answer = oneshot::Receiver<Result<ChangeResult, RequestError>>;

/// A machine with a daemon.
struct World {
    plane: Plane,
    host: Rc<RefCell<FakeHost>>,
    directory: TempDir,
    begun: Instant,
    daemon: Option<RunningDaemon>,
}

struct RunningDaemon {
    events: mpsc::UnboundedSender<Event>,
    requests: mpsc::Sender<Request>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    task: JoinHandle<()>,
}

impl World {
    /// Starts a daemon with these servers of one group, by the last octet.
    async fn start(servers: &[u8]) -> Self {
        let mut world = Self {
            plane: Plane::default(),
            host: Rc::default(),
            directory: TempDir::new().unwrap(),
            begun: Instant::now(),
            daemon: None,
        };
        world.host.borrow_mut().attached.insert("eth0".to_owned());
        world.begin(servers).await;
        world
    }

    /// Starts a daemon over the data plane that an earlier one has left, and waits until it forwards.
    async fn begin(&mut self, servers: &[u8]) {
        self.host.borrow_mut().targets.clear();
        let config = Arc::new(self.config("eth0", servers).config);
        let (env, events) = FakeEnvironment::new(&self.plane, &self.host, self.begun);
        let limits = MapLimits { interfaces: BTreeSet::from([1]), hz: 250, max_backends: 64 };
        let store = Store::open(self.directory.path());
        let loader = Loader::new(self.directory.path().join("slb.toml"), config.daemon.seed());
        let reconciler = Reconciler::new(self.plane.clone(), limits);
        let mut event_loop =
            EventLoop::new(env, reconciler, config, store, loader, VipStates::default()).unwrap();
        let (requests, snapshots) = (event_loop.request_sender.clone(), event_loop.snapshots.subscribe());
        event_loop.await_first_results().await.unwrap();
        event_loop.begin_forwarding().await.unwrap();
        let task = tokio::task::spawn_local(async move {
            let mut signals = Signals::new().unwrap();
            let ended = event_loop.run(&mut signals, PinLifetime::Machine).await;
            assert!(ended.is_err(), "only the test ends it");
        });
        self.daemon = Some(RunningDaemon { events, requests, snapshots, task });
    }

    /// Kills the daemon. The data plane stays.
    async fn kill(&mut self) {
        let task = self.daemon.take().expect("a daemon runs").task;
        task.abort();
        // Its files are closed then.
        assert!(task.await.is_err_and(|error| error.is_cancelled()));
    }

    fn daemon(&self) -> &RunningDaemon {
        self.daemon.as_ref().expect("a daemon runs")
    }

    /// A configuration with these interfaces, and these servers of one group.
    fn config(&self, interfaces: &str, servers: &[u8]) -> LoadedConfig {
        let interfaces: Vec<_> = interfaces.split(' ').collect();
        let servers: Vec<_> =
            servers.iter().map(|last| format!("{{ address = \"10.0.0.{last}\", port = 8080 }}")).collect();
        let text = format!(
            "[daemon]\ninterfaces = {interfaces:?}\nstate_dir = {:?}\n\
             [[load_balancer]]\nname = \"shop\"\naddresses = [\"192.0.2.10\"]\n\
             [[load_balancer.listener]]\nname = \"web\"\nprotocol = \"tcp\"\nport = 80\nserver_group = \"web\"\n\
             [[server_group]]\nname = \"web\"\ntable_size = 251\nservers = [{}]\n",
            self.directory.path(),
            servers.join(", ")
        );
        parse("test.toml", &text).unwrap_or_else(|rejected| panic!("{rejected}\n{text}"))
    }

    /// Sends a command. The answer arrives later.
    async fn command(&self, order: ApiCommand) -> Answer {
        let (answer, answered) = oneshot::channel();
        let request = Request::ApiCommand { order, by: Requester::default(), answer };
        self.daemon().requests.send(request).await.expect("the event loop runs");
        answered
    }

    async fn reload(&self, servers: &[u8]) -> Answer {
        self.command(ApiCommand::Reload { loaded: Box::new(self.config("eth0", servers)) }).await
    }

    async fn apply(&self, servers: &[u8], confirm_within: Option<Duration>) -> Answer {
        let loaded = Box::new(self.config("eth0", servers));
        self.command(ApiCommand::Apply { loaded, confirm_within }).await
    }

    /// Sets an override of a server.
    async fn set(&self, last: u8, set: Set) -> Answer {
        let server = std::net::SocketAddr::from(([10, 0, 0, last], 8080));
        let servers = vec![NamedServer::Group { group: "web".to_owned(), server }];
        self.command(ApiCommand::Set { servers, set, force: false }).await
    }

    /// Reports a result of a server's health check.
    fn check(&self, last: u8, healthy: bool) {
        let address = IpAddr::from([10, 0, 0, last]);
        let target = self.host.borrow().targets.iter().find(|it| it.address.ip() == address).cloned();
        let event = probe(&target.expect("the server is checked"), healthy);
        assert!(self.daemon().events.send(event).is_ok(), "the event loop has ended");
    }

    /// Servers that receive new flows in the data plane, by the last octet.
    fn serving(&self) -> BTreeSet<u8> {
        let plane = self.plane.borrow();
        let members = plane.state.tables.values().flat_map(|table| &table.spec.members);
        members.map(|member| last_octet(member.address.ip())).collect()
    }

    /// Servers in the data plane whose connections are not terminated, by the last octet.
    fn alive(&self) -> BTreeSet<u8> {
        let plane = self.plane.borrow();
        let alive = plane.state.backends.values().filter(|it| it.flags & Backend::TERMINATING == 0);
        alive.map(|backend| last_octet(to_ip(&backend.address))).collect()
    }

    /// Servers with an entry in the data plane, by the last octet.
    fn known(&self) -> BTreeSet<u8> {
        let plane = self.plane.borrow();
        plane.state.backends.values().map(|backend| last_octet(to_ip(&backend.address))).collect()
    }

    /// Whether slots migrate in the data plane.
    fn has_migrating_slots(&self) -> bool {
        self.plane.borrow().state.tables.values().any(|table| !table.slot_migration.is_empty())
    }

    /// Servers of the active configuration, by the last octet.
    fn active(&self) -> BTreeSet<u8> {
        let snapshot = self.daemon().snapshots.borrow().clone();
        let servers = &snapshot.running.config.server_groups[0].servers;
        servers.iter().map(|server| last_octet(server.address)).collect()
    }

    /// Waits until these servers, and no others, receive new flows.
    async fn until_serving(&self, servers: &[u8]) {
        let expected: BTreeSet<u8> = servers.iter().copied().collect();
        let begun = Instant::now();
        while self.serving() != expected {
            assert!(begun.elapsed() < LIMIT, "{:?} serve, not {expected:?}", self.serving());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.task.abort();
        }
    }
}

fn last_octet(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    }
}

/// The answer to a command, within [`LIMIT`].
async fn answered(answer: Answer) -> Result<ChangeResult, RequestError> {
    timeout(LIMIT, answer).await.expect("an answer").expect("the event loop answers")
}

/// Whether the answer is still outstanding after this time.
async fn is_outstanding(answer: &mut Answer, time: Duration) -> bool {
    timeout(time, answer).await.is_err()
}
