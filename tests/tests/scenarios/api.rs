//! Misbehaving API clients disturb neither forwarding nor other clients, and memory stays bounded.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
};

use anyhow::{Context as _, Result, ensure};
use slb_tests::{
    World, client::PATIENCE, net::Family, scenario, server::Service, traffic::Traffic, wait::wait_for,
};

/// Connections that send nothing.
const IDLE: usize = 900;
/// Clients that announce a body and send none.
const SLOW: usize = 32;
/// Bytes of a body that is refused.
const HUGE: usize = 100 << 20;
/// Growth of the daemon's memory that is allowed, in KiB.
const GROWTH: u64 = 64 << 10;
const PROGRESS: u64 = 50;

#[test]
fn misbehaving_api_clients_are_bounded() {
    scenario!(&[50, 50], |world| {
        world.start()?;
        let mode = fs::metadata(&world.plan.socket)?.permissions().mode() & 0o777;
        ensure!(mode == 0o660, "mode {mode:o}");
        let traffic = Traffic::start(world, 4)?;
        let before = memory(world)?;
        let connect = || UnixStream::connect(&world.plan.socket).context("the socket");
        let mut idle = (0..IDLE).map(|_| connect()).collect::<Result<Vec<_>>>()?;
        for _ in 0..SLOW {
            let mut slow = connect()?;
            slow.write_all(b"POST /v1/apply HTTP/1.1\r\nhost: slb\r\ncontent-length: 1000000\r\n\r\n")?;
            idle.push(slow);
        }
        let answer = huge(connect()?)?;
        ensure!(answer.starts_with("HTTP/1.1 413") || answer.is_empty(), "{answer}");
        world.slb(&["status"])?;
        let after = memory(world)?;
        println!(
            "{IDLE} idle connections, {SLOW} slow ones, a body of {HUGE} bytes: {before} KiB, then {after} KiB"
        );
        ensure!(after < before + GROWTH, "{before} KiB, then {after} KiB");
        traffic.progress(PROGRESS)?;
        // The daemon closes connections that send nothing.
        let mut first = idle.swap_remove(0);
        first.set_read_timeout(Some(PATIENCE))?;
        let mut said = Vec::new();
        first.read_to_end(&mut said).context("the daemon has not hung up")?;
        for (request, code) in [
            ("POST /v1/apply HTTP/1.1\r\nhost: slb\r\ncontent-length: 2\r\n\r\n{}", "400"),
            ("POST /v1/apply HTTP/1.1\r\nhost: slb\r\ncontent-length: 3\r\n\r\n{]}", "400"),
            ("GET /v1/reload HTTP/1.1\r\nhost: slb\r\n\r\n", "405"),
            ("GET /v2/status HTTP/1.1\r\nhost: slb\r\n\r\n", "404"),
            ("nonsense\r\n\r\n", "400"),
        ] {
            let mut stream = connect()?;
            stream.write_all(request.as_bytes())?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            ensure!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{request}: {answer}");
        }
        // Slow clients delay other requests with a body, but not indefinitely.
        wait_for("a turn for a caller that behaves", 6 * PATIENCE, || {
            Ok(world.slb(&["apply", &world.write_other(&world.plan.toml())?]).ok())
        })?;
        // The log line follows the response.
        world.wait_for_log("what=\"apply\" uid=0 user=\"root\" pid=", 0)?;
        world.client().exchange(Service::Http, world.vip(Family::V4, Service::Http))?;
        traffic.expect_unbroken(None)?;
        traffic.stop().expect_no_failure()
    });
}

/// Sends a body that is too large, until the daemon stops reading; returns the response.
fn huge(mut stream: UnixStream) -> Result<String> {
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(
        format!("POST /v1/diff HTTP/1.1\r\nhost: slb\r\ncontent-length: {HUGE}\r\n\r\n").as_bytes(),
    )?;
    let part = vec![b' '; 1 << 20];
    for _ in 0..HUGE / part.len() {
        // The daemon may have refused it already.
        if stream.write_all(&part).is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    // When the daemon closes with unread data, the response may be lost.
    let _ = stream.read_to_end(&mut answer);
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Memory of the daemon, in KiB.
fn memory(world: &World) -> Result<u64> {
    let pid = world.daemon_pid().context("no daemon runs")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).context(line.to_owned())
}
