//! Invalid configurations are refused, and change nothing.

use anyhow::{Result, ensure};
use slb_tests::{World, config::Plan, net::Family, scenario, server::Service};

const EXCHANGES: u64 = 200;

/// Ways to break a configuration: the text to replace, its replacement, and a word of the error message.
const BROKEN: [(&str, &str, &str); 3] = [
    ("[daemon]", "[deamon]", "deamon"),
    ("protocol = \"tcp\"", "protocol = \"tpc\"", "tpc"),
    ("weight = 50", "weight = 101", "weight"),
];

#[test]
fn a_bad_configuration_is_refused_and_changes_nothing() {
    scenario!(&[50, 50], |world| {
        let good = world.plan.toml();
        let checked = world.slbd("check", &good)?;
        ensure!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));

        world.start()?;
        refused(world, &good)?;
        let pid = world.status()?.daemon.map(|daemon| daemon.pid);
        ensure!(pid == world.daemon_pid(), "another daemon answers: {pid:?}");

        // With the daemon down, a refused start leaves the forwarding of the last run active.
        world.terminate()?;
        refused(world, &good)?;
        world.start()?;
        works(world)
    });
}

/// A daemon that cannot use what its configuration names reports it and changes nothing, whether or not another one
/// runs.
#[test]
fn failed_start_changes_nothing() {
    scenario!(&[50, 50], |world| {
        let good = world.plan.toml();
        let absent = Plan { interfaces: vec!["absent0".to_owned()], ..world.plan.clone() }.toml();
        refuses(world, &absent, "no interface absent0")?;
        ensure!(!world.plan.pin_dir.exists(), "a failed first start left {}", world.plan.pin_dir.display());

        world.start()?;
        refuses(world, &good, "another slbd")?;
        world.terminate()?;
        refuses(world, &absent, "no interface absent0")?;
        works(world)
    });
}

fn refuses(world: &World, configuration: &str, word: &str) -> Result<()> {
    let output = world.slbd("run", configuration)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && said.contains(word), "said: {said}");
    Ok(())
}

fn refused(world: &World, good: &str) -> Result<()> {
    for (from, to, word) in BROKEN {
        ensure!(good.contains(from), "nothing to break: {from}");
        let bad = good.replacen(from, to, 1);
        for subcommand in ["check", "run"] {
            let output = world.slbd(subcommand, &bad)?;
            let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
            ensure!(!output.status.success(), "{subcommand} accepted {to}");
            ensure!(said.contains(word), "{subcommand} of {to} said: {said}");
        }
        works(world)?;
    }
    Ok(())
}

fn works(world: &World) -> Result<()> {
    for family in Family::ALL {
        let target = world.vip(family, Service::Http);
        world.client().exchanges(Service::Http, target, EXCHANGES, 8).expect_no_failure()?;
    }
    Ok(())
}
