//! Objects that are made through the API: they forward, and outlive restarts and reloads of the file. The file's own
//! objects stay the file's.

use std::{fs, net::TcpStream, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use slb_api::types::ApiHealth;
use slb_tests::{World, client::Client, net::Family, scenario, server::Service, traffic::Traffic};

/// A VIP that the file does not have.
const VIP: &str = "198.51.100.77";
const PROGRESS: u64 = 50;
const LONG_LIVED: usize = 4;
/// Time without an answer after which a connection counts as refused: answers take less than a millisecond.
const REFUSAL: Duration = Duration::from_millis(500);

/// A group with all servers of the plan.
fn group(world: &World) -> Value {
    let servers = world.plan.servers.iter().map(|server| {
        json!({ "address": server.addresses[0], "port": Service::Http.backend_port(), "weight": server.weight })
    });
    json!({ "name": "blog", "servers": servers.collect::<Value>() })
}

fn balancer() -> Value {
    let check = json!({ "kind": "tcp", "interval": "1s", "timeout": "1s" });
    let listener = json!({
        "name": "web", "protocol": "tcp", "port": 80, "server_group": "blog", "mode": "nat", "health_check": check,
    });
    json!({ "name": "blog", "addresses": [VIP], "listener": [listener] })
}

/// Makes a server group and a load balancer with a listener.
fn make(world: &World) -> Result<()> {
    world.api("POST", "/v1/server-groups", Some(&group(world)))?.expect(201)?;
    world.api("POST", "/v1/load-balancers", Some(&balancer()))?.expect(201).map(drop)
}

fn exchange(client: &Client) -> Result<()> {
    client.exchanges(Service::Http, format!("{VIP}:80").parse()?, 20, 4).expect_no_failure()
}

/// The reason why a request is refused with this status.
fn refused(world: &World, method: &str, path: &str, body: Option<&Value>, status: u16) -> Result<String> {
    let answer = world.api(method, path, body)?.expect(status)?;
    Ok(answer.body["detail"].as_str().context("no reason")?.to_owned())
}

#[test]
fn objects_of_the_api_forward_and_outlive_restarts_and_reloads() {
    scenario!(&[50, 50], |world| {
        world.start()?;
        let traffic = Traffic::start(world, LONG_LIVED)?;
        make(world)?;
        // The answer comes when the listener forwards.
        exchange(&world.client())?;
        let status = world.status()?;
        let made = status.load_balancers.iter().find(|balancer| balancer.name == "blog");
        let made = made.context("no load balancer `blog`")?;
        ensure!(made.source.as_deref() == Some("api"), "{made:?}");
        let text = world.slb(&["status"])?;
        ensure!(text.contains("blog/web (api) tcp"), "{text}");

        world.reload()?;
        exchange(&world.client()).context("after a reload")?;
        world.restart()?;
        exchange(&world.client()).context("after a restart")?;
        world.kill()?;
        exchange(&world.client()).context("without a daemon")?;
        world.start()?;
        let server = world.plan.servers[0].addresses[0];
        let path = format!("/v1/server-groups/blog/servers/{server}:{}", Service::Http.backend_port());
        world.api("PATCH", &path, Some(&json!({ "weight": 0 })))?.expect(200)?;
        let found = world.api("GET", &path, None)?.expect(200)?;
        ensure!(found.body["weight"] == 0, "{}", found.body);
        exchange(&world.client()).context("with one server")?;

        let in_use = world.api("DELETE", "/v1/server-groups/blog", None)?.expect(422)?;
        let field = &in_use.body["errors"][0]["field"];
        ensure!(field == "load_balancer[0].listener[0].server_group", "{}", in_use.body);
        world.api("DELETE", "/v1/load-balancers/blog", None)?.expect(200)?;
        world.api("DELETE", "/v1/server-groups/blog", None)?.expect(200)?;
        let vip = format!("{VIP}:80").parse()?;
        let connect = || Ok(TcpStream::connect_timeout(&vip, REFUSAL).is_ok());
        ensure!(!world.net.client.on_thread(connect)?, "a load balancer that was removed forwards");
        traffic.progress(PROGRESS)?;
        traffic.expect_unbroken(None)?;
        traffic.stop().expect_no_failure()
    });
}

#[test]
fn commands_make_show_change_and_remove_objects() {
    scenario!(&[50, 50], |world| {
        world.start()?;
        let [first, second] = [0, 1].map(|index: usize| world.plan.servers[index].addresses[0]);
        let port = Service::Http.backend_port();
        world.slb(&["group", "create", "blog"])?;
        let said = world.slb(&["server", "add", "blog", &format!("{first}:{port}"), "[fd90:1:0::a]:8080"])?;
        ensure!(said.contains(&format!("server {first}:{port} added")), "{said}");
        let vip = format!("addresses={VIP}");
        world.slb(&["lb", "create", "blog", &vip])?;
        let settings = [
            "protocol=tcp",
            "port=80",
            "server_group=blog",
            "mode=nat",
            "health_check.kind=tcp",
            "state=stopped",
        ];
        let shown = world.slb(&[&["listener", "create", "blog/web", "--dry-run"], &settings[..]].concat())?;
        ensure!(shown.contains("listener blog/web: added"), "{shown}");
        ensure!(!world.slb(&["listener", "list"])?.contains("blog/web"), "a dry run has made a listener");
        world.slb(&[&["listener", "create", "blog/web"], &settings[..]].concat())?;
        world.slb(&["listener", "start", "blog/web"])?;
        exchange(&world.client())?;

        let listed = world.slb(&["listener", "list", "blog"])?;
        ensure!(
            listed.contains("blog/web") && listed.contains("running") && !listed.contains("shop/"),
            "{listed}"
        );
        let listed = world.slb(&["lb", "list"])?;
        ensure!(listed.contains("blog") && listed.contains("api") && listed.contains("file"), "{listed}");
        let shown = world.slb(&["group", "show", "blog"])?;
        ensure!(shown.starts_with("# source: api\n") && shown.contains("fd90:1::a"), "{shown}");
        let shown: Value =
            serde_json::from_str(&world.slb(&["listener", "show", "blog/web", "--output", "json"])?)?;
        ensure!(shown["port"] == 80 && shown["health_check"]["kind"] == "tcp", "{shown}");

        let said = world.slb_refused(&["listener", "set", "blog/web", "port=0"])?;
        ensure!(said.contains("out of range"), "{said}");
        let said = world.slb_refused(&["lb", "delete", "shop"])?;
        ensure!(said.contains("source `file`"), "{said}");
        world.slb(&["server", "add", "blog", "--weight", "10", &format!("{second}:{port}")])?;
        world.slb(&["server", "remove", "blog", &format!("{first}:{port}"), "[fd90:1::a]:8080"])?;
        exchange(&world.client()).context("with another server")?;
        world.slb(&["lb", "stop", "blog"])?;
        world.slb(&["listener", "delete", "blog/web"])?;
        world.slb(&["lb", "delete", "blog"])?;
        world.slb(&["group", "delete", "blog"])?;
        ensure!(!world.slb(&["group", "list"])?.contains("blog"), "a group is left");
        Ok(())
    });
}

#[test]
fn changes_of_objects_are_conditional_complete_and_explained() {
    scenario!(&[50], |world| {
        world.start()?;
        // What the file has is the file's.
        let of_file = world.api("GET", "/v1/load-balancers/shop", None)?.expect(200)?;
        ensure!(of_file.body["source"] == "file", "{}", of_file.body);
        for (method, body) in [("PUT", Some(&balancer())), ("PATCH", Some(&json!({}))), ("DELETE", None)] {
            let body = body.cloned().map(|mut body| {
                body["name"] = json!("shop");
                body
            });
            let said = refused(world, method, "/v1/load-balancers/shop", body.as_ref(), 409)?;
            ensure!(said.contains("source `file`"), "{method}: {said}");
        }
        let mut taken = balancer();
        taken["addresses"] = json!([Family::V4.vip()]);
        taken["listener"] = json!([]);
        let said = refused(world, "POST", "/v1/load-balancers", Some(&taken), 422)?;
        ensure!(said.contains("slb.toml") && said.contains("api.toml"), "{said}");

        make(world)?;
        let said = refused(world, "POST", "/v1/load-balancers", Some(&balancer()), 409)?;
        ensure!(said.contains("already"), "{said}");
        // A value that breaks a rule is named by its place in the request.
        let wrong =
            world.api("PATCH", "/v1/load-balancers/blog/listeners/web", Some(&json!({ "port": 0 })))?;
        let wrong = wrong.expect(422)?;
        ensure!(wrong.body["errors"][0]["field"] == "port", "{}", wrong.body);
        let unknown = json!({ "prot": 1 });
        let said = refused(world, "PATCH", "/v1/load-balancers/blog/listeners/web", Some(&unknown), 422)?;
        ensure!(said.contains("did you mean `port`"), "{said}");
        let lacking = world.api(
            "POST",
            "/v1/load-balancers/blog/listeners",
            Some(&json!({ "name": "x", "port": null })),
        )?;
        let fields = lacking.expect(422)?.body["errors"].clone();
        let has =
            |key: &str| fields.as_array().is_some_and(|all| all.iter().any(|error| error["field"] == key));
        ensure!(has("protocol") && has("port"), "{fields}");
        let server = json!({ "address": "2001:db8:9:0::1" });
        world.api("POST", "/v1/load-balancers/blog/servers", Some(&server))?.expect(201)?;
        let found = world.api("GET", "/v1/load-balancers/blog/servers/2001:DB8:9::1", None)?.expect(200)?;
        ensure!(found.body["weight"] == 100 && found.body["source"] == "api", "{}", found.body);
        world.api("DELETE", "/v1/load-balancers/blog/servers/2001:db8:9::1", None)?.expect(200)?;
        refused(world, "GET", "/v1/load-balancers/absent", None, 404)?;
        refused(world, "GET", "/v2/status", None, 404)?;
        refused(world, "PUT", "/v1/load-balancers", Some(&json!({})), 405)?;
        refused(world, "GET", "/v1/balancers", None, 404)?;
        refused(world, "PATCH", "/v1/server-groups/absent", Some(&json!({})), 404)?;

        // Entity tags.
        let path = "/v1/load-balancers/blog";
        let before = world.api("GET", path, None)?.expect(200)?;
        let tag = before.tag.as_deref().context("no entity tag")?;
        let stop = json!({ "state": "stopped" });
        let changed = world.api_with("PATCH", path, &[("if-match", tag)], Some(&stop))?.expect(200)?;
        ensure!(changed.tag.is_some() && changed.tag.as_deref() != Some(tag), "{changed:?}");
        ensure!(changed.body["changes"][0]["fields"][0]["path"] == "state", "{}", changed.body);
        let start = json!({ "state": "running" });
        world.api_with("PATCH", path, &[("if-match", tag)], Some(&start))?.expect(412)?;
        world.api_with("PUT", path, &[("if-none-match", "*")], Some(&balancer()))?.expect(412)?;
        ensure!(world.api("GET", path, None)?.body["state"] == "stopped");

        // The same once more is no change.
        let same = world.api("PATCH", path, Some(&stop))?.expect(200)?;
        ensure!(same.body["changes"] == json!([]), "{}", same.body);

        // A dry run shows, and changes nothing.
        let shown = world.api("DELETE", &format!("{path}?dry_run=true"), None)?.expect(200)?;
        ensure!(shown.body["changes"][0]["action"] == "removed", "{}", shown.body);
        world.api("GET", path, None)?.expect(200)?;

        // All or none.
        let delete = |path: &str| json!({ "operation": "delete", "path": path });
        let none =
            json!({ "operations": [delete("/v1/server-groups/blog"), delete("/v1/server-groups/absent")] });
        world.api("POST", "/v1/batch", Some(&none))?.expect(404)?;
        world.api("GET", "/v1/server-groups/blog", None)?.expect(200)?;
        let both = json!({ "operations": [delete(path), delete("/v1/server-groups/blog")] });
        world.api("POST", "/v1/batch", Some(&both))?.expect(200)?;
        world.api("GET", "/v1/server-groups/blog", None)?.expect(404)?;
        Ok(())
    });
}

#[test]
fn what_the_file_and_the_api_both_want_is_refused() {
    scenario!(&[50], |world| {
        world.start()?;
        // The file cannot take what the API has, and the reload that wants it says so.
        make(world)?;
        let mine = world
            .write_other(&(world.plan.toml() + "\n[[server_group]]\nname = \"blog\"\nservers = []\n"))?;
        let said = world.slb_refused(&["apply", &mine])?;
        ensure!(said.contains("blog") && said.contains("api.toml"), "{said}");

        // What the next start could not use is refused, though it fits what was applied.
        let applied = world.plan.toml() + "\n[[server_group]]\nname = \"green\"\nservers = []\n";
        world.slb(&["apply", &world.write_other(&applied)?])?;
        let said = refused(
            world,
            "PATCH",
            "/v1/load-balancers/blog/listeners/web",
            Some(&json!({ "server_group": "green" })),
            409,
        )?;
        ensure!(said.contains("next start") && said.contains("green"), "{said}");
        let slow = json!({ "slow_start": "5s" });
        world.api("PATCH", "/v1/server-groups/blog", Some(&slow))?.expect(200)?;
        world.slb(&["apply", "--confirm-within", "60s", &world.write_other(&world.plan.toml())?])?;
        refused(world, "PATCH", "/v1/server-groups/blog", Some(&json!({ "slow_start": "6s" })), 409)?;
        world.slb(&["confirm"])?;
        ensure!(world.api("GET", "/v1/server-groups/blog", None)?.expect(200)?.body["slow_start"] == "5s");
        world.restart()?;
        ensure!(world.api("GET", "/v1/server-groups/blog", None)?.expect(200)?.body["slow_start"] == "5s");
        Ok(())
    });
}

#[test]
fn concurrent_changes_of_objects_all_become_active() {
    scenario!(&[50], |world| {
        world.start()?;
        let world = &*world;
        thread::scope(|scope| {
            let makers = (0..8).map(|maker| {
                scope.spawn(move || {
                    for number in 0..4 {
                        let name = format!("g{maker}-{number}");
                        let servers =
                            json!([{ "address": "10.90.1.10", "port": 3000 + maker * 10 + number }]);
                        let group = json!({ "name": name, "servers": servers });
                        world.api("POST", "/v1/server-groups", Some(&group))?.expect(201)?;
                        if maker == 0 {
                            world.reload()?;
                        }
                    }
                    Ok(())
                })
            });
            let makers: Vec<_> = makers.collect();
            makers.into_iter().try_for_each(|maker| maker.join().expect("no panic"))
        })
        .and_then(|()| {
            let of_api = |world: &World| -> Result<usize> {
                let list = world.api("GET", "/v1/server-groups", None)?.expect(200)?;
                let items = list.body["items"].as_array().context("no items")?.clone();
                Ok(items.iter().filter(|group| group["source"] == "api").count())
            };
            ensure!(of_api(world)? == 32, "{} groups", of_api(world)?);
            // A page follows although the object before it is gone.
            let first = world.api("GET", "/v1/server-groups?limit=10", None)?.expect(200)?;
            let next = first.body["next"].as_str().context("one page")?.to_owned();
            let all = world.api("GET", "/v1/server-groups", None)?.expect(200)?;
            world.api("DELETE", &format!("/v1/server-groups/{next}"), None)?.expect(200)?;
            let second =
                world.api("GET", &format!("/v1/server-groups?limit=1000&after={next}"), None)?.expect(200)?;
            let [first, second] =
                [first, second].map(|page| page.body["items"].as_array().map_or(0, Vec::len));
            ensure!(Some(first + second) == all.body["items"].as_array().map(Vec::len), "{first} + {second}");
            Ok(())
        })
    });
}

#[test]
fn unreadable_document_of_the_api_stops_the_start_and_forwarding_goes_on() {
    scenario!(&[50], |world| {
        world.start()?;
        make(world)?;
        world.terminate()?;
        let path = world.plan.state_dir.join("api.toml");
        let text = fs::read_to_string(&path)?;
        fs::write(&path, text.replacen("port = 80", "port = 0", 1))?;
        let output = world.slbd("run", &world.plan.toml())?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && said.contains("api.toml:") && said.contains("port"), "{said}");
        exchange(&world.client()).context("after a start that was refused")?;
        fs::write(&path, text)?;
        world.start()?;
        world.wait_for_health_of(Service::Http, 0, ApiHealth::Healthy)?;
        exchange(&world.client())
    });
}
