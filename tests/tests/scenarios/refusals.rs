//! Refusals while the daemon runs or starts: each message says what is wrong and what to do, and nothing changes.

mod maps;
mod users;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::Shutdown,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use slb_tests::{
    World,
    client::PATIENCE,
    config::Plan,
    net::{Family, run},
    scenario,
    server::Service,
    wait::wait_for,
};

const WEIGHTS: [u8; 2] = [50, 50];
const EXCHANGES: u64 = 50;
/// The backend whose interface runs another program.
const GUEST: usize = 1;

/// Answers of the API to requests that `slb` never sends.
#[test]
fn api_errors_name_what_is_expected() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        let before = world.slb(&["server", "list"])?;
        let huge = format!("\"{}\"", "x".repeat(1 << 20));
        let servers = |fields: &str| format!("{{{fields}, \"servers\": [\"10.90.1.10:8080\"]}}");
        for (path, body, code, words) in [
            ("apply", "{}", 400, "`text` is missing: the configuration to apply"),
            ("apply", "[]", 400, "the body is not the document that is expected here: "),
            ("apply", "", 400, "the body is not the document that is expected here: EOF while parsing"),
            (
                "servers",
                "weight = 5",
                400,
                "the body is not the document that is expected here: expected value",
            ),
            (
                "apply",
                "{\"text\": \"\", \"confirm_within_seconds\": 0}",
                400,
                "a configuration can wait for its confirmation from 1 s to 24 h: `--confirm-within 60s`",
            ),
            (
                "apply",
                "{\"text\": \"\", \"confirm_within_seconds\": 86401}",
                400,
                "a configuration can wait for its confirmation from 1 s to 24 h",
            ),
            (
                "apply",
                &huge,
                413,
                "the request is larger than 1 MiB: put a larger configuration into the daemon's file and run `slb reload`",
            ),
            (
                "servers",
                &servers("\"server_group\": \"http\", \"set\": {\"weight\": 101}"),
                400,
                "weight 101 is out of range: 0 to 100",
            ),
            (
                "servers",
                &servers("\"set\": \"drain\""),
                400,
                "either a server group or a load balancer must be named: nothing was changed",
            ),
            ("servers", &servers("\"set\": \"stop\""), 400, "unknown variant `stop`"),
        ] {
            let answer = post(world, path, body)?;
            ensure!(
                answer.starts_with(&format!("HTTP/1.1 {code} ")) && answer.contains(words),
                "{path}: {answer}"
            );
        }
        let mut slow = UnixStream::connect(&world.plan.socket)?;
        slow.write_all(b"POST /v1/apply HTTP/1.1\r\nhost: slb\r\ncontent-length: 2\r\n\r\n{")?;
        let answer = answer(&mut slow)?;
        ensure!(
            answer.starts_with("HTTP/1.1 408 ")
                && answer.contains("the body of the request has not come within"),
            "{answer}"
        );
        let mut broken = UnixStream::connect(&world.plan.socket)?;
        broken.write_all(b"POST /v1/apply HTTP/1.1\r\nhost: slb\r\ncontent-length: 20\r\n\r\n{\"text\"")?;
        broken.shutdown(Shutdown::Write)?;
        let broken = self::answer(&mut broken)?;
        ensure!(
            broken.starts_with("HTTP/1.1 400 ") && broken.contains("the body of the request cannot be read"),
            "{broken}"
        );
        ensure!(world.slb(&["server", "list"])? == before, "something was set");
        works(world)
    });
}

#[test]
fn command_errors_name_what_is_missing() {
    scenario!(&WEIGHTS, |world| {
        for arguments in [&["reload"][..], &["server", "list"], &["confirm"], &["diff"]] {
            let said = world.slb_refused(arguments)?;
            ensure!(
                said.contains("no daemon listens on") && said.contains("start slbd, or name its socket"),
                "{said}"
            );
        }
        let pin_dir = world.plan.pin_dir.display().to_string();
        let said = world.slb_refused(&["status", "--pin-dir", &pin_dir])?;
        ensure!(said.contains("SLB is not running here"), "{said}");
        world.start()?;
        let other = world.write_other(&world.plan.toml())?;
        let said = world.slb_refused(&["apply", &other, "--confirm-within", "1500ms"])?;
        ensure!(said.contains("whole seconds are counted, from 1 s on"), "{said}");
        works(world)
    });
}

/// A configuration file that has become a pipe does not block the daemon.
#[test]
fn configuration_file_replaced_by_pipe_is_refused() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        let file = world.directory().join("slb.toml");
        fs::remove_file(&file)?;
        run(Command::new("mkfifo").arg(&file), "")?;
        let said = world.slb_refused(&["reload"])?;
        ensure!(
            said.contains("is not a regular file and cannot be read again: use `slb apply FILE`"),
            "{said}"
        );
        let said = world.slb(&["status"])?;
        ensure!(said.contains("is not a regular file, and cannot be read again"), "{said}");
        world.hang_up()?;
        world.wait_for_log("is not a regular file and cannot be read again", 0)?;
        fs::remove_file(&file)?;
        world.reload()?;
        works(world)
    });
}

