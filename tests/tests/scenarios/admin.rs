//! Overrides: what an administrator sets for single servers at run time, and how long it lasts.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use slb_api::types::{AdminState, ApiHealth, ApiListener};
use slb_common::abi::ABI_VERSION;
use slb_tests::{
    World,
    config::{Ids, Names, Plan},
    net::Family,
    scenario,
    server::Service,
    traffic::Traffic,
    traffic::spreads,
};

const WEIGHTS: [u8; 3] = [50, 30, 20];
const EXCHANGES: u64 = 400;
const LONG_LIVED: usize = 16;

#[test]
fn overrides_survive_restarts_until_reset() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        let traffic = Traffic::start(world, LONG_LIVED)?;
        let b1 = entries(world, 0);
        let said = world.slb(&arguments(&["disable", "http"], &b1))?;
        ensure!(said.contains(&format!("server group http: server {}: disabled", b1[0])), "{said}");
        world.slb(&arguments(&["set", "--weight", "0", "http"], &entries(world, 1)))?;
        only(world, "b3")?;
        let before = set(world)?;
        ensure!(
            before.len() == 4 && before[0].contains("\"uid\":0,\"user\":\"root\",\"pid\":"),
            "{before:?}"
        );
        ensure!(before[0].contains("\"at\":\"20") && before[0].contains("Z\""), "{before:?}");
        let status = world.slb(&["status"])?;
        ensure!(
            status.contains("disabled set by root, pid") && status.contains("weight 0 set by root"),
            "{status}"
        );

        // Overrides survive any end of the daemon, and connections go on all the time.
        world.kill()?;
        only(world, "b3")?;
        world.start()?;
        only(world, "b3")?;
        ensure!(set(world)? == before, "{:?} after {before:?}", set(world)?);
        let http = listener(world, "http")?;
        let disabled = |server: &&slb_api::types::ApiServer| {
            server.set.as_ref().is_some_and(|set| set.state == Some(AdminState::Disabled))
        };
        ensure!(http.servers.iter().filter(disabled).count() == 2, "{http:?}");
        ensure!(http.servers.iter().all(|server| server.health == ApiHealth::Healthy), "{http:?}");
        // Enabling resets the admin state, not the weight.
        world.slb(&arguments(&["enable", "http"], &entries(world, 1)))?;
        ensure!(set(world)? == before, "{:?} after {before:?}", set(world)?);

        for index in [0, 1, 2] {
            // Resetting a server without overrides succeeds.
            world.slb(&arguments(&["reset", "http"], &entries(world, index)))?;
        }
        ensure!(world.slb(&["server", "list"])?.contains("all servers are as configured"));
        spreads(world, &world.plan.weights(), EXCHANGES * 2)?;
        traffic.expect_unbroken(None)?;
        ensure!(world.packets("drop", None)? == 0, "{:?}", world.status()?.reasons);
        traffic.stop().expect_no_failure()
    });
}

/// A draining server of a default group keeps its connections and gets no new ones.
#[test]
fn a_draining_server_keeps_its_connections() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        let traffic = Traffic::start(world, LONG_LIVED)?;
        let with_b1 = traffic.alive_with("b1");
        ensure!(with_b1 > 0, "no connection to watch");
        let b1 = world.plan.servers[0].addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
        world.slb(&arguments(&["drain", "--default-group", "shop"], &b1))?;
        let more = world.client().long_lived(world.vip(Family::V4, Service::Lines), LONG_LIVED)?;
        ensure!(more.alive_with("b1") == 0, "{:?}", more.alive());
        traffic.expect_unbroken(None)?;
        ensure!(traffic.alive_with("b1") == with_b1, "a connection has ended");
        let list = world.slb(&["server", "list"])?;
        ensure!(
            list.contains(&format!("default group of shop: server {}: draining set by", b1[0])),
            "{list}"
        );
        traffic.stop().expect_no_failure()
    });
}

