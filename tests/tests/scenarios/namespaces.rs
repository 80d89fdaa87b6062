//! Pins of another network namespace are refused, even if interface indexes are the same.

use std::{
    fs,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use slb_common::abi::ABI_VERSION;
use slb_tests::{
    World,
    config::Plan,
    daemon::program,
    net::{Family, Namespace},
    scenario,
    server::Service,
    wait::wait_for,
};

const WEIGHTS: [u8; 2] = [50, 50];
const EXCHANGES: u64 = 50;
/// Time within which a program must fail with its message.
const LIMIT: Duration = Duration::from_secs(15);

/// The client's interface has the same index as the interface of SLB that leads to it.
#[test]
fn pins_of_another_network_namespace_are_refused() {
    scenario!(&WEIGHTS, |world| {
        let status = world.start()?;
        ensure!(status.interfaces.iter().any(|attached| attached.index == 2), "{:?}", status.interfaces);
        world.terminate()?;
        let programs = world.programs()?;
        let other = Plan { interfaces: vec!["eth0".to_owned()], ..world.plan.clone() };
        let other = world.write_other(&other.toml())?;
        let there = world.net.client.clone();
        let words = "are of another network namespace";
        for arguments in [&["run", "--config", &other][..], &["detach", "--config", &other]] {
            let output = ended(&there, "slbd", arguments)?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(!output.status.success() && said.contains(words) && said.contains("--force"), "{said}");
            ensure!(world.programs()? == programs, "{:?} after {programs:?}", world.programs()?);
            works(world)?;
        }
        // Pins of another release are refused too.
        let of = |version: &str| world.plan.pin_dir.join(version);
        let current = format!("v{ABI_VERSION}");
        fs::rename(of(&current), of("v1"))?;
        let output = ended(&there, "slbd", &["detach", "--config", &other])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            !output.status.success() && said.contains(words) && said.contains("--force"),
            "of v1: {said}"
        );
        fs::rename(of("v1"), of(&current))?;
        works(world)?;

        let pins = world.plan.pin_dir.display().to_string();
        let output = ended(&there, "slb", &["--socket", "/absent", "status", "--pin-dir", &pins])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(4) && said.contains(words), "{said}");
        let shown = String::from_utf8_lossy(&output.stdout);
        ensure!(!shown.contains("interface eth0"), "{shown}");

        // In their own namespace, a start uses them.
        world.start()?;
        works(world)?;
        world.terminate()?;
        let output = ended(&there, "slbd", &["detach", "--force", "--config", &other])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(said.contains("filters that answer for VIPs stay there"), "{said}");
        ensure!(!world.plan.pin_dir.exists(), "{} still exists", world.plan.pin_dir.display());
        Ok(())
    });
}

#[test]
fn decapsulator_of_another_network_namespace_is_not_detached() {
    scenario!(&WEIGHTS, |world| {
        let from = [world.net.slb_address(Family::V4)];
        let [one, other] = [&world.net.backends[0], &world.net.backends[1]];
        one.decapsulate(&from)?;
        let pins = Path::new("/sys/fs/bpf").join(one.namespace.name()).display().to_string();
        for what in [&["--interface", "eth0"][..], &["--all"]] {
            let arguments = [&["--pin-dir", &pins, "detach"], what].concat();
            let output = ended(&other.namespace, "slb-decap", &arguments)?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(!output.status.success() && said.contains("are of another network namespace"), "{said}");
            ensure!(one.decapsulator()?.name.as_deref() == Some("eth0"), "{:?}", one.decapsulator()?);
        }
        Ok(())
    });
}

/// Runs a program of SLB in a namespace, and waits for its exit.
fn ended(namespace: &Namespace, name: &str, arguments: &[&str]) -> Result<Output> {
    let path = program(name, &name.replace('-', "_").to_uppercase())?;
    let mut command = namespace.command(path);
    let command = command.args(arguments).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let ended = wait_for("the end of a program", LIMIT, || Ok(child.try_wait()?));
    if ended.is_err() {
        child.kill()?;
    }
    let output = child.wait_with_output()?;
    ended.with_context(|| format!("{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)))?;
    Ok(output)
}

fn works(world: &World) -> Result<()> {
    let target = world.vip(Family::V4, Service::Http);
    world.client().exchanges(Service::Http, target, EXCHANGES, 4).expect_no_failure()
}