#[test]
fn interface_with_another_xdp_program_is_refused() {
    scenario!(&WEIGHTS, |world| {
        world.net.unplug(GUEST)?;
        let occupant = world.net.plug_occupied(GUEST)?;
        let words = [
            "cannot attach to b2 (it runs program ",
            "another XDP program is on the interface",
            "or leave the interface out of [daemon] interfaces",
        ];
        let output = world.slbd("run", &world.plan.toml())?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && words.iter().all(|word| said.contains(word)), "{said}");
        ensure!(!world.plan.pin_dir.exists(), "a failed first start left {}", world.plan.pin_dir.display());

        // The same by a reload.
        world.plan.interfaces.retain(|name| name != "b2");
        world.plan.servers.truncate(GUEST);
        world.start()?;
        let programs = world.programs()?;
        let good = world.plan.clone();
        world.plan.interfaces.push("b2".to_owned());
        world.write(&world.plan.toml())?;
        let said = world.slb_refused(&["reload"])?;
        ensure!(words.iter().all(|word| said.contains(word)), "{said}");
        ensure!(said.contains("the active configuration is unchanged"), "{said}");
        ensure!(world.programs()? == programs, "{:?} after {programs:?}", world.programs()?);
        works(world)?;
        drop(occupant);
        wait_for("a free interface", PATIENCE, || Ok((!world.programs()?.contains_key("b2")).then_some(())))?;
        world.slb(&["reload"])?;
        ensure!(world.programs()?.contains_key("b2"), "{:?}", world.programs()?);
        world.plan = good;
        world.reload()?;
        works(world)
    });
}

/// A packet for native XDP must fit into a page: the kernel refuses the program on interfaces with a larger MTU.
#[test]
fn mtu_too_large_for_native_xdp_is_refused() {
    scenario!(&WEIGHTS, |world| {
        // For a veth, the MTU of the peer matters.
        world.net.backends[0].namespace.ip("link set eth0 mtu 9000")?;
        let refused = world.slbd("run", &world.plan.toml())?;
        let said = String::from_utf8_lossy(&refused.stderr);
        ensure!(
            !refused.status.success()
                && said.contains("cannot attach to b1: ")
                && said.contains("MTU is too large for native XDP")
                && said.contains("ip link set dev NAME mtu"),
            "{said}"
        );
        world.net.backends[0].namespace.ip("link set eth0 mtu 1500")?;
        world.start().map(drop)
    });
}

/// Pins of other programs are neither used nor removed.
#[test]
fn foreign_pins_are_neither_used_nor_removed() {
    scenario!(&WEIGHTS, |world| {
        let pins = world.plan.pin_dir.clone();
        for (name, words) in [
            ("v1", "holds pins of another version (v1; this program uses v"),
            ("theirs", "holds pins of another version (theirs; this program uses v"),
        ] {
            fs::create_dir_all(pins.join(name))?;
            let output = world.slbd("run", &world.plan.toml())?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(
                !output.status.success() && said.contains(words) && said.contains("slbd detach"),
                "{said}"
            );
            ensure!(pins.join(name).exists(), "{name} was removed");
            if name == "theirs" {
                let output = world.slbd("detach", &world.plan.toml())?;
                let said = String::from_utf8_lossy(&output.stderr);
                ensure!(
                    !output.status.success()
                        && said.contains("holds theirs, which is not SLB's: nothing was removed"),
                    "{said}"
                );
            }
            fs::remove_dir(pins.join(name))?;
        }
        let elsewhere = world.directory().join("pins");
        let other = Plan { pin_dir: elsewhere.clone(), ..world.plan.clone() };
        let output = world.slbd("run", &other.toml())?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && said.contains("BPF file system"), "{said}");
        ensure!(!elsewhere.exists(), "{} was made", elsewhere.display());
        world.start()?;
        works(world)
    });
}

/// The daemon stores nothing in a world-writable directory; everything else works.
#[test]
fn world_writable_state_directory_is_not_used() {
    scenario!(&WEIGHTS, |world| {
        let directory = world.plan.state_dir.clone();
        fs::create_dir(&directory)?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777))?;
        world.start()?;
        let chmod = format!("run `chmod o-w {}`", directory.display());
        let said = world.slb(&["status"])?;
        ensure!(
            said.contains("no override is active, and none can be set: ") && said.contains(&chmod),
            "{said}"
        );
        let said = world.slb_refused(&["server", "drain", "http", "10.90.1.10:8080"])?;
        ensure!(said.contains("everyone on this machine may write to it") && said.contains(&chmod), "{said}");
        works(world)?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))?;
        world.slb(&["server", "drain", "http", "10.90.1.10:8080"])?;
        ensure!(!world.slb(&["status"])?.contains("none can be set"));
        works(world)
    });
}

fn works(world: &World) -> Result<()> {
    let batch = world.client().exchanges(Service::Http, world.vip(Family::V4, Service::Http), EXCHANGES, 4);
    batch.expect_no_failure()
}

/// Posts a body to the API; returns the response with its header.
fn post(world: &World, path: &str, body: &str) -> Result<String> {
    let mut stream = UnixStream::connect(&world.plan.socket)?;
    stream.write_all(
        format!("POST /v1/{path} HTTP/1.1\r\nhost: slb\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            .as_bytes(),
    )?;
    answer(&mut stream)
}

fn answer(stream: &mut UnixStream) -> Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("no answer")?;
    Ok(answer)
}