/// `slb` has its own exit status for a missing daemon. Where one listens elsewhere, its message names the socket.
#[test]
fn missing_daemon_has_own_exit_status_and_pins_name_its_socket() {
    scenario!(&WEIGHTS, |world| {
        let pins = world.plan.pin_dir.display().to_string();
        let socket = world.plan.socket.display().to_string();
        for arguments in
            [&["reload"][..], &["server", "list"], &["confirm"], &["diff"], &["status", "--pin-dir", &pins]]
        {
            let output = world.slb_output(arguments)?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.code() == Some(4) && said.contains(&socket), "{arguments:?}: {said}");
        }
        world.start()?;
        ensure!(world.status()?.daemon.context("no daemon answers")?.age_seconds < 5, "it runs");
        let output = world.slb_at("/absent", &["status", "--pin-dir", &pins])?;
        let said = String::from_utf8_lossy(&output.stderr);
        let names = format!("uses the pins in {pins}: ask it with --socket {socket}");
        ensure!(output.status.code() == Some(4) && said.contains(&names), "{said}");
        // Pins of another release.
        world.terminate()?;
        let of = |version: &str| world.plan.pin_dir.join(version);
        fs::rename(of(&format!("v{ABI_VERSION}")), of("v1"))?;
        let output = world.slb_output(&["status", "--pin-dir", &pins])?;
        fs::rename(of("v1"), of(&format!("v{ABI_VERSION}")))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(4) && said.contains("are of ABI v1, while this slb reads v"),
            "{said}"
        );
        Ok(())
    });
}

/// The connections left in a drain are counted, and `--wait` waits for them.
#[test]
fn drain_reports_connections_left_and_wait_option_waits_for_them() {
    scenario!(&WEIGHTS, |world| {
        world.plan.drain_timeout = Some("10s");
        world.start()?;
        let traffic = world.client().long_lived(world.vip(Family::V4, Service::Lines), LONG_LIVED)?;
        let with = |name: &str| traffic.alive_with(name);
        ensure!(with("b1") > 0 && with("b2") > 0, "{:?}", traffic.alive());
        let address = |index: usize| world.plan.servers[index].addresses[0].to_string();
        let of = |index: usize| -> Result<slb_api::types::ApiServer> {
            let servers = listener(world, "lines")?.servers;
            let found = servers.into_iter().find(|s| s.address.ip().to_string() == address(index));
            found.context("no such server")
        };
        let current = listener(world, "lines")?.current_flows;
        ensure!(current == Some(LONG_LIVED as u64), "{current:?}");
        // The drain of a server without connections ends at once.
        let said = world.slb(&["server", "drain", "--wait", "http", &entries(world, 2)[0]])?;
        ensure!(
            said.contains("0 connections left, reset in ") && said.contains("no connection is left"),
            "{said}"
        );

        let left = with("b1");
        let said = world.slb(&["server", "drain", "--default-group", "shop", &address(0)])?;
        ensure!(
            said.contains(&format!("shop/lines: {}:7007: {left} connections left, reset in ", address(0))),
            "{said}"
        );
        let b1 = of(0)?;
        ensure!(b1.health == ApiHealth::Healthy, "health is a field of its own: {b1:?}");
        ensure!(
            b1.current_flows == Some(left as u64) && b1.draining.is_some_and(|d| d.seconds_left.is_some()),
            "{b1:?}"
        );
        let status = world.slb(&["status"])?;
        ensure!(
            status.contains(&format!("{left} connections left, reset in "))
                && status.contains("current flows"),
            "{status}"
        );
        let output =
            world.slb_output(&["server", "drain", "--wait", "--default-group", "shop", &address(0)])?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.code() == Some(3) && said.contains("the deadline has passed"),
            "{}: {said}",
            output.status
        );
        Ok(())
    });
}

