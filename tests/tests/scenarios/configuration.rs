//! Bad configurations are refused and change nothing.

use anyhow::{Result, ensure};
use slb_tests::{World, net::Family, scenario, server::Service};

const EXCHANGES: u64 = 200;

/// One way to break a configuration: what is replaced by what, and a word the refusal must contain.
const BROKEN: [(&str, &str, &str); 3] = [
    ("[daemon]", "[deamon]", "deamon"),
    ("protocol = \"tcp\"", "protocol = \"tpc\"", "tpc"),
    ("weight = 50", "weight = 101", "weight"),
];

#[test]
fn a_bad_configuration_is_refused_and_changes_nothing() {
    scenario("a_bad_configuration_is_refused_and_changes_nothing", &[50, 50], |world| {
        let good = world.plan.toml();
        let checked = world.slbd("check", &good)?;
        ensure!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));

        world.start()?;
        refused(world, &good)?;
        let pid = world.status()?.daemon.map(|daemon| daemon.pid);
        ensure!(pid == world.daemon_pid(), "another daemon answers: {pid:?}");

        // With the daemon down, a refused start leaves the forwarding of the last one on.
        world.terminate()?;
        refused(world, &good)?;
        world.start()?;
        works(world)
    });
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
