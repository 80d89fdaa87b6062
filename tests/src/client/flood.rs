//! More traffic than a limit lets pass, from all CPUs at once.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::net::Namespace;

/// Threads of a flood, on the CPUs in turn.
const THREADS: usize = 4;
/// Threads that open connections: each waits for the answer to its SYN.
const OPENERS: usize = 40;
/// How long the first opener waits. Then it tries again, from another port.
const ANSWER: Duration = Duration::from_millis(100);
/// How much longer each further one waits, so that they do not try all at once.
const STAGGER: Duration = Duration::from_millis(7);
/// How soon a thread notices that it is to end.
const SLICE: Duration = Duration::from_millis(100);
const CHUNK: usize = 16 * 1024;
/// Bytes of a datagram.
const DATAGRAM: usize = 1000;
/// Datagrams that a thread sends at once, and how often: 20 Mbit/s.
const BURST: usize = 5;
const PERIOD: Duration = Duration::from_millis(2);

/// What a flood consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloodKind {
    /// Downloads from a bulk server.
    Downloads,
    /// Uploads to a bulk server.
    Uploads,
    /// Datagrams to an echo server, which answers each: 80 Mbit/s in each direction.
    Datagrams,
    /// TCP connections that end at once.
    Connections,
}

/// A flood. It ends when this is dropped.
#[derive(Debug)]
pub struct Flood {
    is_to_end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    /// Floods these targets, in turn, each from addresses of its family.
    pub(super) fn start(
        namespace: &Arc<Namespace>,
        kind: FloodKind,
        targets: &[(SocketAddr, Arc<[IpAddr]>)],
    ) -> Self {
        let is_to_end = Arc::new(AtomicBool::new(false));
        let threads = if kind == FloodKind::Connections { OPENERS } else { THREADS };
        let threads = targets.iter().cycle().take(threads).enumerate().map(|(n, (target, sources))| {
            let (namespace, target, source) = (namespace.clone(), *target, sources[n % sources.len()]);
            let is_to_end = is_to_end.clone();
            thread::spawn(move || {
                let flood = || {
                    run_on_cpu(n)?;
                    let answer = ANSWER + STAGGER * n as u32;
                    while !is_to_end.load(Ordering::Relaxed) {
                        // A connection that breaks is followed by another.
                        let _ = once(kind, source, target, answer, &is_to_end);
                    }
                    Ok(())
                };
                namespace.on_thread(flood).expect("the namespace and the CPU exist");
            })
        });
        Self { threads: threads.collect(), is_to_end }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.is_to_end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() && !thread::panicking() {
                panic!("a thread of the flood has panicked");
            }
        }
    }
}

fn run_on_cpu(n: usize) -> Result<()> {
    let cpus = thread::available_parallelism().context("no CPU is known")?;
    let mut set = CpuSet::new();
    set.set(n % cpus)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

fn once(
    kind: FloodKind,
    source: IpAddr,
    target: SocketAddr,
    answer: Duration,
    is_to_end: &AtomicBool,
) -> Result<()> {
    let ends = || is_to_end.load(Ordering::Relaxed);
    match kind {
        FloodKind::Downloads => {
            let mut stream = connect(source, target, SLICE * 20)?;
            stream.write_all(format!("download {} 1\n", u64::MAX).as_bytes())?;
            let mut buffer = [0; CHUNK];
            while !ends() {
                goes_on(stream.read(&mut buffer))?;
            }
        }
        FloodKind::Uploads => {
            let mut stream = connect(source, target, SLICE * 20)?;
            stream.write_all(format!("upload {}\n", u64::MAX).as_bytes())?;
            while !ends() {
                goes_on(stream.write(&[7; CHUNK]))?;
            }
        }
        FloodKind::Datagrams => {
            let socket = UdpSocket::bind((source, 0))?;
            socket.connect(target)?;
            let mut next = Instant::now();
            while !ends() {
                for _ in 0..BURST {
                    // A full queue is as good as a full bucket.
                    let _ = socket.send(&[7; DATAGRAM]);
                }
                next += PERIOD;
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        }
        FloodKind::Connections => drop(connect(source, target, answer)?),
    }
    Ok(())
}

/// Connects from an address, with short timeouts of reads and writes.
fn connect(source: IpAddr, target: SocketAddr, limit: Duration) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect_timeout(&target.into(), limit)?;
    socket.set_read_timeout(Some(SLICE))?;
    socket.set_write_timeout(Some(SLICE))?;
    Ok(socket.into())
}

/// Whether a transfer goes on. A timeout is no error.
fn goes_on(transferred: io::Result<usize>) -> io::Result<()> {
    match transferred {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Err(error) if !matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => Err(error),
        _ => Ok(()),
    }
}