/// Only `--force` removes the last server of a listener. The outage and its end are events in the log and in the
/// status.
#[test]
fn last_server_of_listener_is_taken_out_only_with_force() {
    scenario!(&[60, 40], |world| {
        world.start()?;
        let (b1, b2) = (entries(world, 0), entries(world, 1));
        world.slb(&arguments(&["drain", "http"], &b1))?;
        for order in [&["drain"][..], &["disable"], &["set", "--weight", "0"]] {
            let said = world.slb_refused(&arguments(&[order, &["http"]].concat(), &b2))?;
            ensure!(
                said.contains("no other server receives new connections of listener shop/http")
                    && said.contains("--force")
                    && said.contains("nothing was changed"),
                "{order:?}: {said}"
            );
        }
        only(world, "b2")?;
        world.slb(&arguments(&["disable", "--force", "http"], &b2))?;
        let outages = |world: &World| Ok::<_, anyhow::Error>(listener(world, "http")?.outages);
        let out = outages(world)?;
        // In mode `nat` each family has servers of its own.
        ensure!(out.len() == 2 && out.iter().all(|outage| outage.addresses.len() == 1), "{out:?}");
        ensure!(
            out.iter().all(|outage| outage.why.as_ref().is_some_and(|why| why.contains("is disabled"))),
            "{out:?}"
        );
        let status = world.slb(&["status"])?;
        ensure!(status.contains("NO SERVER receives new connections to "), "{status}");
        let log = world.log();
        let event = log
            .lines()
            .find(|line| line.contains("no server receives new connections"))
            .context("no event")?;
        ensure!(
            ["ERROR", "load_balancer=\"shop\"", "listener=\"http\"", "server_group=\"http\""]
                .iter()
                .all(|word| event.contains(word)),
            "{event}"
        );
        world.slb(&arguments(&["enable", "http"], &b2))?;
        ensure!(outages(world)?.is_empty(), "{:?}", outages(world)?);
        world.wait_for_log("a server receives new connections of this listener again", 1)?;

        // Health has the same effect as an override. Without a daemon, empty tables show the outage.
        world.kill_servers(1);
        world.wait_for_health(1, ApiHealth::Unhealthy)?;
        world.wait_for_log("no server receives new connections of this listener", 3)?;
        world.kill()?;
        let pins = world.status_from_pins()?;
        let listeners = pins.load_balancers.iter().flat_map(|balancer| &balancer.listeners);
        let http = listeners.filter(|listener| listener.name == "http").collect::<Vec<_>>();
        ensure!(http.iter().any(|listener| !listener.outages.is_empty()), "{http:?}");
        Ok(())
    });
}

#[test]
fn invalid_batch_of_overrides_changes_nothing() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        let b1 = &entries(world, 0)[0];
        for (arguments, words) in [
            (
                &["disable", "http", b1, "10.90.9.9:8080"][..],
                "has no server 10.90.9.9:8080; it has: 10.90.1.10:8080",
            ),
            (
                &["disable", "htp", b1],
                "there is no server group htp; there are: http, bulk, echo: nothing was changed",
            ),
            (&["disable", "http", b1, "10.90.2.10"], "server 10.90.2.10: address and port are expected"),
            (
                &["drain", "--default-group", "shop", "10.90.1.10:7007"],
                "an address without a port is expected",
            ),
            (
                &["drain", "--default-group", "shp", "10.90.1.10"],
                "there is no default group of shp; there are: shop",
            ),
        ] {
            let said = world.slb_refused(&[&["server"], arguments].concat())?;
            ensure!(said.contains(words) && said.contains("nothing was changed"), "{said}");
            ensure!(set(world)?.is_empty(), "{arguments:?} has changed something");
        }
        Ok(())
    });
}

/// An override ends with its server entry, and not before.
#[test]
fn override_ends_with_its_server_entry() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        world.slb(&arguments(&["disable", "http"], &entries(world, 0)))?;
        let b1 = world.plan.servers.remove(0);
        // Before `slb confirm`, a rollback may restore the entry.
        let other = world.write_other(&world.plan.toml())?;
        world.slb(&["apply", &other, "--confirm-within", "1s"])?;
        ensure!(set(world)?.len() == 2, "{:?}", set(world)?);
        world.wait_for_log("not confirmed", 0)?;
        ensure!(set(world)?.len() == 2, "{:?}", set(world)?);
        only_without(world, "b1")?;

        let said = world.reload()?;
        ensure!(
            said.contains("what was set for it ends (disabled): it is not configured any more"),
            "{said}"
        );
        ensure!(set(world)?.is_empty(), "{:?}", set(world)?);
        world.plan.servers.insert(0, b1);
        world.reload()?;
        ensure!(set(world)?.is_empty(), "{:?}", set(world)?);
        spreads(world, &world.plan.weights(), EXCHANGES * 2)?;
        world.restart()?;
        spreads(world, &world.plan.weights(), EXCHANGES * 2)
    });
}

