//! The daemon survives a blocked log, the loss of its socket, and slow API clients.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read as _, Write as _},
    net::Shutdown,
    os::unix::{
        fs::{OpenOptionsExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{libc::O_NONBLOCK, sys::stat::Mode, unistd::mkfifo};
use slb_tests::{World, client::PATIENCE, net::Family, scenario, server::Service, wait::wait_for};

/// API clients that each send only a part of a body.
const SLOW: usize = 40;

#[test]
fn unwritable_or_unread_log_stops_nothing() {
    scenario!(&[50, 50], |world| {
        let fifo = world.directory().join("log.fifo");
        let _reader = full(&fifo)?;
        for log in [Path::new("/dev/full"), &fifo] {
            world.log_to(log);
            world.start()?;
            world.client().exchange(Service::Http, world.vip(Family::V4, Service::Http))?;
            world.slb(&["reload"])?;
            if log != fifo {
                let said = world.slb(&["status"])?;
                ensure!(said.contains(" log lines dropped: cannot write to standard error"), "{said}");
            }
            world.terminate().with_context(|| log.display().to_string())?;
        }
        Ok(())
    });
}

/// A full pipe whose reader does not read.
fn full(path: &Path) -> Result<File> {
    mkfifo(path, Mode::S_IRWXU)?;
    let mut pipe = OpenOptions::new().read(true).write(true).custom_flags(O_NONBLOCK).open(path)?;
    loop {
        match pipe.write(&[b'.'; 1024]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(pipe),
            Err(error) => return Err(error.into()),
        }
    }
}

/// In a mount namespace of its own, as `ip netns exec` makes one, the pins disappear with the daemon.
#[test]
fn private_mount_namespace_warns_that_forwarding_ends() {
    scenario!(&[50, 50], |world| {
        world.hide("/sys/fs/bpf");
        world.start()?;
        world.wait_for_log("FORWARDING ENDS with its last process", 0)?;
        world.terminate()?;
        world.wait_for_log("stopping; FORWARDING ENDS", 0)?;
        ensure!(!world.log().contains("forwarding goes on"), "{}", world.log());
        wait_for("the end of forwarding", PATIENCE, || Ok(world.programs()?.is_empty().then_some(())))
    });
}

#[test]
fn removed_sockets_return_and_slow_clients_delay_no_others() {
    scenario!(&[50, 50], |world| {
        let read_only = world.directory().join("status.sock");
        world.plan.daemon = format!("read_only_socket = {read_only:?}\n");
        world.start()?;
        has_few_capabilities(world)?;
        for socket in [&world.plan.socket, &read_only] {
            fs::remove_file(socket)?;
            wait_for("the socket", PATIENCE, || Ok(UnixStream::connect(socket).is_ok().then_some(())))?;
        }
        only_shows(&read_only)?;

        // This client has sent its whole request and waits for the answer.
        let mut half = UnixStream::connect(&world.plan.socket)?;
        half.write_all(b"GET /v1/status HTTP/1.1\r\nhost: slb\r\n\r\n")?;
        half.shutdown(Shutdown::Write)?;
        ensure!(answer(half)?.starts_with("HTTP/1.1 200"), "half-closed");

        let _slow = (0..SLOW).map(|_| slow(world)).collect::<Result<Vec<_>>>()?;
        let begun = Instant::now();
        world.slb(&["diff", &world.write_other(&world.plan.toml())?])?;
        ensure!(begun.elapsed() < Duration::from_secs(3), "diff took {:?}", begun.elapsed());
        Ok(())
    });
}

/// Checks that every thread has only the capabilities that the daemon needs, and can regain no others.
fn has_few_capabilities(world: &World) -> Result<()> {
    /// Bits of capabilities(7), as in `linux/capability.h`: `DAC_OVERRIDE`, `NET_ADMIN`, `NET_RAW`, `SYS_ADMIN`,
    /// `SYS_RESOURCE`, `PERFMON`, `BPF`.
    const KEPT: u64 = 1 << 1 | 1 << 12 | 1 << 13 | 1 << 21 | 1 << 24 | 1 << 38 | 1 << 39;
    let pid = world.daemon_pid().context("no daemon")?;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim).context(name.to_owned())
        };
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            let held = u64::from_str_radix(value(set)?, 16)?;
            ensure!(held & !KEPT == 0, "{set} {held:x}");
        }
        ensure!(value("NoNewPrivs:")? == "1");
    }
    Ok(())
}

/// The socket for all users answers read-only requests only. It does not show the hash seed, with which a client could
/// choose endpoints of one slot.
fn only_shows(socket: &Path) -> Result<()> {
    let mode = fs::metadata(socket)?.permissions().mode() & 0o777;
    ensure!(mode == 0o666, "mode {mode:o}");
    for (request, code) in [
        ("GET /v1/status", "200"),
        ("GET /v1/pending", "200"),
        ("POST /v1/reload", "403"),
        ("POST /v1/apply", "403"),
        ("POST /v1/servers", "403"),
        ("POST /v1/flows/flush", "403"),
        ("POST /v1/diff", "403"),
    ] {
        let mut stream = UnixStream::connect(socket)?;
        stream
            .write_all(format!("{request} HTTP/1.1\r\nhost: slb\r\ncontent-length: 0\r\n\r\n").as_bytes())?;
        let said = answer(stream)?;
        ensure!(said.starts_with(&format!("HTTP/1.1 {code}")), "{request}: {said}");
        ensure!(!said.contains("\"hash_seed\":"), "{request}: {said}");
    }
    Ok(())
}

fn slow(world: &World) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(&world.plan.socket)?;
    stream.write_all(b"POST /v1/diff HTTP/1.1\r\nhost: slb\r\ncontent-length: 1000000\r\n\r\n{")?;
    Ok(stream)
}

fn answer(mut stream: UnixStream) -> Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}
