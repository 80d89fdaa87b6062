//! Programs started by a user other than root.

use anyhow::{Result, ensure};
use slb_tests::{World, scenario};

use super::{WEIGHTS, works};

#[test]
fn commands_without_privileges_name_what_they_need() {
    scenario!(&WEIGHTS, |world| {
        let config = world.write_other(&world.plan.toml())?;
        let socket = world.plan.socket.display().to_string();
        let pins = world.plan.pin_dir.display().to_string();
        refuses(
            world,
            &[
                (
                    "slbd",
                    &["run", "--config", &config],
                    "slbd run needs CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, CAP_NET_RAW, which",
                ),
                ("slbd", &["detach", "--config", &config], "slbd detach needs CAP_BPF, CAP_NET_ADMIN, which"),
            ],
        )?;
        ensure!(!world.plan.pin_dir.exists(), "{pins} was made");
        world.start()?;
        let group = format!(
            "cannot connect to {socket}: run this as root, or as a member of the socket's group: Permission denied"
        );
        let asks: [&[&str]; 4] = [&["status"], &["reload"], &["server", "list"], &["confirm"]];
        for ask in asks {
            refuses(world, &[("slb", &[&["--socket", &socket], ask].concat(), &group)])?;
        }
        works(world)?;
        world.terminate()?;
        let ask = ["--socket", &socket, "status", "--pin-dir", &pins];
        refuses(world, &[("slb", &ask, "it needs root")])?;
        world.start()?;
        works(world)
    });
}

/// Runs programs with these arguments; each must fail with this message.
fn refuses(world: &World, cases: &[(&str, &[&str], &str)]) -> Result<()> {
    for (program, arguments, words) in cases {
        let said = world.refused_as_unprivileged(program, arguments)?;
        ensure!(said.contains(words), "{program} {arguments:?}: {said}");
    }
    Ok(())
}