/// An override follows a group or load balancer that keeps its `id` under another name, also before `slb confirm` and
/// over restarts. It ends with a rename without `id`.
#[test]
fn override_follows_renamed_group_and_load_balancer() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        let b1 = entries(world, 0);
        let b2: Vec<_> = world.plan.servers[1].addresses.iter().map(ToString::to_string).collect();
        world.slb(&arguments(&["disable", "http"], &b1))?;
        world.slb(&arguments(&["drain", "--default-group", "shop"], &b2))?;
        let before = set(world)?;
        let original = world.plan.clone();
        rename_with_ids(&mut world.plan);
        let renamed = world.plan.clone();
        let new_names: Vec<_> = before
            .iter()
            .map(|set| set.replace("\"http\"", "\"http-g\"").replace("\"shop\"", "\"store\""))
            .collect();

        let other = world.write_other(&world.plan.toml())?;
        world.slb(&["apply", &other, "--confirm-within", "1s"])?;
        only_without(world, "b1")?;
        world.wait_for_log("not confirmed", 0)?;
        only_without(world, "b1")?;
        ensure!(set(world)? == before, "{:?} after {before:?}", set(world)?);

        let said = world.reload()?;
        ensure!(said.contains("server group http: renamed to http-g"), "{said}");
        only_without(world, "b1")?;
        ensure!(set(world)? == new_names, "{:?} in place of {new_names:?}", set(world)?);
        world.restart()?;
        only_without(world, "b1")?;
        ensure!(set(world)? == new_names, "{:?} in place of {new_names:?}", set(world)?);
        world.plan = original;
        world.reload()?;
        ensure!(set(world)? == before, "{:?} after {before:?}", set(world)?);
        // The name changes while no daemon runs.
        world.terminate()?;
        world.plan = renamed;
        world.start()?;
        ensure!(set(world)? == new_names, "{:?} in place of {new_names:?}", set(world)?);

        // Without `id` it is another group. The dry run says so, too.
        world.plan.ids = Ids::default();
        let dry = world.write_other(&world.plan.toml())?;
        for (said, what) in [(world.slb(&["diff", &dry])?, "does not apply"), (world.reload()?, "ends")] {
            for words in [
                "server group http-g (id http): removed (its overrides end; if it was renamed, `id = \"http\"`".to_owned(),
                format!("server group http-g: server {}: what was set for it {what} (disabled)", b1[0]),
                format!("default group of store: server {}: what was set for it {what} (draining)", b2[0]),
                "a load balancer that was renamed keeps it with `id = \"shop\"`".to_owned(),
            ] {
                ensure!(said.contains(&words), "{words:?} in {said}");
            }
        }
        ensure!(set(world)?.is_empty(), "{:?}", set(world)?);
        Ok(())
    });
}

/// `slb apply` may rename groups; the next start returns to the file and its names.
#[test]
fn override_returns_to_name_in_file_after_restart() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        let b1 = entries(world, 0);
        world.slb(&arguments(&["disable", "http"], &b1))?;
        let mut renamed = world.plan.clone();
        rename_with_ids(&mut renamed);
        let with_ids = world.write_other(&renamed.toml())?;
        world.slb(&["apply", &with_ids])?;
        only_without(world, "b1")?;
        world.restart()?;
        only_without(world, "b1")?;
        // Without ids the override does not apply until the file's groups are back.
        renamed.ids = Ids::default();
        let other = world.write_other(&renamed.toml())?;
        let said = world.slb(&["apply", &other])?;
        ensure!(said.contains("what was set for it does not apply (disabled)"), "{said}");
        world.restart()?;
        only_without(world, "b1")?;

        // The same for overrides that are reset meanwhile.
        rename_with_ids(&mut renamed);
        let with_ids = world.write_other(&renamed.toml())?;
        world.slb(&["apply", &with_ids, "--confirm-within", "60s"])?;
        world.slb(&["confirm"])?;
        world.slb(&arguments(&["enable", "http-g"], &b1))?;
        world.restart()?;
        ensure!(set(world)?.is_empty(), "{:?}", set(world)?);
        spreads(world, &world.plan.weights(), EXCHANGES * 2)
    });
}

/// Renames the load balancer and all groups. The load balancer and the group `http` keep their ids.
fn rename_with_ids(plan: &mut Plan) {
    plan.names = Names { load_balancer: "store".to_owned(), groups: "-g".to_owned(), ..Names::default() };
    plan.ids =
        Ids { load_balancer: Some("shop"), groups: [(Service::Http, "http")].into(), ..Ids::default() };
}

#[test]
fn truncated_overrides_file_is_kept_and_forwarding_continues() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        world.slb(&arguments(&["disable", "http"], &entries(world, 0)))?;
        world.terminate()?;
        let path = world.plan.state_dir.join("overrides.json");
        let whole = fs::read_to_string(&path)?;
        let torn = &whole[..whole.len() / 2];
        fs::write(&path, torn)?;
        world.start()?;
        spreads(world, &world.plan.weights(), EXCHANGES * 2)?;
        let said = world.slb_refused(&arguments(&["disable", "http"], &entries(world, 0)))?;
        ensure!(said.contains("is not what slbd writes: move it away (`mv "), "{said}");
        ensure!(world.slb(&["status"])?.contains("no override is active, and none can be set"));
        ensure!(fs::read_to_string(&path)? == torn, "the file was changed");
        fs::rename(&path, path.with_extension("old"))?;
        world.slb(&arguments(&["disable", "http"], &entries(world, 0)))?;
        only_without(world, "b1")?;
        ensure!(!world.slb(&["status"])?.contains("no override is active, and none can be set"));
        Ok(())
    });
}

/// A backend's server entries in the group `http`.
fn entries(world: &World, index: usize) -> Vec<String> {
    let port = Service::Http.backend_port();
    let addresses = world.plan.servers[index].addresses.iter();
    addresses.map(|address| std::net::SocketAddr::new(*address, port).to_string()).collect()
}

fn arguments<'a>(first: &[&'a str], servers: &'a [String]) -> Vec<&'a str> {
    ["server"].into_iter().chain(first.iter().copied()).chain(servers.iter().map(String::as_str)).collect()
}

/// Checks that new connections go to one server only.
fn only(world: &World, server: &str) -> Result<()> {
    for family in Family::ALL {
        let batch =
            world.client().exchanges(Service::Http, world.vip(family, Service::Http), EXCHANGES / 4, 8);
        batch.expect_no_failure()?;
        ensure!(batch.of(server) == EXCHANGES / 4, "{:?}", batch.tally);
    }
    Ok(())
}

/// Checks that no new connection goes to a server.
fn only_without(world: &World, server: &str) -> Result<()> {
    let batch =
        world.client().exchanges(Service::Http, world.vip(Family::V4, Service::Http), EXCHANGES / 4, 8);
    batch.expect_no_failure()?;
    ensure!(batch.of(server) == 0, "{:?}", batch.tally);
    Ok(())
}

fn listener(world: &World, name: &str) -> Result<ApiListener> {
    let listeners = world.status()?.load_balancers.into_iter().flat_map(|balancer| balancer.listeners);
    listeners.into_iter().find(|listener| listener.name == name).context("no such listener")
}

/// The overrides, as the API returns them.
fn set(world: &World) -> Result<Vec<String>> {
    let overrides = world.status()?.daemon.context("no daemon answers")?.overrides;
    overrides.iter().map(|set| Ok(serde_json::to_string(set)?)).collect()
}
